"""A measurement in a process of its own, with limits of time and memory and the peak memory of all it starts."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

__all__ = ["Measured", "Unfinished", "measure_in_child"]

_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """What the measured function returned, and the peak of resident memory of its process and all below it, in MB."""

    result: Any
    peak_mb: int


class Unfinished(Exception):
    """The measured function was ended before it was done; the message says at which limit."""


def measure_in_child(measured: Callable[..., Any], *arguments: Any, limit_s: float, limit_mb: int = 16_000) -> Measured:
    """Call a function of a module in a new process.

    Raises `Unfinished` when it takes longer than `limit_s` or more memory than `limit_mb`, `RuntimeError` with what it
    raised. The memory is looked at twenty times a second.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, measured, arguments))
    process.start()
    theirs.close()
    ends, peak = time.monotonic() + limit_s, 0
    try:
        tree = psutil.Process(process.pid)
        while not ours.poll(_EVERY_S):
            peak = max(peak, _resident(tree))
            if peak > limit_mb * 1_000_000:
                raise Unfinished(f"more than {limit_mb:,} MB")
            if time.monotonic() > ends:
                raise Unfinished(f"more than {limit_s:g} s")
        failed, result = ours.recv()
    except EOFError:
        raise RuntimeError("The measuring process died.") from None
    finally:
        _end(process)
    if failed:
        raise RuntimeError(result)
    return Measured(result, round(peak / 1e6))


def _run(answer: Connection, measured: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer.send((False, measured(*arguments)))
    except Exception as error:
        answer.send((True, f"{type(error).__name__}: {error}"))


def _resident(tree: psutil.Process) -> int:
    total = 0
    try:
        for process in (tree, *tree.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return total


def _end(process: Any) -> None:
    """Stop it and what it started."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    for one in (*below, process):
        try:
            one.terminate()
        except psutil.NoSuchProcess:
            continue
    process.join()
