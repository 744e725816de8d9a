"""The jobs on days with news of every kind: each finds it by itself, and its record says how many of what."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aap.cli.main import main
from aap.config import Settings
from aap.consent.ledger.ledger import Entry
from aap.consent.policy import Status
from aap.consent.purposes import parse_purpose
from aap.consent.service import open_desk
from aap.events.archive import Archive
from aap.events.dead_letter import RejectedLog
from aap.events.streaming.collector import Collector
from aap.events.streaming.event_log import REMEMBERED_US, RedisStreamLog
from aap.infra.duckdb import open_duckdb
from aap.infra.object_store import archive_folder
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect, stop
from aap.jobs.ingest import import_source
from aap.security.id_map import open_id_map
from aap.security.pseudonyms import load_pseudonyms
from tests.shop import PURPOSES, set_clock, write_shop

OBJECTION = "essential.fraud_detection"
"""Of whom there is any record may be stored for this purpose, until they object."""


class Shop:
    """A shop whose history was imported when it closed, and to which something happens day after day."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True)
        self.sales, mapping = write_shop(home / "shop", customers=30)
        self.choices = self.sales.with_name("accords.csv")
        self.ask(*(f"visitor-{n},marketing.retention,oui,01/12/2023" for n in (1, 2)))  # who bought nothing so far
        self.settings = self.on_day(0)
        self.first = import_source(self.settings, str(self.sales), mapping=mapping, now=self.settings.now())

    def on_day(self, day: int) -> Settings:
        """The settings once the clock says the day after, and so on."""
        self.settings = set_clock(self.home, days=day)
        return self.settings

    def sell(self, *rows: str) -> None:
        """Append lines to the table, each `order,customer,article,pieces,price,time,department`."""
        with self.sales.open("a", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in rows)

    def ask(self, *rows: str) -> None:
        """Append lines to the table of consent choices, each `customer,purpose,answer,day`."""
        with self.choices.open("a", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in rows)

    def send(self, *events: dict[str, Any]) -> None:
        """Send live events, all of which are accepted into the log."""
        layout, client = Layout(self.home), connect(self.settings)
        collector = Collector(
            client,
            RedisStreamLog(client),
            open_desk(self.settings),
            RejectedLog(layout.rejected),
            load_pseudonyms(layout),
            open_id_map(self.settings),
        )
        assert collector.collect(events, now=self.settings.now()).accepted == len(events)

    def withdraw_everything(self, customer: str) -> None:
        """Have `customer` take back every grant and object to the rest."""
        key, now = load_pseudonyms(Layout(self.home)).user_key(customer), self.settings.now()
        said = [
            Entry(key, parse_purpose(p), Status.WITHDRAWN, now, "the person", "test") for p in (*PURPOSES, OBJECTION)
        ]
        open_desk(self.settings).record_many(said, received_at=now)

    def archived_long_ago(self, *, place: int) -> dict[str, str]:
        """Source and id of an archived purchase that the live log no longer knows."""
        before = self.settings.now() - timedelta(microseconds=2 * REMEMBERED_US)
        with open_duckdb() as connection:
            stored = Archive(archive_folder(self.settings)).sql("product_purchased", on=connection)
            found = connection.execute(
                f"SELECT source, id FROM {stored} WHERE occurred_at < $before ORDER BY occurred_at, id "
                f"LIMIT 1 OFFSET {place}",
                {"before": before},
            ).fetchall()
        return dict(zip(("source", "id"), found[0], strict=True))


@pytest.fixture
def shop(home: Path) -> Iterator[Shop]:
    made = Shop(home)
    yield made
    stop(made.settings)


def bought(number: int, at: datetime, *, customer: str = "client-0", **changes: Any) -> dict[str, Any]:
    properties = {"basket_id": f"L{number}", "item_id": "ART-001", "quantity": 1, "amount": 4.5}
    event = {"source": "till", "id": f"sale-{number}", "type": "product_purchased", "user_id": customer}
    return event | {"occurred_at": at.isoformat(), "properties": properties} | changes


def seen(number: int, at: datetime, *, customer: str = "client-0") -> dict[str, Any]:
    event = {"source": "web", "id": f"view-{number}", "type": "product_viewed", "user_id": customer}
    return event | {"occurred_at": at.isoformat(), "properties": {"item_id": "ART-002"}}


def aap(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command says in JSON."""
    monkeypatch.setattr(sys, "argv", ["aap", *arguments, "--json"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr()
    assert not left.value.code, told.err
    found: dict[str, Any] = json.loads(told.out.splitlines()[-1])
    found["said"] = told.out
    return found


def of_table(shop: Shop, *, rows: int, known: int, choices: int, **counts: Any) -> dict[str, Any]:
    """What the record says of the table that was read again, with `rows` more than at first and `known` of them known."""
    first = shop.first
    return {
        "name": str(shop.sales),
        "rows": first.rows + rows,
        "accepted": counts["accepted"],
        "duplicates": first.accepted.total() + known,
        "rejected": dict(first.rejected + Counter(counts["rejected"])),
        "refused": dict(first.refused + Counter(counts["refused"])),
        "choices": choices,
        "items": 0,
        "malformed": counts["malformed"],
    }


@pytest.mark.parametrize(
    "command", [("job", "daily"), pytest.param(("retrain",), marks=pytest.mark.full)], ids=["daily", "weekly"]
)
def test_a_job_takes_in_news_of_each_kind_day_after_day_and_its_record_counts_them(
    command: tuple[str, ...], shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported() -> tuple[dict[str, Any], dict[str, Any]]:
        """What the command says that it took in, and all it says."""
        told = aap(*command, capsys=capsys, monkeypatch=monkeypatch)
        assert not told["resumed"]
        found = told["steps"]["import"]["result"]
        for source in found["sources"]:
            assert source.pop("seconds") > 0
        return found, told

    # The first day.
    now = shop.settings.now()
    shop.sell(
        "N1,client-0,ART-001,2,3.50,30/12/2023 10:00,R1",
        "N1,client-0,ART-002,1,2.50,30/12/2023 10:00,R1",
        "N2,client-0,ART-001,-1,3.50,30/12/2023 11:00,R1",  # brought back
        "N3,client-0,ART-001,1,cher,30/12/2023 12:00,R1",  # not a number
        "N4,client-2,ART-001,1,3.50,30/12/2023 12:00,R1",  # refused everything
        "N5,passer-by,ART-001,1,3.50,30/12/2023 12:00,R1",  # nobody knows them
        "N6,client-0,ART-001,1,3.50,30/12/2023 12:00,R1,and,more",
    )
    shop.ask("client-1,personalize.profiling,oui,30/12/2023", "client-1,world.domination,oui,30/12/2023")
    shop.send(
        *(bought(n, now - timedelta(minutes=n)) for n in range(1, 4)),
        seen(1, now),
        bought(4, now, customer="visitor-1"),
        bought(5, now - timedelta(days=90), **shop.archived_long_ago(place=0)),
    )
    shop.withdraw_everything("visitor-1")
    found, first = imported()
    malformed = [[1 + shop.first.rows + 7, "too many columns"]]  # after the heading
    rejected = {"amount is not a number": 1, "consent row with an unknown purpose": 1}
    refused = {"refused": 1, "no_record": 1}
    assert found == {
        "live": {"archived": {"product_purchased": 3, "product_viewed": 1}, "duplicates": 1, "refused": 1},
        "sources": [
            of_table(
                shop,
                rows=6,
                accepted={"product_purchased": 2, "product_returned": 1},
                known=0,
                rejected=rejected,
                refused=refused,
                choices=1,
                malformed=malformed,
            )
        ],
    }

    # The second: other counts, and what was new yesterday is known today.
    now = shop.on_day(1).now()
    shop.sell(
        "N7,client-0,ART-003,1,1.50,31/12/2023 10:00,R1",
        "N8,client-0,ART-001,-1,3.50,31/12/2023 11:00,R1",
        "N8,client-0,ART-002,-1,2.50,31/12/2023 11:00,R1",
        "N9,client-0,ART-001,1,3.50,demain,R1",  # not a time
        "N10,client-2,ART-001,1,3.50,31/12/2023 12:00,R1",
        "N11,client-2,ART-002,1,3.50,31/12/2023 12:00,R1",
    )
    shop.ask("client-1,personalize.profiling,fini,31/12/2023", "client-2,analytics.reporting,peut-être,31/12/2023")
    shop.send(
        bought(11, now),
        *(seen(n, now) for n in (11, 12)),
        *(bought(n, now, customer="visitor-2") for n in (12, 13)),
        *(bought(n, now - timedelta(days=90), **shop.archived_long_ago(place=n)) for n in (14, 15, 16)),
    )
    shop.withdraw_everything("visitor-2")
    found, second = imported()
    rejected |= {"occurred_at is missing or not a time": 1, "consent row with an unknown status or time": 1}
    refused["refused"] += 2
    assert found == {
        "live": {"archived": {"product_purchased": 1, "product_viewed": 2}, "duplicates": 3, "refused": 2},
        "sources": [
            of_table(
                shop,
                rows=12,
                accepted={"product_purchased": 1, "product_returned": 2},
                known=3,
                rejected=rejected,
                refused=refused,
                choices=1,
                malformed=malformed,
            )
        ],
    }
    if command == ("retrain",):
        assert first["summary"] != second["summary"]
        page, plain = Path(second["summary"]).read_text(), Path(second["summary"]).with_suffix(".json").read_text()
        read = found["sources"][0]
        cells = [read["rows"], 3, read["duplicates"], sum(read["rejected"].values()), sum(read["refused"].values())]
        for name, numbers in (("live events", [8, 3, 3, 0, 2]), ("ventes.csv", cells)):
            assert f"<tr><td>{name}</td>" + "".join(f"<td class='n'>{c:,}</td>" for c in numbers) in page, page
        assert json.loads(plain)["steps"]["import"]["result"]["live"] == found["live"]
        return
    assert (
        "import: live (archived (product_purchased 1, product_viewed 2), duplicates 3, refused 2), " in second["said"]
    )
    assert "accepted (product_purchased 1, product_returned 2), " in second["said"]

    # A third day without news.
    shop.on_day(2)
    assert imported()[0] == {"live": {"archived": {}, "duplicates": 0, "refused": 0}, "sources": []}
