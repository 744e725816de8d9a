"""The experiments of a platform: list them, read them out, stop and resume them, watch their guardrails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import redis

from consent.choices import open_ledger
from consent.ledger import Ledger
from events.archive import Archive
from experiments import stops
from experiments.errors import UnknownFlag
from experiments.exposures import read_exposures
from experiments.flag_file import Flag, read_flags
from experiments.guardrails import check
from experiments.outcomes import Exposed, admitted
from experiments.plan import Plan, read_plans
from experiments.readout import Readout, check_split, compare
from experiments.stops import Stop
from experiments.vitals import read_vitals
from settings.config import Settings
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
    """Exposed, by variant; all that are logged."""
    since: datetime | None


class Experiments:
    """Opened by `open_experiments`. An argument `now` is the moment at which consent must hold."""

    def __init__(
        self, *, flags: dict[str, Flag], plans: dict[str, Plan], layout: Layout, ledger: Ledger, client: redis.Redis
    ) -> None:
        self._flags, self._plans, self._layout = flags, plans, layout
        self._ledger, self._redis = ledger, client

    def flag(self, name: str) -> Flag:
        """The flag called `name`; raises `UnknownFlag` naming the ones there are."""
        if name not in self._flags:
            raise UnknownFlag(f"There is no experiment {name!r}; there are: {', '.join(self._flags) or 'none'}.")
        return self._flags[name]

    def all(self, *, as_of: datetime) -> list[Line]:
        """Every flag of the file, in its order."""
        held = stops.stopped(self._redis, self._flags)
        return [self._line(flag, held.get(name), as_of=as_of) for name, flag in self._flags.items()]

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
        plan = self._plans.get(name, Plan())
        control = plan.control_of(flag)
        exposed = self._exposed(name, as_of=as_of, now=now)
        archive = Archive(self._layout.archive)
        times, comparisons = compare(exposed, flag, plan, control=control, archive=archive, as_of=as_of)
        vitals = read_vitals(self._layout.vitals, flag=name, until=as_of)
        guardrails = check(exposed, flag, plan, control=control, archive=archive, vitals=vitals, as_of=as_of)
        first = exposed.times[0].astype(datetime).replace(tzinfo=as_of.tzinfo) if len(exposed) else None
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
            first,
            stops.stopped(self._redis, [name]).get(name),
        )
        return self._guarded(found, now=now) if act else found

    def watch(self, *, as_of: datetime, now: datetime) -> list[Readout]:
        """Read out every running experiment, stopping those with a broken guardrail; returns the readouts."""
        lines = [line for line in self.all(as_of=as_of) if line.state == "running"]
        return [self.readout(line.flag.name, as_of=as_of, now=now) for line in lines]

    def _guarded(self, found: Readout, *, now: datetime) -> Readout:
        broken = [f.sentence for f in found.guardrails if f.broken]
        if not broken or not found.flag.enabled:
            return found
        acted = stops.stop(self._redis, found.flag.name, reason=" ".join(broken), by="a guardrail", now=now)
        return replace(
            found, stop=stops.stopped(self._redis, [found.flag.name]).get(found.flag.name), stopped_now=acted
        )

    def _exposed(self, name: str, *, as_of: datetime, now: datetime) -> Exposed:
        table = read_exposures(self._layout.exposures, flag=name, until=as_of)
        return admitted(table, standing=self._ledger.standing(in_force_at=max(as_of, now)))

    def _line(self, flag: Flag, stop: Stop | None, *, as_of: datetime) -> Line:
        table = read_exposures(self._layout.exposures, flag=flag.name, until=as_of)
        variants = table["variant"].to_pylist()
        state = "stopped" if stop else "running" if flag.split else "no split"
        return Line(
            flag,
            self._plans.get(flag.name, Plan()),
            state if flag.enabled else "disabled",
            stop,
            {v: variants.count(v) for v in flag.variants},
            min(table["time"].to_pylist(), default=None),
        )


def open_experiments(settings: Settings) -> Experiments:
    """The experiments these settings name. Raises `FlagsUnusable`, `PlanUnusable`, and what says that a store is down."""
    layout = Layout(settings.home)
    return Experiments(
        flags=read_flags(settings.settings_dir / "flags.json")[1],
        plans=read_plans(settings.settings_dir / "experiments.yaml"),
        layout=layout,
        ledger=open_ledger(settings),
        client=connect(settings),
    )
