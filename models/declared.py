"""Whether a model may exist: its service has a purpose, and it tells nothing that this platform refuses to know."""

from __future__ import annotations

from consent.forbidden import forbidden_topic
from feature_repo.errors import UnknownFeature
from feature_repo.views import service
from models.contract import AnyModel
from models.errors import UnusableModel

__all__ = ["check_declared"]


def check_declared(model: type[AnyModel]) -> type[AnyModel]:
    """`model` itself. Raises `UnusableModel` with the reason why it can't be registered."""
    name = model.name
    try:
        read = service(getattr(model, "service", ""))
    except UnknownFeature as error:
        raise UnusableModel(f"Model {name!r} has no purpose, for it reads no declared service: {error}") from None
    predicts = getattr(model, "predicts", ())
    if not predicts:
        raise UnusableModel(f"Model {name!r} doesn't say what it predicts: name its label and outputs in `predicts`.")
    for told in (name, *predicts):
        if found := forbidden_topic(told):
            raise UnusableModel(
                f"Model {name!r} can't be registered for {read.purpose}: {told!r} is about {found[0]} "
                f"({found[1]!r}), and no model here may tell that."
            )
    return model
