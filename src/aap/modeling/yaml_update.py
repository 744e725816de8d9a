"""Rewriting training.yaml: some values change, everything else in the file stays as it is, comments included."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aap.infra.atomic_files import write_atomically
from aap.modeling.errors import BadParameters
from aap.modeling.training_config import parse_training_settings

__all__ = ["rewrite", "write_settings"]


def write_settings(path: Path, *, model: str, values: Mapping[str, float | int]) -> None:
    """Put `values` into section `model` of the file at `path`, whole or not at all. Raises `BadParameters`."""
    try:
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadParameters(f"Can't read {path}: {error}.") from None
    write_atomically(path, rewrite(before, model=model, values=values).encode())


def rewrite(text: str, *, model: str, values: Mapping[str, float | int]) -> str:
    """`text` with `values` in section `model`: line by line, so that nothing but the values moves.

    What comes out is parsed again and must say exactly what was meant; raises `BadParameters` if it doesn't.
    """
    lines = text.splitlines(keepends=True)
    first, end = _section(lines, model)
    for name, value in values.items():
        at = next((i for i in range(first, end) if re.match(rf"\s+{re.escape(name)}:", lines[i])), None)
        if at is None:
            raise BadParameters(f"Section {model} of training.yaml has no line for {name}; add it by hand.")
        lines[at] = _line(lines[at], shown(value))
    made = "".join(lines)
    meant: Any = yaml.safe_load(text)
    meant["models"][model].update({name: yaml.safe_load(shown(value)) for name, value in values.items()})
    if (found := yaml.safe_load(made)) != meant:
        raise BadParameters(f"Section {model} of training.yaml isn't written as one line a setting; change it by hand.")
    parse_training_settings(found)
    return made


def shown(value: float | int) -> str:
    """A value as YAML: whole numbers as they are, others with four significant digits and always with a point."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:.4g}"
    return str(float(text)) if "." not in str(float(text)) or "e" in text else text if "." in text else f"{text}.0"


def _section(lines: list[str], model: str) -> tuple[int, int]:
    """First line and end of `models.<model>`."""
    start = next((i for i, line in enumerate(lines) if re.match(r"models:\s*(#.*)?$", line)), len(lines))
    first = next((i for i in range(start, len(lines)) if re.match(rf"  {re.escape(model)}:\s*(#.*)?$", lines[i])), None)
    if first is None:
        raise BadParameters(f"training.yaml has no section {model} below models.")
    ends = (i for i in range(first + 1, len(lines)) if re.match(r"( {0,2})[^\s#]", lines[i]))
    return first + 1, next(ends, len(lines))


def _line(line: str, value: str) -> str:
    """The line with another value; its comment stays in its column where there is room."""
    found = re.fullmatch(r"(?P<key> +\w+: +)(?P<old>[^\s#]+)(?P<gap> *)(?P<comment>#.*)?(?P<end>\n?)", line)
    if found is None:
        raise BadParameters(f"Can't change the line {line.strip()!r} of training.yaml; change it by hand.")
    if not found["comment"]:
        return f"{found['key']}{value}{found['end']}"
    gap = max(1, len(found["old"]) + len(found["gap"]) - len(value))
    return f"{found['key']}{value}{' ' * gap}{found['comment']}{found['end']}"
