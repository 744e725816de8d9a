"""The evaluator of flags: flagd's own code, asked through OpenFeature, and told apart by edition.

It runs in this process, on the flags this process has in force or on those that a flagd server sends it as they change
(flagd's in-process mode): the same code either way, so moving to a server moves nobody, and no answer waits for one. A
server may be behind or ahead of us. So each flag carries its edition in its metadata, each answer brings that back, and an
answer of another edition is no answer: what is logged beside an exposure is always the split that decided.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from aap.experiments.errors import FlagsUnusable
from aap.experiments.flags.definition import EDITION, Flag

__all__ = ["Evaluator", "server_of"]

_SYNC_PORT = 8015
"""The port on which flagd hands its flags to evaluators."""
_RECONNECT_MS = 2_000
_STREAM_MS = 60_000
"""After so long the flags are asked for anew: a connection that died in silence is noticed then."""


class Evaluator:
    """Evaluates flags as of the last document that `take` was given; with `flagd`, as that server has them.

    `flagd` is `grpc://host:port`, or `grpcs://host:port` for TLS. Nothing waits for the server: until it has sent its flags
    nothing can be said, and while it is gone what it sent last holds. Raises `FlagsUnusable` for another kind of address.
    """

    def __init__(self, flagd: str | None = None) -> None:
        self._here = None if flagd else _Here()
        self._provider = self._here or _server(flagd or "")
        domain = f"aap:{uuid4().hex}"
        if self._here:
            api.set_provider_and_wait(self._here, domain)
        else:
            api.set_provider(self._provider, domain)
        self._client = api.get_client(domain)

    def take(self, document: Mapping[str, Any]) -> None:
        """Evaluate by this document, as `read_flags` returns it, from the next question on; a server has its own."""
        if self._here:
            self._here.core.set_flags(json.dumps(document))

    def variant(self, flag: Flag, *, user_key: str, segment: str | None) -> str | None:
        """The variant that the split of this very edition of `flag` gives; None when it can't be said."""
        context = EvaluationContext(user_key, {"segment": segment} if segment else {})
        details = self._client.get_string_details(flag.name, flag.default, context)
        if details.reason != Reason.TARGETING_MATCH or details.flag_metadata.get(EDITION) != flag.edition:
            return None
        return details.variant if details.variant in flag.variants else None

    def close(self) -> None:
        """Let go of what was started."""
        self._provider.shutdown()


def server_of(address: str) -> tuple[str, int, bool]:
    """Host and port of a flagd server, and whether it speaks TLS. Raises `FlagsUnusable` if that is not what it says."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or parts.scheme not in ("grpc", "grpcs") or parts.path.strip("/"):
        raise FlagsUnusable(f"AAP_FLAGD_URL is {address!r}: write grpc://host:port, or grpcs://host:port for TLS.")
    return host, port or _SYNC_PORT, parts.scheme == "grpcs"


def _server(address: str) -> FlagdProvider:
    """flagd's provider in the mode in which the server sends flags, not answers: its answers would not tell an edition."""
    host, port, tls = server_of(address)
    return FlagdProvider(
        resolver_type=ResolverType.IN_PROCESS,
        host=host,
        port=port,
        tls=tls,
        retry_backoff_ms=_RECONNECT_MS,
        retry_backoff_max_ms=_RECONNECT_MS,
        retry_grace_period=1,  # a timer that the provider does not stop, and a process that ends would wait for
        stream_deadline_ms=_STREAM_MS,
        sync_metadata_disabled=True,  # facts of the server are none about a person
    )


class _Here(AbstractProvider):
    """flagd's evaluator as an OpenFeature provider that is handed its flags, rather than looking for them now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.core = FlagdCore()

    def get_metadata(self) -> Metadata:
        return Metadata("flagd, in this process")

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self.core.resolve_string_value(flag_key, default_value, evaluation_context)

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self.core.resolve_boolean_value(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self.core.resolve_integer_value(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self.core.resolve_float_value(flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        return self.core.resolve_object_value(flag_key, default_value, evaluation_context)
