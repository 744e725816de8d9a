"""Features of a person and a category, such as the money spent by department: one declaration, one feature a category.

The categories are stated, so the feature list of a service never depends on data, and a category nobody has bought from
is there with its default. Each is an `Aggregate` with a condition: the three engines need to know nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from events.schema import Kind, event_type
from feature_repo.declare import Aggregate, Where
from feature_repo.errors import UnusableDeclaration

__all__ = ["by_category"]


def by_category(of: Aggregate, *, column: str, among: Sequence[str]) -> tuple[Aggregate, ...]:
    """`of` once for each category in `among`: counted are the events whose `column`, a text, is that category.

    `amount_sum_28d` by `department` among `["DRUG GM"]` is called `amount_sum_28d__drug_gm`. Raises
    `UnusableDeclaration` for no categories, two that make one name, or a declaration that has a condition already.
    """
    if of.where is not None:
        raise UnusableDeclaration(
            f"Feature {of.name!r} has a condition already and can't be split by {column!r} as well."
        )
    declared = event_type(of.event).field(column)
    if declared is None or declared.kind is not Kind.TEXT:
        raise UnusableDeclaration(f"Feature {of.name!r}: {of.event} has no column of text {column!r} to split by.")
    if not among:
        raise UnusableDeclaration(f"Feature {of.name!r} is split by {column!r} among no categories; name some.")
    made: dict[str, Aggregate] = {}
    for category in among:
        name = f"{of.name}__{_word(category)}"
        if name in made:
            raise UnusableDeclaration(f"Feature {of.name!r}: two categories make the name {name!r}; leave one out.")
        told = f"{of.description.rstrip('.')}, where {column} is {category}."
        made[name] = replace(of, name=name, where=Where(column, "=", category), description=told)
    return tuple(made.values())


def _word(category: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", category.lower()).strip("_")
