"""The `aap` command: its table of contents, its global options, and how it ends.

A command's module is imported when the command runs, so `aap --help` doesn't wait for the libraries behind it. Whatever
goes wrong ends in one sentence on standard error; `AAP_DEBUG=1` shows the traceback as well.

Exit codes: 0 done, 1 it failed, 2 the command, a setting or an input file is wrong, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from aap.cli.terminal import print_error

if TYPE_CHECKING:
    from typer._click.core import Command, Context

__all__ = ["ENTRIES", "Entry", "app", "main", "sentence"]

_OURS = frozenset(
    {
        *("settings", "project", "storage", "security", "consent", "events", "feature_repo"),
        *("models", "experiments", "privacy", "serving", "pipelines", "cli", "benchmarks"),
    }
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table of contents: where the command is, and what it is for.

    `attribute` of `module` is a function (one command) or a `typer.Typer` (a group of commands).
    """

    name: str
    module: str
    attribute: str
    panel: str
    help: str

    def line(self) -> TyperCommand:
        """The entry as `aap --help` shows it, without importing its module."""
        return TyperCommand(self.name, help=self.help, rich_help_panel=self.panel)

    def load(self) -> Command:
        """The command itself, its module imported."""
        found = getattr(importlib.import_module(self.module), self.attribute)
        if isinstance(found, typer.Typer):
            command: Command = typer.main.get_group(found)
        else:
            single = typer.Typer(add_completion=False)
            single.command(self.name)(found)
            command = typer.main.get_command(single)
        command.name = self.name
        command.help = command.help or self.help
        return command


ENTRIES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "demo",
            "aap.cli.commands.demo",
            "demo",
            "Start",
            "See it all: real shop data to live predictions, in minutes.",
        ),
        Entry(
            "up",
            "aap.cli.commands.services",
            "up",
            "Start",
            "Start Redis, the prediction service, live features and the pages.",
        ),
        Entry("down", "aap.cli.commands.services", "down", "Start", "Stop everything that `up` started."),
        Entry("status", "aap.cli.commands.services", "status", "Start", "What runs, where, since when."),
        Entry(
            "import",
            "aap.cli.commands.imports",
            "import_",
            "Data",
            "Import a CSV, Parquet file or SQL table by a mapping.",
        ),
        Entry("rejected", "aap.cli.commands.imports", "rejected", "Data", "List or replay the rows that didn't fit."),
        Entry("features", "aap.cli.commands.features", "app", "Features", "Build, publish and look at features."),
        Entry(
            "live",
            "aap.cli.commands.services",
            "live",
            "Features",
            "Fold live events into the online features as they come.",
        ),
        Entry(
            "train", "aap.cli.commands.training", "train", "Models", "Train one model, or all, beside their baselines."
        ),
        Entry("models", "aap.cli.commands.models", "app", "Models", "List model versions; promote or roll back."),
        Entry(
            "retrain",
            "aap.cli.commands.training",
            "retrain",
            "Models",
            "The weekly job: import, features, drift, train, gate.",
        ),
        Entry("job", "aap.cli.commands.jobs", "job", "Models", "Run the daily or the monthly job once."),
        Entry(
            "schedule", "aap.cli.commands.jobs", "schedule", "Models", "Print the jobs for cron, systemd or Kubernetes."
        ),
        Entry(
            "tune",
            "aap.cli.commands.training",
            "tune",
            "Models",
            "Search for better training settings, on earlier days only.",
        ),
        Entry("serve", "aap.cli.commands.services", "serve", "Serve", "Run the prediction service in this terminal."),
        Entry(
            "experiment",
            "aap.cli.commands.experiments",
            "app",
            "Serve",
            "List experiments, read them out, stop and resume them.",
        ),
        Entry("keys", "aap.cli.commands.api_keys", "app", "Serve", "Create and revoke the API keys of applications."),
        Entry(
            "keyring",
            "aap.cli.commands.keyring",
            "app",
            "Serve",
            "List and rotate the keys that seal archive and ids on disk.",
        ),
        Entry(
            "audit",
            "aap.cli.commands.audit",
            "app",
            "Serve",
            "Show who read or changed what, and check the log for tampering.",
        ),
        Entry(
            "replay",
            "aap.cli.commands.predictions",
            "replay",
            "Serve",
            "Make an answer again from its record, bit for bit.",
        ),
        Entry(
            "consent",
            "aap.cli.commands.consent",
            "app",
            "Consent",
            "Grant, withdraw and look up consent; verify the ledger.",
        ),
        Entry("export", "aap.cli.commands.subject", "export", "Consent", "Hand over everything held of a person."),
        Entry("import-person", "aap.cli.commands.subject", "import_person", "Consent", "Take in one person's export."),
        Entry("rectify", "aap.cli.commands.subject", "rectify", "Consent", "Correct a past event of a person."),
        Entry(
            "erase",
            "aap.cli.commands.subject",
            "erase",
            "Consent",
            "Erase a person everywhere, with a signed certificate.",
        ),
        Entry(
            "retention", "aap.cli.commands.subject", "retention", "Consent", "Delete what no purpose may use any more."
        ),
        Entry(
            "console",
            "aap.cli.commands.dashboard",
            "dashboard",
            "Look",
            "How everything is, on one page in the browser.",
        ),
        Entry("bench", "aap.cli.commands.bench", "app", "Look", "Measure the platform beside its peers."),
    )
}


class _Contents(TyperGroup):
    """A group that knows its commands by their entries and imports one only to run it."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(ENTRIES)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        entry = ENTRIES.get(cmd_name)
        return None if entry is None else entry.line()

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, ENTRIES[name].load() if name is not None and name in ENTRIES else command, rest


app = typer.Typer(cls=_Contents, no_args_is_help=True, rich_markup_mode="rich", add_completion=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aap {importlib.metadata.version('aap')}")
        raise typer.Exit


@app.callback()
def _global_options(
    home: Annotated[
        Path | None,
        typer.Option(help="Folder for all data; [dim]AAP_HOME, else ./var[/].", show_default=False, file_okay=False),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """A consent-aware feature store and model-serving platform.

    Every command obeys the consent that people gave, and says so when it refuses. Start with [bold]aap demo[/].
    """
    if home is not None:
        os.environ["AAP_HOME"] = str(home.expanduser().resolve())


def main() -> None:
    """Run the command line and exit with its code."""
    if not os.environ.get("AAP_DEBUG"):
        # MLflow's and Evidently's deprecations of other libraries are nothing a person at a terminal can act on.
        # A filter would not do: libraries put filters of their own before it.
        warnings.simplefilter("ignore")
        warnings.showwarning = lambda *_, **__: None
    try:
        typer.main.get_command(app)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("AAP_DEBUG"):
            raise
        print_error(sentence(error))
        sys.exit(2 if _is_wrong_input(error) else 1)


def sentence(error: Exception) -> str:
    """What to tell a person about an error.

    An exception declared in one of our packages carries its sentence; of others, the ones that a person can do
    something about are explained.
    """
    text = " ".join(str(error).split())
    if _is_ours(error):
        return text
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"No space left on the disk{f' for {error.filename}' if error.filename else ''}: free some and try again."
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {(error.strerror or type(error).__name__).lower()}; check the path and its owner."
    if type(error).__module__.startswith("redis."):
        return f"Redis can't be used ({text.rstrip('.')}): see `aap status`, and start it with `aap up`."
    return f"Something unexpected happened ({type(error).__name__}: {text}); run again with AAP_DEBUG=1 to see where."


def _is_ours(error: Exception) -> bool:
    return any(base.__module__.partition(".")[0] in _OURS for base in type(error).__mro__)


def _is_wrong_input(error: Exception) -> bool:
    """Whether the caller can put it right by changing the command, a setting or a file: ours are `ValueError`s then."""
    return isinstance(error, FileNotFoundError) or (_is_ours(error) and isinstance(error, ValueError))


if __name__ == "__main__":
    main()
