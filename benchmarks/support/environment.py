"""Which machine and which versions a figure was measured on, and the summary of a list of timings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence

import numpy as np
import psutil
import redis

__all__ = ["describe", "describe_machine", "percentile_ms"]

_PACKAGES = ("feast", "redis", "hiredis", "numpy", "duckdb", "pyarrow")


def describe(client: redis.Redis) -> str:
    """One line: processors, memory, load at this moment, Python, the server and the packages that matter."""
    info: dict[str, str] = client.info("server")  # type: ignore[assignment]
    server = f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"
    return f"{describe_machine()}, {server}"


def describe_machine() -> str:
    """The same without a server."""
    packages = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GB, load {os.getloadavg()[0]:.1f}, {platform.system()}, "
        f"Python {platform.python_version()}, {packages}"
    )


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    """The `share` percentile (0–100) of timings, in milliseconds."""
    return round(float(np.percentile(seconds, share)) * 1_000, 4)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
