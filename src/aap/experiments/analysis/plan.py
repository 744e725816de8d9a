"""The plan of an experiment: what it is judged by, decided before anybody looks. `conf/experiments.yaml` has them.

A flag without a plan of its own is judged by the default one. A flag of versions (`*_version`), which lets a challenger
answer people, has guardrails even where its plan names none. A plan that is changed after the first look is a new
question, and the promise of the interval is about the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from aap.experiments.analysis.metrics import METRICS, SERVICE_METRICS
from aap.experiments.errors import PlanUnusable
from aap.experiments.flags.definition import VERSION, Flag

__all__ = ["VERSION_GUARDRAILS", "Guardrail", "Plan", "plan_of", "read_plans"]


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that may not get worse; exactly one limit is given. Beyond it, for sure, the flag is stopped by itself."""

    metric: str
    may_fall: float | None = None
    """By this share of control's."""
    may_rise: float | None = None
    """By this share of control's."""
    at_most: float | None = None
    """In the metric's own unit, whatever control's is."""

    @property
    def limit(self) -> str:
        """The limit in words."""
        if self.may_fall is not None:
            return f"at most {self.may_fall:.0%} below control"
        if self.may_rise is not None:
            return f"at most {self.may_rise:.0%} above control"
        return f"at most {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How one experiment is judged."""

    metric: str = "spend"
    window_days: float = 14.0
    """A person counts when so many days have passed since their exposure, with what happened in them."""
    covariate_days: float = 28.0
    """What happened in so many days before exposure explains a part of it away (CUPED); 0 leaves it out."""
    error_rate: float = 0.05
    """The chance, over all looks together, to see a difference where there is none."""
    tightest_at: int = 2_000
    """The interval is tightest when so many people count."""
    fewest_people: int = 100
    """In each arm, before anything is said: the interval is one for large numbers."""
    control: str | None = None
    """The variant others are compared with; the flag's default if not said."""
    guardrails: tuple[Guardrail, ...] = field(default=())

    @property
    def window(self) -> timedelta:
        """How long after exposure events count."""
        return timedelta(days=self.window_days)

    def control_of(self, flag: Flag) -> str:
        """The variant of `flag` that others are compared with. Raises `PlanUnusable` if it isn't in its split."""
        control = self.control or flag.default
        if control not in dict(flag.split):
            raise PlanUnusable(
                f"Flag {flag.name!r} can't be read out: its control {control!r} isn't in its split; name another in "
                "experiments.yaml."
            )
        return control


VERSION_GUARDRAILS = (Guardrail("latency_ms", may_rise=1.0), Guardrail("error_share", at_most=0.01))
"""Of a flag of versions whose plan names none: a challenger may take twice the champion's time, and fail one call in a
hundred. Both are known within minutes, and both are those of the experiment we ship.
"""


def plan_of(flag: Flag, plans: Mapping[str, Plan]) -> Plan:
    """The plan of `flag`: its own or the default one, and never a canary without a guardrail."""
    plan = plans.get(flag.name, Plan())
    guarded = plan.guardrails or not flag.name.endswith(VERSION)
    return plan if guarded else replace(plan, guardrails=VERSION_GUARDRAILS)


def read_plans(path: Path) -> dict[str, Plan]:
    """The plans in `path` by flag; none if there is no such file. Raises `PlanUnusable` at the first mistake."""
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise PlanUnusable(f"Can't read {path}: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise PlanUnusable(f"{path} must have one section a flag: see conf/experiments.yaml.")
    return {str(flag): _plan(section, where=f"{flag} in {path}") for flag, section in content.items()}


def _plan(section: Any, *, where: str) -> Plan:
    section = {} if section is None else section
    known = {f.name for f in fields(Plan)}
    if not isinstance(section, dict) or set(section) - known:
        unknown = sorted(map(str, set(section) - known)) if isinstance(section, dict) else [str(section)]
        raise PlanUnusable(f"{where} has unknown {', '.join(unknown)}: use only {', '.join(sorted(known))}.")
    try:
        plan: Plan = TypeAdapter(Plan).validate_python(section)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PlanUnusable(f"{where}: {place}={first['input']!r}: {first['msg']}.") from None
    _check(plan, where=where)
    return plan


def _check(plan: Plan, *, where: str) -> None:
    if plan.metric not in METRICS:
        raise PlanUnusable(f"{where} is judged by {plan.metric!r}: choose one of {', '.join(METRICS)}.")
    if not 0 < plan.error_rate < 0.5:
        raise PlanUnusable(f"{where} has error_rate {plan.error_rate}: write a share such as 0.05.")
    if plan.window_days <= 0 or plan.covariate_days < 0 or plan.tightest_at < 1 or plan.fewest_people < 20:
        raise PlanUnusable(
            f"{where} needs window_days above 0, covariate_days from 0, tightest_at from 1 and fewest_people from 20."
        )
    for guardrail in plan.guardrails:
        if guardrail.metric not in METRICS and guardrail.metric not in SERVICE_METRICS:
            known = ", ".join((*METRICS, *SERVICE_METRICS))
            raise PlanUnusable(f"{where} is guarded by {guardrail.metric!r}: choose one of {known}.")
        limits = [v for v in (guardrail.may_fall, guardrail.may_rise, guardrail.at_most) if v is not None]
        if len(limits) != 1 or limits[0] < 0:
            raise PlanUnusable(
                f"{where} has a guardrail on {guardrail.metric} with {len(limits)} limits: write one of may_fall, "
                "may_rise and at_most, from 0 up."
            )
