"""The body of a request: how it becomes what the endpoint takes, or is refused with one sentence.

Only JSON is read. No message repeats a user id.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from aap.serving.errors import NotJson, UnusableFields, WrongContentType
from aap_client.requests import MixedRequest, PredictionRequest

__all__ = ["check_content_type", "read_body"]

Request = TypeVar("Request", bound=msgspec.Struct)


def check_content_type(value: str | None) -> None:
    """Raise `WrongContentType` for everything but JSON in UTF-8; pickles and forms are not even looked at."""
    kind, _, parameters = (value or "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in ("", "utf-8"):
        said = repr(value[:60]) if value else "no content type"
        raise WrongContentType(f"The body is said to be {said}: send JSON with Content-Type: application/json.")


def read_body(body: bytes | bytearray, kind: type[Request], *, most_users: int) -> Request:
    """The request in `body`. Raises `NotJson`, or `UnusableFields` with the place of the first mistake."""
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(kind.__struct_fields__)
        raise UnusableFields(f"The body can't be used ({error}): its fields are {fields}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotJson(f"The body is not JSON ({error}): send an object in UTF-8.") from None
    except RecursionError:
        raise NotJson("The body is nested too deeply: send an object as /docs describes it.") from None
    people = _people(request)
    if people > most_users:
        raise UnusableFields(
            f"The call names {people} users, and one call may name {most_users}: "
            "split it, or raise AAP_MAX_USERS_PER_CALL."
        )
    return request


def _people(request: Any) -> int:
    """How many people (in a mixed batch: people and items) a request asks about."""
    if isinstance(request, MixedRequest):
        return sum(len(part.about) for part in request.requests)
    return len(request.user_ids) if isinstance(request, PredictionRequest) else 0
