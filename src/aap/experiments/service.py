"""The experiments of a platform: list them, read them out, stop and resume them, watch their guardrails."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import redis

from aap.config import Settings
from aap.consent.ledger.ledger import Ledger
from aap.consent.service import open_ledger
from aap.events.archive import Archive
from aap.experiments.analysis.guardrails import check
from aap.experiments.analysis.metrics import REPORTING, SERVICE_METRICS
from aap.experiments.analysis.outcomes import Exposed, Standing, admitted
from aap.experiments.analysis.plan import Plan, plan_of, read_plans
from aap.experiments.analysis.results import Readout, check_split, compare
from aap.experiments.assignment.exposures import read_exposures
from aap.experiments.assignment.service_metrics import read_vitals
from aap.experiments.assignment.store import PURPOSE
from aap.experiments.errors import FlagsUnusable, PlanUnusable, UnknownFlag
from aap.experiments.flags import kill_switch, rollout
from aap.experiments.flags.definition import Flag, read_flags
from aap.experiments.flags.kill_switch import Stop
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect

__all__ = ["Experiments", "Line", "open_experiments"]


@dataclass(frozen=True, slots=True)
class Line:
    """One experiment in a list."""

    flag: Flag
    plan: Plan
    state: str
    """`running`, `stopped`, `disabled`, or `no split`."""
    stop: Stop | None
    people: dict[str, int]
    """Exposed, by variant, of those who may be read out."""
    since: datetime | None
    share: int
    """Percent of people taken in."""


class Experiments:
    """Opened by `open_experiments`. An argument `now` is the moment at which consent must hold."""

    def __init__(
        self,
        *,
        flags: dict[str, Flag],
        plans: dict[str, Plan],
        layout: Layout,
        archive: Archive,
        ledger: Ledger,
        client: redis.Redis,
    ) -> None:
        self._flags, self._plans, self._layout, self._archive = flags, plans, layout, archive
        self._ledger, self._redis = ledger, client

    def flag(self, name: str) -> Flag:
        """The flag called `name`; raises `UnknownFlag` naming the ones there are."""
        if name not in self._flags:
            raise UnknownFlag(f"There is no experiment {name!r}; there are: {', '.join(self._flags) or 'none'}.")
        return self._flags[name]

    def all(self, *, as_of: datetime, now: datetime) -> list[Line]:
        """Every flag of the file, in its order."""
        held = kill_switch.stopped(self._redis, self._flags)
        standing = self._standing(max(as_of, now))
        return [
            self._line(flag, held.get(name), self._exposed(name, as_of=as_of, standing=standing))
            for name, flag in self._flags.items()
        ]

    def stop(self, name: str, *, reason: str, now: datetime) -> bool:
        """Stop a flag; returns False if it was stopped before."""
        return kill_switch.stop(self._redis, self.flag(name).name, reason=reason, by="a person", now=now)

    def resume(self, name: str) -> bool:
        """Let a flag go on; returns whether it was stopped."""
        return kill_switch.resume(self._redis, self.flag(name).name)

    def readout(self, name: str, *, as_of: datetime, now: datetime, act: bool = True) -> Readout:
        """What is known of `name` at `as_of`, from people whose consent holds now (see `aap.experiments.analysis.outcomes`).

        A broken guardrail stops the flag, unless `act` is False. Raises `UnknownFlag`, `PlanUnusable`.
        """
        found = self._read(self.flag(name), as_of=as_of, standing=self._standing(max(as_of, now)))
        return self._guarded(found, now=now) if act else found

    def watch(self, *, as_of: datetime, now: datetime) -> list[Readout]:
        """Read out every running experiment: stop those with a broken guardrail, let the others' shares grow.

        Raises `PlanUnusable` for those that can't be read out, after the others.
        """
        held = kill_switch.stopped(self._redis, self._flags)
        running = [f for f in self._flags.values() if f.enabled and f.split and f.name not in held]
        standing = self._standing(max(as_of, now)) if running else {}
        found, problems = [], []
        for flag in running:
            try:
                read = self._guarded(self._read(flag, as_of=as_of, standing=standing), now=now)
            except PlanUnusable as error:
                problems.append(str(error))
            else:
                found.append(self._grown(read, now=now))
        if problems:
            raise PlanUnusable(" ".join(problems))
        return found

    def _standing(self, at: datetime) -> Standing:
        return self._ledger.standing(purposes=(PURPOSE, REPORTING), in_force_at=at)

    def _read(self, flag: Flag, *, as_of: datetime, standing: Standing) -> Readout:
        plan = plan_of(flag, self._plans)
        control = plan.control_of(flag)
        exposed = self._exposed(flag.name, as_of=as_of, standing=standing)
        times, comparisons = compare(exposed, flag, plan, control=control, archive=self._archive, as_of=as_of)
        vitals = read_vitals(self._layout.vitals, flag=flag.name, until=as_of)
        guardrails = check(exposed, flag, plan, control=control, archive=self._archive, vitals=vitals, as_of=as_of)
        return Readout(
            flag,
            plan,
            control,
            as_of,
            check_split(exposed),
            times,
            comparisons,
            guardrails,
            exposed.excluded,
            exposed.first,
            kill_switch.stopped(self._redis, [flag.name]).get(flag.name),
        )

    def _grown(self, found: Readout, *, now: datetime) -> Readout:
        if not found.flag.ramp or found.stop:
            return found
        hindrance = _hindrance(found)
        before, after = rollout.advance(self._redis, found.flag, now=now, may_grow=not hindrance)
        return replace(found, share_before=before.share, share=after.share, held_by=hindrance)

    def _guarded(self, found: Readout, *, now: datetime) -> Readout:
        broken = [f.sentence for f in found.guardrails if f.broken]
        if not broken or not found.flag.enabled:
            return found
        acted = kill_switch.stop(self._redis, found.flag.name, reason=" ".join(broken), by="a guardrail", now=now)
        return replace(
            found, stop=kill_switch.stopped(self._redis, [found.flag.name]).get(found.flag.name), stopped_now=acted
        )

    def _exposed(self, name: str, *, as_of: datetime, standing: Standing) -> Exposed:
        return admitted(read_exposures(self._layout.exposures, flag=name, until=as_of), standing=standing)

    def _line(self, flag: Flag, stop: Stop | None, exposed: Exposed) -> Line:
        variants = exposed.variants.tolist()
        state = "stopped" if stop else "running" if flag.split else "no split"
        return Line(
            flag,
            plan_of(flag, self._plans),
            state if flag.enabled else "disabled",
            stop,
            {v: variants.count(v) for v in flag.variants},
            exposed.first,
            rollout.step_of(flag, self._step(flag)).share if flag.ramp else 100,
        )

    def _step(self, flag: Flag) -> bytes | None:
        found: Any = self._redis.get(rollout.ramp_key(flag.name))
        return found


def _hindrance(found: Readout) -> str:
    """Why a share may not grow now, as a sentence; empty if it may."""
    few = found.plan.fewest_people
    if not found.plan.guardrails:
        return "Its plan in conf/experiments.yaml has no guardrail, so nothing would stop it: name one."
    if sum(found.split.people.values()) < few:
        return f"Fewer than {few} people are in."
    if not found.split.sound:
        return found.split.why
    unknown = [f for f in found.guardrails if f.metric in SERVICE_METRICS and math.isnan(f.low)]
    if unknown:
        return f"{unknown[0].metric} of {unknown[0].variant} can't be judged before {few} calls of each variant."
    return ""


def _flags(source: Path, *, checked: Path | None) -> dict[str, Flag]:
    try:
        return read_flags(source)[1]
    except FlagsUnusable:
        if checked is None or not checked.exists():
            raise
        return read_flags(checked)[1]


def open_experiments(settings: Settings, *, in_force: bool = False) -> Experiments:
    """The experiments these settings name; with `in_force` those of the last good edition while the file has a mistake.

    Raises `FlagsUnusable`, `PlanUnusable`, and what says that a store is down.
    """
    layout = Layout(settings.home)
    return Experiments(
        flags=_flags(settings.settings_dir / "flags.json", checked=layout.run / "flags.json" if in_force else None),
        plans=read_plans(settings.settings_dir / "experiments.yaml"),
        layout=layout,
        archive=Archive(archive_folder(settings)),
        ledger=open_ledger(settings),
        client=connect(settings),
    )
