"""The service as it runs in production: `serve` in a process of its own, BentoML below it, HTTP in front."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from aap.config import Settings, SettingsError
from aap.infra.paths import Layout
from aap.infra.redis.connection import connect, stop
from aap.security.api_keys import ApiKeys, Scope
from aap.serving.server import Listening, listening, serve, trust
from tests.waiting import PATIENCE_S, until

ROOT = Path(__file__).parents[3]
COMMAND = (
    "from pathlib import Path; from aap.config import load_settings; from aap.serving.server import serve; "
    "import sys; sys.exit(serve(load_settings(Path(sys.argv[1]))))"
)


class Service:
    """One running service and where it is."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.settings = Settings(home=home)
        home.mkdir(exist_ok=True)
        self.output = home / "output.log"
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, str(home)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **settings},
            )
        self.place = self._wait()

    def _wait(self) -> Listening:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            found = listening(self.settings)
            if found is not None:
                return found
            time.sleep(0.05)
        raise AssertionError(f"The service did not start:\n{self.output.read_text()}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("home"))
    yield made
    made.process.terminate()
    made.process.wait(PATIENCE_S)
    stop(made.settings)


@pytest.fixture(scope="module")
def key(service: Service) -> str:
    keys = ApiKeys(Layout(service.settings.home).api_keys)
    return keys.create("test", scopes=[Scope.PREDICT, Scope.CONSENT], now=service.settings.now())


@pytest.fixture
def http(service: Service, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.place.url, timeout=PATIENCE_S, headers={"X-API-Key": key}) as client:
        yield client


def test_it_listens_on_the_loopback_alone_and_says_where(service: Service) -> None:
    stored = json.loads((Layout(service.settings.home).run / "serve.json").read_text())
    assert stored == {"pid": service.process.pid, "port": service.place.port, "url": service.place.url}
    assert service.place.url == f"http://127.0.0.1:{service.place.port}"
    listeners = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
    bound = {line.split()[1] for line in listeners.splitlines()[1:] if line.split()[3] == "0A"}
    assert {b.split(":")[0] for b in bound if int(b.split(":")[1], 16) == service.place.port} == {"0100007F"}


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/schema.json", "/docs.json", "/healthz", "/static_content/index.css"]
)
def test_nothing_of_bentoml_is_served_without_a_key(service: Service, path: str) -> None:
    response = httpx.get(service.place.url + path)
    assert response.status_code == 401
    assert set(response.json()) == {"error"}


def test_it_lives_and_says_what_it_is_waiting_for(http: httpx.Client) -> None:
    assert http.get("/livez").json() == {"alive": True}
    until(lambda: "aap train" in http.get("/readyz").text, every_s=0.2)
    ready = http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["missing"]["model churn"] == "it has no champion; run `aap train` or `aap retrain`."


@pytest.mark.parametrize("endpoint", ["recommendations", "churn", "segments", "anomalies"])
def test_before_the_first_training_every_endpoint_says_what_to_run(http: httpx.Client, endpoint: str) -> None:
    test_it_lives_and_says_what_it_is_waiting_for(http)
    response = http.post(f"/v1/{endpoint}", json={"user_ids": ["1"]})
    assert response.status_code == 503
    assert "aap train" in response.json()["error"]


@pytest.mark.parametrize("kind", ["application/vnd.bentoml+pickle", "multipart/form-data; boundary=x", "text/plain"])
def test_pickles_and_forms_are_refused(http: httpx.Client, kind: str) -> None:
    assert http.post("/v1/churn", content=b"\x80\x04N.", headers={"Content-Type": kind}).status_code == 415


def test_a_choice_is_recorded_over_http(http: httpx.Client) -> None:
    body = {"user_id": "1", "purpose": "marketing.retention", "choice": "grant"}
    assert http.post("/v1/consent", json=body).json()["ledger_seq"] == 1
    assert http.post("/v1/consent", json={**body, "choice": "withdraw"}).json()["ledger_seq"] == 2


def test_metrics_of_the_worker_can_be_read_with_a_key(http: httpx.Client) -> None:
    http.post("/v1/churn", json={})
    assert 'aap_requests_total{endpoint="churn",status="422"}' in http.get("/metrics").text


def test_a_head_without_an_end_is_refused_by_the_very_server_that_runs(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.place.port), timeout=PATIENCE_S) as caller:
        head = b"GET /livez HTTP/1.1\r\nHost: x\r\nX: "
        # One byte more than there may be: what is not read when a connection is closed can take the answer with it.
        caller.sendall(head + b"y" * (65_537 - len(head)))
        assert caller.recv(4096).startswith(b"HTTP/1.1 431")


def test_it_ends_gracefully_and_leaves_nothing_behind(tmp_path: Path) -> None:
    service = Service(tmp_path)
    connect(service.settings).close()
    children = _group(service.process.pid)
    assert len(children) >= 2
    os.kill(service.place.pid, signal.SIGTERM)
    assert service.process.wait(PATIENCE_S) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert listening(service.settings) is None
    assert not (Layout(tmp_path).run / "serve.json").exists()
    assert "Traceback" not in service.output.read_text()
    stop(service.settings)


def test_a_call_that_has_begun_when_it_is_told_to_stop_is_answered(tmp_path: Path) -> None:
    service = Service(tmp_path)
    keys = ApiKeys(Layout(tmp_path).api_keys)
    key = keys.create("test", scopes=[Scope.CONSENT], now=service.settings.now())
    body = b'{"user_id": "1", "purpose": "marketing.retention", "choice": "grant"}'
    with socket.create_connection(("127.0.0.1", service.place.port), timeout=PATIENCE_S) as caller:
        head = f"POST /v1/consent HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
        caller.sendall(f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert caller.recv(65_536).startswith(b"HTTP/1.1 100"), "the call has begun once its body is asked for"
        caller.sendall(body[:20])
        os.kill(service.place.pid, signal.SIGTERM)
        time.sleep(0.7)
        caller.sendall(body[20:])
        answer = b"".join(iter(lambda: caller.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b'"ledger_seq":1' in answer
    assert service.process.wait(PATIENCE_S) == 0
    stop(service.settings)


def test_with_json_logs_every_line_of_ours_is_an_entry_also_with_quotes_and_line_ends_in_it(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted"\n2026-01-01 ERROR forged {folder}'
    shutil.copytree(ROOT / "conf", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    service = Service(tmp_path / "home", AAP_LOG_JSON="true", AAP_SETTINGS_DIR=str(folder))
    try:
        (folder / "flags.json").write_text("{")
        deadline, ours = time.monotonic() + PATIENCE_S, list[str]()
        while not ours and time.monotonic() < deadline:
            time.sleep(0.2)
            ours = [line for line in service.output.read_text().splitlines() if "flags.json" in line]
    finally:
        service.process.terminate()
        service.process.wait(PATIENCE_S)
        stop(service.settings)
    entries = [json.loads(line) for line in service.output.read_text().splitlines() if "aap." in line]
    assert any(str(folder) in e["event"] for e in entries), "one entry has it all"
    assert all({"time", "level", "logger", "event"} <= set(e) for e in entries)
    assert not [line for line in service.output.read_text().splitlines() if line.startswith("2026-01-01")]


def _workers(service: Service) -> set[int]:
    """The processes that answer."""
    found = set()
    for process in psutil.Process(service.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too, is none any more
            if any(word.startswith("_bentoml_impl.worker") for word in process.cmdline()):
                found.add(process.pid)
    return found


@pytest.mark.full
def test_a_worker_killed_with_sigkill_is_replaced_and_the_other_answers_meanwhile(tmp_path: Path) -> None:
    service = Service(tmp_path / "home", AAP_WORKERS="2")
    try:
        key = ApiKeys(Layout(service.settings.home).api_keys).create(
            "test", scopes=[Scope.PREDICT], now=service.settings.now()
        )
        before = _workers(service)
        assert len(before) == 2
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        deadline, answered = time.monotonic() + PATIENCE_S, 0
        # An address whose only server is dead would refuse a connection: none may be refused while one worker lives.
        while time.monotonic() < deadline and (len(_workers(service) - {killed}) < 2 or answered < 20):
            call = httpx.get(f"{service.place.url}/livez", headers={"X-API-Key": key}, timeout=PATIENCE_S)
            assert call.status_code == 200
            answered += 1
            time.sleep(0.05)
        after = _workers(service) - {killed}
        assert len(after) == 2
        assert after & before, "the other went on"
    finally:
        service.process.terminate()
        service.process.wait(PATIENCE_S)
        stop(service.settings)


@pytest.mark.full
def test_with_a_certificate_it_speaks_tls_1_3_and_nothing_older(tmp_path: Path) -> None:
    certificate, private = tmp_path / "certificate.pem", tmp_path / "key.pem"
    options = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=aap.test")
    subprocess.run(
        ["openssl", "req", *options, "-keyout", private, "-out", certificate], check=True, capture_output=True
    )
    named = {"AAP_TLS_CERTIFICATE": str(certificate), "AAP_TLS_KEY": str(private)}
    service = Service(tmp_path / "home", **named)
    trusted = trust(Settings(home=tmp_path, tls_certificate=certificate, tls_key=private))
    assert trusted is not None
    assert service.place.url.startswith("https://127.0.0.1:")
    with httpx.Client(base_url=service.place.url, verify=trusted) as client:
        response = client.get("/livez")
        assert response.json() == {"alive": True}
        assert response.headers["strict-transport-security"].startswith("max-age=")
    trusted.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", service.place.port), timeout=PATIENCE_S) as plain,
        pytest.raises(ssl.SSLError, match="protocol"),
    ):
        trusted.wrap_socket(plain)
    service.process.terminate()
    service.process.wait(PATIENCE_S)
    stop(service.settings)


@pytest.mark.parametrize(
    ("named", "says"),
    [({"tls_certificate": "missing.pem"}, "go together"), ({"tls_certificate": "a.pem", "tls_key": "b.pem"}, "a.pem")],
)
def test_a_certificate_that_cannot_be_used_is_said_before_anything_starts(
    tmp_path: Path, named: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        serve(Settings.model_validate({"home": tmp_path, **named}))


def test_a_mistake_in_the_flags_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_text("{")
    environment = {**os.environ, "AAP_SETTINGS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(tmp_path / "home")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is not JSON" in done.stderr


def _group(pid: int) -> set[int]:
    """The processes below `pid`."""
    import psutil

    return {child.pid for child in psutil.Process(pid).children(recursive=True)}
