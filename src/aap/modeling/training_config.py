"""training.yaml, read and checked: how each model is trained, and what the gate lets through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from aap.modeling.base import Parameters
from aap.modeling.catalog import model_classes
from aap.modeling.errors import BadParameters
from aap.modeling.promotion_gate import GateRules

__all__ = ["TrainingSettings", "load_training_settings", "parse_training_settings"]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Everything training.yaml says."""

    seed: int
    models: Mapping[str, Parameters]
    """Parameters of each model, of its own `parameters_type`."""
    gate: GateRules

    def flat(self, name: str) -> dict[str, Any]:
        """Parameters of one model as plain values."""
        parameters: Any = self.models[name]
        return asdict(parameters)


def load_training_settings(path: Path) -> TrainingSettings:
    """Read `path`. Raises `BadParameters` with one sentence."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise BadParameters(f"Can't read {path}: {error}.") from None
    return parse_training_settings(content, source=str(path))


def parse_training_settings(content: Any, *, source: str = "training.yaml") -> TrainingSettings:
    """Check that every section is there, knows every key, and has values of the right type."""
    if not isinstance(content, dict) or set(content) != {"seed", "models", "gate"}:
        raise BadParameters(f"{source} must have exactly the sections seed, models and gate.")
    sections, declared = content["models"], model_classes()
    if not isinstance(sections, dict) or set(sections) != set(declared):
        raise BadParameters(f"Section models of {source} must have exactly: {', '.join(sorted(declared))}.")
    parsed = {
        name: _section(model.parameters_type, sections[name], where=f"models.{name} of {source}")
        for name, model in declared.items()
    }
    gate = _section(GateRules, content["gate"], where=f"gate of {source}")
    if isinstance(content["seed"], bool) or not isinstance(content["seed"], int):
        raise BadParameters(f"seed of {source} must be a whole number, not {content['seed']!r}.")
    return TrainingSettings(content["seed"], parsed, gate)


def _section(kind: type, content: Any, *, where: str) -> Any:
    names = {field.name for field in fields(kind)}
    given = set(content) if isinstance(content, dict) else set()
    if given != names:
        missing, unknown = sorted(names - given), sorted(str(name) for name in given - names)
        raise BadParameters(f"{where} lacks {missing} and has unknown {unknown}.")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        found = adapter.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadParameters(f"{where}: {first['loc'][0]}={first['input']!r}: {first['msg']}.") from None
    negative = [name for name in names if isinstance(content[name], (int, float)) and content[name] < 0]
    if negative:
        raise BadParameters(f"{where}: {negative[0]}={content[negative[0]]} must not be negative.")
    return found
