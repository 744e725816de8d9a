"""The closed list of purposes. Data is collected and used for one of these, or not at all.

Keys follow the fideslang taxonomy. Adding a purpose is one enum member and one `PurposeSpec`; members are only ever
appended, because the projection in Redis stores one slot per member in this order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

__all__ = ["AgeRule", "DataCategory", "LegalBasis", "Purpose", "PurposeSpec", "UnknownPurpose", "parse_purpose", "spec"]


class Purpose(StrEnum):
    """Why data is used."""

    PERSONALIZE_PROFILING = "personalize.profiling"
    PERSONALIZE_PROFILED = "personalize.profiled"
    MARKETING_RETENTION = "marketing.retention"
    ANALYTICS_REPORTING = "analytics.reporting"
    TRAIN_AI_SYSTEM = "train_ai_system"
    FUNCTIONAL_SERVICE_IMPROVE = "functional.service.improve"
    ESSENTIAL_FRAUD_DETECTION = "essential.fraud_detection"
    THIRD_PARTY_SHARING = "third_party_sharing"


class LegalBasis(StrEnum):
    """GDPR article 6(1): (a) consent, (f) legitimate interest (granted until the person objects)."""

    CONSENT = "consent"
    LEGITIMATE_INTEREST = "legitimate_interest"


class DataCategory(StrEnum):
    """What kind of data an event field holds."""

    BEHAVIOUR = "behaviour"
    PURCHASE = "purchase"
    DEVICE = "device"
    COARSE_LOCATION = "coarse_location"
    CONTACT = "contact"
    DEMOGRAPHIC = "demographic"
    CAMPAIGN = "campaign"


@dataclass(frozen=True, slots=True)
class AgeRule:
    """Who may say yes, by age. The platform stores no age: a door that knows one checks it with `aap.consent.age_rules`."""

    alone_from: int = 16
    """The age from which a person says yes alone: GDPR article 8(1), before any state's lower one."""
    guardian: bool = True
    """Whether somebody with parental responsibility may say yes for a younger person."""


@dataclass(frozen=True, slots=True)
class PurposeSpec:
    """What a purpose means to a person, and what it may touch."""

    explanation: str
    legal_basis: LegalBasis
    retention: timedelta
    categories: frozenset[DataCategory]
    age: AgeRule = AgeRule()
    special_categories: bool = False
    """Whether it may touch what GDPR article 9 protects (health, faith, …). No purpose may: no event has a field for it."""
    stopped_by_gpc: bool = False
    """Whether the Global Privacy Control (`Sec-GPC: 1`) says no to it, whatever was granted."""

    @property
    def needs_consent(self) -> bool:
        """Whether a person must say yes first; otherwise it holds until they object."""
        return self.legal_basis is LegalBasis.CONSENT


class UnknownPurpose(ValueError):
    """A purpose that is not in the list."""


_SHOPPING = frozenset({DataCategory.BEHAVIOUR, DataCategory.PURCHASE, DataCategory.CAMPAIGN})
_YEAR = timedelta(days=365)
_ADULTS = AgeRule(alone_from=18, guardian=False)
"""No advertising made from a profile to minors, whoever agrees: Digital Services Act, article 28(2)."""

_SPECS: dict[Purpose, PurposeSpec] = {
    Purpose.PERSONALIZE_PROFILING: PurposeSpec(
        "Build a profile of what you look at and buy.", LegalBasis.CONSENT, _YEAR, _SHOPPING
    ),
    Purpose.PERSONALIZE_PROFILED: PurposeSpec(
        "Use your profile to choose what you are shown.", LegalBasis.CONSENT, _YEAR, _SHOPPING
    ),
    Purpose.MARKETING_RETENTION: PurposeSpec(
        "Notice when you may be about to leave and make you an offer.",
        LegalBasis.CONSENT,
        _YEAR,
        _SHOPPING,
        age=_ADULTS,
        stopped_by_gpc=True,
    ),
    Purpose.ANALYTICS_REPORTING: PurposeSpec(
        "Count and describe groups of customers.",
        LegalBasis.CONSENT,
        _YEAR,
        _SHOPPING | {DataCategory.DEMOGRAPHIC, DataCategory.COARSE_LOCATION},
    ),
    Purpose.TRAIN_AI_SYSTEM: PurposeSpec(
        "Train the models that serve you and others.", LegalBasis.CONSENT, _YEAR, _SHOPPING
    ),
    Purpose.FUNCTIONAL_SERVICE_IMPROVE: PurposeSpec(
        "Compare versions of the service to make it better.",
        LegalBasis.CONSENT,
        _YEAR,
        _SHOPPING | {DataCategory.DEVICE},
    ),
    Purpose.ESSENTIAL_FRAUD_DETECTION: PurposeSpec(
        "Recognise misuse of accounts and coupons.",
        LegalBasis.LEGITIMATE_INTEREST,
        _YEAR,
        frozenset({DataCategory.BEHAVIOUR, DataCategory.PURCHASE, DataCategory.DEVICE}),
    ),
    Purpose.THIRD_PARTY_SHARING: PurposeSpec(
        "Give data about you to another company.",
        LegalBasis.CONSENT,
        _YEAR,
        frozenset(),
        age=_ADULTS,
        stopped_by_gpc=True,
    ),
}


def spec(purpose: Purpose) -> PurposeSpec:
    """What `purpose` means."""
    return _SPECS[purpose]


def parse_purpose(name: str) -> Purpose:
    """The purpose called `name`; raises `UnknownPurpose` naming the ones there are."""
    try:
        return Purpose(name)
    except ValueError:
        known = ", ".join(Purpose)
        raise UnknownPurpose(f"Unknown purpose {name!r}; choose one of: {known}.") from None
