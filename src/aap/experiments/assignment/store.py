"""What is kept of one person: the variant of every flag they were assigned, in one key, `{u:KEY}:x`.

A text: the start of the grant it was made under, then a line "flag variant" each. Being one key under the person's hash
tag, it is read together with their consent, and goes with a withdrawal and with an erasure. It is kept for the purpose's
retention after the last experiment the person came into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from aap.consent.purposes import Purpose, spec
from aap.consent.redis_projection import assignments_key, consent_key, places
from aap.infra.redis import lua

__all__ = ["PURPOSE", "Claim", "claim", "read"]

PURPOSE = Purpose.FUNCTIONAL_SERVICE_IMPROVE
"""What a person allows who may be in an experiment."""

_KEEP_S = int(spec(PURPOSE).retention.total_seconds())
_OFFSET, _ = places(PURPOSE)

# The first writer under a grant wins, in whichever process it is, and only while the grant is in force; everyone else
# reads what it wrote. KEYS: the assignments, the consent projection. ARGV: flag, variant, start of the grant, now, the
# grant's place in the projection, seconds to keep it, " flag flag " of the same layer.
# Answers: false (claimed), "v" .. variant (known), "m" (in another flag of the layer), "c" (consent has changed).
_CLAIM = """
local consent = redis.call('GET', KEYS[2])
local at = tonumber(ARGV[5]) + 1
if not consent or #consent < at + 15 then return 'c' end
local start, finish = struct.unpack('<ll', consent, at)
local now = tonumber(ARGV[4])
if start ~= tonumber(ARGV[3]) or now < start or now >= finish then return 'c' end
local head = ARGV[3] .. '\\n'
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, #head) ~= head then held = head end
local taken = false
for flag, variant in string.gmatch(string.sub(held, #head + 1), '(%S+) (%S+)\\n') do
  if flag == ARGV[1] then return 'v' .. variant end
  if string.find(ARGV[7], ' ' .. flag .. ' ', 1, true) then taken = true end
end
if taken then return 'm' end
redis.call('SET', KEYS[1], held .. ARGV[1] .. ' ' .. ARGV[2] .. '\\n', 'EX', ARGV[6])
return false
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A wish to assign one person, whose grant began at `grant` (microseconds since 1970)."""

    user_key: str
    variant: str
    grant: int


def read(blob: bytes | str | None, *, grant: int) -> dict[str, str]:
    """Flag → variant of one person, of what was assigned under this very grant."""
    if blob is None:
        return {}
    text = blob.decode(errors="replace") if isinstance(blob, bytes) else blob
    head, *lines = text.splitlines() or [""]
    if head != str(grant):
        return {}
    parted = (line.partition(" ") for line in lines)
    return {flag: variant for flag, _, variant in parted if variant}


def claim(
    client: redis.Redis, claims: Sequence[Claim], *, flag: str, mates: Sequence[str], now_micros: int
) -> list[str | None]:
    """Assign; for each person None if this call did, else `v` and the variant they have, `m` when another flag of the
    layer has them, `c` when their consent has just changed. Raises redis-py's errors.
    """
    others = f" {' '.join(mates)} "
    answers = lua.run(
        client,
        _CLAIM,
        (
            (
                [assignments_key(c.user_key), consent_key(c.user_key)],
                [flag, c.variant, c.grant, now_micros, _OFFSET, _KEEP_S, others],
            )
            for c in claims
        ),
    )
    return [a.decode() if isinstance(a, bytes) else a for a in answers]
