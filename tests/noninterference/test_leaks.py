"""The planted leaks are there, fit the code as it is, and each names tests that exist. `make leaks` plants them."""

from __future__ import annotations

import pytest

from tests.noninterference.plant import ROOT, Leak, applies, leaks


def test_there_are_enough_of_them_and_no_two_are_the_same() -> None:
    assert len(leaks()) >= 30
    assert len({leak.patch for leak in leaks()}) == len(leaks())


@pytest.mark.parametrize("leak", leaks(), ids=lambda leak: leak.name)
def test_it_can_be_planted_and_somebody_should_notice(leak: Leak) -> None:
    assert applies(leak) == "", "the code has moved on: make the patch anew"
    files = [argument for argument in leak.tests if argument.startswith("tests/")]
    assert files
    assert [f for f in files if not (ROOT / f.partition("::")[0]).exists()] == []
