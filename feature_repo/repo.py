"""What `feast -c feature_repo apply` finds: the derived objects, under this home's folders. All else is in .feastignore."""

from __future__ import annotations

from feature_repo.feast_objects import feast_objects
from settings.config import load_settings
from storage.layout import Layout

globals().update({f"{type(o).__name__}_{o.name}": o for o in feast_objects(Layout(load_settings().home))})
