"""A project is loaded by path, into a module space of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aap.config import ProjectUnusable, project_root
from aap.project.loader import Project, current_project

ROOT = Path(__file__).parents[3]


def write(folder: Path, **files: str) -> Path:
    """A project in `folder`; `a__b` names the module a/b.py."""
    (folder / "feature_repo").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text("[tool.aap]\n")
    for name, text in files.items():
        file = folder.joinpath(*name.split("__")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
    return folder


def test_two_projects_in_one_process_never_meet(tmp_path: Path) -> None:
    files = {"models__kinds": "from features import NAMES\nfrom models.words import WORD\nKINDS = (WORD, *NAMES)\n"}
    one = Project(
        write(tmp_path / "one", feature_repo__features="NAMES = ('a',)", models__words="WORD = 'one'", **files)
    )
    two = Project(
        write(tmp_path / "two", feature_repo__features="NAMES = ('b',)", models__words="WORD = 'two'", **files)
    )
    assert one.module("models.kinds").KINDS == ("one", "a")
    assert two.module("models.kinds").KINDS == ("two", "b")
    assert one.module("features") is one.module("feature_repo.features")
    assert one.module("models.kinds") is one.module("models.kinds")


def test_a_project_s_names_stay_its_own() -> None:
    """In a process that has loaded a project, `models` and `features` are whatever they were to everybody else."""
    text = (
        "import sys; from aap.project.loader import project_module; project_module('models'); "
        "print([n for n in ('models', 'features', 'serving', 'pipelines', 'feature_repo') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_module_of_somebody_else_s_is_not_taken_for_the_project_s(tmp_path: Path) -> None:
    """A site's own `models.py`, on the path, is neither used nor shadowed."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "models.py").write_text("OWNER = 'somebody else'\n")
    project = write(tmp_path / "shop", models__churn="OWNER = 'the shop'\n")
    text = (
        "import sys; from pathlib import Path; from aap.project.loader import Project; "
        f"ours = Project(Path({str(project)!r})).module('models.churn'); import models; print(ours.OWNER, models.OWNER)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {text}"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == "the shop somebody else"


def test_imports_inside_a_project_reach_its_modules_however_they_are_written(tmp_path: Path) -> None:
    project = Project(
        write(
            tmp_path,
            feature_repo__purposes="FRAUD = 'fraud'\n",
            feature_repo__features="from purposes import FRAUD\n",
            models__churn__model="WEEKS = 4\n",
            models__churn__evaluation=(
                "import models.churn.model\nfrom models.churn import model as absolute\nfrom . import model as relative\n"
                "from features import FRAUD\n"
                "def late() -> int:\n    from models.churn.model import WEEKS\n\n    return WEEKS\n"
                "SAME = models.churn.model is absolute is relative\n"
            ),
            models__churn____init__="",
        )
    )
    found = project.module("models.churn.evaluation")
    assert found.SAME
    assert found.late() == 4
    assert found.FRAUD == "fraud"


def test_an_exposed_project_is_imported_by_its_plain_names_and_only_once(tmp_path: Path) -> None:
    project = write(tmp_path, feature_repo__features="MADE = object()\n", models__churn="MADE = object()\n")
    text = (
        f"from pathlib import Path; from aap.project.loader import Project; ours = Project(Path({str(project)!r})); "
        "ours.expose(); import features, models.churn; from models import churn; "
        "print(features is ours.module('features'), models.churn is ours.module('models.churn') is churn)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True"


def test_a_missing_module_is_told_with_the_file_it_belongs_into(tmp_path: Path) -> None:
    project = Project(write(tmp_path, models__broken="import a_module_that_nobody_has\n"))
    with pytest.raises(
        ProjectUnusable, match=r"has no module pipelines\.retrain: it belongs into pipelines/retrain\.py"
    ):
        project.module("pipelines.retrain")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        project.module("models.broken")


def test_the_project_is_found_upwards_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write(tmp_path / "shop")
    within = project / "notebooks" / "deep"
    within.mkdir(parents=True)
    monkeypatch.delenv("AAP_PROJECT", raising=False)
    monkeypatch.delenv("AAP_HOME", raising=False)
    monkeypatch.chdir(within)
    assert project_root() == project
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectUnusable, match="No project found"):
        project_root()
    monkeypatch.setenv("AAP_HOME", str(project / "var"))
    assert project_root() == project
    monkeypatch.setenv("AAP_PROJECT", str(tmp_path))
    with pytest.raises(ProjectUnusable, match=r"AAP_PROJECT=.* is no project"):
        project_root()
    monkeypatch.setenv("AAP_PROJECT", str(project))
    assert project_root() == project


def test_this_repository_s_own_project_is_the_one_in_use() -> None:
    assert current_project().root == ROOT
