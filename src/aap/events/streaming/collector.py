"""The collector: the door for live events. It stores an event only if some granted purpose covers it, now and then.

An event is accepted into the log, recognised as a duplicate, rejected with a reason (and kept for a person to look at, if
consent would have let it in), or refused for want of consent: counted, and kept nowhere. Good events of a batch are kept
whatever the others are. `consent_granted` and `consent_withdrawn` go to the ledger, and are in force for what follows
them in their batch. Consent is read once a batch; a choice made elsewhere meanwhile counts when the event is archived.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import redis

from aap.consent import redis_projection
from aap.consent.errors import ConsentError
from aap.consent.policy import Reason, Status
from aap.consent.purposes import Purpose, parse_purpose
from aap.consent.service import ConsentDesk
from aap.events.dead_letter import Rejected, RejectedLog
from aap.events.errors import EventError
from aap.events.importing.batch_validation import BEFORE_GRANT
from aap.events.importing.mapping_sql import SKEW_SECONDS
from aap.events.schema import event_type
from aap.events.streaming.columns import LoggedEvent
from aap.events.streaming.event_log import EventLog
from aap.events.validation import stored_fields
from aap.infra.timestamps import to_micros
from aap.security.id_map import IdMap
from aap.security.pseudonyms import Pseudonyms

__all__ = ["Collected", "Collector", "Envelope"]

_CONSENT_EVENTS = {"consent_granted": Status.GIVEN, "consent_withdrawn": Status.WITHDRAWN}


class Envelope(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One event as it is sent. `context` is read by nobody and stored nowhere."""

    id: str
    source: str
    type: str
    occurred_at: datetime
    user_id: str | None = None
    anonymous_id: str | None = None
    schema_version: int = 1
    sent_at: datetime | None = None
    properties: dict[str, Any] = {}
    context: dict[str, Any] = {}


@dataclass(slots=True)
class Collected:
    """What became of one batch."""

    accepted: int = 0
    duplicates: int = 0
    choices: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Collector:
    """Everything collecting writes to."""

    client: redis.Redis
    log: EventLog
    desk: ConsentDesk
    rejected: RejectedLog
    pseudonyms: Pseudonyms
    id_map: IdMap

    def collect(self, batch: Sequence[Any], *, now: datetime) -> Collected:
        """Take in a batch of decoded JSON events. Raises redis-py's errors when Redis can't be reached: send again."""
        found = Collected()
        ready: list[LoggedEvent] = []
        ids: dict[str, str] = {}
        people = list(self._of_people(batch, found))
        consent = self._consent({key for key, _, _ in people})
        for key, user_id, envelope in people:
            if envelope.type in _CONSENT_EVENTS:
                self._choose(envelope, key, found, now=now)
                consent.update(self._consent({key}))
            else:
                event = self._judge(envelope, key, consent[key], found, now=now)
                if event is not None:
                    ready.append(event)
                    ids[key] = user_id
        if ready:
            new = self.log.append(ready)
            found.accepted, found.duplicates = sum(new), len(new) - sum(new)
            self.id_map.remember(ids)
        return found

    def _of_people(self, batch: Sequence[Any], found: Collected) -> Iterable[tuple[str, str, Envelope]]:
        """(user key, user id, event) of everything in `batch` that is an event of somebody; the rest is counted."""
        for raw in batch:
            try:
                envelope = msgspec.convert(raw, Envelope)
            except (msgspec.ValidationError, ValueError) as error:
                found.rejected[f"not an event: {str(error).split(' - ')[0].lower()}"] += 1
                continue
            if user_id := (envelope.user_id or "").strip():
                yield self.pseudonyms.user_key(user_id), user_id, envelope
            else:
                found.refused[Reason.NO_SUBJECT] += 1

    def _consent(self, keys: set[str]) -> dict[str, bytes | None]:
        """The projection of each of `keys`, in one round trip."""
        asked = sorted(keys)
        blobs: Any = self.client.mget([redis_projection.consent_key(k) for k in asked]) if asked else []
        return dict(zip(asked, blobs, strict=True))

    def _judge(
        self, envelope: Envelope, key: str, consent: bytes | None, found: Collected, *, now: datetime
    ) -> LoggedEvent | None:
        at = envelope.occurred_at if envelope.occurred_at.tzinfo else envelope.occurred_at.replace(tzinfo=UTC)
        try:
            declared = event_type(envelope.type)
            refusal = _refusal(consent, declared.purposes, at=at, now=now)
            if refusal is not None:
                found.refused[refusal] += 1
                return None
            fields = stored_fields(declared, envelope.properties)
            if at > now + timedelta(seconds=SKEW_SECONDS):
                raise EventError("occurred_at is in the future")
        except EventError as error:
            self._reject(envelope, key, str(error), consent, found, now=now)
            return None
        return LoggedEvent(
            envelope.source, envelope.id, declared.name, key, to_micros(at), to_micros(max(now, at)), fields
        )

    def _reject(
        self, envelope: Envelope, key: str, reason: str, consent: bytes | None, found: Collected, *, now: datetime
    ) -> None:
        found.rejected[reason] += 1
        if any(redis_projection.decisions([consent], purpose=p, now=now)[0].allowed for p in Purpose):
            payload = msgspec.to_builtins(envelope) | {"user_id": None, "user_key": key}
            self.rejected.add([Rejected("collector", envelope.type[:64], reason, key, payload, now)])

    def _choose(self, envelope: Envelope, key: str, found: Collected, *, now: datetime) -> None:
        at = envelope.occurred_at if envelope.occurred_at.tzinfo else envelope.occurred_at.replace(tzinfo=UTC)
        try:
            self.desk.record(
                key,
                parse_purpose(str(envelope.properties.get("purpose"))),
                _CONSENT_EVENTS[envelope.type],
                said_by="the person",
                method=f"event of {envelope.source}",
                indicated_at=at,
                received_at=now,
                notice_version=str(envelope.properties.get("notice_version", "1"))[:64],
            )
            found.choices += 1
        except (ConsentError, ValueError) as error:
            found.rejected[str(error)] += 1


def _refusal(consent: bytes | None, purposes: Sequence[Purpose], *, at: datetime, now: datetime) -> str | None:
    """Why an event of this person may not be stored, or None: some one grant must cover it and now."""
    rows, sound = redis_projection.unpack([consent])
    if not sound[0]:
        return Reason.NO_RECORD if consent is None else Reason.UNAVAILABLE
    made = [redis_projection.decisions([consent], purpose=p, now=now)[0] for p in purposes]
    starts = [rows["grants"]["start"][0, redis_projection.slot(d.purpose)] for d in made if d.allowed]
    if not starts:
        return made[0].reason if made else Reason.NOT_GRANTED
    return None if min(starts) <= to_micros(at) else BEFORE_GRANT
