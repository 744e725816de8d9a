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

_OURS = ("aap", "aap_client", "benchmarks")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table of contents: where the command is, and what it is for.

    `attribute` of the command module `module` is a function (one command) or a `typer.Typer` (a group of commands).
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
        found = getattr(importlib.import_module(f"aap.cli.commands.{self.module}"), self.attribute)
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
            "demo",
            "demo",
            "Start",
            "See it all: real shop data to live predictions, in minutes.",
        ),
        Entry(
            "up",
            "services",
            "up",
            "Start",
            "Start Redis, the prediction service, live features and the pages.",
        ),
        Entry("down", "services", "down", "Start", "Stop everything that `up` started."),
        Entry("status", "services", "status", "Start", "What runs, where, since when."),
        Entry(
            "import",
            "imports",
            "import_",
            "Data",
            "Import a CSV, Parquet file or SQL table by a mapping.",
        ),
        Entry("rejected", "imports", "rejected", "Data", "List or replay the rows that didn't fit."),
        Entry("features", "features", "app", "Features", "Build, publish and look at features."),
        Entry(
            "live",
            "services",
            "live",
            "Features",
            "Fold live events into the online features as they come.",
        ),
        Entry("train", "training", "train", "Models", "Train one model, or all, beside their baselines."),
        Entry("models", "models", "app", "Models", "List model versions; promote or roll back."),
        Entry(
            "retrain",
            "training",
            "retrain",
            "Models",
            "The weekly job: import, features, drift, train, gate.",
        ),
        Entry("job", "jobs", "job", "Models", "Run the daily or the monthly job once."),
        Entry("schedule", "jobs", "schedule", "Models", "Print the jobs for cron, systemd or Kubernetes."),
        Entry(
            "tune",
            "training",
            "tune",
            "Models",
            "Search for better training settings, on earlier days only.",
        ),
        Entry("serve", "services", "serve", "Serve", "Run the prediction service in this terminal."),
        Entry(
            "experiment",
            "experiments",
            "app",
            "Serve",
            "List experiments, read them out, stop and resume them.",
        ),
        Entry("keys", "api_keys", "app", "Serve", "Create and revoke the API keys of applications."),
        Entry(
            "keyring",
            "keyring",
            "app",
            "Serve",
            "List and rotate the keys that seal archive and ids on disk.",
        ),
        Entry(
            "audit",
            "audit",
            "app",
            "Serve",
            "Show who read or changed what, and check the log for tampering.",
        ),
        Entry(
            "replay",
            "predictions",
            "replay",
            "Serve",
            "Make an answer again from its record, bit for bit.",
        ),
        Entry(
            "consent",
            "consent",
            "app",
            "Consent",
            "Grant, withdraw and look up consent; verify the ledger.",
        ),
        Entry("export", "subject", "export", "Consent", "Hand over everything held of a person."),
        Entry("import-person", "subject", "import_person", "Consent", "Take in one person's export."),
        Entry("rectify", "subject", "rectify", "Consent", "Correct a past event of a person."),
        Entry(
            "erase",
            "subject",
            "erase",
            "Consent",
            "Erase a person everywhere, with a signed certificate.",
        ),
        Entry("retention", "subject", "retention", "Consent", "Delete what no purpose may use any more."),
        Entry(
            "console",
            "dashboard",
            "dashboard",
            "Look",
            "How everything is, on one page in the browser.",
        ),
        Entry("bench", "bench", "app", "Look", "Measure the platform beside its peers."),
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
    project: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the project; [dim]AAP_PROJECT, else found from here upwards[/].",
            show_default=False,
            file_okay=False,
        ),
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
    if project is not None:
        os.environ["AAP_PROJECT"] = str(project.expanduser().resolve())


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
    """Whether it is declared in the library, in the project, or in a benchmark."""
    from aap.project.loader import is_project_module  # not before there is an error: it loads the settings

    packages = [base.__module__.partition(".")[0] for base in type(error).__mro__]
    return any(package in _OURS or is_project_module(package) for package in packages)


def _is_wrong_input(error: Exception) -> bool:
    """Whether the caller can put it right by changing the command, a setting or a file: ours are `ValueError`s then."""
    return isinstance(error, FileNotFoundError) or (_is_ours(error) and isinstance(error, ValueError))


if __name__ == "__main__":
    main()
