"""What is published: a wheel and an sdist of the library and of the client, checked, and imported where nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")

pytestmark = pytest.mark.full


def run(*words: object, cwd: Path = ROOT, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AAP_", "PYTHON"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both distributions, built from what git knows of the tree."""
    folder, tree = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("tree")
    for name in filter(None, run("git", "ls-files", "-z").split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    for source in (tree, tree / "clients" / "python"):
        run(UV, "build", "--quiet", "--out-dir", folder, source)
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the locked packages and the two wheels, and nothing of the checkout."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", place)
    python = place / "bin" / "python"
    run(UV, "pip", "sync", "--quiet", "--python", python, ROOT / "requirements.lock")
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", *dist.glob("*.whl"))
    return python


def test_the_metadata_is_sound(dist: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.glob("*.whl"), *dist.glob("*.tar.gz"))


def test_a_wheel_holds_its_one_package_and_its_types(dist: Path) -> None:
    for pattern, package in (("aap-*.whl", "aap"), ("aap_client-*.whl", "aap_client")):
        (wheel,) = dist.glob(pattern)
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {package}
        assert f"{package}/py.typed" in names


def test_an_sdist_holds_nothing_but_what_git_knows(dist: Path) -> None:
    known = set(run("git", "ls-files").splitlines())
    (sdist,) = dist.glob("aap-*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in held if "." in name.rpartition("/")[2]} - known <= {"PKG-INFO"}


def test_the_wheel_alone_can_be_imported_whole(installed: Path, tmp_path: Path) -> None:
    text = """
import importlib, pkgutil, sys, aap, aap_client
names = [m.name for package in (aap, aap_client) for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names), aap.__file__)
"""
    count, place = run(installed, "-c", text, cwd=tmp_path).split()
    assert int(count) > 250
    assert str(ROOT) not in place


def test_its_command_works_outside_of_any_project(installed: Path, tmp_path: Path) -> None:
    command = installed.with_name("aap")
    assert run(command, "--version", cwd=tmp_path).startswith("aap ")
    assert "retrain" in run(command, "--help", cwd=tmp_path)
    done = subprocess.run([command, "retrain"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No project found" in done.stderr
    assert "Traceback" not in done.stderr


def test_its_command_works_on_a_project_anywhere(installed: Path, tmp_path: Path) -> None:
    told = run(
        installed.with_name("aap"), "--project", ROOT, "--home", tmp_path / "home", "features", "list", cwd=tmp_path
    )
    assert "days_since_last_purchase" in told


def test_versions_are_said_in_one_place_each(installed: Path, tmp_path: Path) -> None:
    text = """
import aap, aap_client, importlib.metadata as metadata
print(metadata.version("aap") == aap.__version__, metadata.version("aap-client") == aap_client.__version__)
"""
    assert run(installed, "-c", text, cwd=tmp_path).strip() == "True True"
