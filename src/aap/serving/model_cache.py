"""The models in use: the champion of each model, loaded, and swapped for a new one while calls go on.

A thread asks the registry every `poll_s` seconds which version each alias names, one model at a time, and only if something
was written there since: a question takes a millisecond or more from the calls that are being answered. A new champion is
loaded aside (which verifies its hash), answers a smoke test, and then replaces the old one by one reference: a call that has
begun ends with the model it began with. A version that can't be loaded or fails its smoke test is not used: the one in use
stays, a process that has none yet takes the champion before it, and the registry is told why (`aap models why`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle
from typing import Any, Protocol

import numpy as np

from aap.modeling.errors import ModelError, NoChampion, StoreUnavailable
from aap.serving.errors import FeaturesDiffer, NoModel

__all__ = ["MODELS", "MODEL_OF", "InUse", "ModelsInUse", "SmokeFailed", "smoke_test"]

_log = logging.getLogger("aap.serving")

MODELS = ("recommendation", "churn", "segments", "anomaly", "popularity")
MODEL_OF = {
    "recommendations": "recommendation",
    "similar-items": "recommendation",
    "churn": "churn",
    "segments": "segments",
    "anomalies": "anomaly",
}
"""The model that answers an endpoint."""
_RETRY_S = 60.0
"""After which a refused version is tried again: its files may have been restored."""


class Version(Protocol):
    """What is needed of `aap.modeling.registry.registry.ModelVersion`."""

    @property
    def version(self) -> int: ...
    @property
    def tags(self) -> dict[str, str]: ...


class ModelSource(Protocol):
    """What is needed of `aap.modeling.registry.registry.Registry`."""

    def champion(self, name: str) -> Any: ...
    def previous(self, name: str) -> Any: ...
    def state(self) -> object | None: ...
    def load(self, version: Any, /) -> Any: ...
    def note_serving(self, version: Any, /, *, refusal: str | None) -> None: ...


class SmokeFailed(Exception):
    """A model that loads but doesn't answer as it must."""


@dataclass(frozen=True, slots=True)
class InUse:
    """One loaded champion."""

    name: str
    version: str
    sha256: str
    """Of the list of its files' SHA-256 digests, which loading it has checked."""
    model: Any

    def require(self, features: Sequence[str]) -> None:
        """Raise `FeaturesDiffer` unless what is served is what the model was trained on, in the same order."""
        expected, given = tuple(self.model.features), tuple(features)
        if expected != given:
            lacking = [f for f in expected if f not in given] or "none"
            extra = [f for f in given if f not in expected] or "none"
            raise FeaturesDiffer(
                f"Model {self.name} version {self.version} was trained on other features than are served now "
                f"(lacking: {lacking}, new: {extra}): run `aap retrain`."
            )


class ModelsInUse:
    """Holds the champions of `names`; `open_source` opens the registry, and is called in the background.

    `told` is called after every attempt to swap with the model's name, its version and whether it went live.
    """

    def __init__(
        self,
        open_source: Callable[[], ModelSource],
        *,
        names: Sequence[str] = MODELS,
        poll_s: float = 2.0,
        told: Callable[[str, str, bool], None] = lambda _name, _version, _live: None,
    ) -> None:
        self._open_source, self._poll_s, self._told = open_source, poll_s, told
        self._source: ModelSource | None = None
        self._held: dict[str, InUse] = {}
        self._why_not: dict[str, str] = dict.fromkeys(names, "the service is still loading its models")
        self._rejected: dict[str, tuple[tuple[str, str], float]] = {}
        """Of each model, the mark of the version refused last, and when it may be tried again."""
        self._seen: dict[str, object] = {}
        """The state of the registry when it was asked about each model, where it tells."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models-in-use", daemon=True)

    def get(self, name: str) -> InUse:
        """The champion of `name`. Raises `NoModel` with a sentence that says what to do."""
        held = self._held.get(name)
        if held is None:
            raise NoModel(
                f"Model {name} can't answer yet: {self._why_not.get(name, 'nobody serves a model of that name')}."
            )
        return held

    def missing(self) -> dict[str, str]:
        """Models that can't answer, each with the reason."""
        return {name: why for name, why in self._why_not.items() if name not in self._held}

    def versions(self) -> dict[str, str]:
        """The version in use of each model that can answer."""
        return {name: held.version for name, held in self._held.items()}

    def item_ids(self) -> set[str]:
        """Every item that a model in use may name."""
        return {item for held in self._held.values() for item in getattr(held.model, "item_ids", ())}

    def start(self) -> None:
        """Load the champions in the background, and keep to them. Started again it goes on as it was."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop asking the registry."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)  # it may be in the middle of a slow import, and is a daemon

    def refresh(self, *names: str) -> list[str]:
        """Ask the registry once, about `names` or all; returns which models were swapped. Never raises."""
        try:
            self._source = self._source or self._open_source()
        except Exception as error:
            self._unknown(self._why_not, f"the model registry can't be opened ({_short(error)})")
            return []
        return [name for name in names or self._why_not if self._refresh_one(self._source, name)]

    def _refresh_one(self, source: ModelSource, name: str) -> bool:
        state = source.state()
        try:
            version = source.champion(name)
        except NoChampion:
            version = None
        except Exception as error:  # a registry that is down must not take down the models that answer
            self._unknown([name], f"the model registry can't be asked ({_short(error)})")
            return False
        if version is None:
            self._seen[name] = state
            self._why_not[name] = "it has no champion; run `aap train` or `aap retrain`"
            self._held = {k: v for k, v in self._held.items() if k != name}
            return False
        held, mark = self._held.get(name), _mark(version)
        if held and (held.version, held.sha256) == mark:
            self._seen[name] = state
            return False
        refused, again_at = self._rejected.get(name, (None, 0.0))
        if mark == refused and time.monotonic() < again_at:
            return False
        return self._swap(source, name, version, mark=mark)

    def _swap(self, source: ModelSource, name: str, version: Version, *, mark: tuple[str, str]) -> bool:
        try:
            self._go_live(source, name, version, mark=mark)
        except Exception as error:
            why = _short(error)
            if isinstance(error, SmokeFailed) or (
                isinstance(error, ModelError) and not isinstance(error, StoreUnavailable)
            ):
                # It would fail again at once; anything else may pass at the next try.
                self._rejected[name] = (mark, time.monotonic() + _RETRY_S)
            self._told(name, str(version.version), False)
            _note(source, version, refusal=why)
            fell_back = name not in self._held and self._fall_back(source, name, but=version)
            kept = f"version {self._held[name].version} stays in use" if name in self._held else "none is in use"
            self._why_not[name] = f"version {version.version} can't be used ({why}); run `aap retrain`"
            _log.error("Champion %s version %s is refused (%s); %s.", name, version.version, why, kept)
            return fell_back
        self._rejected.pop(name, None)
        return True

    def _go_live(self, source: ModelSource, name: str, version: Version, *, mark: tuple[str, str]) -> None:
        """Load aside, ask, and only then swap the reference. Raises what is wrong with the version."""
        model = source.load(version)
        smoke_test(name, model)
        self._held = {**self._held, name: InUse(name, *mark, model)}
        self._told(name, str(version.version), True)
        _note(source, version, refusal=None)
        _log.info("Model %s now answers with version %s.", name, version.version)

    def _fall_back(self, source: ModelSource, name: str, *, but: Version) -> bool:
        """A process without a model whose champion is unusable takes the champion before; whether it could."""
        try:
            before = source.previous(name)
            if before is None or before.version == but.version:
                return False
            self._go_live(source, name, before, mark=_mark(before))
        except Exception as error:
            _log.error("The champion of %s before can't be used either (%s).", name, _short(error))
            return False
        return True

    def _unknown(self, names: Any, why: str) -> None:
        for name in names:
            if name not in self._held:
                self._why_not[name] = why

    def _run(self) -> None:
        self.refresh()
        turns = cycle(list(self._why_not))
        while not self._stopping.wait(self._poll_s / len(self._why_not)):
            if not self._is_as_seen(name := next(turns)):
                self.refresh(name)

    def _is_as_seen(self, name: str) -> bool:
        """Whether nothing was written to the registry since it last said that what is in use of a model is right."""
        seen = self._seen.get(name)
        return seen is not None and self._source is not None and self._source.state() == seen


def smoke_test(name: str, model: Any) -> None:
    """Ask the model one question of each kind it will be asked. Raises `SmokeFailed` when an answer isn't usable."""
    if name == "popularity":
        _expect(len(model.top(1)) == 1, name, "top(1) is not one item")
        return
    if name == "recommendation":
        for strategy in ("buy_again", "discover"):
            lists = model.recommend([[]], baskets=[[]], n=1, strategy=strategy)
            _expect(len(lists) == 1, name, f"{strategy} gives no list")
        return
    values = np.zeros((2, len(model.features)), dtype=np.float64)
    if name == "segments":
        _expect(len(model.assign(values)) == 2, name, "assign gives no segment")
        return
    scores = np.asarray(model.score(values), dtype=np.float64)
    _expect(scores.shape == (2,) and bool(np.isfinite(scores).all()), name, "a score is not a number")
    _expect(scores[0] == scores[1], name, "the same row has two scores")
    if name == "churn":
        _expect(bool(((scores >= 0) & (scores <= 1)).all()), name, "a probability is not between 0 and 1")
    if name == "anomaly":
        _expect(math.isfinite(model.threshold) and len(model.drivers(values)) == 2, name, "no threshold or drivers")


def _note(source: ModelSource, version: Version, *, refusal: str | None) -> None:
    """Tell the registry what became of a version; it must not matter here if it can't be told."""
    try:
        source.note_serving(version, refusal=refusal)
    except Exception as error:
        _log.warning("The registry can't be told about version %s (%s).", version.version, _short(error))


def _mark(version: Version) -> tuple[str, str]:
    """What tells one champion from another: its number and the hash over its files."""
    return str(version.version), sha256(version.tags.get("artifact_digests", "").encode()).hexdigest()


def _expect(holds: bool, name: str, otherwise: str) -> None:
    if not holds:
        raise SmokeFailed(f"{name} fails its smoke test: {otherwise}")


def _short(error: Exception) -> str:
    first = (str(error) or type(error).__name__).splitlines()[0]
    return first.rstrip(".")[:300]
