"""Loading a project by path: the modules of one company, in a module space of their own.

A project is a folder whose `pyproject.toml` has a table `[tool.aap]`. The library asks it for modules by their names there:
`features` or any other module of `feature_repo/`, `models`, `serving.endpoints`, `pipelines.retrain`. Each is imported once,
under a private name that begins with the project's own prefix, so that two projects in one process don't meet, and no module
called `models` of somebody else is shadowed or found by mistake.

Inside the project imports are written as usual: `from models.churn.model import Churn`, `from features import FEATURES` (as
Feast wants it, which has `feature_repo/` on its path), or relative to a package. An absolute import of one of the project's
own names is resolved in its module space; every other import is Python's.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from aap.config import ProjectUnusable, project_root

__all__ = ["Project", "current_project", "is_project_module", "project_conf", "project_module"]

_PREFIX = "aap_project_"
_PACKAGES = ("models", "serving", "pipelines")
"""Folders of a project that are packages."""
_REPOSITORY = "feature_repo"
"""The Feast repository: its modules are top-level, as Feast imports them."""


class Project:
    """One project: its folder, and its modules.

    >>> project = Project(Path("."))
    >>> project.module("models").__name__ == f"{project.prefix}.models"
    True
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.prefix = _PREFIX + hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        files = [*(self.root / _REPOSITORY).glob("*.py"), *(self.root / _REPOSITORY).glob("*/__init__.py")]
        self._in_repository = frozenset(file.parent.name if file.stem == "__init__" else file.stem for file in files)
        if self.prefix not in sys.modules:
            space = ModuleType(self.prefix, f"Modules of the project in {self.root}.")
            space.__path__ = [str(self.root)]
            sys.modules[self.prefix] = space
            sys.meta_path.insert(0, _SpaceFinder(self))

    @property
    def conf(self) -> Path:
        """The folder of the project's YAML and JSON files."""
        return self.root / "conf"

    def module(self, name: str) -> ModuleType:
        """The module `name`, as the project itself would import it.

        Raises `ProjectUnusable` where the project has no such module; what goes wrong inside a module is raised as it is.
        """
        private = self.private_name(name)
        if private is None or not self._has(private):
            raise ProjectUnusable(
                f"The project in {self.root} has no module {name}: it belongs into {self._file(name)}."
            )
        return importlib.import_module(private)

    def _has(self, private: str) -> bool:
        try:
            return importlib.util.find_spec(private) is not None
        except ModuleNotFoundError as error:
            if error.name is None or not private.startswith(error.name):
                raise  # a package above it imports what isn't there
            return False

    def private_name(self, name: str) -> str | None:
        """What the project's module `name` is called in `sys.modules`; None for a name that isn't the project's."""
        top = name.partition(".")[0]
        if top in _PACKAGES or top == _REPOSITORY:
            return f"{self.prefix}.{name}"
        return f"{self.prefix}.{_REPOSITORY}.{name}" if top in self._in_repository else None

    def expose(self) -> None:
        """Let this process import the project's modules by their plain names, for tests and benchmarks of the project.

        `import models.churn.model` is then the very module that the library uses, not a second copy of it.
        """
        if not any(isinstance(finder, _AliasFinder) and finder.project is self for finder in sys.meta_path):
            sys.meta_path.insert(0, _AliasFinder(self))

    def _file(self, name: str) -> str:
        folders = name.split(".")
        within = folders if folders[0] in (*_PACKAGES, _REPOSITORY) else [_REPOSITORY, *folders]
        return "/".join(within) + ".py"


class _SpaceFinder(MetaPathFinder):
    """Finds the modules of one project below its prefix, and has their absolute imports of each other resolved there."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._builtins: Mapping[str, Any] = {**vars(builtins), "__import__": self._import}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{self._project.prefix}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SpaceLoader(spec.loader.name, spec.loader.path, self._builtins)
        return spec

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        private = self._project.private_name(name) if level == 0 else None
        if private is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if fromlist:
            return builtins.__import__(private, globals, locals, fromlist, 0)
        importlib.import_module(private)
        return sys.modules[private.removesuffix(name.removeprefix(name.partition(".")[0]))]


class _SpaceLoader(SourceFileLoader):
    """Python's own loader, but for the `__import__` that the module's import statements call."""

    def __init__(self, fullname: str, path: str, names: Mapping[str, Any]) -> None:
        super().__init__(fullname, path)
        self._names = names

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._names
        super().exec_module(module)


class _AliasFinder(MetaPathFinder):
    """Finds a project's modules by their plain names."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        private = self.project.private_name(fullname)
        found = importlib.util.find_spec(private) if private else None
        if found is None:
            return None
        return ModuleSpec(
            fullname,
            _AliasLoader(found.name),
            origin=found.origin,
            is_package=found.submodule_search_locations is not None,
        )


class _AliasLoader(Loader):
    """Hands out a module that is loaded already, under another name."""

    def __init__(self, private: str) -> None:
        self._private = private
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._private)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just put the alias's there


def is_project_module(name: str) -> bool:
    """Whether a module's full name, as in `sys.modules`, is that of a project's module, whichever project's."""
    return name.startswith(_PREFIX)


@cache
def current_project() -> Project:
    """The project of this process: `AAP_PROJECT`, else found from the working directory or the home upwards.

    Raises `ProjectUnusable` where there is none.
    """
    return Project(project_root())


def project_module(name: str) -> ModuleType:
    """The module `name` of this process's project, such as `pipelines.retrain`. Raises `ProjectUnusable`."""
    return current_project().module(name)


def project_conf() -> Path:
    """The folder of this process's project that has its YAML and JSON files."""
    return current_project().conf
