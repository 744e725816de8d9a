"""`aap experiment`: what runs, what it shows so far, and the switch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from aap.cli.terminal import console, counted, table
from aap.config import load_settings

if TYPE_CHECKING:
    from aap.experiments.analysis.results import Readout

__all__ = ["app"]

app = typer.Typer(help="List experiments, read them out, stop and resume them.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="A flag's name; `aap experiment list` shows them.", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


@app.command("list")
def list_experiments(as_json: _Json = False) -> None:
    """List every flag: whether it runs, how it splits people, how many were exposed."""
    from aap.experiments.service import open_experiments

    settings = load_settings()
    now = settings.now()
    lines = open_experiments(settings).all(as_of=now, now=now)
    rows = [
        (
            line.flag.name,
            line.state,
            line.flag.weights.replace(",", ", ") or None,
            f"{line.share} %",
            ", ".join(f"{v} {n:,}" for v, n in line.people.items()),
            f"{line.since:%Y-%m-%d}" if line.since else None,
            line.plan.metric,
            line.stop.reason if line.stop else None,
        )
        for line in lines
    ]
    table("experiment", "state", "split", "of", "people exposed", "since", "judged by", "why stopped", rows=rows)
    if as_json:
        told = [
            {
                "experiment": line.flag.name,
                "state": line.state,
                "split": dict(line.flag.split),
                "share": line.share,
                "people": line.people,
                "since": line.since.isoformat() if line.since else None,
                "metric": line.plan.metric,
                "why_stopped": line.stop.reason if line.stop else None,
            }
            for line in lines
        ]
        typer.echo(json.dumps({"experiments": told}))


@app.command()
def readout(
    name: _Name,
    look_only: Annotated[bool, typer.Option("--look-only", help="Don't stop it if a guardrail is broken.")] = False,
    as_json: _Json = False,
) -> None:
    """Say what an experiment shows so far, and write its page. A broken guardrail stops it.

    Look as often as you like: the interval holds at all looks together. `docs/experiments.md` says what it means.
    """
    from aap.experiments.analysis.report import to_dict, write_report
    from aap.experiments.service import open_experiments
    from aap.infra.paths import Layout

    settings = load_settings()
    now = settings.now()
    with counted("Reading out"):
        found = open_experiments(settings).readout(name, as_of=now, now=now, act=not look_only)
        page, _ = write_report(found, folder=Layout(settings.home).reports)
    _tell(found)
    console.print(f"Page: {page}", soft_wrap=True, highlight=False)
    if as_json:
        typer.echo(json.dumps(to_dict(found)))


@app.command()
def stop(
    name: _Name,
    reason: Annotated[str, typer.Option(help="Why; it is shown in the list.")] = "Stopped by hand.",
) -> None:
    """Give everybody the default variant, from the next call on, in every process."""
    from aap.experiments.service import open_experiments

    settings = load_settings()
    if open_experiments(settings).stop(name, reason=reason, now=settings.now()):
        console.print(f"{name} is stopped; everybody gets the default variant.")
    else:
        console.print(f"{name} was stopped before; `aap experiment list` says why.")


@app.command()
def resume(name: _Name) -> None:
    """Let a stopped experiment go on; who was in it keeps their variant."""
    from aap.experiments.service import open_experiments

    resumed = open_experiments(load_settings()).resume(name)
    console.print(f"{name} goes on." if resumed else f"{name} was not stopped.")


@app.command()
def watch(as_json: _Json = False) -> None:
    """Check the guardrails of everything that runs: stop what breaks one, let growing shares grow.

    `aap live` does so by itself every few minutes.
    """
    from aap.experiments.analysis.report import to_dict, write_report
    from aap.experiments.service import open_experiments
    from aap.infra.paths import Layout

    settings = load_settings()
    now = settings.now()
    with counted("Watching") as report:
        found = open_experiments(settings).watch(as_of=now, now=now)
        for done, one in enumerate(found, start=1):
            write_report(one, folder=Layout(settings.home).reports)
            report(done, len(found))
    for one in found:
        _tell(one)
    if not found:
        console.print("No experiment runs.")
    if as_json:
        typer.echo(json.dumps({"readouts": [to_dict(one) for one in found]}))


def _tell(found: Readout) -> None:
    """A readout in a few lines."""
    from aap.experiments.analysis.report import sentence

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    people = ", ".join(f"{v} {n:,}" for v, n in found.split.people.items()) or "nobody"
    say(f"{found.flag.name}: exposed {people}.")
    if not found.split.sound and not found.comparisons:
        say(found.split.why)
    for comparison in found.comparisons:
        say(sentence(found, comparison))
    if not found.comparisons:
        say(f"Nobody's {found.plan.window_days:g} days after exposure are over yet; there is nothing to compare.")
    if found.excluded:
        say("Left out: " + ", ".join(f"{n:,} ({why})" for why, n in found.excluded.items()) + ".")
    if found.share is not None:
        grew = found.share != found.share_before
        say(f"It takes in {found.share} % of people{f', after {found.share_before} %' if grew else ''}.")
        if found.held_by:
            say(f"It doesn't grow: {found.held_by}")
    if found.stopped_now and found.stop:
        say(f"Stopped now: {found.stop.reason}")
    elif found.stop:
        say(f"Stopped by {found.stop.by} at {found.stop.at:%Y-%m-%d %H:%M}: {found.stop.reason}")
