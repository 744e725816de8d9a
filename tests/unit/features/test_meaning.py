"""What an engine's change points say at any moment is what the declaration means, worked out event by event.

Spark takes a second to begin a computation, so there many histories are computed at once, of people and items of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, example, given, settings, strategies as st

from aap.consent.purposes import Purpose
from aap.events.schema import event_type
from aap.features.declarations import DAY_US, Aggregate, Entity, Feature, Op, Ratio, Where, by_category
from aap.features.engines.base import Batch, Engine, duckdb_engine
from aap.features.offline.build import write_view
from aap.features.offline.change_points import event_table
from aap.features.offline.point_in_time_join import point_in_time_join
from aap.features.offline.store import Inputs, last_build
from aap.features.offline.writer import ValuesWriter
from aap.features.views import View, make_views
from aap.infra.object_store import Folder
from tests.unit.features.brute_force import Happened, value_at

PROFILE = frozenset({Purpose.PERSONALIZE_PROFILING})
BOUGHT = "product_purchased"
PEOPLE = ("a" * 32, "b" * 32)
HOUR, MINUTE = DAY_US // 24, 60_000_000
# From the day before a leap day on.
ORIGIN = int(datetime(2024, 2, 28, tzinfo=UTC).timestamp()) * 1_000_000


def feature(op: Op, window: str, column: str | None = None, **more: object) -> Aggregate:
    options: dict[str, object] = {"purposes": PROFILE, "description": "Tried.", "unit": "units", **more}
    return Aggregate(event=BOUGHT, op=op, window=window, column=column, **options)  # type: ignore[arg-type]


PERSONAL: list[Feature] = [
    *(feature(Op.COUNT, w) for w in ("1d", "2d", "7d", "30d", "ever")),
    feature(Op.COUNT, "5m", hop="1m"),
    feature(Op.COUNT, "36h", hop="1h"),
    feature(Op.COUNT, "36h", name="count_with_daily_hop"),
    feature(Op.COUNT, "1d", name="count_hop_longer_than_window", hop="3d"),
    *(feature(Op.SUM, w, "amount") for w in ("1d", "7d", "ever")),
    feature(Op.SUM, "2d", "quantity"),
    feature(Op.SUM, "2d", "discount"),
    *(feature(Op.MEAN, w, "amount", default=None) for w in ("2d", "ever")),
    feature(Op.MEAN, "7d", "discount", default=-1.0),
    *(feature(op, w, "amount") for op in (Op.MIN, Op.MAX) for w in ("1d", "7d", "ever")),
    feature(Op.MAX, "2d", "discount", default=None),
    *(feature(Op.LAST, w, "amount", default=None) for w in ("1d", "ever")),
    feature(Op.LAST, "2d", "discount", default=-1.0),
    feature(Op.LAST, "12h", "quantity", default=None, name="last_quantity_of_morning", where=Where("hour", "<", 12)),
    *(feature(Op.DISTINCT, w, c) for c in ("item_id", "department") for w in ("1d", "2d", "7d", "ever")),
    feature(Op.DISTINCT, "12h", "item_id", hop="1h", name="items_12h"),
    feature(Op.SINCE_LAST, "ever", default=None),
    feature(Op.SINCE_FIRST, "ever", default=None),
    feature(Op.SINCE_LAST, "ever", default=None, where=Where("amount", ">=", 500), name="since_last_dear"),
    *(feature(Op.SINCE_NTH_DAY, "ever", n=n, default=None) for n in (1, 2, 4)),
    feature(Op.SINCE_NTH_DAY, "ever", n=2, default=None, where=Where("hour", ">=", 12), name="since_second_afternoon"),
    feature(Op.COUNT, "7d", where=Where("hour", ">=", 12), name="afternoon_count"),
    feature(Op.COUNT, "7d", where=Where("weekday", "=", 3), name="thursday_count"),
    feature(Op.DISTINCT, "7d", "basket_id", where=Where("department", "<>", "d'0"), name="baskets_elsewhere"),
    *by_category(feature(Op.SUM, "2d", "amount"), column="department", among=("d'0", "nowhere")),
    Ratio(name="share", numerator="amount_sum_1d", denominator="amount_sum_7d", purposes=PROFILE, description="Tried."),
    Ratio(
        name="per_line", numerator="amount_sum_7d", denominator="product_purchased_count_7d", purposes=PROFILE,
        description="Tried.", default=0.0,
    ),
    Ratio(
        name="of_means", numerator="amount_mean_2d", denominator="amount_mean_ever", purposes=PROFILE, description="Tried.",
    ),
]  # fmt: skip
SOLD: list[Feature] = [
    *(feature(Op.COUNT, w, entity=Entity.ITEM, name=f"sales_{w}") for w in ("1d", "7d", "ever")),
    feature(Op.SUM, "2d", "amount", entity=Entity.ITEM),
    feature(Op.DISTINCT, "7d", "user_key", entity=Entity.ITEM),
    feature(Op.SINCE_LAST, "ever", default=None, entity=Entity.ITEM),
    feature(Op.SINCE_NTH_DAY, "ever", n=3, default=None, entity=Entity.ITEM),
    feature(Op.MAX, "2d", "quantity", entity=Entity.ITEM, hop="1h"),
    *(feature(Op.LAST, w, "amount", entity=Entity.ITEM, default=None, name=f"price_{w}") for w in ("2d", "ever")),
]

# Exactly on edges of days, hours and windows, a microsecond beside them, and anywhere.
moments = st.one_of(
    st.integers(0, 12).map(lambda d: ORIGIN + d * DAY_US),
    st.integers(0, 12 * 24).map(lambda h: ORIGIN + h * HOUR),
    st.tuples(st.integers(0, 12), st.sampled_from([-1, 1])).map(lambda p: ORIGIN + p[0] * DAY_US + p[1]),
    st.integers(ORIGIN, ORIGIN + 12 * DAY_US),
    st.integers(0, 600).map(lambda m: ORIGIN + DAY_US + m * MINUTE),
)
delays = st.one_of(
    st.just(0),
    st.just(0),
    st.sampled_from([1, HOUR, DAY_US, 2 * DAY_US, 7 * DAY_US, 9 * DAY_US]),
    st.integers(0, DAY_US),
)
fields = st.fixed_dictionaries(
    {
        "basket_id": st.sampled_from(["b1", "b2", "b3"]),
        "item_id": st.sampled_from(["i1", "i2", "i3"]),
        "quantity": st.integers(0, 5),
        "amount": st.integers(0, 1_000),
        "discount": st.one_of(st.none(), st.integers(0, 100)),
        "department": st.sampled_from([None, "d'0", "d1"]),
    }
)


@st.composite
def histories(draw: st.DrawFn) -> list[Happened]:
    made: list[Happened] = []
    for _ in range(draw(st.integers(0, 14))):
        occurred = draw(moments)
        who, known, told = draw(st.sampled_from(PEOPLE)), occurred + draw(delays), draw(fields)
        made.append(Happened(who, occurred, known, fields=told, id=f"e{draw(st.integers(0, 99))}-{len(made)}"))
        if draw(st.integers(0, 5)) == 0:
            made.append(made[-1])  # an equal line of the same basket
    return made


starts = st.one_of(st.just(0), moments)


def _tables(batch: Batch, events: list[Happened], starts: dict[str, int], *, key: str) -> None:
    """What `build.admit_events` makes: spans, and the admissible events of each type."""
    people = list(starts)
    spans = {"k": pa.array(people, pa.string()), "start": pa.array([starts[p] for p in people], pa.int64())}
    batch.register("spans", pa.table(spans))
    kept = [e for e in events if e.person in starts and e.occurred >= starts[e.person]]
    columns: dict[str, pa.Array] = {
        "k": pa.array([e.person if key == "user_key" else e.fields["item_id"] for e in kept], pa.string()),
        "user_key": pa.array([e.person for e in kept], pa.string()),
        "o": pa.array([e.occurred for e in kept], pa.int64()),
        "a": pa.array([e.available for e in kept], pa.int64()),
        "source": pa.array(["shop"] * len(kept), pa.string()),
        "id": pa.array([e.id for e in kept], pa.string()),
        "hour": pa.array([e.column("hour") for e in kept], pa.int64()),
        "weekday": pa.array([e.column("weekday") for e in kept], pa.int64()),
    }
    for declared in event_type(BOUGHT).fields:
        columns[declared.name] = pa.array([e.fields.get(declared.name) for e in kept], declared.arrow.type)
    batch.register(event_table(BOUGHT), pa.table(columns))


def _computed(
    view: View,
    events: list[Happened],
    starts: dict[str, int],
    labels: list[tuple[str, int]],
    folder: Path,
    *,
    engine: Engine = duckdb_engine,
) -> tuple[np.ndarray, np.ndarray]:
    with engine() as batch:
        _tables(batch, events, starts, key=view.key)
        writer = ValuesWriter(view, folder=Folder.at(folder))
        write_view(batch, writer, view, scratch=Folder.at(folder / ".scratch"))
        built = writer.finish(Inputs(datetime(2024, 4, 1, tzinfo=UTC)))
    values, found, _ = point_in_time_join(
        built,
        keys=pa.array([k for k, _ in labels], pa.string()),
        moments=np.array([t for _, t in labels], dtype=np.int64),
        features=[f.name for f in view.numbers],
    )
    return values, found


def _agree(view: View, computed: np.ndarray, t: int, events: list[Happened], start: int) -> None:
    for place, declared in enumerate(view.numbers):
        meant = value_at(declared, t, events=events, grant_start=start, features=view.features)
        value = computed[place]
        told = f"{declared.name} at {t}: {value}, but it means {meant}"
        if meant is None:
            assert np.isnan(value), told
        elif isinstance(declared, Aggregate) and declared.op in (Op.COUNT, Op.DISTINCT):
            assert value == meant, told
        else:
            assert value == pytest.approx(meant, rel=1e-9, abs=1e-12), told


def _later(t: int) -> list[int]:
    """Moments at and around where something that happened at `t` leaves windows."""
    return [
        t,
        t + 1,
        t - 1,
        t + DAY_US,
        t + 2 * DAY_US,
        t // DAY_US * DAY_US + 8 * DAY_US,
        t + 5 * MINUTE,
        t + 40 * DAY_US,
    ]


_LATE = Happened(
    PEOPLE[0], ORIGIN + 1, ORIGIN + 9 * DAY_US, fields={"basket_id": "b1", "item_id": "i1", "quantity": 1, "amount": 5}
)


@settings(max_examples=25)
@given(histories(), starts, starts, st.lists(moments, max_size=6))
@example([_LATE], 0, 0, [ORIGIN + 9 * DAY_US - 1, ORIGIN + 9 * DAY_US])
def test_a_person_s_values_are_what_the_declarations_mean_at_every_moment(
    tmp_path_factory: pytest.TempPathFactory, events: list[Happened], start_a: int, start_b: int, asked: list[int]
) -> None:
    (view,) = make_views(PERSONAL)
    starts = {PEOPLE[0]: start_a, PEOPLE[1]: start_b}
    times = sorted({*asked, *(t for e in events[:6] for t in _later(e.occurred)), *(e.available for e in events)})
    labels = [(person, t) for person in PEOPLE for t in times]
    values, found = _computed(view, events, starts, labels, tmp_path_factory.mktemp("values"))
    for place, (person, t) in enumerate(labels):
        assert found[place] == (t >= starts[person])
        if found[place]:
            _agree(view, values[place], t, [e for e in events if e.person == person], starts[person])


@settings(max_examples=20)
@given(histories(), starts, st.booleans(), st.lists(moments, max_size=6))
def test_an_item_s_values_count_only_admissible_people_and_move_once_a_hop(
    tmp_path_factory: pytest.TempPathFactory, events: list[Happened], start: int, both: bool, asked: list[int]
) -> None:
    (view,) = make_views(SOLD)
    starts = {PEOPLE[0]: start, **({PEOPLE[1]: 0} if both else {})}
    admitted = [e for e in events if e.person in starts and e.occurred >= starts[e.person]]
    times = sorted({*asked, *(t for e in events[:5] for t in _later(e.occurred)), *(e.available for e in events)})
    labels = [(item, t) for item in ("i1", "i2", "i3") for t in times]
    values, found = _computed(view, events, starts, labels, tmp_path_factory.mktemp("values"))
    for place, (item, t) in enumerate(labels):
        sold = [e for e in admitted if e.fields["item_id"] == item]
        if found[place]:
            _agree(view, values[place], t, sold, 0)
        else:
            assert not [e for e in sold if e.available <= t // DAY_US * DAY_US]


@dataclass(frozen=True)
class World:
    """One drawn history, with people and items of its own among many."""

    number: int
    events: list[Happened]
    starts: dict[str, int]
    asked: list[int]

    @classmethod
    def apart(cls, number: int, events: list[Happened], start_a: int, start_b: int, asked: list[int]) -> World:
        own = {p: f"{p}{number}" for p in PEOPLE}
        moved = [
            replace(e, person=own[e.person], fields={**e.fields, "item_id": f"{e.fields['item_id']}-{number}"})
            for e in events
        ]
        return cls(number, moved, {own[PEOPLE[0]]: start_a, own[PEOPLE[1]]: start_b}, asked)

    @property
    def times(self) -> list[int]:
        around = (t for e in self.events[:6] for t in _later(e.occurred))
        return sorted({*self.asked, *around, *(e.available for e in self.events)})


def _worlds(many: int) -> list[World]:
    drawn: list[World] = []

    @settings(max_examples=many, database=None, phases=[Phase.explicit, Phase.generate])
    @given(histories(), starts, starts, st.lists(moments, max_size=6))
    @example([_LATE], 0, 0, [ORIGIN + 9 * DAY_US - 1, ORIGIN + 9 * DAY_US])
    def draw(events: list[Happened], start_a: int, start_b: int, asked: list[int]) -> None:
        drawn.append(World.apart(len(drawn), events, start_a, start_b, asked))

    draw()
    return drawn


@pytest.mark.spark
def test_spark_means_the_same_of_people_at_every_moment(tmp_path: Path, spark: Engine) -> None:
    (view,) = make_views(PERSONAL)
    worlds = _worlds(40)
    everyone = {person: start for w in worlds for person, start in w.starts.items()}
    labels = [(person, t) for w in worlds for person in w.starts for t in w.times]
    events = [e for w in worlds for e in w.events]
    values, found = _computed(view, events, everyone, labels, tmp_path / "spark", engine=spark)
    for place, (person, t) in enumerate(labels):
        assert found[place] == (t >= everyone[person])
        if found[place]:
            _agree(view, values[place], t, [e for e in events if e.person == person], everyone[person])
    _computed(view, events, everyone, [], tmp_path / "duckdb")
    assert _files(tmp_path / "spark") == _files(tmp_path / "duckdb")


@pytest.mark.spark
def test_spark_means_the_same_of_items_at_every_moment(tmp_path: Path, spark: Engine) -> None:
    (view,) = make_views(SOLD)
    worlds = _worlds(40)
    everyone = {person: start for w in worlds for person, start in w.starts.items()}
    events = [e for w in worlds for e in w.events if e.occurred >= w.starts[e.person]]
    labels = [(f"{item}-{w.number}", t) for w in worlds for item in ("i1", "i2", "i3") for t in w.times]
    values, found = _computed(view, events, everyone, labels, tmp_path / "spark", engine=spark)
    for place, (item, t) in enumerate(labels):
        sold = [e for e in events if e.fields["item_id"] == item]
        if found[place]:
            _agree(view, values[place], t, sold, 0)
        else:
            assert not [e for e in sold if e.available <= t // DAY_US * DAY_US]
    _computed(view, events, everyone, [], tmp_path / "duckdb")
    assert _files(tmp_path / "spark") == _files(tmp_path / "duckdb")


def _files(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


ALONE = [
    feature(Op.COUNT, "2d"), feature(Op.SUM, "2d", "amount"), feature(Op.MEAN, "2d", "amount", default=None),
    feature(Op.MIN, "2d", "amount"), feature(Op.MAX, "ever", "amount"),
    feature(Op.LAST, "2d", "amount", default=None), feature(Op.DISTINCT, "2d", "item_id"),
    feature(Op.SINCE_LAST, "ever", default=None), feature(Op.SINCE_FIRST, "ever", default=None),
    feature(Op.SINCE_NTH_DAY, "ever", n=2, default=None),
]  # fmt: skip


@pytest.mark.parametrize("entity", Entity)
@pytest.mark.parametrize("alone", ALONE, ids=lambda f: f.name)
def test_a_feature_means_the_same_in_a_view_of_its_own(alone: Aggregate, entity: Entity, tmp_path: Path) -> None:
    (view,) = make_views([replace(alone, entity=entity)])
    times = [ORIGIN, ORIGIN + 1, ORIGIN + DAY_US + 5 * HOUR, ORIGIN + 6 * DAY_US]
    rest = {"basket_id": "b", "quantity": 1, "discount": None, "department": None}
    events = [
        Happened(PEOPLE[0], t, t + i * HOUR, fields={**rest, "item_id": f"i{i % 2}", "amount": 100 * (5 - i)})
        for i, t in enumerate(times)
    ]
    keys = [PEOPLE[0]] if entity is Entity.USER else ["i0", "i1"]
    labels = [(k, t + h * HOUR) for k in keys for t in times for h in range(0, 80, 3)]
    values, found = _computed(view, events, {PEOPLE[0]: 0}, labels, tmp_path)
    for place, (key, t) in enumerate(labels):
        mine = [e for e in events if entity is Entity.USER or e.fields["item_id"] == key]
        if found[place]:
            _agree(view, values[place], t, mine, 0)
        else:
            assert not [e for e in mine if e.available <= t // DAY_US * DAY_US]


def test_a_window_that_empties_is_exactly_its_default_again(tmp_path: Path) -> None:
    (view,) = make_views(PERSONAL)
    amounts = [1, 10, 999, 3]
    events = [
        Happened(PEOPLE[0], ORIGIN + i * HOUR, ORIGIN + i * HOUR, fields={
            "basket_id": "b", "item_id": "i", "quantity": 1, "amount": a, "discount": None, "department": None,
        })
        for i, a in enumerate(amounts)
    ]  # fmt: skip
    values, _ = _computed(view, events, {PEOPLE[0]: 0}, [(PEOPLE[0], ORIGIN + 60 * DAY_US)], tmp_path)
    for value, declared in zip(values[0], view.numbers, strict=True):
        if isinstance(declared, Aggregate) and declared.window_us is not None:
            assert (np.isnan(value) and declared.default is None) or value == declared.default


def test_a_window_s_edges_are_where_the_declaration_puts_them(tmp_path: Path) -> None:
    """An event at midnight exactly leaves a daily window at midnight; one a microsecond later a day after."""
    (view,) = make_views([feature(Op.COUNT, "7d")])
    on, after = (Happened(p, t, t, fields={}) for p, t in zip(PEOPLE, (ORIGIN, ORIGIN + 1), strict=True))
    week = ORIGIN + 7 * DAY_US
    labels = [
        (PEOPLE[0], ORIGIN - 1), (PEOPLE[0], ORIGIN), (PEOPLE[0], week - 1), (PEOPLE[0], week),
        (PEOPLE[1], week), (PEOPLE[1], week + DAY_US - 1), (PEOPLE[1], week + DAY_US),
    ]  # fmt: skip
    values, _ = _computed(view, [on, after], dict.fromkeys(PEOPLE, 0), labels, tmp_path)
    assert values[:, 0].tolist() == [0, 1, 1, 0, 1, 1, 0]


def test_a_view_s_record_says_by_which_declarations_and_as_of_when_it_was_made(tmp_path: Path) -> None:
    (view,) = make_views(PERSONAL)
    _computed(view, [], {PEOPLE[0]: 0}, [], tmp_path)
    told = last_build(Folder.at(tmp_path), view)
    assert told is not None
    assert told.made_by["declarations"] == str(view.fingerprint)
    assert told.as_of == datetime(2024, 4, 1, tzinfo=UTC)
    assert make_views(PERSONAL[1:])[0].fingerprint != view.fingerprint
