"""Views: all features of one entity and one purpose. A value belongs to exactly one view, so to one purpose.

This is where single declarations become a whole: names are unique within a view, ratios find their parts, services find
their features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache, cached_property
from zlib import crc32

from aap.consent import redis_projection
from aap.consent.purposes import Purpose
from aap.features.declarations import Aggregate, Entity, Feature, Op, Ratio, Service, micros
from aap.features.errors import UnknownFeature, UnusableDeclaration
from aap.features.on_demand import OnRequest, Reading
from aap.project.loader import project_module

__all__ = [
    "View",
    "all_views",
    "columns_read",
    "computed_for",
    "declared_features",
    "declared_services",
    "make_views",
    "on_request_features",
    "reading",
    "service",
    "services",
    "view_for",
]


@dataclass(frozen=True)
class View:
    """The features of one entity for one purpose, in declaration order. What follows from them is worked out once."""

    entity: Entity
    purpose: Purpose
    features: tuple[Feature, ...]

    @cached_property
    def name(self) -> str:
        """`user__marketing_retention`, say."""
        return f"{self.entity}__{self.purpose.replace('.', '_')}"

    @cached_property
    def key(self) -> str:
        """The join key's column."""
        return "user_key" if self.entity is Entity.USER else "item_id"

    @cached_property
    def numbers(self) -> tuple[Feature, ...]:
        """The features whose value is a number, in the order a packed row has them."""
        return tuple(f for f in self.features if not f.is_sequence)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of `numbers`."""
        return tuple(f.name for f in self.numbers)

    @cached_property
    def sequences(self) -> tuple[Aggregate, ...]:
        """The features whose value is a list."""
        return tuple(f for f in self.features if isinstance(f, Aggregate) and f.is_sequence)

    @cached_property
    def since(self) -> tuple[bool, ...]:
        """Which numbers are stored as a moment and read as the time since it."""
        return tuple(isinstance(f, Aggregate) and f.is_since for f in self.numbers)

    @cached_property
    def since_places(self) -> list[int]:
        """The places of those in a row."""
        return [place for place, since in enumerate(self.since) if since]

    @cached_property
    def fingerprint(self) -> int:
        """CRC-32 of the declarations: a row packed under other ones is recognised."""
        told = [[(d.name, getattr(f, d.name)) for d in fields(f) if d.name != "purposes"] for f in self.features]
        return crc32(repr((self.entity, self.purpose, told)).encode())

    @cached_property
    def mark(self) -> int:
        """The first eight bytes of a packed row as one integer: the fingerprint, and how many numbers follow."""
        return self.fingerprint | len(self.numbers) << 32

    @cached_property
    def grant_word(self) -> int:
        """Which integer of a projection says when the grant of this view's purpose began."""
        return redis_projection.start_word(self.purpose)

    @cached_property
    def time_to_live_us(self) -> int:
        """How long after the moment a row was computed for it may still be read: the shortest of its features'."""
        return min(micros(f.time_to_live) or 0 for f in self.features)


def make_views(features: Iterable[Feature]) -> tuple[View, ...]:
    """The views that `features` fall into; raises `UnusableDeclaration` for a name used twice or a ratio of nothing."""
    grouped: dict[tuple[Entity, Purpose], list[Feature]] = {}
    for feature in features:
        for purpose in sorted(feature.purposes):
            held = grouped.setdefault((feature.entity, purpose), [])
            if any(f.name == feature.name for f in held):
                raise UnusableDeclaration(f"Two features are called {feature.name!r} for {purpose}; rename one.")
            held.append(feature)
    views = tuple(View(entity, purpose, tuple(held)) for (entity, purpose), held in sorted(grouped.items()))
    for view in views:
        _check_ratios(view)
    return views


def _check_ratios(view: View) -> None:
    parts = {f.name: f for f in view.features if isinstance(f, Aggregate)}
    for ratio in (f for f in view.features if isinstance(f, Ratio)):
        for name in (ratio.numerator, ratio.denominator):
            if name not in parts:
                raise UnusableDeclaration(f"Ratio {ratio.name!r} divides {name!r}, which {view.purpose} doesn't have.")
            if parts[name].is_since or parts[name].is_sequence:
                raise UnusableDeclaration(
                    f"Ratio {ratio.name!r} divides {name!r}, which is a {parts[name].op}, no amount."
                )


def columns_read(view: View, event: str) -> list[str]:
    """What the view's numbers are computed from, of an event type's columns: all but whose it is, when, and known when."""
    ours = [f for f in view.numbers if isinstance(f, Aggregate) and f.event == event]
    read = {f.column for f in ours} | {f.where.column for f in ours if f.where}
    if any(f.op is Op.LAST for f in ours):  # which is the last of one moment
        read |= {"source", "id"}
    return sorted(filter(None, read))


@cache
def declared_features() -> tuple[Feature, ...]:
    """The features the project declares, in the order of their declaration."""
    return tuple(project_module("feature_repo.features").FEATURES)


@cache
def on_request_features() -> tuple[OnRequest, ...]:
    """The request-time features the project declares."""
    return tuple(project_module("feature_repo.features").ON_REQUEST)


@cache
def declared_services() -> tuple[Service, ...]:
    """The services the project declares, unchecked; `services` has checked them."""
    return tuple(project_module("feature_repo.features").SERVICES)


@cache
def all_views() -> tuple[View, ...]:
    """The views of the declared features."""
    return make_views(declared_features())


def view_for(entity: Entity, purpose: Purpose) -> View:
    """The view of one entity and purpose."""
    for view in all_views():
        if view.entity is entity and view.purpose is purpose:
            return view
    raise UnknownFeature(f"No {entity} feature is declared for {purpose}.")


@cache
def computed_for(purpose: Purpose) -> dict[str, OnRequest]:
    """The declared request-time features of `purpose` by name, each checked against what is stored for it."""
    found: dict[str, OnRequest] = {}
    for feature in (f for f in on_request_features() if purpose in f.purposes):
        names = view_for(Entity.USER, purpose).names
        if feature.name in found or feature.name in names:
            raise UnusableDeclaration(f"Two features are called {feature.name!r} for {purpose}; rename one.")
        if missing := [n for n in feature.features if n not in names]:
            raise UnusableDeclaration(
                f"Feature {feature.name!r} reads {missing[0]!r}, which is not stored as a number for {purpose}."
            )
        found[feature.name] = feature
    return found


@cache
def services() -> dict[str, Service]:
    """The declared services by name, each checked against its view."""
    for s in declared_services():
        view = view_for(Entity.USER, s.purpose)
        numbers, lists = {*view.names, *computed_for(s.purpose)}, {f.name for f in view.sequences}
        missing = [n for n in s.features if n not in numbers] + [n for n in s.sequences if n not in lists]
        if missing:
            raise UnusableDeclaration(
                f"Service {s.name!r} reads {missing[0]!r}, which is not declared for {s.purpose}."
            )
    return {s.name: s for s in declared_services()}


def service(name: str) -> Service:
    """The service called `name`; raises `UnknownFeature` naming the ones there are."""
    try:
        return services()[name]
    except KeyError:
        raise UnknownFeature(f"Unknown feature service {name!r}; choose one of: {', '.join(services())}.") from None


@cache
def reading(asked: Service, stored: tuple[str, ...]) -> Reading:
    """How the numbers of `asked` come about, where a view stores those called `stored`."""
    computed = [computed_for(asked.purpose)[name] for name in asked.features if name not in stored]
    return Reading.of(asked.features, computed)
