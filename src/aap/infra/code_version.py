"""The code revision: which commit made a model or an answer."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

__all__ = ["WRITTEN", "code_revision"]

WRITTEN = "REVISION"
"""The file that says it where there is no git: the build of the image writes it."""


@cache
def code_revision(folder: Path) -> str | None:
    """The git commit checked out in `folder`, with `+changes` if files differ from it; without git, what `WRITTEN` says.

    None without either. It is asked once a process: code that changes later is not the code that runs.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return f"{commit}+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        file = folder / WRITTEN
        return (file.read_text(encoding="utf-8").strip() or None) if file.is_file() else None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
