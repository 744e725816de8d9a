"""Callers that go on asking while the service is made to do something else: swap a champion, or end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.waiting import PATIENCE_S, until

_CALLERS = 4
_EVERY_S = 0.1
"""Between two calls of one caller: the key may make a thousand a minute, and others use the machine."""


@dataclass
class Calls:
    """What callers got: of each answer its id, version and probability; of each failed call when it began, and why."""

    answered: list[tuple[str, int, float]] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)

    def by(self, version: int) -> None:
        """Wait until a call that begins from now on is answered by `version`, for every caller."""
        since = len(self.answered)

        def live() -> bool:
            latest = self.answered[since:][-2 * _CALLERS :]
            return len(latest) == 2 * _CALLERS and {call[1] for call in latest} == {version}

        until(live)


@contextmanager
def asking(client: httpx.Client, users: Sequence[str]) -> Iterator[Calls]:
    """Ask about `users` on four connections of their own until the block ends."""
    calls, stop = Calls(), threading.Event()

    def ask(user: str) -> None:
        with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=PATIENCE_S) as mine:
            while not stop.wait(_EVERY_S):
                began = time.monotonic()
                try:
                    given = mine.post("/v1/churn", json={"user_ids": [user]})
                except httpx.HTTPError as error:
                    calls.failed.append((began, repr(error)))
                    continue
                if given.status_code != 200:
                    calls.failed.append((began, given.text))
                    continue
                (answer,) = given.json()["answers"]
                version, said = int(answer["model"]["version"]), answer["result"]["probability"]
                calls.answered.append((answer["prediction_id"], version, said))

    threads = [threading.Thread(target=ask, args=(user,)) for user in users[:_CALLERS]]
    for thread in threads:
        thread.start()
    try:
        yield calls
    finally:
        stop.set()
        for thread in threads:
            thread.join()
