"""The catalog: the models that the project declares, by name, each with what judges it.

A model may exist when its service has a purpose and it tells nothing that this platform refuses to know. The project's
list is loaded when it is first asked for, since its models are made of what is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from aap.consent.prohibited_topics import forbidden_topic
from aap.features.errors import UnknownFeature
from aap.features.views import service
from aap.modeling.base import AnyModel, Comparison, Evaluator
from aap.modeling.errors import UnknownModel, UnusableModel
from aap.modeling.evaluation.evaluation import Evaluation
from aap.project.loader import project_module

__all__ = [
    "ModelDeclaration",
    "check_declared",
    "declaration",
    "declarations",
    "evaluate",
    "model_class",
    "model_classes",
]


@dataclass(frozen=True, slots=True)
class ModelDeclaration:
    """One model of the project and how it is judged."""

    model: type[AnyModel]
    evaluate: Evaluator
    compare: Comparison | None = None
    """Scores beside a baseline's, row by row, for a model that is reported over several cuts together."""


@cache
def declarations() -> Mapping[str, ModelDeclaration]:
    """What the project declares in `models.MODELS`, by the models' names. Raises `UnusableModel`."""
    return {check_declared(one.model).name: one for one in project_module("models").MODELS}


def declaration(name: str) -> ModelDeclaration:
    """What is declared of the model called `name`; raises `UnknownModel` naming the ones there are."""
    found = declarations()
    if name not in found:
        raise UnknownModel(f"No model {name!r}; choose one of: {', '.join(sorted(found))}.")
    return found[name]


def model_classes() -> Mapping[str, type[AnyModel]]:
    """Every model there is, by name, in the project's order."""
    return {name: one.model for name, one in declarations().items()}


def model_class(name: str) -> type[AnyModel]:
    """The model called `name`. Raises `UnknownModel`."""
    return declaration(name).model


def evaluate(model: AnyModel, *, held_out: Any, train: Any, parameters: Any, seed: int) -> Evaluation:
    """Judge `model` on later data by the evaluator declared beside its class; raises what that raises."""
    declared = declaration(model.name)
    return declared.evaluate(model, held_out=held_out, train=train, parameters=parameters, seed=seed)


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
