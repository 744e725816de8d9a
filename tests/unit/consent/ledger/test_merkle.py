"""The Merkle tree against the test vectors of RFC 6962 (those of the certificate-transparency reference code)."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, strategies as st

from aap.consent.ledger import merkle

pytestmark = pytest.mark.fast

# certificate-transparency, merkle_tree_test.cc: eight leaves, and the root over the first 1 … 8 of them.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_root_is_the_one_of_the_rfc_s_reference_code(size: int) -> None:
    assert merkle.root(merkle.leaf_hash(leaf) for leaf in LEAVES[:size]).hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_hash_of_the_empty_string() -> None:
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def _by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: split at the largest power of two smaller than n."""
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    cut = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + _by_definition(leaves[:cut]) + _by_definition(leaves[cut:])).digest()


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70))
def test_pairing_level_by_level_is_the_split_of_the_definition(leaves: list[bytes]) -> None:
    assert merkle.root(merkle.leaf_hash(leaf) for leaf in leaves) == _by_definition(leaves)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=20), st.data())
def test_changing_removing_or_adding_a_leaf_changes_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(leaves) - 1))
    before = merkle.root(merkle.leaf_hash(leaf) for leaf in leaves)
    changed = [*leaves[:place], leaves[place] + b"!", *leaves[place + 1 :]]
    for other in (changed, leaves[:place] + leaves[place + 1 :], [*leaves, b"new"]):
        assert merkle.root(merkle.leaf_hash(leaf) for leaf in other) != before
