"""What nobody may declare, and who may say yes: a sentence instead of a field, a feature or a model."""

from __future__ import annotations

import pytest

from aap.consent.age_rules import check_age
from aap.consent.errors import UnusableChoice
from aap.consent.prohibited_topics import Topic, forbidden_topic
from aap.consent.purposes import DataCategory, Purpose, spec
from aap.events.errors import UnusableEventType
from aap.events.schema import EVENT_TYPES, EventType, Field, Kind
from aap.features.declarations import Aggregate, Op, Ratio, Service
from aap.features.errors import UnusableDeclaration
from aap.modeling.catalog import check_declared, model_classes
from aap.modeling.errors import UnusableModel
from features import FEATURES
from models.churn.model import Churn

pytestmark = pytest.mark.fast

RETAIN = frozenset({Purpose.MARKETING_RETENTION})
REPORT = frozenset({Purpose.ANALYTICS_REPORTING})


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("gullibility_score", Topic.PSYCHOLOGICAL),
        ("Vulnerable-Customers", Topic.PSYCHOLOGICAL),
        ("pregnancy_probability", Topic.SPECIAL),
        ("religions", Topic.SPECIAL),
        ("predicted_gender", Topic.DEMOGRAPHIC),
        ("income", Topic.DEMOGRAPHIC),
        ("message_sentiment", Topic.MESSAGES),
        ("cursor_path", Topic.TRACKING),
    ],
)
def test_a_name_is_about_what_its_words_are_about(name: str, topic: Topic) -> None:
    found = forbidden_topic(name)
    assert found is not None
    assert found[0] is topic


def test_words_that_only_look_alike_pass() -> None:
    assert forbidden_topic("average_basket_pages_storage_sextant_embrace") is None


def feature(name: str, **changed: object) -> Aggregate:
    said = {"event": "product_purchased", "op": Op.COUNT, "window": "30d", "purposes": RETAIN, "unit": "lines",
            "description": "Lines.", "name": name}  # fmt: skip
    return Aggregate(**{**said, **changed})  # type: ignore[arg-type]


def test_a_feature_about_a_forbidden_topic_cannot_be_declared() -> None:
    with pytest.raises(
        UnusableDeclaration,
        match=r"^Feature 'vulnerability_30d' can't be declared: 'vulnerability' is about a psychological or vulnerability "
        r"profile, and nothing here may be\.$",
    ):
        feature("vulnerability_30d")
    with pytest.raises(UnusableDeclaration, match="'pregnancy' is about a special category"):
        feature("hint", description="Purchases that hint at a pregnancy.")
    with pytest.raises(UnusableDeclaration, match="'income' is about an inferred demographic"):
        Ratio(name="income_guess", numerator="a", denominator="b", purposes=RETAIN, description="Spending.")


def test_what_a_person_said_of_themselves_may_be_counted_but_not_guessed() -> None:
    told = {"event": "profile_updated", "op": Op.DISTINCT, "window": "30d", "purposes": REPORT, "unit": "bands"}
    assert feature("age_band_distinct_30d", **told, column="age_band", description="Age bands said.")
    with pytest.raises(UnusableDeclaration, match="inferred demographic"):
        feature("age_guess", purposes=REPORT)


@pytest.mark.parametrize("purpose", ["", None, "whatever.we.like"])
def test_a_service_without_a_purpose_of_the_list_cannot_be_declared(purpose: object) -> None:
    with pytest.raises(UnusableDeclaration, match=r"states no purpose|is no purpose; choose one of"):
        Service(name="churn", purpose=purpose, features=("amount_sum_30d",))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["latitude", "gps_point", "keystrokes", "cursor_x", "canvas_fingerprint", "health"])
def test_there_is_no_field_for_location_typing_pointing_fingerprints_or_special_categories(name: str) -> None:
    with pytest.raises(UnusableEventType, match=f"can't have the field '{name}'"):
        EventType("seen", "Seen.", (Field(name, Kind.TEXT, DataCategory.BEHAVIOUR),))


def test_a_guess_at_a_demographic_is_no_field_either_but_what_the_person_said_is() -> None:
    with pytest.raises(UnusableEventType):
        EventType("seen", "Seen.", (Field("age_band", Kind.TEXT, DataCategory.BEHAVIOUR),))
    assert EVENT_TYPES["profile_updated"].field("age_band")


class _Guess(Churn):
    name = "guess"
    predicts = ("gender", "probability")


class _Nothing(Churn):
    name = "nothing"
    predicts = ()


class _Purposeless(Churn):
    name = "purposeless"
    service = "everything"


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            _Guess,
            r"^Model 'guess' can't be registered for marketing\.retention: 'gender' is about an inferred demographic",
        ),
        (_Nothing, r"^Model 'nothing' doesn't say what it predicts"),
        (
            _Purposeless,
            r"^Model 'purposeless' has no purpose, for it reads no declared service: Unknown feature service",
        ),
    ],
)
def test_a_model_that_tells_what_nobody_may_tell_or_has_no_purpose_cannot_be_registered(
    model: type[Churn], why: str
) -> None:
    with pytest.raises(UnusableModel, match=why):
        check_declared(model)


def test_everything_that_is_declared_today_stands() -> None:
    assert all(check_declared(model) is model for model in model_classes().values())
    assert all(f.purposes for f in FEATURES)
    assert not any(spec(p).special_categories for p in Purpose)


def test_who_may_say_yes_depends_on_age_and_purpose() -> None:
    profiling, marketing = Purpose.PERSONALIZE_PROFILING, Purpose.MARKETING_RETENTION
    check_age(profiling, age=None)
    check_age(profiling, age=16)
    check_age(profiling, age=12, by_guardian=True)
    check_age(marketing, age=18)
    with pytest.raises(UnusableChoice, match=r"under 16 can't grant personalize\.profiling alone"):
        check_age(profiling, age=15)
    with pytest.raises(UnusableChoice, match=r"marketing\.retention is not for people under 18"):
        check_age(marketing, age=17, by_guardian=True)
