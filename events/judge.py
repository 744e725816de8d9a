"""The judge: decides, for a batch of typed rows at once, which are accepted, duplicates, rejected or refused.

It works on tables of one DuckDB connection: `chunk` (raw rows, numbered), `admitted` (who is admitted from when on) and
`known_ids`. What is accepted gathers in one table an event type.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa

from consent.policy import Reason
from events.mapping import Mapping
from events.rejected import Rejected
from events.schema import event_type
from events.translate import literal, quoted
from security.pseudonyms import Pseudonyms, is_user_key

__all__ = ["BEFORE_GRANT", "Counts", "Judge"]

BEFORE_GRANT = "before_grant"
"""Refused because no unbroken grant covers both the event and now."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of one batch, beside what was accepted."""

    duplicates: int
    refused: Counter[str]
    rejected: Counter[str]


class Judge:
    """Judges the rows of one import."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        mapping: Mapping,
        *,
        pseudonyms: Pseudonyms,
        keyed: bool,
        known: dict[str, str],
    ) -> None:
        assert mapping.event is not None  # noqa: S101
        self._connection = connection
        self._mapping = mapping
        self._pseudonyms = pseudonyms
        self._keyed = keyed
        self._keys = known
        self.events = (mapping.event, *((mapping.negative.event,) if mapping.negative else ()))
        connection.execute("CREATE TEMP TABLE known_ids (id VARCHAR); CREATE TEMP TABLE id_uses (base VARCHAR, uses BIGINT)")

    def load_known_ids(self, archived: str) -> None:
        """Remember the ids this source has in `archived`, a table expression over the archive."""
        source = literal(self._mapping.source)
        self._connection.execute(f"INSERT INTO known_ids SELECT id FROM {archived} WHERE source = {source}")

    def judge(self, select: str) -> Counts:
        """Judge the rows of table `chunk`, typed by `select`; accepted ones are set aside, the rest is counted."""
        run = self._connection.execute
        run(f"CREATE OR REPLACE TEMP TABLE typed AS {select}")
        self._key_people()
        named = bool(self._mapping.id)
        own_name = "id_base || '|' || user_key" if self._mapping.user_id in self._mapping.id else "id_base"
        # Without an id of its own a row is named by its content and its ordinal among equal rows, so that two equal
        # lines of one basket are two lines, and importing the file again gives the same names.
        name = "base" if named else (
            "md5(base) || '-' || (row_number() OVER (PARTITION BY base ORDER BY row) + coalesce(uses, 0))"
        )
        run(
            "CREATE OR REPLACE TEMP TABLE named AS "
            "WITH based AS (SELECT t.*, p.user_key, t.id_base || '|' || p.user_key AS content FROM typed t "
            "LEFT JOIN people p ON p.user_id = t.user_id), "
            f"b AS (SELECT *, {own_name if named else 'content'} AS base FROM based) "
            f"SELECT b.*, {name} AS id FROM b {'' if named else 'LEFT JOIN id_uses USING (base)'}"
        )
        run(
            "CREATE OR REPLACE TEMP TABLE judged AS SELECT n.*, "
            f"CASE WHEN n.user_id IS NULL THEN '{Reason.NO_SUBJECT}' "
            f"WHEN a.subject IS NULL THEN '{Reason.NO_RECORD}' WHEN a.since IS NULL THEN a.why "
            f"WHEN n.occurred_at < a.since THEN '{BEFORE_GRANT}' END AS refusal, "
            "(k.id IS NOT NULL OR row_number() OVER (PARTITION BY n.id ORDER BY n.row) > 1) AS duplicate "
            "FROM named n LEFT JOIN admitted a ON a.subject = n.user_key AND a.admitted_event = n.event "
            "LEFT JOIN known_ids k ON k.id = n.id"
        )
        self._set_aside()
        if not named:
            run(
                "CREATE OR REPLACE TEMP TABLE id_uses AS SELECT base, sum(uses) AS uses FROM "
                "(SELECT base, uses FROM id_uses UNION ALL SELECT base, count(*) FROM named GROUP BY base) GROUP BY base"
            )
        return self._counts()

    def _key_people(self) -> None:
        """Make the table `people`: user id → user key, for the people of this batch."""
        ids = [r[0] for r in self._connection.execute("SELECT DISTINCT user_id FROM typed WHERE user_id IS NOT NULL").fetchall()]
        new = [i for i in ids if i not in self._keys]
        keys = [i for i in new if is_user_key(i)] if self._keyed else self._pseudonyms.user_keys(new)
        self._keys.update(zip(keys if self._keyed else new, keys, strict=True))
        table = pa.table(
            {
                "user_id": pa.array([i for i in ids if i in self._keys], pa.string()),
                "user_key": pa.array([self._keys[i] for i in ids if i in self._keys], pa.string()),
            }
        )
        self._connection.register("people_now", table)
        self._connection.execute("CREATE OR REPLACE TEMP TABLE people AS SELECT * FROM people_now")

    def _set_aside(self) -> None:
        good = "refusal IS NULL AND problem IS NULL AND NOT duplicate"
        for event in self.events:
            declared = event_type(event)
            fields = [
                quoted(f.name) if f.name in self._mapping.fields else f"NULL AS {quoted(f.name)}" for f in declared.fields
            ]
            select = (
                f"SELECT {literal(self._mapping.source)} AS source, id, user_key, occurred_at, available_at, "
                f"{', '.join(fields)} FROM judged WHERE {good} AND event = {literal(event)}"
            )
            there = f"accepted_{event}" in {r[0] for r in self._connection.execute("SHOW TABLES").fetchall()}
            into = f"INSERT INTO {self.table(event)}" if there else f"CREATE TEMP TABLE {self.table(event)} AS"
            self._connection.execute(f"{into} {select}")
        self._connection.execute(f"INSERT INTO known_ids SELECT id FROM judged WHERE {good}")

    def _counts(self) -> Counts:
        def by(column: str, where: str) -> Counter[str]:
            rows = self._connection.execute(f"SELECT {column}, count(*) FROM judged WHERE {where} GROUP BY 1").fetchall()
            return Counter(dict(rows))

        # A row that is bad and not to be used at all is refused: what is wrong with it is nobody's business.
        duplicates = by("true", "refusal IS NULL AND problem IS NULL AND duplicate")
        return Counts(
            duplicates.total(), by("refusal", "refusal IS NOT NULL"), by("problem", "refusal IS NULL AND problem IS NOT NULL")
        )

    def rejected_rows(self, *, door: str, at: datetime) -> list[Rejected]:
        """The rejected rows of the last batch, with the user column replaced by the user key."""
        columns = [c for c in self._mapping.columns if c != self._mapping.user_id]
        struct = ", ".join(f"{literal(c)}: CAST(c.{quoted(c)} AS VARCHAR)" for c in columns)
        rows = self._connection.execute(
            f"SELECT j.event, j.problem, j.user_key, to_json({{{struct}}}) FROM judged j JOIN chunk c USING (row) "
            "WHERE j.refusal IS NULL AND j.problem IS NOT NULL ORDER BY row"
        ).fetchall()
        user = self._mapping.user_id
        return [Rejected(door, e, why, key, {**json.loads(raw), user: key}, at) for e, why, key, raw in rows]

    def accepted(self, event: str) -> int:
        """How many events of one type were accepted."""
        there = f"accepted_{event}" in {r[0] for r in self._connection.execute("SHOW TABLES").fetchall()}
        return self._connection.execute(f"SELECT count(*) FROM {self.table(event)}").fetchall()[0][0] if there else 0

    def accepted_people(self) -> dict[str, str]:
        """user key → user id of everyone with an accepted event; empty in a replay, which has no ids."""
        if self._keyed:
            return {}
        tables = [self.table(e) for e in self.events if self.accepted(e)]
        if not tables:
            return {}
        union = " UNION ".join(f"SELECT user_key FROM {t}" for t in tables)
        stored = {r[0] for r in self._connection.execute(union).fetchall()}
        return {key: user_id for user_id, key in self._keys.items() if key in stored}

    @staticmethod
    def table(event: str) -> str:
        """The table where accepted events of one type gather."""
        return f"accepted_{event}"
