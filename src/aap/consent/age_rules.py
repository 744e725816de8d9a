"""Ages: who may say yes. No age is stored; a door that is told one asks here before it takes a grant."""

from __future__ import annotations

from aap.consent.errors import UnusableChoice
from aap.consent.purposes import Purpose, spec

__all__ = ["check_age"]


def check_age(purpose: Purpose, *, age: int | None, by_guardian: bool = False) -> None:
    """Raise `UnusableChoice` when nobody may say yes to `purpose` for a person of this age (None: not known to be young)."""
    rule = spec(purpose).age
    if age is None or age >= rule.alone_from:
        return
    if not rule.guardian:
        raise UnusableChoice(f"{purpose} is not for people under {rule.alone_from}: nobody can grant it for them.")
    if not by_guardian:
        raise UnusableChoice(
            f"A person under {rule.alone_from} can't grant {purpose} alone: somebody with parental responsibility has to."
        )
