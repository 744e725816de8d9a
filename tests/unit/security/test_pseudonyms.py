"""User keys: one a person, the same always, useless without the secret."""

from __future__ import annotations

import hmac
from pathlib import Path

from hypothesis import given, strategies as st

from aap.infra.paths import Layout
from aap.security.pseudonyms import Pseudonyms, is_user_key, load_pseudonyms

IDS = st.text(min_size=1, max_size=40)


@given(IDS, IDS, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_user_key_depends_on_the_whole_id_and_on_the_secret(a: str, b: str, secret: bytes, other: bytes) -> None:
    keys = Pseudonyms(secret)
    assert is_user_key(keys.user_key(a))
    assert keys.user_keys([a, b, a]) == [keys.user_key(a), keys.user_key(b), keys.user_key(a)]
    assert (keys.user_key(a) == keys.user_key(b)) == (a == b)
    assert (keys.user_key(a) == Pseudonyms(other).user_key(a)) == (secret == other)


def test_a_user_key_is_hmac_sha256_cut_to_128_bits() -> None:
    assert Pseudonyms(b"k" * 32).user_key("Zoë") == hmac.new(b"k" * 32, "Zoë".encode(), "sha256").hexdigest()[:32]


def test_the_secret_of_a_home_is_made_once_and_only_its_owner_can_read_it(home: Path) -> None:
    first, again = load_pseudonyms(Layout(home)), load_pseudonyms(Layout(home))
    assert first.user_key("ana") == again.user_key("ana")
    assert {f.stat().st_mode & 0o777 for f in Layout(home).keys.iterdir()} == {0o600}


def test_what_is_no_user_key_is_not_taken_for_one() -> None:
    for text in ("", "ana@shop.example", "A" * 32, "g" * 32, "a" * 31, "a" * 33, "a" * 31 + "\n"):
        assert not is_user_key(text)
