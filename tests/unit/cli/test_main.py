from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import redis

from aap.cli import main
from aap.cli.main import ENTRIES, sentence
from aap.config import SettingsError
from aap.infra.errors import LockHeld, RedisUnavailable
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
PANELS = ["Start", "Data", "Features", "Models", "Serve", "Consent", "Look"]


def aap(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aap.cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_help_lists_every_command_under_its_panel_in_order() -> None:
    done = aap("--help", COLUMNS="120")
    assert done.returncode == 0
    shown = [line for line in done.stdout.splitlines() if line.startswith("│ ")]
    named = [line.split()[1] for line in shown if not line.startswith("│ --")]
    assert named == list(ENTRIES)
    panels = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("╭─")]
    assert panels == ["Options", *PANELS]
    assert all(entry.help in done.stdout for entry in ENTRIES.values())


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, aap.cli.main\nsys.argv = ['aap', '--help']\n"
        "try: aap.cli.main.main()\nexcept SystemExit: pass\n"
        "print(sorted({'pandas', 'numpy', 'pydantic', 'redis', 'feast', 'mlflow', 'bentoml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
def test_every_command_can_be_loaded_and_explains_itself(entry: main.Entry) -> None:
    done = aap(entry.name, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_command_is_refused_with_code_2() -> None:
    done = aap("imprt")
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_cannot_be_used_is_named_with_code_2(home: Path) -> None:
    done = aap("status", AAP_PORT="high", AAP_HOME=str(home))
    assert done.returncode == 2
    assert done.stderr.startswith("Error: Unusable setting: AAP_PORT='high'")
    assert "Traceback" not in done.stderr


def test_a_redis_that_is_down_is_one_sentence_with_code_1(home: Path) -> None:
    done = aap("--home", str(home), "up", AAP_REDIS_URL="redis://:s3cret@127.0.0.1:1/0")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Redis at redis://127.0.0.1:1/0 doesn't answer")
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    done = aap("--home", str(tmp_path / "f"), "status")
    assert done.returncode == 2
    assert "is a file" in " ".join(done.stderr.replace("│", " ").split())


def test_status_of_an_empty_home_starts_and_writes_nothing(tmp_path: Path) -> None:
    done = aap("--home", str(tmp_path / "home"), "status")
    assert done.returncode == 0
    assert done.stdout.count("stopped") == 5
    assert not (tmp_path / "home").exists()


def run_failing(body: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`aap status`, whose function is replaced by one with this body."""
    program = f"""
        import sys, aap.cli.main, aap.cli.commands.services
        def status() -> None:
            {body}
        aap.cli.commands.services.status = status
        sys.argv = ["aap", "status"]
        aap.cli.main.main()
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_an_unforeseen_error_is_one_line_and_no_traceback_unless_asked_for() -> None:
    done = run_failing("raise ZeroDivisionError('a [b] c')")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: Something unexpected happened (ZeroDivisionError: a [b] c); run again with AAP_DEBUG=1 to see where.\n"
    )
    assert "Traceback" in run_failing("raise ZeroDivisionError", AAP_DEBUG="1").stderr


def test_a_library_s_warnings_are_shown_only_when_asked_for() -> None:
    warned = "import warnings; warnings.simplefilter('always'); warnings.warn('theirs to mend', DeprecationWarning)"
    assert run_failing(warned).stderr == ""
    assert "theirs to mend" in run_failing(warned, AAP_DEBUG="1").stderr


def test_ctrl_c_ends_with_130_and_says_nothing() -> None:
    # Whoever started pytest in the background may have had Ctrl-C ignored.
    done = run_failing(
        "import os, signal as s; s.signal(s.SIGINT, s.default_int_handler); os.kill(os.getpid(), s.SIGINT)"
    )
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SettingsError("Unusable setting: x."), "Unusable setting: x."),
        (RedisUnavailable("Redis is away."), "Redis is away."),
        (LockHeld("A retrain is running\n already."), "A retrain is running already."),
        (
            FileNotFoundError(2, "No such file or directory", "a.csv"),
            "a.csv: no such file or directory; check the path",
        ),
        (OSError(28, "No space left on device"), "No space left on the disk: free some"),
        (redis.exceptions.ConnectionError("refused."), "Redis can't be used (refused): see `aap status`"),
    ],
)
def test_known_errors_read_as_sentences(error: Exception, told: str) -> None:
    assert sentence(error).startswith(told)


def test_version_is_printed() -> None:
    done = aap("--version")
    assert (done.returncode, done.stdout.startswith("aap ")) == (0, True)
