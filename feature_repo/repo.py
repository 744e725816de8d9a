"""What `feast -c feature_repo apply` finds: the objects that follow from `features`, under this home's folders."""

from __future__ import annotations

from aap.config import load_settings
from aap.features.feast.objects import feast_objects
from aap.infra.object_store import features_folder

globals().update({f"{type(o).__name__}_{o.name}": o for o in feast_objects(features_folder(load_settings()))})
