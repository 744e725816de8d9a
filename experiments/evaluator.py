"""The evaluator of flags: flagd's own code, asked through OpenFeature, and told apart by edition.

It may know another edition of a flag than this process has in force. So each flag it is given carries its edition in its
metadata, each answer brings that back, and an answer of another edition is no answer: what is logged beside an exposure is
always the split that decided.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from openfeature import api
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from experiments.flag_file import EDITION, Flag

__all__ = ["Evaluator"]


class Evaluator:
    """Evaluates flags in this process, as of the last document that `take` was given."""

    def __init__(self) -> None:
        self._here = _Here()
        self._domain = f"aap:{uuid4().hex}"
        api.set_provider_and_wait(self._here, self._domain)
        self._client = api.get_client(self._domain)

    def take(self, document: Mapping[str, Any]) -> None:
        """Evaluate by this document, as `read_flags` returns it, from the next question on."""
        self._here.core.set_flags(json.dumps(document))

    def variant(self, flag: Flag, *, user_key: str, segment: str | None) -> str | None:
        """The variant of this very edition of `flag`; None when it can't be said."""
        context = EvaluationContext(user_key, {"segment": segment} if segment else {})
        details = self._client.get_string_details(flag.name, flag.default, context)
        if details.reason == Reason.ERROR or details.flag_metadata.get(EDITION) != flag.edition:
            return None
        return details.variant if details.variant in flag.variants else None

    def close(self) -> None:
        """Let go of what was started."""
        self._here.shutdown()


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
