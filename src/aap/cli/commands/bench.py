"""`aap bench`: the benchmarks of the repository's checkout, loaded from its folder; an installed aap has none."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from aap.project.loader import current_project

if TYPE_CHECKING:
    from typer._click.core import Command, Context

__all__ = ["BenchmarksMissing", "app"]


class BenchmarksMissing(ValueError):
    """There is no checkout to take the benchmarks from."""


class _Benchmarks(TyperGroup):
    """The group that `benchmarks/cli.py` declares, loaded when one of its commands is asked for."""

    def list_commands(self, ctx: Context) -> list[str]:
        return _declared().list_commands(ctx)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        return _declared().get_command(ctx, cmd_name)


app = typer.Typer(cls=_Benchmarks, help="Measure the platform beside its peers.", no_args_is_help=True)


def _declared() -> TyperGroup:
    checkout = current_project().root
    if not (checkout / "benchmarks" / "cli.py").is_file():
        raise BenchmarksMissing("Benchmarks live in the repository's checkout: run `aap bench` from there.")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))  # before others of that name, and for the processes that benchmarks start
    return typer.main.get_group(importlib.import_module("benchmarks.cli").app)
