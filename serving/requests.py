"""Requests: what each endpoint takes, and how a body becomes one or is refused with one sentence.

Only JSON is read. Fields nobody knows are refused, so that a misspelt one is noticed; no message repeats a user id.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from serving.errors import NotJson, UnusableFields, WrongContentType

__all__ = [
    "ChoiceRequest",
    "EventsRequest",
    "PredictionRequest",
    "RecommendationRequest",
    "UserId",
    "check_content_type",
    "read_body",
]

UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=256, description="The shop's own id of a person.")]


class PredictionRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Whom to answer about."""

    user_ids: Annotated[list[UserId], msgspec.Meta(min_length=1)]


class RecommendationRequest(PredictionRequest, forbid_unknown_fields=True, frozen=True):
    """Whom to recommend to, and how many items each."""

    n: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10


class ChoiceRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One choice of one person about one purpose."""

    user_id: UserId
    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    choice: Literal["grant", "withdraw"]
    notice_version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "1"
    age: Annotated[int, msgspec.Meta(ge=0, le=150)] | None = None
    """Only where the application knows that the person is young; it is checked and stored nowhere."""
    by: Literal["person", "guardian"] = "person"


class EventsRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Events to take in, each as `events.collector.Envelope` declares it; a bad one doesn't stop the others."""

    events: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=1_000)]


Request = TypeVar("Request", bound=msgspec.Struct)


def check_content_type(value: str | None) -> None:
    """Raise `WrongContentType` for everything but JSON in UTF-8; pickles and forms are not even looked at."""
    kind, _, parameters = (value or "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        said = repr(value[:60]) if value else "no content type"
        raise WrongContentType(f"The body is said to be {said}: send JSON with Content-Type: application/json.")


def read_body(body: bytes, kind: type[Request], *, most_users: int) -> Request:
    """The request in `body`. Raises `NotJson`, or `UnusableFields` with the place of the first mistake."""
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(kind.__struct_fields__)
        raise UnusableFields(f"The body can't be used ({error}): its fields are {fields}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJson(f"The body is not JSON ({error}): send an object in UTF-8.") from None
    if isinstance(request, PredictionRequest) and len(request.user_ids) > most_users:
        raise UnusableFields(
            f"The call names {len(request.user_ids)} users, and one call may name {most_users}: "
            "split it, or raise AAP_MAX_USERS_PER_CALL."
        )
    return request
