"""Flags: which variants an experiment has and how people are split over them.

They are written in flagd's schema and evaluated through OpenFeature, here by flagd's own evaluator reading a file.
The evaluator watches a checked copy under `<home>/run`, not the file a person edits: an edit with a mistake is refused
with a sentence and the flags that were in force stay in force.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext

from experiments.errors import FlagsUnusable, MissingUser, UnknownFlag
from storage.files import write_atomically

__all__ = ["Flag", "Flags", "read_flags"]

_log = logging.getLogger("aap.experiments")
_KEYS = frozenset({"state", "variants", "defaultVariant", "targeting", "metadata"})


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag as declared; append variants only, for inserting one before others moves people between them."""

    name: str
    enabled: bool
    variants: tuple[str, ...]
    default: str


class Flags:
    """The flags in force.

    `source` is the file people edit and `checked` the copy the evaluator watches. Raises `FlagsUnusable` when `source`
    has a mistake at the start.
    """

    def __init__(self, source: Path, *, checked: Path) -> None:
        self._source, self._checked = source, checked
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._flags: dict[str, Flag] = {}
        self._load()
        domain = f"aap:{checked}"
        provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(checked))
        api.set_provider_and_wait(provider, domain)
        self._provider, self._client = provider, api.get_client(domain)

    def get(self, name: str) -> Flag:
        """The flag called `name`; raises `UnknownFlag` naming the ones there are."""
        try:
            return self._flags[name]
        except KeyError:
            known = ", ".join(self._flags) or "none"
            raise UnknownFlag(f"There is no flag {name!r} in {self._source}; it has: {known}.") from None

    def names(self) -> tuple[str, ...]:
        """Every flag's name."""
        return tuple(self._flags)

    def bucket(self, name: str, *, user_key: str) -> str:
        """The variant the split gives `user_key` under the weights in force: the same for the same key every time.

        Raises `MissingUser` without a user. An evaluation that fails gives the default variant, never an exception.
        """
        if not user_key:
            raise MissingUser(f"Flag {name!r} was asked for without a user: pass the user key of a person.")
        flag = self.get(name)
        details = self._client.get_string_details(name, flag.default, EvaluationContext(targeting_key=user_key))
        return details.variant if details.variant in flag.variants else flag.default

    def refresh(self) -> bool:
        """Take up an edited file; returns whether there was an edit that could be used. Never raises."""
        try:
            with self._lock:
                return self._load()
        except FlagsUnusable as error:
            _log.warning("%s The flags that were in force stay in force.", error)
            return False

    def close(self) -> None:
        """Stop watching the file."""
        self._provider.shutdown()

    def _load(self) -> bool:
        try:
            found = self._source.stat()
        except OSError as error:
            raise FlagsUnusable(f"The flag file {self._source} can't be read ({error.strerror}): restore it.") from None
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        document, flags = read_flags(self._source)
        write_atomically(self._checked, json.dumps(document).encode(), durable=False)
        self._flags = flags
        return True


def read_flags(path: Path) -> tuple[dict[str, Any], dict[str, Flag]]:
    """The document in `path` and the flags it declares. Raises `FlagsUnusable` at the first mistake, saying where."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlagsUnusable(f"The flag file {path} can't be read ({error.strerror}): restore it.") from None
    except ValueError as error:
        raise FlagsUnusable(f"The flag file {path} is not JSON ({error}): correct that place.") from None
    declared = document.get("flags") if isinstance(document, dict) else None
    if not isinstance(declared, dict):
        raise FlagsUnusable(f'The flag file {path} needs an object "flags" at the top: see settings/flags.json.')
    return document, {name: _flag(name, entry, where=f"Flag {name!r} in {path}") for name, entry in declared.items()}


def _flag(name: str, entry: Any, *, where: str) -> Flag:
    if not isinstance(entry, dict):
        raise FlagsUnusable(f"{where} must be an object with state, variants and defaultVariant.")
    if unknown := sorted(set(entry) - _KEYS):
        raise FlagsUnusable(f"{where} has unknown fields {', '.join(unknown)}: use only {', '.join(sorted(_KEYS))}.")
    state, variants, default = entry.get("state"), entry.get("variants"), entry.get("defaultVariant")
    if state not in ("ENABLED", "DISABLED"):
        raise FlagsUnusable(f"{where} has state {state!r}: write ENABLED or DISABLED.")
    if not isinstance(variants, dict) or not variants or not all(isinstance(v, str) for v in variants.values()):
        raise FlagsUnusable(f"{where} needs variants: an object from a variant's name to its value, a string.")
    if any(not v or any(c.isspace() for c in v) for v in variants):
        raise FlagsUnusable(f"{where} has a variant whose name is empty or has a space: use letters, digits and _.")
    if default not in variants:
        raise FlagsUnusable(f"{where} has defaultVariant {default!r}: choose one of {', '.join(variants)}.")
    if entry.get("targeting"):
        _check_split(entry["targeting"], variants=variants, where=where)
    return Flag(name, state == "ENABLED", tuple(variants), str(default))


def _check_split(targeting: Any, *, variants: Mapping[str, str], where: str) -> None:
    """Only a plain split is allowed: a rule about who a person is would use data with no purpose behind it."""
    arms = targeting.get("fractional") if isinstance(targeting, dict) and len(targeting) == 1 else None
    if not isinstance(arms, list) or not arms:
        raise FlagsUnusable(
            f'{where} has a targeting that is not a split: write {{"fractional": [[variant, weight]]}}.'
        )
    total = 0
    for arm in arms:
        if not isinstance(arm, list) or len(arm) != 2:
            raise FlagsUnusable(f"{where} has the arm {json.dumps(arm)}: write [variant, weight].")
        variant, weight = arm
        if variant not in variants:
            raise FlagsUnusable(f"{where} splits to {variant!r}: choose one of {', '.join(variants)}.")
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise FlagsUnusable(f"{where} gives {variant!r} the weight {weight!r}: write a whole number from 0 up.")
        total += weight
    if not 0 < total < 2**31:
        raise FlagsUnusable(f"{where} has weights that sum to {total}: give at least one arm a weight above 0.")
