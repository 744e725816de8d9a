"""The look at running experiments that the platform has by itself: what breaks a guardrail is stopped, growing shares grow.

`aap live` starts it every few minutes (`AAP_WATCH_MINUTES`), as a process of its own that ends with the look: of low
priority, so that live features go first, and the memory it takes to read everybody's consent and outcomes is given back.
Of all processes that share a Redis one has the turn. What fails is said in a sentence, and tried again at the next look.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from aap.config import Settings, SettingsError, load_settings

__all__ = ["look", "look_around"]

_POLITENESS = 10
_TURN = "experiment:look"
_TURN_LASTS = 0.9
"""Of the time between two looks: a clock that is a little early must not miss its own next turn."""


def look(home: str, parent: int) -> None:
    """One look, in a process of its own, which ends before it changes anything once `parent` is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_POLITENESS)
    try:
        settings = load_settings(Path(home))
        told = look_around(settings) if os.getppid() == parent else []
    except Exception as error:  # whatever it is, the next look may do better
        told = [f"The experiments can't be looked at now: {_why(error)}"]
    if told:
        sys.stderr.write("".join(f"{sentence}\n" for sentence in told))
        sys.stderr.flush()


def _why(error: Exception) -> str:
    """Ours is a sentence for a person; what a library says may show values of people."""
    from aap.consent.errors import ConsentError
    from aap.events.errors import EventError
    from aap.experiments.errors import ExperimentError
    from aap.infra.errors import StorageError

    ours = (ConsentError, EventError, ExperimentError, SettingsError, StorageError)
    return str(error) if isinstance(error, ours) else f"{type(error).__name__}."


def look_around(settings: Settings) -> list[str]:
    """Stop what breaks a guardrail and let shares grow, if it is this process's turn; says what was done, if anything.

    Raises what says that a store is down, a flag or a plan is unusable, or another look goes on.
    """
    from aap.experiments.analysis.report import write_report
    from aap.experiments.service import open_experiments
    from aap.infra.locks import hold
    from aap.infra.paths import Layout
    from aap.infra.redis.connection import connect

    layout, client = Layout(settings.home), connect(settings, start=False)
    turn_ms = max(1, int(settings.watch_minutes * 60_000 * _TURN_LASTS))
    try:
        if not client.set(_TURN, str(os.getpid()), nx=True, px=turn_ms):
            return []
    finally:
        client.close()
    told = []
    with hold(layout.run / "look.lock", what="A look at the experiments"):
        now = settings.now()
        for found in open_experiments(settings, in_force=True).watch(as_of=now, now=now):
            if found.stopped_now and found.stop:
                write_report(found, folder=layout.reports)
                told.append(f"Experiment {found.flag.name} is stopped: {found.stop.reason}")
            elif found.share != found.share_before:
                told.append(f"Experiment {found.flag.name} takes in {found.share} % of people.")
    return told
