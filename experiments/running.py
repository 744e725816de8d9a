"""The experiments of a platform: list them, read them out, stop and resume them, watch their guardrails."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import redis

from consent.choices import open_ledger
from consent.ledger import Ledger
from events.archive import Archive
from experiments import ramp, stops
from experiments.errors import UnknownFlag
from experiments.exposures import read_exposures
from experiments.flag_file import Flag, read_flags
from experiments.guardrails import check
from experiments.metrics import SERVICE_METRICS
from experiments.outcomes import Exposed, Standing, admitted
from experiments.plan import Plan, plan_of, read_plans
from experiments.readout import Readout, check_split, compare
from experiments.stops import Stop
from experiments.vitals import read_vitals
from settings.config import Settings
from storage.folder import archive_folder
from storage.layout import Layout
from storage.redis_server import connect

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
        held = stops.stopped(self._redis, self._flags)
        standing = self._ledger.standing(in_force_at=max(as_of, now))
        return [
            self._line(flag, held.get(name), self._exposed(name, as_of=as_of, standing=standing))
            for name, flag in self._flags.items()
        ]

    def stop(self, name: str, *, reason: str, now: datetime) -> bool:
        """Stop a flag; returns False if it was stopped before."""
        return stops.stop(self._redis, self.flag(name).name, reason=reason, by="a person", now=now)

    def resume(self, name: str) -> bool:
        """Let a flag go on; returns whether it was stopped."""
        return stops.resume(self._redis, self.flag(name).name)

    def readout(self, name: str, *, as_of: datetime, now: datetime, act: bool = True) -> Readout:
        """What is known of `name` at `as_of`, from people whose consent holds now (see `experiments.outcomes`).

        A broken guardrail stops the flag, unless `act` is False. Raises `UnknownFlag`, `PlanUnusable`.
        """
        flag = self.flag(name)
        plan = plan_of(flag, self._plans)
        control = plan.control_of(flag)
        standing = self._ledger.standing(in_force_at=max(as_of, now))
        exposed = self._exposed(name, as_of=as_of, standing=standing)
        times, comparisons = compare(exposed, flag, plan, control=control, archive=self._archive, as_of=as_of)
        vitals = read_vitals(self._layout.vitals, flag=name, until=as_of)
        guardrails = check(exposed, flag, plan, control=control, archive=self._archive, vitals=vitals, as_of=as_of)
        found = Readout(
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
            stops.stopped(self._redis, [name]).get(name),
        )
        return self._guarded(found, now=now) if act else found

    def watch(self, *, as_of: datetime, now: datetime) -> list[Readout]:
        """Read out every running experiment: stop those with a broken guardrail, let the others' shares grow."""
        lines = [line for line in self.all(as_of=as_of, now=now) if line.state == "running"]
        return [self._grown(self.readout(line.flag.name, as_of=as_of, now=now), now=now) for line in lines]

    def _grown(self, found: Readout, *, now: datetime) -> Readout:
        if not found.flag.ramp or found.stop:
            return found
        hindrance = _hindrance(found)
        before, after = ramp.advance(self._redis, found.flag, now=now, may_grow=not hindrance)
        return replace(found, share_before=before.share, share=after.share, held_by=hindrance)

    def _guarded(self, found: Readout, *, now: datetime) -> Readout:
        broken = [f.sentence for f in found.guardrails if f.broken]
        if not broken or not found.flag.enabled:
            return found
        acted = stops.stop(self._redis, found.flag.name, reason=" ".join(broken), by="a guardrail", now=now)
        return replace(
            found, stop=stops.stopped(self._redis, [found.flag.name]).get(found.flag.name), stopped_now=acted
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
            ramp.step_of(flag, self._step(flag)).share if flag.ramp else 100,
        )

    def _step(self, flag: Flag) -> bytes | None:
        found: Any = self._redis.get(ramp.ramp_key(flag.name))
        return found


def _hindrance(found: Readout) -> str:
    """Why a share may not grow now, as a sentence; empty if it may."""
    few = found.plan.fewest_people
    if not found.plan.guardrails:
        return "Its plan in settings/experiments.yaml has no guardrail, so nothing would stop it: name one."
    if sum(found.split.people.values()) < few:
        return f"Fewer than {few} people are in."
    if not found.split.sound:
        return found.split.why
    unknown = [f for f in found.guardrails if f.metric in SERVICE_METRICS and math.isnan(f.low)]
    if unknown:
        return f"{unknown[0].metric} of {unknown[0].variant} can't be judged before {few} calls of each variant."
    return ""


def open_experiments(settings: Settings) -> Experiments:
    """The experiments these settings name. Raises `FlagsUnusable`, `PlanUnusable`, and what says that a store is down."""
    layout = Layout(settings.home)
    return Experiments(
        flags=read_flags(settings.settings_dir / "flags.json")[1],
        plans=read_plans(settings.settings_dir / "experiments.yaml"),
        layout=layout,
        archive=Archive(archive_folder(settings)),
        ledger=open_ledger(settings),
        client=connect(settings),
    )
