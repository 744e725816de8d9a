"""Where a service listens, as each machine's own folder says it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from aap.config import Settings
from aap.serving.server import Listening, _environment, listening


def test_replicas_of_one_home_each_say_where_they_listen_and_keep_their_server_s_files(tmp_path: Path) -> None:
    alone = Settings(home=tmp_path / "home")
    replicas = [Settings(home=tmp_path / "home", run_dir=tmp_path / name) for name in ("a", "b")]
    for port, replica in enumerate(replicas, start=8000):
        folder = Path(_environment(replica)["BENTOML_HOME"]).parent
        assert folder == replica.run_dir
        (folder / "serve.json").write_text(json.dumps({"pid": os.getpid(), "port": port, "url": f"http://x:{port}"}))
    assert listening(alone) is None
    assert [listening(replica) for replica in replicas] == [
        Listening(os.getpid(), port, f"http://x:{port}") for port in (8000, 8001)
    ]
    (tmp_path / "a" / "serve.json").unlink()
    assert listening(replicas[1]) is not None
