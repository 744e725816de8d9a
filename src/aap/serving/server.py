"""Running the service: `bentoml serve` as its own process group, watched until it ends.

`<home>/run/serve.json`, or the same below `AAP_RUN_DIR`, says where it listens, from the moment it answers until it stops.
SIGTERM and Ctrl-C let the calls in flight finish.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import FrameType

from aap.config import Settings, SettingsError
from aap.experiments.flags.definition import read_flags
from aap.infra.atomic_files import make_folder, write_atomically
from aap.infra.errors import ProcessFailed
from aap.infra.paths import own_run
from aap.infra.process.detached import free_port
from aap.infra.redis.connection import ensure_running
from aap.project.loader import current_project

__all__ = ["Listening", "listening", "serve", "trust"]

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 30.0
_COMMAND = (sys.executable, "-m", "bentoml", "serve", "--quiet", "serving.service:AAP")


@dataclass(frozen=True, slots=True)
class Listening:
    """Contents of `serve.json`: the process to end with SIGTERM, and where the service answers."""

    pid: int
    port: int
    url: str


def serve(settings: Settings, *, ready: Callable[[Listening], None] = lambda _: None) -> int:
    """Serve until the process is told to stop; returns the exit status. `ready` is called once the service answers.

    Raises `FlagsUnusable`, `SettingsError` or a `StorageError` for what a person must correct first, and
    `ProcessFailed` when the server doesn't come up.
    """
    _check_host(settings)
    _check_tls(settings)
    read_flags(settings.settings_dir / "flags.json")
    if settings.flagd_url:
        from aap.experiments.flags.openfeature_evaluator import server_of  # slow to import

        server_of(settings.flagd_url)
    ensure_running(settings)
    state = make_folder(own_run(settings)) / "serve.json"
    port = settings.port or free_port(settings.host)
    project = current_project().root
    server = subprocess.Popen(
        [
            *_COMMAND,
            "--host",
            settings.host,
            "--port",
            str(port),
            "--working-dir",
            str(project),
            *_tls_options(settings),
        ],
        env=_environment(settings),
        cwd=project,
        start_new_session=True,
    )
    try:
        with _stop_on_signals(server) as told:
            scheme = "https" if settings.tls_certificate else "http"
            place = Listening(os.getpid(), port, f"{scheme}://{_bracketed(settings.host)}:{port}")
            if not _comes_up(server, place, trust=trust(settings)):
                if told:
                    return 0
                raise ProcessFailed(f"The service can't start on {place.url}: its output says why.")
            write_atomically(state, json.dumps(asdict(place)).encode(), durable=False)
            ready(place)
            status = server.wait()
            return 0 if told else status
    finally:
        state.unlink(missing_ok=True)
        _stop(server)


def listening(settings: Settings) -> Listening | None:
    """Where the service of this home answers, or None when none runs."""
    try:
        stored = json.loads((own_run(settings) / "serve.json").read_bytes())
        found = Listening(int(stored["pid"]), int(stored["port"]), str(stored["url"]))
        os.kill(found.pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _environment(settings: Settings) -> dict[str, str]:
    """The server's environment: our settings, BentoML's files under home, no telemetry, one thread a library."""
    return {
        **os.environ,
        **{f"AAP_{k.upper()}": str(v) for k, v in settings.model_dump(mode="json").items() if v is not None},
        "AAP_PROJECT": str(current_project().root),
        "BENTOML_HOME": str(make_folder(own_run(settings) / "bentoml")),
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _check_host(settings: Settings) -> None:
    try:
        ipaddress.ip_address(settings.host)
    except ValueError:
        raise SettingsError(f"AAP_HOST={settings.host!r} is not an IP address: use 127.0.0.1, for example.") from None


def trust(settings: Settings) -> ssl.SSLContext | None:
    """What a client on this machine checks the service by: its own certificate, whatever name is in it."""
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(cafile=str(settings.tls_certificate))
    context.check_hostname = False  # we ask by address, and trust this certificate alone
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _check_tls(settings: Settings) -> None:
    """Raise `SettingsError` where certificate and key can't be used together."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise SettingsError("AAP_TLS_CERTIFICATE and AAP_TLS_KEY go together: set both, or neither.")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"AAP_TLS_CERTIFICATE={str(certificate)!r} with AAP_TLS_KEY={str(key)!r} can't be used ({error}): "
            "name a PEM certificate chain and its PEM key."
        ) from None


def _tls_options(settings: Settings) -> list[str]:
    if settings.tls_certificate is None:
        return []
    return ["--ssl-certfile", str(settings.tls_certificate), "--ssl-keyfile", str(settings.tls_key)]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _stop_on_signals(server: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Hand SIGTERM and Ctrl-C to the server, which lets calls in flight finish; yields the signals that came."""
    told: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        with contextlib.suppress(ProcessLookupError):
            server.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _comes_up(server: subprocess.Popen[bytes], place: Listening, *, trust: ssl.SSLContext | None) -> bool:
    """Wait until the service answers; False when its process ended first. Raises `ProcessFailed` after a while."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{place.url}/livez", timeout=2.0, context=trust) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise ProcessFailed(f"The service doesn't answer on {place.url}: its output says why.") from None
            time.sleep(0.05)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End what is left of the server's process group."""
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
