"""The client and the types it shares with the service need httpx and msgspec, and nothing else of this repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CLIENT = ("aap_client.client", "aap_client.calls", "aap_client.responses", "aap_client.requests", "aap_client.privacy")
NEEDED = ("httpx", "msgspec", "httpcore", "h11", "anyio", "certifi", "idna", "typing_extensions")
"""The two, and what httpx itself needs."""

_ALONE = """
import importlib, sys
from importlib.abc import MetaPathFinder

client, needed = sys.argv[1].split(","), sys.argv[2].split(",")
folders = {name.rpartition(".")[0] for name in client}

class OnlyTheClient(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if name in client or name in folders or top in needed or top in sys.stdlib_module_names:
            return None
        raise ModuleNotFoundError(f"{name} is not there where the client is alone", name=name)

for name in [n for n in sys.modules if n.partition(".")[0] not in sys.stdlib_module_names and n != "__main__"]:
    del sys.modules[name]
sys.meta_path.insert(0, OnlyTheClient())
"""


def _alone(code: str) -> subprocess.CompletedProcess[str]:
    """`code` in a process that can import the client, what it needs, and the standard library."""
    argv = [sys.executable, "-c", _ALONE + code, ",".join(CLIENT), ",".join(NEEDED)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_client_is_imported_where_nothing_else_of_the_repository_is() -> None:
    done = _alone("for name in client: importlib.import_module(name)\nprint('imported')")
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


@pytest.mark.parametrize("other", ["aap.consent.purposes", "aap.serving.errors", "numpy"])
def test_everything_else_is_refused_there(other: str) -> None:
    done = _alone(f"importlib.import_module({other!r})")
    assert "is not there where the client is alone" in done.stderr
