"""`aap demo`: the whole platform on a year of real shop data, told as a short story."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from aap.cli.background_services import start_all, stop_all
from aap.cli.commands.imports import print_report
from aap.cli.commands.training import print_outcome
from aap.cli.terminal import console, counted, print_error
from aap.config import Settings, default_home, load_settings
from aap.project.loader import project_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aap.events.importing.importer import ImportReport
    from aap.jobs.run_state import RetrainResult

__all__ = ["Story", "demo"]

_PAGES = {"retrain": "Summary", "consistency": "Served", "drift": "Drift", "experiment": "Experiment"}
"""What a report is, by how its file's name begins."""


class Story(Protocol):
    """What the project's `pipelines.demo.story` has to tell the demo with."""

    settings: Settings

    def draw_choices(self, *, seed: int) -> tuple[int, int]:
        """Draw everyone's choices; returns (households, choices)."""

    def imports(self) -> Iterable[tuple[str, Path]]:
        """(table, mapping) of everything to import."""

    def bring_in(self, location: str, mapping: Path, *, progress: Callable[[int, int], None]) -> ImportReport:
        """Import one table."""

    def bring_in_again(self) -> ImportReport:
        """Import a table that is in already."""

    def retrain(self, say: Callable[[str, int, int], None]) -> RetrainResult:
        """Run the weekly retrain."""

    def visit(self) -> Iterable[str]:
        """Ask the running service, and tell what it says."""

    def figures(self, *, seconds: float, peak_bytes: int) -> list[tuple[str, str, str, bool]]:
        """(what, figure, goal, whether it was reached)."""


def demo(
    seed: Annotated[int, typer.Option(help="Seed of the consent choices, which are drawn: the data has none.")] = 7,
) -> None:
    """See it all: real shop data to live predictions, in minutes. Uses a folder of its own and starts it afresh."""
    import os

    from aap.infra.memory import PeakMemory
    from aap.infra.paths import Layout

    project = project_module("pipelines.demo.story")
    folder = project.DemoFolder(Path(os.environ["AAP_HOME"]) if "AAP_HOME" in os.environ else default_home() / "demo")
    with folder.held():
        began = time.perf_counter()
        if folder.in_use():
            _stop(folder.home)
        folder.start_afresh()
        settings = load_settings(folder.home)
        story: Story = project.Story(settings)
        with PeakMemory(Layout(folder.home)) as memory:
            try:
                _tell(story, seed=seed)
            finally:
                _stop(folder.home)
        _figures(story, seconds=time.perf_counter() - began, peak_bytes=memory.bytes)
        _where(folder.home)


def _tell(story: Story, *, seed: int) -> None:
    _heading("1. What people allow")
    households, choices = story.draw_choices(seed=seed)
    console.print(f"{choices:,} choices drawn for {households:,} households (seed {seed}); the data itself has none.")
    _heading("2. A year of purchases, by the importer anyone uses")
    for location, mapping in story.imports():
        with counted(f"Importing {Path(location).name}") as report:
            found = story.bring_in(location, mapping, progress=report)
        print_report(found)
    again = story.bring_in_again()
    console.print(f"Imported once more: {again.accepted.total():,} new, {again.duplicates:,} known already.\n")
    _heading("3. Features, drift, every model: the weekly retrain")
    with counted("Retraining") as report:
        result = story.retrain(lambda _step, done, total: report(done, total))
    built = result.steps["features"]
    for view in built.result["views"]:
        console.print(
            f"{view['view']}: {view['rows']:,} change points of {view['entities']:,} in {view['seconds']:.1f} s"
        )
    console.print()
    for name, record in result.steps.items():
        if name.startswith("train "):
            print_outcome(record.result)
    _heading("4. The service answers, and obeys")
    _start(story)
    for line in story.visit():
        console.print(line, soft_wrap=True, highlight=False)


def _start(story: Story) -> None:
    from aap.jobs.errors import PipelineError

    with counted("Starting the service"):
        problems = start_all(story.settings)
    if problems:
        raise PipelineError(" ".join(problems))


def _stop(home: Path) -> None:
    stop_all(load_settings(home))


def _heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/]\n")


def _figures(story: Story, *, seconds: float, peak_bytes: int) -> None:
    _heading("What it took")
    limits = story.figures(seconds=seconds, peak_bytes=peak_bytes)
    for name, value, limit, kept in limits:
        console.print(f"{name}: {value} (goal {limit}{'' if kept else ' – missed'})", highlight=False)
    missed = [name for name, _, _, kept in limits if not kept]
    if missed:
        print_error(f"Goals missed: {', '.join(missed)}.")


def _where(home: Path) -> None:
    settings = load_settings(home)
    _heading("Where to look")
    shown = home.relative_to(Path.cwd()) if home.is_relative_to(Path.cwd()) else home
    console.print(
        f"aap --home {shown} up      brings everything up again (down stops it):", soft_wrap=True, highlight=False
    )
    console.print(f"  API page   http://127.0.0.1:{settings.port}/docs", highlight=False)
    console.print(f"  MLflow     http://127.0.0.1:{settings.mlflow_port}", highlight=False)
    console.print(f"  Feast UI   http://127.0.0.1:{settings.feast_port}", highlight=False)
    for page in sorted((home / "reports").rglob("*.html")):
        kind = _PAGES.get(page.name.partition("-")[0], "Report")
        console.print(f"  {kind:10} {shown / page.relative_to(home)}", soft_wrap=True, highlight=False)
