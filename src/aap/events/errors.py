"""What can go wrong with events.

EventError
├── UnusableEventType   an event type declared wrongly
├── UnknownEventType    an event of a type nobody declared
├── InvalidEvent        an event whose fields don't fit its type
├── MappingError        a mapping file that can't be used
├── SourceUnreadable    a file or table to import that can't be read
└── ArchiveDamaged      a file of the archive that can't be read
"""

from __future__ import annotations

__all__ = [
    "ArchiveDamaged",
    "EventError",
    "InvalidEvent",
    "MappingError",
    "SourceUnreadable",
    "UnknownEventType",
    "UnusableEventType",
]


class EventError(Exception):
    """Anything that goes wrong with events; the message is one sentence for a person."""


class UnusableEventType(EventError):
    """An event type declared wrongly."""


class UnknownEventType(EventError):
    """An event of a type nobody declared."""


class InvalidEvent(EventError):
    """An event whose fields don't fit its type."""


class MappingError(EventError):
    """A mapping file that can't be used."""


class SourceUnreadable(EventError):
    """A file or table to import that can't be read."""


class ArchiveDamaged(EventError):
    """A file of the archive that can't be read."""
