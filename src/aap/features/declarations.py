"""How a feature is declared: once, as data. Batch SQL, the packed row, the Feast field and the documentation follow.

**Meaning.** The value at time t is the aggregate over this person's admissible events with `t − window < occurred_at ≤ t`
and `available_at ≤ t`, where the tail `t − window` is rounded down to a whole hop (UTC). The `last` is that of the latest
`occurred_at`; of events of one moment, the one of the smallest source and id. `since_nth_day` tells the time since the
n-th last day (UTC) that has such an event began. A value is a function of t alone: it
decays with no new event, and a window that empties is its default again. An item's values move once a hop: there both
ends are rounded.

Mistakes are found when a feature is declared, in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache

import duckdb

from aap.consent.prohibited_topics import Topic, forbidden_topic
from aap.consent.purposes import DataCategory, Purpose, spec
from aap.events.errors import EventError
from aap.events.schema import EventType, Kind, event_type
from aap.features.errors import UnusableDeclaration

__all__ = [
    "DAY_US",
    "Aggregate",
    "Entity",
    "Feature",
    "Op",
    "Ratio",
    "Service",
    "Where",
    "by_category",
    "check_name",
    "check_purposes",
    "check_topic",
    "micros",
]

DAY_US = 86_400_000_000
_UNITS = {"m": 60_000_000, "h": 3_600_000_000, "d": DAY_US}
_CLOCK = ("hour", "weekday")
"""Columns every event has beside its own: hour 0–23 and weekday 0 (Monday) – 6 of `occurred_at`, UTC."""


class Entity(StrEnum):
    """Whose feature it is."""

    USER = "user"
    ITEM = "item"


class Op(StrEnum):
    """How events become one value."""

    COUNT = "count"
    SUM = "sum"
    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    LAST = "last"
    DISTINCT = "distinct"
    SINCE_LAST = "since_last"
    SINCE_FIRST = "since_first"
    SINCE_NTH_DAY = "since_nth_day"
    LAST_N = "last_n"


_SINCE = frozenset({Op.SINCE_LAST, Op.SINCE_FIRST, Op.SINCE_NTH_DAY})
_NUMBERED = frozenset({Op.LAST_N, Op.SINCE_NTH_DAY})
_WITHOUT_COLUMN = _SINCE | {Op.COUNT}
_ON_NUMBERS = frozenset({Op.SUM, Op.MEAN, Op.MIN, Op.MAX, Op.LAST})
_EVER_ONLY = _SINCE | {Op.LAST_N}


def micros(span: str) -> int | None:
    """Microseconds in a window like `30d`, `12h` or `5m`; None for `ever`."""
    if span == "ever":
        return None
    found = re.fullmatch(r"([1-9]\d*)([mhd])", span)
    if not found:
        raise UnusableDeclaration(f"{span!r} is not a span of time; write 5m, 12h, 30d or ever.")
    return int(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on one column of the event, or on its `hour` or `weekday`: `Where("hour", ">=", 17)`."""

    column: str
    comparison: str
    value: int | str

    def __post_init__(self) -> None:
        if self.comparison not in ("=", "<>", "<", "<=", ">", ">="):
            raise UnusableDeclaration(f"{self.comparison!r} is not a comparison; use =, <>, <, <=, > or >=.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """A feature computed from events of one type. One declaration makes one feature a purpose."""

    event: str
    op: Op
    purposes: frozenset[Purpose]
    description: str
    unit: str
    window: str = "ever"
    column: str | None = None
    where: Where | None = None
    name: str = ""
    entity: Entity = Entity.USER
    default: float | None = 0.0
    hop: str = ""
    """To what the tail is rounded: by default a day, an hour for windows shorter than that, a minute below an hour."""
    time_to_live: str = "35d"
    n: int = 0
    """How many, of `last_n`; which day, counted from the last, of `since_nth_day`."""

    def __post_init__(self) -> None:
        micros(self.window)  # the name is made of it, so it is looked at first
        if not self.name:
            what = self.column or self.event
            object.__setattr__(self, "name", f"{what}_{self.op}_{self.n or self.window}")
        if not self.hop:
            object.__setattr__(self, "hop", _usual_hop(self.window_us))
        check_name(self.name)
        check_purposes(self.name, self.purposes)
        declared = self._declared()
        self._check_column(declared)
        told = declared.field(self.column) if self.column else None
        check_topic(self.name, self.description, told=told is not None and told.category is DataCategory.DEMOGRAPHIC)
        self._check_windows()
        for purpose in self.purposes:
            if purpose not in declared.purposes:
                raise UnusableDeclaration(f"Feature {self.name!r}: {purpose} may not touch {self.event} events.")

    @property
    def window_us(self) -> int | None:
        """The window in microseconds; None for `ever`."""
        return micros(self.window)

    @property
    def hop_us(self) -> int:
        """The hop in microseconds."""
        return micros(self.hop) or DAY_US

    @property
    def is_sequence(self) -> bool:
        """Whether its value is a list, newest first, rather than a number."""
        return self.op is Op.LAST_N

    @property
    def is_since(self) -> bool:
        """Whether its value is the time since a moment; what is stored is the moment."""
        return self.op in _SINCE

    @property
    def is_money(self) -> bool:
        """Whether it is computed in integer minor units."""
        f = event_type(self.event).field(self.column) if self.column and self.op in _ON_NUMBERS else None
        return f is not None and f.kind is Kind.MONEY

    @property
    def _implied(self) -> tuple[str, ...]:
        """Columns beside the event's own fields; an item may count the people behind its events."""
        return (*_CLOCK, "user_key") if self.entity is Entity.ITEM else _CLOCK

    def _declared(self) -> EventType:
        try:
            return event_type(self.event)
        except EventError as error:
            raise UnusableDeclaration(f"Feature {self.name!r}: {error}") from None

    def _check_column(self, declared: EventType) -> None:
        if (self.op in _WITHOUT_COLUMN) != (self.column is None):
            need = "takes no column" if self.op in _WITHOUT_COLUMN else "needs a column"
            raise UnusableDeclaration(f"Feature {self.name!r}: {self.op} {need}.")
        for column in filter(None, (self.column, self.where.column if self.where else None)):
            if column not in self._implied and declared.field(column) is None:
                names = ", ".join(f.name for f in declared.fields)
                raise UnusableDeclaration(
                    f"Feature {self.name!r}: {self.event} has no column {column!r}; it has {names}."
                )
        if self.where is not None:
            compared = declared.field(self.where.column)
            text = self.where.column == "user_key" or (compared is not None and compared.kind is Kind.TEXT)
            if isinstance(self.where.value, str) != text:
                kind = "text" if text else "a number"
                raise UnusableDeclaration(
                    f"Feature {self.name!r}: {self.where.column!r} is {kind} and can't be compared with {self.where.value!r}."
                )
        if self.is_sequence and self.entity is Entity.ITEM:
            raise UnusableDeclaration(f"Feature {self.name!r}: an item has no {self.op}; that is for people.")
        f = declared.field(self.column) if self.column else None
        if self.op in _ON_NUMBERS and (f is None or f.kind is Kind.TEXT):
            raise UnusableDeclaration(
                f"Feature {self.name!r}: {self.op} needs a column of numbers, {self.column!r} is text."
            )

    def _check_windows(self) -> None:
        window = self.window_us
        if window is not None and window > 365 * DAY_US:
            raise UnusableDeclaration(
                f"Feature {self.name!r}: a window is at most 365d, not {self.window}; or write ever."
            )
        if self.op in _EVER_ONLY and window is not None:
            raise UnusableDeclaration(
                f"Feature {self.name!r}: {self.op} looks back over everything; leave the window out."
            )
        if (self.op in _NUMBERED) != (self.n > 0):
            raise UnusableDeclaration(
                f"Feature {self.name!r}: last_n and since_nth_day, and nothing else, take n of at least 1."
            )
        if micros(self.hop) is None or micros(self.time_to_live) is None:
            raise UnusableDeclaration(f"Feature {self.name!r}: hop and time_to_live are spans like 1d, not ever.")
        if self.op in _EVER_ONLY and self.default is not None:
            raise UnusableDeclaration(f"Feature {self.name!r}: {self.op} of nothing is null; say default=None.")
        if self.op in (Op.COUNT, Op.SUM, Op.DISTINCT) and self.default != 0.0:
            raise UnusableDeclaration(f"Feature {self.name!r}: the {self.op} of nothing is 0, not {self.default}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One feature divided by another of the same purposes; `default` where the divisor is zero or either is null."""

    name: str
    numerator: str
    denominator: str
    purposes: frozenset[Purpose]
    description: str
    unit: str = "ratio"
    default: float | None = None
    entity: Entity = Entity.USER
    time_to_live: str = "35d"

    def __post_init__(self) -> None:
        check_name(self.name)
        check_purposes(self.name, self.purposes)
        check_topic(self.name, self.description, told=False)
        if micros(self.time_to_live) is None:
            raise UnusableDeclaration(f"Ratio {self.name!r}: time_to_live is a span like 1d, not ever.")

    @property
    def is_sequence(self) -> bool:
        """A ratio is a number."""
        return False


Feature = Aggregate | Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What one model reads: features of one purpose, and what else a person must have granted."""

    name: str
    purpose: Purpose
    """The purpose the values are computed for."""
    features: tuple[str, ...]
    """Names of numbers, in the order a vector has them."""
    sequences: tuple[str, ...] = ()
    to_train: frozenset[Purpose] = field(default_factory=frozenset)
    """Further purposes a person must have granted to be trained on."""
    to_answer: frozenset[Purpose] = field(default_factory=frozenset)
    """Further purposes a person must have granted to be answered."""

    def __post_init__(self) -> None:
        check_purposes(self.name, frozenset({self.purpose}) if self.purpose else frozenset(), what="Service")
        check_topic(self.name, "", told=False, what="Service")

    @property
    def training_purposes(self) -> tuple[Purpose, ...]:
        """Every purpose that must hold for a row to be trained on."""
        return (self.purpose, *sorted(self.to_train - {self.purpose}))

    @property
    def answering_purposes(self) -> tuple[Purpose, ...]:
        """Every purpose that must hold for a person to be answered."""
        return (self.purpose, *sorted(self.to_answer - {self.purpose}))


def _usual_hop(window_us: int | None) -> str:
    if window_us is None or window_us >= DAY_US:
        return "1d"
    return "1h" if window_us >= _UNITS["h"] else "1m"


def check_name(name: str) -> None:
    """Raise `UnusableDeclaration` unless `name` can be a feature's."""
    if name in _reserved():
        raise UnusableDeclaration(f"{name!r} is a word of SQL or of our own tables; call the feature something else.")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise UnusableDeclaration(f"{name!r} is no name for a feature: use lower-case letters, digits and _.")


@cache
def _reserved() -> frozenset[str]:
    words = duckdb.execute(
        "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
    ).fetchall()
    return frozenset({r[0] for r in words} | {"k", "moment", "user_key", "item_id", "valid_from", "grant_start"})


def check_purposes(name: str, purposes: frozenset[Purpose], *, what: str = "Feature") -> None:
    """Raise `UnusableDeclaration` unless some purpose is stated, and each is one and may touch data."""
    if not purposes:
        raise UnusableDeclaration(
            f"{what} {name!r} states no purpose; say what it is for, e.g. {Purpose.ANALYTICS_REPORTING}."
        )
    for purpose in purposes:
        if purpose not in tuple(Purpose):
            raise UnusableDeclaration(
                f"{what} {name!r}: {purpose!r} is no purpose; choose one of: {', '.join(Purpose)}."
            )
        if not spec(purpose).categories:
            raise UnusableDeclaration(f"{what} {name!r}: {purpose} may touch no data at all.")


def check_topic(name: str, description: str, *, told: bool, what: str = "Feature") -> None:
    """Raise `UnusableDeclaration` for what nothing here may be about.

    `told`: it repeats what the person said of themselves in a field that is called so; nothing is inferred.
    """
    topics = [t for t in Topic if not (told and t is Topic.DEMOGRAPHIC)]
    if found := forbidden_topic(f"{name} {description}", topics=topics):
        raise UnusableDeclaration(
            f"{what} {name!r} can't be declared: {found[1]!r} is about {found[0]}, and nothing here may be."
        )


def by_category(of: Aggregate, *, column: str, among: Sequence[str]) -> tuple[Aggregate, ...]:
    """`of` once for each category in `among`: counted are the events whose `column`, a text, is that category.

    `amount_sum_28d` by `department` among `["DRUG GM"]` is called `amount_sum_28d__drug_gm`. Raises
    `UnusableDeclaration` for no categories, two that make one name, or a declaration that has a condition already.
    """
    if of.where is not None:
        raise UnusableDeclaration(
            f"Feature {of.name!r} has a condition already and can't be split by {column!r} as well."
        )
    declared = event_type(of.event).field(column)
    if declared is None or declared.kind is not Kind.TEXT:
        raise UnusableDeclaration(f"Feature {of.name!r}: {of.event} has no column of text {column!r} to split by.")
    if not among:
        raise UnusableDeclaration(f"Feature {of.name!r} is split by {column!r} among no categories; name some.")
    made: dict[str, Aggregate] = {}
    for category in among:
        name = f"{of.name}__{_word(category)}"
        if name in made:
            raise UnusableDeclaration(f"Feature {of.name!r}: two categories make the name {name!r}; leave one out.")
        told = f"{of.description.rstrip('.')}, where {column} is {category}."
        made[name] = replace(of, name=name, where=Where(column, "=", category), description=told)
    return tuple(made.values())


def _word(category: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", category.lower()).strip("_")
