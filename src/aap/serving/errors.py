"""What a call can be refused with, and the one place that maps every failure to an HTTP status.

ServingError
├── Refused               the call itself is at fault
│   ├── NotJson           400  the body is not JSON
│   ├── NoKey             401  no API key, or one that is unknown, revoked or expired
│   ├── WrongScope        403  the key is not for this
│   ├── NoSuchPage        404
│   ├── WrongMethod       405
│   ├── BodyTooLarge      413
│   ├── WrongContentType  415  anything but JSON
│   ├── TooSlow           408  the body didn't arrive in time
│   ├── UnusableFields    422  JSON, but not what the endpoint takes
│   └── TooManyCalls      429  the client's calls of this minute are used up
│       └── TooManyWrongKeys  too many calls without a good key came from one address
├── Overloaded            503  more calls wait than can be answered in time
├── UnknownPrediction     404  no record has this prediction id
├── NoModel               503  no champion of a model is loaded
└── FeaturesDiffer        503  the champion was trained on other features than are served now
"""

from __future__ import annotations

from typing import ClassVar

import redis

from aap.consent.errors import ConsentError, LedgerUnavailable, NotYetInForce
from aap.consent.purposes import UnknownPurpose
from aap.experiments.errors import ExperimentError
from aap.features.errors import OnlineStoreUnavailable
from aap.infra.errors import StorageError
from aap.modeling.errors import ModelError, SchemaMismatch, UnknownStrategy
from aap.privacy.errors import PrivacyError

__all__ = [
    "BodyTooLarge",
    "FeaturesDiffer",
    "NoKey",
    "NoModel",
    "NoSuchPage",
    "NotJson",
    "Overloaded",
    "Refused",
    "ServingError",
    "TooManyCalls",
    "TooManyWrongKeys",
    "TooSlow",
    "UnknownPrediction",
    "UnusableFields",
    "WrongContentType",
    "WrongMethod",
    "WrongScope",
    "status_and_sentence",
]

REDIS_DOWN = (
    "Redis can't be reached, so consent can't be checked: start it with `aap up`; calls work again once it answers."
)
BROKEN = "Something went wrong on our side; the service's log says what, at this time."


class ServingError(Exception):
    """Anything a call can be refused with; the message is one sentence for a person."""

    status: ClassVar[int] = 500


class Refused(ServingError):
    """The call itself is at fault."""

    status = 400


class NotJson(Refused):
    """The body is not JSON."""


class NoKey(Refused):
    """No API key, or one that is not valid."""

    status = 401


class WrongScope(Refused):
    """The key is not for this."""

    status = 403


class NoSuchPage(Refused):
    """Nothing is served there."""

    status = 404


class WrongMethod(Refused):
    """The path is served, but not for this method."""

    status = 405


class BodyTooLarge(Refused):
    """The body has more bytes than a call may have."""

    status = 413


class WrongContentType(Refused):
    """The body is not said to be JSON."""

    status = 415


class UnusableFields(Refused):
    """JSON, but not what the endpoint takes."""

    status = 422


class TooSlow(Refused):
    """The body didn't arrive in time."""

    status = 408


class TooManyCalls(Refused):
    """The client's calls of this minute are used up."""

    status = 429


class TooManyWrongKeys(TooManyCalls):
    """Too many calls without a good key came from one address; `retry_s` seconds until they are looked at again."""

    def __init__(self, message: str, *, retry_s: int) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Overloaded(ServingError):
    """More calls wait than can be answered in time."""

    status = 503


class UnknownPrediction(ServingError, ValueError):
    """No record has this prediction id."""

    status = 404


class NoModel(ServingError):
    """No champion of a model is loaded."""

    status = 503


class FeaturesDiffer(ServingError):
    """The champion was trained on other features than are served now."""

    status = 503


def status_and_sentence(error: Exception) -> tuple[int, str]:
    """The HTTP status and the sentence for any exception; what nobody foresaw is a 500 that gives nothing away."""
    if isinstance(error, ServingError):
        return error.status, str(error)
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return 503, REDIS_DOWN
    if isinstance(error, (OnlineStoreUnavailable, StorageError, NotYetInForce, LedgerUnavailable, SchemaMismatch)):
        return 503, str(error)
    if isinstance(error, (ConsentError, UnknownPurpose, UnknownStrategy)):
        return 422, str(error)
    if isinstance(error, (ModelError, ExperimentError, PrivacyError)):
        return 500, str(error)
    return 500, BROKEN
