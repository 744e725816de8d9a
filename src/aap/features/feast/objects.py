"""What Feast knows: entities, one feature view an entity × purpose, one feature service a model. All derived."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeAlias

from feast import Entity as FeastEntity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float64, String

from aap.features.declarations import Entity, Feature
from aap.features.views import View, all_views, reading, services, view_for
from aap.infra.object_store import Folder

__all__ = ["FeastObject", "feast_objects", "view_of"]

FeastObject: TypeAlias = Any
"""A Feast entity, feature view or feature service; Feast has no name for what they share."""

_ENTITIES = {
    Entity.USER: FeastEntity(
        name="user", join_keys=["user_key"], value_type=ValueType.STRING, description="A person, by pseudonym."
    ),
    Entity.ITEM: FeastEntity(
        name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="What is sold."
    ),
}


def feast_objects(features: Folder) -> list[FeastObject]:
    """Everything `feast apply` registers, with sources below `features`."""
    views = {view.name: _feature_view(view, features) for view in all_views()}
    made: list[FeastObject] = [*_ENTITIES.values(), *views.values()]
    for service in services().values():
        view = view_for(Entity.USER, service.purpose)
        made.append(
            FeatureService(
                name=service.name,
                # What is computed on request is stored nowhere, so Feast has no view of it.
                features=[views[view.name][[*reading(service, view.names).stored, *service.sequences]]],
                tags={
                    "purpose": service.purpose.value,
                    "to_train": ",".join(service.training_purposes),
                    "to_answer": ",".join(service.answering_purposes),
                },
                description=f"What the {service.name} model reads.",
            )
        )
    return made


def view_of(table: FeatureView) -> View:
    """The declared view behind a Feast feature view."""
    return next(v for v in all_views() if v.name == table.name)


def _feature_view(view: View, features: Folder) -> FeatureView:
    file = FileSource(
        name=f"{view.name}_file",
        path=str(features / view.name),
        timestamp_field="valid_from",
        file_format=ParquetFormat(),
    )
    return FeatureView(
        name=view.name,
        entities=[_ENTITIES[view.entity]],
        ttl=timedelta(microseconds=view.time_to_live_us),
        schema=[_field(f) for f in view.features],
        source=PushSource(name=f"{view.name}_push", batch_source=file),
        online=True,
        tags={"purpose": view.purpose.value, "entity": view.entity.value},
        description=f"What we know of a {view.entity}, for {view.purpose}.",
    )


def _field(feature: Feature) -> Field:
    kind = Array(String) if feature.is_sequence else Float64
    window = getattr(feature, "window", "")
    tags = {"unit": feature.unit, "window": window, "time_to_live": feature.time_to_live}
    return Field(
        name=feature.name, dtype=kind, description=feature.description, tags={k: v for k, v in tags.items() if v}
    )
