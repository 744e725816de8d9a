"""`deploy/`: linters accept what is in it, and its parts name the same image, home and user as the scheduled jobs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import aap.jobs.schedule as scheduled
from aap import __version__
from aap.cli.commands.jobs import schedule
from aap.config import Settings
from aap.infra.code_version import WRITTEN
from aap.jobs.schedule import SCHEDULED, Place

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_IMAGE = f"aap:{__version__}"
_PLACE = Place(Path("aap"), Path("/data"), Path("/opt/aap"), "aap", _IMAGE, "aap-home")
_LINTER = Path(sys.executable).with_name("hadolint")
Document = dict[str, Any]


def _documents() -> list[Document]:
    return [
        *yaml.safe_load_all((_DEPLOY / "kubernetes.yaml").read_text()),
        *yaml.safe_load_all((_DEPLOY / "secret.yaml").read_text()),
        *yaml.safe_load_all(scheduled.kubernetes(list(SCHEDULED.values()), _PLACE)),
    ]


def _named(kind: str, name: str) -> Document:
    (found,) = (one for one in _documents() if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def _pods() -> list[Document]:
    """What each document would start."""
    found = []
    for one in _documents():
        spec = one.get("spec", {}).get("jobTemplate", one).get("spec", {})
        if "template" in spec:
            found.append(spec["template"]["spec"])
    return found


@pytest.mark.parametrize("document", _documents(), ids=lambda d: f"{d['kind']} {d['metadata']['name']}")
def test_kubernetes_takes_every_document_and_knows_every_field(document: Document) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_validator_refuses_a_field_that_kubernetes_does_not_have() -> None:
    document = _named("Service", "aap")
    document["spec"]["prots"] = document["spec"].pop("ports")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_no_pod_runs_as_root_writes_its_image_or_gains_rights() -> None:
    pods = _pods()
    assert len(pods) == 1 + len(SCHEDULED)
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


def test_service_and_jobs_share_one_image_home_and_user_and_it_is_the_image_s() -> None:
    recipe = (_DEPLOY / "Dockerfile").read_text()
    (home,) = re.findall(r"AAP_HOME=(\S+)", recipe)
    (user,) = re.findall(r"^USER (\d+)$", recipe, re.MULTILINE)
    pods = _pods()
    assert {pod["securityContext"][name] for pod in pods for name in ("runAsUser", "runAsGroup", "fsGroup")} == {
        int(user)
    }
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    for container in containers:
        assert home in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["envFrom"] == [{"secretRef": {"name": "aap"}}]


def test_the_secret_and_the_volume_that_pods_name_are_declared_and_the_secret_says_nothing() -> None:
    told = _named("Secret", "aap")["stringData"]
    assert set(told) == {"AAP_REDIS_URL", "AAP_LEDGER_URL", "AAP_MLFLOW_URL"}
    assert set(told) <= {f"AAP_{name.upper()}" for name in Settings.model_fields}
    assert set(told.values()) == {""}, "a value in it would be everybody's who reads the repository"
    claims = {
        v["persistentVolumeClaim"]["claimName"] for p in _pods() for v in p["volumes"] if "persistentVolumeClaim" in v
    }
    (claim,) = claims
    assert _named("PersistentVolumeClaim", claim)["spec"]["accessModes"] == ["ReadWriteMany"]


def test_what_a_replica_says_of_itself_is_not_on_the_volume_that_all_of_them_mount() -> None:
    (container,) = _pods()[0]["containers"]
    (own,) = (one["value"] for one in container["env"] if one["name"] == "AAP_RUN_DIR")
    (home,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "home")
    (scratch,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "scratch")
    assert Path(own).is_relative_to(scratch)
    assert not Path(own).is_relative_to(home)


def test_the_build_of_the_image_writes_the_commit_to_where_the_code_looks_for_it() -> None:
    recipe = (_DEPLOY / "Dockerfile").read_text()
    assert re.search(rf'^ARG REVISION=\nRUN echo "\$REVISION" > {WRITTEN}$', recipe, re.MULTILINE)
    assert ".git" in (_DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert "--build-arg REVISION=$(git rev-parse HEAD)" in recipe
    composed = yaml.safe_load((_DEPLOY.parent / "compose.yaml").read_text())
    assert composed["services"]["serve"]["build"]["args"] == {"REVISION": "${REVISION:-}"}


def test_the_image_a_schedule_names_unasked_is_the_deployed_one(capsys: pytest.CaptureFixture[str]) -> None:
    schedule("kubernetes", as_json=True)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    deployed = _pods()[0]["containers"][0]["image"]
    assert f"image: {deployed}\n" in str(told["text"])


@pytest.mark.skipif(not _LINTER.exists(), reason="no hadolint beside this Python: make env")
def test_a_linter_finds_nothing_in_the_recipe_of_the_image() -> None:
    told = subprocess.run([_LINTER, "--no-color", _DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")
