"""What a person at a terminal sees: results on standard output, progress bars, logs and errors on standard error.

Bars and colours appear only on a terminal; a cron job or a pipe sees plain lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rich.progress import Progress

    from aap.config import Settings

__all__ = ["Report", "configure_logs", "console", "counted", "err", "print_error", "print_json", "progress", "table"]

# A pipe has no width of its own; wide enough there that a table's rows stay one line each.
_PIPE_WIDTH = 200

console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else _PIPE_WIDTH)


class Report(Protocol):
    """Says how far a job is: `done` units of `total`, where that is known."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Move the bar."""


def progress() -> Progress:
    """A rich `Progress` for long work: description, bar, M of N, time elapsed and left; silent off a terminal.

    Use it as a context manager, then `add_task(description, total=n)` and `advance(task, done)`.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


@contextmanager
def counted(description: str) -> Iterator[Report]:
    """One progress bar for one job; yields `report(done, total)`, to be called with the units done so far."""
    with progress() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)


def table(
    *headings: str, rows: Iterable[Sequence[object]], title: str | None = None, numbers: Iterable[str] = ()
) -> None:
    """Print rows as a table on standard output; None shows as –, and the columns in `numbers` are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    right = set(numbers)
    grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        grid.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*("–" if cell is None else escape(str(cell)) for cell in row))
    console.print(grid)


def print_error(sentence: str) -> None:
    """One sentence on standard error, never wrapped, never interpreted as markup."""
    err.print(f"[bold red]Error:[/] {escape(sentence)}", soft_wrap=True, highlight=False)


def print_json(content: object) -> None:
    """One JSON document on one line of standard output; what JSON has no word for becomes text."""
    import json

    sys.stdout.write(json.dumps(content, ensure_ascii=False, default=str) + "\n")


def configure_logs(settings: Settings) -> None:
    """Send all logs to standard error: warnings to read, or JSON lines if so set."""
    from aap.infra.logging import line_formatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(line_formatter(as_json=settings.log_json))
    logging.basicConfig(handlers=[handler], level=logging.INFO if settings.log_json else logging.WARNING, force=True)
