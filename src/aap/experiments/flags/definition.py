"""The flag file: flagd's schema, read and checked, so that a mistake is a sentence and never a person in the wrong arm.

Three things are narrower than flagd allows. A targeting is a split, or a split for some segments only: a rule about who
a person is would use data with no purpose behind it, and segments are asked for under the purposes that cover them.
Names have no spaces. `metadata` may place a flag in a layer (`layer`, `slots`), of which a person gets one flag at most,
and let the share of people it takes in grow (`ramp`, `ramp_hours`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from aap.experiments.errors import FlagsUnusable

__all__ = ["CHALLENGER", "EDITION", "SLOTS", "VERSION", "Flag", "Place", "read_flags", "slot_in"]

VERSION = "_version"
"""A flag whose name ends so says who is answered by the challenger of the model that it begins with."""

CHAMPION, CHALLENGER = "champion", "challenger"

EDITION = "aap_edition"
"""What the metadata of a checked flag calls its edition: a digest of how it is declared."""

SLOTS = 1_000
"""How many slots a layer has."""

_KEYS = frozenset({"state", "variants", "defaultVariant", "targeting", "metadata"})
_SPAN = re.compile(r"(\d{1,3})-(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a flag is in its layer: slots `first` to `last`, both included, of 0 to 999."""

    layer: str
    first: int
    last: int

    def holds(self, user_key: str) -> bool:
        """Whether this person falls into these slots."""
        return self.first <= slot_in(self.layer, user_key=user_key) <= self.last


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag as declared; append variants only, for inserting one before others moves people between them."""

    name: str
    enabled: bool
    variants: tuple[str, ...]
    default: str
    split: tuple[tuple[str, int], ...] = ()
    """(variant, weight) in the order of the file; empty for a flag that gives everybody the default."""
    segments: tuple[str, ...] = ()
    """Names of the segments it is for; empty for everybody."""
    place: Place | None = None
    ramp: tuple[int, ...] = ()
    """Percent of people taken in, step by step; empty for everybody at once."""
    ramp_hours: float = 24.0
    """How long a step lasts at least."""
    edition: str = ""
    """A digest of how it is declared: the same in every process that has the same declaration in force."""

    @property
    def weights(self) -> str:
        """The split as it is written beside every exposure: `a:50,b:50`."""
        return ",".join(f"{variant}:{weight}" for variant, weight in self.split)


def slot_in(layer: str, *, user_key: str) -> int:
    """The slot, 0 to 999, of a person in a layer: the same for ever, and unrelated to that of any other layer."""
    return int.from_bytes(sha256(f"{layer}\0{user_key}".encode()).digest()[:8]) % SLOTS


def read_flags(path: Path) -> tuple[dict[str, Any], dict[str, Flag]]:
    """The document in `path`, each flag marked with its edition, and the flags it declares.

    Raises `FlagsUnusable` at the first mistake, saying where.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlagsUnusable(f"The flag file {path} can't be read ({error.strerror}): restore it.") from None
    except ValueError as error:
        raise FlagsUnusable(f"The flag file {path} is not JSON ({error}): correct that place.") from None
    declared = document.get("flags") if isinstance(document, dict) else None
    if not isinstance(declared, dict):
        raise FlagsUnusable(f'The flag file {path} needs an object "flags" at the top: see conf/flags.json.')
    flags = {name: _flag(name, entry, where=f"Flag {name!r} in {path}") for name, entry in declared.items()}
    _check_layers(flags.values(), path)
    for name, flag in flags.items():
        declared[name]["metadata"] = {**(declared[name].get("metadata") or {}), EDITION: flag.edition}
    return document, flags


def _flag(name: str, entry: Any, *, where: str) -> Flag:
    if not _is_name(name):
        raise FlagsUnusable(f"{where} has a name that is empty or has a space: use letters, digits and _.")
    if not isinstance(entry, dict):
        raise FlagsUnusable(f"{where} must be an object with state, variants and defaultVariant.")
    if unknown := sorted(set(entry) - _KEYS):
        raise FlagsUnusable(f"{where} has unknown fields {', '.join(unknown)}: use only {', '.join(sorted(_KEYS))}.")
    state, variants, default = entry.get("state"), entry.get("variants"), entry.get("defaultVariant")
    if state not in ("ENABLED", "DISABLED"):
        raise FlagsUnusable(f"{where} has state {state!r}: write ENABLED or DISABLED.")
    if not isinstance(variants, dict) or not variants or not all(isinstance(v, str) for v in variants.values()):
        raise FlagsUnusable(f"{where} needs variants: an object from a variant's name to its value, a string.")
    if not all(_is_name(v) for v in variants):
        raise FlagsUnusable(f"{where} has a variant whose name is empty or has a space: use letters, digits and _.")
    if default not in variants:
        raise FlagsUnusable(f"{where} has defaultVariant {default!r}: choose one of {', '.join(variants)}.")
    if name.endswith(VERSION) and (set(variants) != {CHAMPION, CHALLENGER} or default != CHAMPION):
        raise FlagsUnusable(
            f"{where} is about a model's version: its variants are {CHAMPION} and {CHALLENGER}, the default {CHAMPION}."
        )
    split, segments = _targeting(entry.get("targeting"), variants=variants, where=where)
    metadata = _metadata(entry.get("metadata"), where=where)
    place, ramp = _place(metadata, where=where), _ramp(metadata, where=where)
    hours = metadata.get("ramp_hours", 24.0)
    if isinstance(hours, bool) or not isinstance(hours, int | float) or hours <= 0:
        raise FlagsUnusable(f"{where} has ramp_hours {hours!r}: write a number above 0.")
    return Flag(
        name,
        state == "ENABLED",
        tuple(variants),
        str(default),
        split,
        segments,
        place,
        ramp,
        float(hours),
        _edition(entry, metadata),
    )


def _edition(entry: Mapping[str, Any], metadata: Mapping[str, str | float]) -> str:
    """Of the declaration as a person wrote it, so that a checked copy of it has the same."""
    written = {**entry, "metadata": {name: value for name, value in metadata.items() if name != EDITION}}
    return sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:16]


def _is_name(text: str) -> bool:
    return bool(text) and not any(c.isspace() or c in ":," for c in text)


def _targeting(
    targeting: Any, *, variants: Mapping[str, str], where: str
) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """The split, and the segments it is for."""
    if not targeting:
        return (), ()
    segments: tuple[str, ...] = ()
    if isinstance(targeting, dict) and set(targeting) == {"if"}:
        segments, targeting = _segments(targeting["if"], where=where)
    arms = targeting.get("fractional") if isinstance(targeting, dict) and len(targeting) == 1 else None
    if not isinstance(arms, list) or not arms:
        raise FlagsUnusable(
            f'{where} has a targeting that is not a split: write {{"fractional": [[variant, weight]]}}.'
        )
    return _split(arms, variants=variants, where=where), segments


def _segments(rule: Any, *, where: str) -> tuple[tuple[str, ...], Any]:
    """The segments and the split of `[{"in": [{"var": "segment"}, [names]]}, split]`."""
    match rule:
        case [{"in": [{"var": "segment"}, [*names]]}, split] if names and all(isinstance(n, str) and n for n in names):
            return tuple(names), split
    raise FlagsUnusable(
        f'{where} has a rule other than for segments: write {{"if": [{{"in": [{{"var": "segment"}}, [names]]}}, '
        '{"fractional": [[variant, weight]]}]}.'
    )


def _split(arms: list[Any], *, variants: Mapping[str, str], where: str) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for arm in arms:
        if not isinstance(arm, list) or len(arm) != 2:
            raise FlagsUnusable(f"{where} has the arm {json.dumps(arm)}: write [variant, weight].")
        variant, weight = arm
        if variant not in variants:
            raise FlagsUnusable(f"{where} splits to {variant!r}: choose one of {', '.join(variants)}.")
        if any(variant == known for known, _ in found):
            raise FlagsUnusable(f"{where} splits to {variant!r} twice: write each variant once.")
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise FlagsUnusable(f"{where} gives {variant!r} the weight {weight!r}: write a whole number from 0 up.")
        found.append((variant, weight))
    total = sum(weight for _, weight in found)
    if not 0 < total < 2**31:
        raise FlagsUnusable(f"{where} has weights that sum to {total}: give at least one arm a weight above 0.")
    return tuple(found)


def _metadata(metadata: Any, *, where: str) -> dict[str, str | float]:
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str | int | float) for v in metadata.values()):
        raise FlagsUnusable(f"{where} has metadata that isn't an object of strings, numbers and booleans.")
    return metadata


def _ramp(metadata: Mapping[str, str | float], *, where: str) -> tuple[int, ...]:
    if "ramp" not in metadata:
        return ()
    written = metadata["ramp"]
    steps = [int(part) if part.strip().isdecimal() else 0 for part in str(written).split(",")]
    if not isinstance(written, str) or not all(1 <= s <= 100 for s in steps) or steps != sorted(set(steps)):
        raise FlagsUnusable(f'{where} has ramp {written!r}: write growing percentages, as "2,10,50,100".')
    return tuple(steps)


def _place(metadata: Mapping[str, str | float], *, where: str) -> Place | None:
    if "layer" not in metadata and "slots" not in metadata:
        return None
    layer, slots = metadata.get("layer"), metadata.get("slots")
    if not isinstance(layer, str) or not layer:
        raise FlagsUnusable(f"{where} has slots but no layer: name the layer they are of.")
    span = _SPAN.fullmatch(slots) if isinstance(slots, str) else None
    if span is None or int(span[1]) > int(span[2]):
        raise FlagsUnusable(f'{where} has slots {slots!r}: write the first and the last of 0 to 999, as "0-499".')
    return Place(layer, int(span[1]), int(span[2]))


def _check_layers(flags: Iterable[Flag], path: Path) -> None:
    """Of the flags in force, no two in one layer may share a slot: that is what a layer is for."""
    for one, other in combinations([f for f in flags if f.enabled and f.place], 2):
        a, b = one.place, other.place
        if a and b and a.layer == b.layer and a.first <= b.last and b.first <= a.last:
            raise FlagsUnusable(
                f"Flags {one.name!r} and {other.name!r} in {path} share slots of layer {a.layer!r} "
                f"({a.first}-{a.last} and {b.first}-{b.last}): give each its own, or disable one."
            )
