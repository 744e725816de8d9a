"""The flags in force: which variants an experiment has and how people are split over them.

An edit of the file with a mistake (or half written) is refused with a sentence, `problem` says so, and the flags that were
in force stay in force. A checked copy under `<home>/run` keeps the last good edition for a process that starts meanwhile.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

from aap.experiments.errors import FlagsUnusable, MissingUser, UnknownFlag
from aap.experiments.flags.definition import Flag, read_flags
from aap.experiments.flags.openfeature_evaluator import Evaluator
from aap.infra.atomic_files import write_atomically
from aap.infra.errors import StorageError

__all__ = ["Flags"]

_log = logging.getLogger("aap.experiments")
_NOBODY = "nobody"
"""A key no person has, to ask whether anything is said at all."""
_PATIENCE_S = 10.0
"""A server that takes up an edit within so long is no problem."""


class Flags:
    """The flags in force.

    `source` is the file people edit and `checked` the copy of its last good edition. Raises `FlagsUnusable` when `source`
    has a mistake and there is no sound copy of an earlier one. With `flagd`, the address of a server that serves `checked`,
    people are split as it says; where it has another edition of a flag, nobody is.
    """

    def __init__(self, source: Path, *, checked: Path, flagd: str | None = None) -> None:
        self._source, self._checked = source, checked
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._flags: dict[str, Flag] = {}
        self._problem: str | None = None
        self._flagd = flagd
        self._unsaid_since: float | None = None
        self._evaluator = Evaluator(flagd)
        self._start()

    @property
    def problem(self) -> str | None:
        """What is wrong with the file, if what is in force is not what it says; or with the server of flags."""
        if self._problem or self._unsaid_since is None or time.monotonic() - self._unsaid_since < _PATIENCE_S:
            return self._problem
        return (
            f"The flagd server at {self._flagd} has other flags than those in force here, or can't be reached, so nobody new "
            f"is assigned: let it run, and serve {self._checked}."
        )

    def get(self, name: str) -> Flag:
        """The flag called `name`; raises `UnknownFlag` naming the ones there are."""
        try:
            return self._flags[name]
        except KeyError:
            known = ", ".join(self._flags) or "none"
            raise UnknownFlag(f"There is no flag {name!r} in {self._source}; it has: {known}.") from None

    def names(self) -> tuple[str, ...]:
        """Every flag's name."""
        return tuple(self._flags)

    def layer_mates(self, flag: Flag) -> tuple[str, ...]:
        """The other flags in force in the layer of `flag`."""
        layer = flag.place.layer if flag.place else None
        return tuple(
            f.name
            for f in self._flags.values()
            if layer and f.enabled and f.place and f.place.layer == layer and f.name != flag.name
        )

    def bucket(self, flag: Flag, *, user_key: str, segment: str | None = None) -> str | None:
        """The variant the split of `flag` (from `get`) gives `user_key`: the same for the same key every time.

        None when the evaluator can't say, as when the flag was edited since it was got, or the evaluator knows another
        edition: then nobody is to be assigned, so that nobody is logged under a split that did not decide. Raises
        `MissingUser` without a user.
        """
        if not user_key:
            raise MissingUser(f"Flag {flag.name!r} was asked for without a user: pass the user key of a person.")
        return self._evaluator.variant(flag, user_key=user_key, segment=segment)

    def refresh(self) -> bool:
        """Take up an edited file; returns whether there was an edit that could be used. Never raises."""
        try:
            with self._lock:
                return self._load()
        except FlagsUnusable as error:
            self._keep(error)
            return False
        finally:
            self._ask_server()

    def close(self) -> None:
        """Let go of the evaluator."""
        self._evaluator.close()

    def _start(self) -> None:
        try:
            self._load()
        except FlagsUnusable as error:
            try:
                document, flags = read_flags(self._checked)
            except FlagsUnusable:
                raise error from None
            self._evaluator.take(document)
            self._flags = flags
            self._keep(error)

    def _ask_server(self) -> None:
        """Note since when the server can't say what it should."""
        asked = [f for f in self._flags.values() if f.enabled and f.split] if self._flagd else []
        said = [self.bucket(f, user_key=_NOBODY, segment=f.segments[0] if f.segments else None) for f in asked]
        if None not in said:
            self._unsaid_since = None
        elif self._unsaid_since is None:
            self._unsaid_since = time.monotonic()

    def _keep(self, error: FlagsUnusable) -> None:
        if self._problem != str(error):
            _log.warning("%s The flags that were in force stay in force.", error)
        self._problem = str(error)

    def _load(self) -> bool:
        try:
            found = self._source.stat()
        except OSError as error:
            self._stamp = None
            raise FlagsUnusable(f"The flag file {self._source} can't be read ({error.strerror}): restore it.") from None
        stamp = (found.st_mtime_ns, found.st_size)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        document, flags = read_flags(self._source)
        try:
            write_atomically(self._checked, json.dumps(document).encode(), durable=False)
        except (OSError, StorageError) as error:  # an edit counts all the same
            _log.warning("The checked copy of the flags can't be written: %s", error)
        self._evaluator.take(document)
        self._flags, self._problem = flags, None
        return True
