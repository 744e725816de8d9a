"""A feature's card: what it is, from which events it comes and to which models it goes, how fresh and how spread it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from aap.config import Settings
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.features.declarations import Aggregate, Entity, Feature, Ratio
from aap.features.errors import FeaturesNotBuilt, OnlineStoreUnavailable, UnknownFeature
from aap.features.offline.build import Standing
from aap.features.on_demand import OnRequest
from aap.features.quality.profile import Spread, brought_online, profile
from aap.features.views import declared_features, on_request_features, services, view_for
from aap.infra.object_store import features_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect
from aap.modeling.catalog import model_classes
from aap.modeling.errors import ModelError
from aap.modeling.registry.registry import open_registry

__all__ = ["Card", "Reader", "Source", "Values", "card", "declared", "readers", "sources"]


@dataclass(frozen=True, slots=True)
class Source:
    """An event type that a feature is made of, and the columns it reads of it."""

    event: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reader:
    """A service that reads the feature, and the models trained on that service."""

    service: str
    purpose: str
    models: tuple[str, ...]
    champions: tuple[tuple[str, int], ...]
    """(model, version) of the champions that were trained with the feature."""


@dataclass(frozen=True, slots=True)
class Values:
    """The values made for one purpose, in one view; what isn't there is None."""

    view: str
    purpose: str
    built_as_of: datetime | None = None
    online_as_of: datetime | None = None
    spread: Spread | None = None
    problem: str = ""
    """Why there are none, or why it can't be told what is online."""


@dataclass(frozen=True, slots=True)
class Card:
    """Everything to be seen of one feature."""

    name: str
    definition: dict[str, str]
    request: tuple[str, ...]
    sources: tuple[Source, ...]
    values: tuple[Values, ...]
    readers: tuple[Reader, ...]


def declared(name: str) -> Feature | OnRequest:
    """The declaration called `name`; raises `UnknownFeature`."""
    found = next((f for f in (*declared_features(), *on_request_features()) if f.name == name), None)
    if found is None:
        raise UnknownFeature(f"Unknown feature {name!r}; `aap features list` shows the ones there are.")
    return found


def card(settings: Settings, name: str, *, now: datetime) -> Card:
    """The card of the feature called `name`; raises `UnknownFeature`."""
    feature = declared(name)
    entity = Entity.USER if isinstance(feature, OnRequest) else feature.entity
    standing = open_ledger(settings).standing(in_force_at=now)
    return Card(
        name,
        _definition(feature),
        feature.request if isinstance(feature, OnRequest) else (),
        tuple(sources(feature)),
        tuple(_values(settings, feature, entity, p, standing=standing, now=now) for p in sorted(feature.purposes)),
        tuple(readers(feature, settings=settings)),
    )


def sources(feature: Feature | OnRequest) -> list[Source]:
    """The events behind `feature`, through whatever it is made of."""
    columns: dict[str, dict[str, None]] = {}
    for part in _parts(feature):
        read = (part.column, part.where.column if part.where else None)
        columns.setdefault(part.event, {}).update(dict.fromkeys(c for c in read if c))
    return [Source(event, tuple(named)) for event, named in columns.items()]


def readers(feature: Feature | OnRequest, *, settings: Settings) -> Iterable[Reader]:
    """The services that read `feature`, and who was trained on it."""
    registry = open_registry(settings) if Layout(settings.home).mlflow.is_dir() or settings.mlflow_url else None
    for service in services().values():
        if feature.name not in (*service.features, *service.sequences) or service.purpose not in feature.purposes:
            continue
        models = tuple(n for n, m in model_classes().items() if m.service == service.name)
        champions = []
        for name in models if registry else ():
            try:
                version = registry.champion(name)  # type: ignore[union-attr]
            except ModelError:
                continue
            if version is not None and f'"{feature.name}"' in version.tags.get("features", ""):
                champions.append((name, version.version))
        yield Reader(service.name, service.purpose.value, models, tuple(champions))


def _parts(feature: Feature | OnRequest) -> Sequence[Aggregate]:
    if isinstance(feature, Aggregate):
        return [feature]
    names = (feature.numerator, feature.denominator) if isinstance(feature, Ratio) else feature.features
    view = view_for(Entity.USER, min(feature.purposes)) if isinstance(feature, OnRequest) else None
    among = view.features if view else [f for f in declared_features() if f.entity is feature.entity]  # type: ignore[union-attr]
    return [part for name in names for f in among if f.name == name for part in _parts(f)]


def _definition(feature: Feature | OnRequest) -> dict[str, str]:
    left_out = ("name", "purposes", "function", "request")
    told = {slot: getattr(feature, slot) for slot in feature.__slots__ if slot not in left_out}
    kept = {k: v for k, v in told.items() if v not in ("", None) and not (k == "n" and v == 0)}
    return {k: ", ".join(v) if isinstance(v, tuple) else str(v) for k, v in kept.items()}


def _values(
    settings: Settings,
    feature: Feature | OnRequest,
    entity: Entity,
    purpose: Purpose,
    *,
    standing: Standing,
    now: datetime,
) -> Values:
    view = view_for(entity, purpose)
    if isinstance(feature, OnRequest):
        return Values(view.name, purpose, problem="It is computed when it is asked for.")
    try:
        built = profile(view, folder=features_folder(settings), standing=standing, now=now)
    except FeaturesNotBuilt as error:
        return Values(view.name, purpose, problem=str(error))
    spread = None if feature.is_sequence else built.spread(feature.name)
    try:
        newest = brought_online(connect(settings, start=False), built, now=now)
        problem = "" if newest else "Nothing of it is online."
    except OnlineStoreUnavailable as error:
        newest, problem = None, str(error)
    return Values(view.name, purpose, built.built_as_of, newest, spread, problem)
