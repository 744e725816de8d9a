"""docs/features.md is made from the declarations: `python -m tests.docs.test_features_page` writes it anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from aap.consent.purposes import Purpose, spec
from aap.features.declarations import Aggregate, Entity, Feature
from aap.features.on_demand import OnRequest
from aap.features.views import all_views, services
from features import FEATURES, ON_REQUEST
from tests.docs.pages import DOCS

pytestmark = pytest.mark.fast

PAGE = DOCS / "features.md"
_TITLES = {Entity.USER: "What we know of a person", Entity.ITEM: "What we know of an item"}


def generated() -> str:
    """The page."""
    parts = [
        "# Features",
        "<!-- Made by `python -m tests.docs.test_features_page` from feature_repo/features.py; do not edit. -->",
        "Each is declared once and made once for every purpose it names; a value made for one purpose is never\n"
        "read for another. `aap features show NAME` shows the whole declaration; [add-a-feature.md](add-a-feature.md)\n"
        "says how to add one.",
    ]
    for entity, title in _TITLES.items():
        parts += [f"## {title}", _table(["feature", "what", "unit", "from", "for"], map(_row, _of(entity)))]
    parts += [
        "## What is computed when it is asked for",
        "From values of the request and stored features, by one function for training and online.",
        _table(["feature", "what", "unit", "from", "for"], map(_on_request, ON_REQUEST)),
        "## Views",
        "All features of one entity and one purpose; a withdrawal deletes a person's row of its view.",
    ]
    parts.append(_table(["view", "features", "rests on"], _views()))
    parts += ["## Services", "What each model reads, and what a person must allow for it."]
    parts.append(_table(["service", "values made for", "to be trained on", "to be answered", "features"], _services()))
    return "\n\n".join(parts) + "\n"


def _of(entity: Entity) -> list[Feature]:
    return [f for f in FEATURES if f.entity is entity]


def _row(feature: Feature) -> list[str]:
    made_of = (
        f"`{feature.event}`" if isinstance(feature, Aggregate) else f"`{feature.numerator}` / `{feature.denominator}`"
    )
    purposes = ", ".join(sorted(feature.purposes))
    return [f"`{feature.name}`", feature.description.rstrip("."), feature.unit, made_of, purposes]


def _on_request(feature: OnRequest) -> list[str]:
    made_of = ", ".join([f"{name} of the request" for name in feature.request] + [f"`{n}`" for n in feature.features])
    purposes = ", ".join(sorted(feature.purposes))
    return [f"`{feature.name}`", feature.description.rstrip("."), feature.unit, made_of, purposes]


def _views() -> Iterable[Sequence[str]]:
    for view in all_views():
        basis = spec(view.purpose).legal_basis.replace("_", " ")
        yield f"`{view.name}`", str(len(view.features)), basis


def _services() -> Iterable[Sequence[str]]:
    for service in services().values():
        trained, answered = (", ".join(p) for p in (service.training_purposes, service.answering_purposes))
        yield f"`{service.name}`", service.purpose, trained, answered, str(len((*service.features, *service.sequences)))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def test_the_page_says_what_is_declared() -> None:
    assert PAGE.read_text(encoding="utf-8") == generated(), "run: python -m tests.docs.test_features_page"


def test_every_purpose_that_has_features_is_in_it() -> None:
    said = generated()
    assert all(p in said for p in Purpose if any(p in f.purposes for f in FEATURES))


if __name__ == "__main__":
    PAGE.write_text(generated(), encoding="utf-8")
