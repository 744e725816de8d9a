"""Names of the items that may be shown: asked of the catalogue once and kept, not read in every call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["ItemNames"]


class ItemNames:
    """Names by item id. `look_up` reads the catalogue, and `stamp` changes when the catalogue does."""

    def __init__(
        self, look_up: Callable[[Sequence[str]], Mapping[str, str]], *, stamp: Callable[[], object] = lambda: None
    ) -> None:
        self._look_up, self._stamp = look_up, stamp
        self._seen: object = stamp()
        self._known: dict[str, str | None] = {}

    def of(self, item_ids: Iterable[str]) -> Mapping[str, str | None]:
        """The names of these items among others; None for one without a name."""
        known = self._known
        missing = sorted({i for i in item_ids if i not in known})
        if missing:
            found = self._look_up(missing)
            known = self._known = {**known, **{i: found.get(i) for i in missing}}
        return known

    def warm(self, item_ids: Iterable[str]) -> None:
        """Know these items before they are asked for, and forget all names when the catalogue has changed."""
        now = self._stamp()
        if now != self._seen:
            self._seen, self._known = now, {}
        self.of(item_ids)
