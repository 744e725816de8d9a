"""The console: every section says what it knows, or why not; and it can be read by everybody who may."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from aap.config import Settings
from aap.consent.ledger.records import Entry
from aap.consent.policy import Status
from aap.consent.purposes import Purpose
from aap.consent.service import open_ledger
from aap.infra.paths import Layout
from aap.security.api_keys import Scope
from aap.serving.dashboard.data import (
    Consistent,
    Console,
    Curve,
    Denied,
    Drift,
    Freshness,
    Latency,
    Permission,
    Running,
    Section,
    Version,
    gather,
    hidden,
)
from aap.serving.dashboard.page import render
from tests.unit.serving.browser import Browser, browsing

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
SECTIONS = ("models", "experiments", "freshness", "consistency", "consent", "denials", "drift", "latency")
CURVE = Curve("new", "new does better.", (0.0, 1.0, 2.0), (0.1, 0.08, 0.06), (-0.4, -0.1, 0.01), (0.6, 0.2, 0.1))
FULL = Console(
    NOW,
    Section((Version("churn", 2, ("champion",), "2026-01-05", ("It beats <b>recency</b>.",), None),)),
    Section((Running("ranking", "running", {"old": 400, "new": 7}, "purchases", None, "", (CURVE,)),)),
    Section((Freshness("user", NOW, 0.5),)),
    Section((Consistent("consistency-2026-01-05", 900, 1, 2),)),
    Section((Permission("analytics.reporting", 75, 100), Permission("third_party_sharing", None, None))),
    Section((Denied("churn", "marketing.retention", "withdrawn", 34),)),
    Section((Drift("churn", 12, {"orders_30d": 0.31}),)),
    Section((Latency("churn", 100, 0.002, 0.02, ((0.001, 10), (0.002, 80), (0.02, 10), (float("inf"), 0))),)),
)
EMPTY = Console(NOW, *(Section() for _ in SECTIONS))


class Reader(HTMLParser):
    """Reads a page as a screen reader would: what is a heading, a table, a picture, and what it is called."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self.headings.append(int(tag[1]))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "a":
            self.links.append(str(found["href"]))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def basic(key: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'me:{key}'.encode()).decode()}"}


@pytest.mark.parametrize("found", [FULL, EMPTY])
def test_the_page_can_be_read_without_eyes_or_mouse(found: Console) -> None:
    page = Reader(render(found))
    assert page.all("html")[0]["lang"] == "en"
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert [tag for tag, _ in page.tags if tag in ("header", "nav", "main", "footer")] == [
        "header",
        "nav",
        "main",
        "footer",
    ]
    assert page.links[0] == "#main"
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(th.get("scope") in ("row", "col") for th in page.all("th"))
    assert len(page.all("svg")) == len(page.all("desc"))
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert set(str(svg["aria-labelledby"]).split()) <= set(page.ids)
    assert not page.all("script")
    assert not any("style" in attrs for _, attrs in page.tags)


def test_everything_gathered_is_shown_and_names_are_escaped() -> None:
    page = render(FULL)
    for told in (
        "champion",
        "ranking",
        "new does better.",
        "900",
        "75 of 100",
        "withdrawn",
        "orders_30d (0.31)",
        "≤ 2 ms",
    ):
        assert told in page
    assert "&lt;b&gt;recency&lt;/b&gt;" in page
    assert "<b>recency" not in page


def test_few_people_are_not_told_of() -> None:
    page = render(FULL)
    assert "under 10" in page  # the seven who saw the new ranking
    assert "not told" in page
    assert hidden(95, of=100)  # the five others
    assert not hidden(50, of=100)
    assert not hidden(0, of=100)


def test_a_new_home_says_in_every_section_what_to_do(tmp_path: Path) -> None:
    found = gather(Settings(home=tmp_path / "home"), now=NOW)
    page = render(found)
    assert page.count("<section ") == len(SECTIONS)
    for said in ("aap train all", "aap features build", "no choice yet", "aap retrain", "No call was answered"):
        assert said in page


def test_redis_down_silences_the_experiments_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", redis_url="redis://127.0.0.1:1/0")
    found = gather(settings, now=NOW)
    assert found.experiments.problem
    others = (
        found.models,
        found.freshness,
        found.consistency,
        found.consent,
        found.denials,
        found.drift,
        found.latency,
    )
    assert [section.problem for section in others] == [None] * 7
    assert f"be shown now: {html.escape(found.experiments.problem)}" in render(found)


def test_a_broken_ledger_is_named_and_the_models_are_shown_all_the_same(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    layout = Layout(settings.home)
    layout.ledger.parent.mkdir(parents=True)
    layout.ledger.write_bytes(b"not a database at all" * 100)
    found = gather(settings, now=NOW)
    assert "ledger" in str(found.consent.problem)
    assert found.models.problem is None
    assert "aap train all" in render(found)


def test_consent_is_told_as_shares_of_the_people_who_are_known(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    entries = [
        Entry(
            subject=f"{n:032x}",
            purpose=Purpose.ANALYTICS_REPORTING,
            status=Status.GIVEN if n < 30 else Status.REFUSED,
            said_by="the person",
            method="test",
            indicated_at=NOW,
        )
        for n in range(40)
    ]
    open_ledger(settings).append(entries, received_at=NOW)
    rows = {p.purpose: p for p in gather(settings, now=NOW).consent.rows}
    assert (rows["analytics.reporting"].permit, rows["analytics.reporting"].known) == (30, 40)


def test_the_console_opens_for_an_administrator_who_signs_in(client: httpx.Client, keys: dict[Scope, str]) -> None:
    client.headers.pop("Authorization")
    refused = client.get("/console")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert client.get("/console", headers=basic("wrong")).status_code == 401
    assert client.get("/console", headers={"Authorization": "Basic ???"}).status_code == 401
    assert client.get("/console", headers=basic(keys[Scope.PREDICT])).status_code == 403
    client.post("/v1/churn", json={"user_ids": ["u-17"]}, headers={"Authorization": f"Bearer {keys[Scope.PREDICT]}"})
    shown = client.get("/console", headers=basic(keys[Scope.ADMIN]))
    assert shown.status_code == 200
    assert "style-src 'sha256-" in shown.headers["content-security-policy"]
    assert "unsafe" not in shown.headers["content-security-policy"]
    assert "Calls of churn by duration" in shown.text
    assert "u-17" not in shown.text


def test_a_signed_in_browser_cannot_be_made_to_change_anything(client: httpx.Client, keys: dict[Scope, str]) -> None:
    answer = client.post("/v1/churn", json={"user_ids": ["u-17"]}, headers=basic(keys[Scope.PREDICT]))
    assert answer.status_code == 401


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as made:
        yield made


def test_a_browser_shows_the_running_service_s_sections_and_the_tab_key_alone_leads_to_each(
    browser: Browser, client: httpx.Client, keys: dict[Scope, str]
) -> None:
    assert client.post("/v1/churn", json={"user_ids": ["u-17"]}).status_code == 200
    browser.open(f"{client.base_url}/console", headers=basic(keys[Scope.ADMIN]))
    said = browser.ask("document.documentElement.outerHTML")
    assert set(SECTIONS) <= set(Reader(said).ids)
    assert "Calls of churn by duration" in said
    width = browser.ask("getComputedStyle(document.querySelector('main')).maxWidth")
    assert width == "1088px", "the page's policy lets its style through"
    assert len(browser.picture()) > 10_000
    for place in ("#main", *(f"#{name}" for name in SECTIONS)):
        browser.press("Tab")
        assert browser.ask("document.activeElement.getAttribute('href')") == place
        assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid", "one sees where one is"
        browser.press("Enter")
        assert browser.ask("location.hash") == place
        # Enter moved on to the section: the next link is reached from the one before it.
        browser.ask(f"document.querySelector('a[href=\"{place}\"]').focus()")


def test_a_browser_draws_the_plots_of_a_full_console(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "console.html"
    file.write_text(render(FULL))
    browser.open(file.as_uri())
    assert browser.ask("document.querySelector('polyline').getBoundingClientRect().width") > 100
    assert len(browser.picture()) > 10_000
