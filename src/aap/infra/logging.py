"""Log lines: one line an entry, whatever was put into it, to read or as JSON.

Time in UTC (ISO 8601), level, logger, event, and of an exception its type alone: its text could repeat what somebody sent.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

__all__ = ["line_formatter"]

# Everything that a terminal or a reader of lines could take for the end of one, or for more than text.
_ESCAPED = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def line_formatter(*, as_json: bool) -> logging.Formatter:
    """What makes one line of every entry of the standard library's logging, and of structlog's."""
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _exception_as_type,
            structlog.processors.JSONRenderer() if as_json else _plain,
        ],
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        ],
    )


def _exception_as_type(_logger: Any, _method: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    found = entry.pop("exc_info", None)
    kind = found[0] if isinstance(found, tuple) else type(found) if isinstance(found, BaseException) else None
    return {**entry, "exception": kind.__name__} if kind is not None else entry


def _plain(_logger: Any, _method: str, entry: structlog.typing.EventDict) -> str:
    raised = f" ({entry['exception']})" if "exception" in entry else ""
    line = f"{entry['time']} {entry['level'].upper()} {entry['logger']}: {entry['event']}{raised}"
    return line.translate(_ESCAPED)
