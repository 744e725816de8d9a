"""The code revision: which commit made a model or an answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["code_revision"]


def code_revision(folder: Path) -> str | None:
    """The git commit checked out in `folder`, with `+changes` if files differ from it; None without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return f"{commit}+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
