"""Requests: what each endpoint takes. Fields nobody knows are refused, so that a misspelt one is noticed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

__all__ = [
    "AnomaliesPart",
    "Asked",
    "ChoiceRequest",
    "ChurnPart",
    "Context",
    "EventsRequest",
    "Explained",
    "Filters",
    "MixedRequest",
    "Part",
    "PredictionRequest",
    "Ranked",
    "RecommendationRequest",
    "RecommendationsPart",
    "ScoreRequest",
    "SegmentsPart",
    "SimilarPart",
    "SimilarRequest",
    "UserId",
]

UserId = Annotated[str, msgspec.Meta(min_length=1, max_length=256, description="The shop's own id of a person.")]
ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Some = Annotated[tuple[ItemId, ...], msgspec.Meta(max_length=100)]
HowMany = Annotated[int, msgspec.Meta(ge=1, le=100)]

Strategy = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]


class Filters(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """Which items may be recommended: those of the catalogue with one of the named values in each list given."""

    departments: Some = ()
    categories: Some = ()
    brands: Some = ()
    exclude_items: Annotated[tuple[ItemId, ...], msgspec.Meta(max_length=1_000)] = ()

    @property
    def of_the_catalogue(self) -> bool:
        """Whether the catalogue has to be asked."""
        return bool(self.departments or self.categories or self.brands)


class Context(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """What is going on while we are asked."""

    basket: Some = ()
    """Items the person holds already, newest first: they say what is wanted and are not recommended."""


_ALL, _NOTHING = Filters(), Context()


class Explained(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """What else to say beside a score."""

    explain: bool = False
    """Whether to name the features that make the score what it is; it takes longer."""


class Ranked(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """What kind of list to give."""

    n: HowMany = 10
    strategy: Strategy | None = None
    """`buy_again` or `discover`; by default the experiment decides, and a strategy asked for is not in it."""
    filters: Filters = _ALL
    context: Context = _NOTHING
    most_a_category: HowMany | None = None
    """At most so many items of one category, so that the list is varied; then fewer may be given."""
    explain: bool = False
    """Whether to say the reason for each item as a sentence."""


Asked = Explained | Ranked


class PredictionRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Whom to answer about."""

    user_ids: Annotated[list[UserId], msgspec.Meta(min_length=1)]

    @property
    def about(self) -> list[str]:
        """Whom it asks about."""
        return self.user_ids


class ScoreRequest(PredictionRequest, forbid_unknown_fields=True, frozen=True):
    """Whom to answer about, and whether to say why; `Explained` says what each field means."""

    explain: bool = False

    @property
    def asked(self) -> Explained:
        """Everything but the people."""
        return Explained(self.explain)


class RecommendationRequest(PredictionRequest, forbid_unknown_fields=True, frozen=True):
    """Whom to recommend to, how many items each, and of which kind; `Ranked` says what each field means."""

    n: HowMany = 10
    strategy: Strategy | None = None
    filters: Filters = _ALL
    context: Context = _NOTHING
    most_a_category: HowMany | None = None
    explain: bool = False

    @property
    def asked(self) -> Ranked:
        """Everything but the people."""
        return Ranked(self.n, self.strategy, self.filters, self.context, self.most_a_category, self.explain)


class SimilarRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Items to find the like of."""

    item_ids: Annotated[list[ItemId], msgspec.Meta(min_length=1, max_length=100)]
    n: HowMany = 10

    @property
    def about(self) -> list[str]:
        """What it asks about."""
        return self.item_ids

    @property
    def asked(self) -> int:
        """Everything but the items."""
        return self.n


class SimilarPart(SimilarRequest, tag_field="endpoint", tag="similar-items", frozen=True):
    """One part of a mixed batch."""


class ChurnPart(ScoreRequest, tag_field="endpoint", tag="churn", frozen=True):
    """One part of a mixed batch."""


class SegmentsPart(ScoreRequest, tag_field="endpoint", tag="segments", frozen=True):
    """One part of a mixed batch."""


class AnomaliesPart(ScoreRequest, tag_field="endpoint", tag="anomalies", frozen=True):
    """One part of a mixed batch."""


class RecommendationsPart(RecommendationRequest, tag_field="endpoint", tag="recommendations", frozen=True):
    """One part of a mixed batch."""


Part = ChurnPart | SegmentsPart | AnomaliesPart | RecommendationsPart | SimilarPart


class MixedRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Several questions at once, each as its endpoint takes it, with the endpoint's name in `endpoint`."""

    requests: Annotated[list[Part], msgspec.Meta(min_length=1, max_length=100)]


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
    """Events to take in, each as `aap.events.streaming.collector.Envelope` declares it; a bad one doesn't stop the others."""

    events: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=1_000)]
