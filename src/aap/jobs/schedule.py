"""Schedules: the text that has cron, systemd or Kubernetes run the jobs. Nothing is installed; a person puts it in place.

Times are UTC. The jobs are far enough apart not to meet; if they do, the second says who holds the lock and fails, and the
next run catches up.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

__all__ = ["KINDS", "SCHEDULED", "Place", "Scheduled", "cron", "kubernetes", "systemd"]


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One job and when it runs."""

    name: str
    command: tuple[str, ...]
    """Arguments of `aap`."""
    cron: str
    """Minute, hour, day of the month, month, day of the week (1 is Monday)."""
    calendar: str
    """The same as systemd's `OnCalendar`."""
    most_hours: int
    """After so long it is stopped; it goes on where it was the next time."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the platform is installed."""

    aap: Path
    """The `aap` program, by its whole path."""
    home: Path
    project: Path
    user: str
    image: str
    claim: str
    """The Kubernetes volume claim that holds the home."""


SCHEDULED: Mapping[str, Scheduled] = {
    job.name: job
    for job in (
        Scheduled("hourly", ("experiment", "watch"), "5 * * * *", "*-*-* *:05:00 UTC", 1),
        Scheduled("daily", ("job", "daily"), "10 2 * * *", "*-*-* 02:10:00 UTC", 2),
        Scheduled("weekly", ("retrain",), "10 3 * * 1", "Mon *-*-* 03:10:00 UTC", 6),
        Scheduled("monthly", ("job", "monthly"), "10 5 1 * *", "*-*-01 05:10:00 UTC", 2),
    )
}
"""The guardrails of experiments every hour, for where no `aap live` looks at them; nightly aggregates; the retrain on
Mondays; trends on the first of a month.
"""


def cron(jobs: Sequence[Scheduled], place: Place) -> str:
    """Lines for `crontab -e` of the platform's user. Cron's per cent sign ends a command, so it is escaped."""
    lines = [
        "# AAP. Paste into `crontab -e`; the machine's time zone should be UTC.",
        f"AAP_HOME={place.home}",
        f"AAP_PROJECT={place.project}",
    ]
    for job in jobs:
        log = shlex.quote(str(place.home / "logs" / f"{job.name}.log"))
        command = f"{shlex.join([str(place.aap), *job.command])} >> {log} 2>&1"
        lines.append(f"{job.cron}  {command}".replace("%", r"\%"))
    return "\n".join(lines) + "\n"


def systemd(jobs: Sequence[Scheduled], place: Place) -> str:
    """A service and a timer for each job, one file after the other; a comment line names the file each belongs in."""
    return "\n".join(f"# /etc/systemd/system/{name}\n{text}" for name, text in units(jobs, place).items())


def units(jobs: Sequence[Scheduled], place: Place) -> dict[str, str]:
    """The same by file name."""
    found: dict[str, str] = {}
    for job in jobs:
        found[f"aap-{job.name}.service"] = _SERVICE.format(
            name=job.name,
            user=place.user,
            home=_quoted(f"AAP_HOME={place.home}"),
            project=_quoted(f"AAP_PROJECT={place.project}"),
            command=" ".join(_quoted(part) for part in (str(place.aap), *job.command)),
            hours=job.most_hours,
        )
        found[f"aap-{job.name}.timer"] = _TIMER.format(name=job.name, calendar=job.calendar)
    return found


def kubernetes(jobs: Sequence[Scheduled], place: Place) -> str:
    """A CronJob each. The home is a volume that one pod at a time may write (`Forbid`)."""
    return "---\n".join(yaml.safe_dump(_cron_job(job, place), sort_keys=False) for job in jobs)


KINDS: Mapping[str, Callable[[Sequence[Scheduled], Place], str]] = {
    "cron": cron,
    "systemd": systemd,
    "kubernetes": kubernetes,
}


def _quoted(text: str) -> str:
    """`text` as systemd reads it: per cent and dollar signs are doubled, what has blanks is quoted."""
    plain = text.replace("%", "%%").replace("$", "$$")
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"' if any(c in plain for c in ' "\\') else plain


def _cron_job(job: Scheduled, place: Place) -> dict[str, object]:
    container = {
        "name": "aap",
        "image": place.image,
        "args": ["aap", *job.command],
        "envFrom": [{"secretRef": {"name": "aap"}}],
        "volumeMounts": [{"name": "home", "mountPath": _HOME}, {"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "8Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "restartPolicy": "OnFailure",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": place.claim}},
            {"name": "scratch", "emptyDir": {}},
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": f"aap-{job.name}", "labels": {"app": "aap"}},
        "spec": {
            "schedule": job.cron,
            "timeZone": "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 3,
                    "activeDeadlineSeconds": job.most_hours * 3600,
                    "template": {"metadata": {"labels": {"app": "aap"}}, "spec": pod},
                }
            },
        },
    }


_HOME, _USER = "/data", 10001
"""Where the image keeps its home, and who it runs as: those of `deploy/Dockerfile`."""

_SERVICE = """\
[Unit]
Description=AAP: {name} job
After=network.target
StartLimitIntervalSec=1h
StartLimitBurst=3

[Service]
Type=oneshot
User={user}
Environment={home} {project}
ExecStart={command}
# A step that failed is gone on with, not begun anew; what fails three times needs a person.
Restart=on-failure
RestartSec=10min
# The one thing here that may take its time.
Nice=10
TimeoutStartSec={hours}h
# It may start the embedded Redis, which must outlive it.
KillMode=process
"""

_TIMER = """\
[Unit]
Description=AAP: when the {name} job runs

[Timer]
OnCalendar={calendar}
RandomizedDelaySec=10min
# A machine that was off at that time makes up for it.
Persistent=true

[Install]
WantedBy=timers.target
"""
