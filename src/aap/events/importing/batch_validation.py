"""The judge: decides, for a batch of typed rows at once, which are accepted, duplicates, rejected or refused.

It works on tables of one DuckDB connection: `chunk` (raw rows, numbered, with user keys) and `admitted` (who is admitted
from when on). What is accepted gathers in one table an event type.

Duplicates are looked for twice: a count of 64-bit hashes proves, nearly always, that there are none; only when it doesn't
are the ids themselves compared.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import duckdb

from aap.consent.policy import Reason
from aap.events.dead_letter import Rejected
from aap.events.importing.mapping import Mapping
from aap.events.importing.mapping_sql import ROW, literal, quoted
from aap.events.schema import event_type

__all__ = ["BEFORE_GRANT", "Counts", "Judge"]

BEFORE_GRANT = "before_grant"
"""Refused because no unbroken grant covers both the event and now."""

_GOOD = "refusal IS NULL AND problem IS NULL"


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of one batch, beside what was accepted."""

    duplicates: int
    refused: Counter[str]
    rejected: Counter[str]


class Judge:
    """Judges the rows of one import."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
        assert mapping.event is not None  # noqa: S101
        self._run = connection.execute
        self._mapping = mapping
        self.events = (mapping.event, *((mapping.negative.event,) if mapping.negative else ()))
        self._run("CREATE TEMP TABLE archived (h UBIGINT, id VARCHAR); CREATE TEMP TABLE known (h UBIGINT)")
        self._run("CREATE TEMP TABLE base_uses (h UBIGINT, base VARCHAR, uses BIGINT)")
        for event in self.events:
            connection.register("nothing_yet", event_type(event).arrow.empty_table())
            self._run(f"CREATE TEMP TABLE {self.table(event)} AS SELECT * FROM nothing_yet")

    def load_known_ids(self, archived: str) -> None:
        """Remember the ids this source has in `archived`, a table expression over the archive."""
        source = literal(self._mapping.source)
        self._run(f"INSERT INTO archived SELECT hash(id), id FROM {archived} WHERE source = {source}")
        self._run("CREATE OR REPLACE TEMP TABLE known AS SELECT h FROM archived")

    def judge(self, select: str) -> Counts:
        """Judge the rows of table `chunk`, typed by `select`; accepted ones are set aside, the rest is counted."""
        self._run(
            f"CREATE OR REPLACE TEMP TABLE judged AS SELECT t.* EXCLUDE (name), {self._base()} AS id, "
            f"CASE WHEN t.user_key IS NULL THEN '{Reason.NO_SUBJECT}' "
            f"WHEN a.subject IS NULL THEN '{Reason.NO_RECORD}' WHEN a.since IS NULL THEN a.why "
            f"WHEN t.occurred_at < a.since THEN '{BEFORE_GRANT}' END AS refusal "
            f"FROM ({select}) t LEFT JOIN admitted a ON a.subject = t.user_key AND a.admitted_event = t.event"
        )
        if self._mapping.id:
            self._run(f"CREATE OR REPLACE TEMP VIEW candidates AS SELECT * FROM judged WHERE {_GOOD}")
        else:
            self._number_equal_rows()
        duplicates = self._find_doubled()
        self._set_aside()
        # A row that is bad and not to be used at all is refused: what is wrong with it is nobody's business.
        found = self._run(
            "SELECT refusal, CASE WHEN refusal IS NULL THEN problem END, count(*) FROM judged "
            f"WHERE NOT ({_GOOD}) GROUP BY ALL"
        ).fetchall()
        refused, rejected = Counter[str](), Counter[str]()
        for refusal, problem, count in found:
            (rejected if refusal is None else refused)[refusal or problem] += count
        return Counts(duplicates, refused, rejected)

    def _base(self) -> str:
        """What a row is recognised by: its own name, with the person where that is part of it, or else its content."""
        if not self._mapping.id:
            return "md5(t.name || '|' || t.user_key)"
        return "t.name || '|' || t.user_key" if self._mapping.user_id in self._mapping.id else "t.name"

    def _number_equal_rows(self) -> None:
        """Without a name of its own a row is named by its content and its ordinal among equal rows: two equal lines of
        one basket are two lines, and importing the file again gives the same names.
        """
        self._run(
            "CREATE OR REPLACE TEMP TABLE ordinals AS "
            f"WITH good AS (SELECT row, id, hash(id) AS h FROM judged WHERE {_GOOD}), "
            "again AS (SELECT h FROM good GROUP BY h HAVING count(*) > 1 "
            "UNION SELECT h FROM good SEMI JOIN base_uses USING (h)), "
            "before AS (SELECT base, sum(uses) AS uses FROM base_uses SEMI JOIN again USING (h) GROUP BY base) "
            "SELECT g.row, row_number() OVER (PARTITION BY g.id ORDER BY g.row) + coalesce(b.uses, 0) AS ordinal "
            "FROM good g SEMI JOIN again USING (h) LEFT JOIN before b ON b.base = g.id"
        )
        self._run(f"INSERT INTO base_uses SELECT hash(id), id, count(*) FROM judged WHERE {_GOOD} GROUP BY id")
        self._run(
            "CREATE OR REPLACE TEMP VIEW candidates AS SELECT j.* REPLACE (j.id || '-' || coalesce(o.ordinal, 1) AS id) "
            f"FROM judged j LEFT JOIN ordinals o USING (row) WHERE {_GOOD}"
        )

    def _find_doubled(self) -> int:
        """Make the table `doubled`: the good rows that are there already, here or in the archive. Returns how many."""
        self._run("CREATE OR REPLACE TEMP TABLE doubled (row BIGINT)")
        once, known = self._run(
            "SELECT count(DISTINCT hash(id)) = count(*), count(*) FILTER (WHERE hash(id) IN (FROM known)) FROM candidates"
        ).fetchall()[0]
        if once and not known:
            return 0
        there = " UNION ALL ".join(
            ["SELECT id FROM archived WHERE h IN (SELECT h FROM ours)"]
            + [f"SELECT id FROM {self.table(e)} WHERE hash(id) IN (SELECT h FROM ours)" for e in self.events]
        )
        self._run(
            "INSERT INTO doubled WITH ours AS MATERIALIZED (SELECT row, id, hash(id) AS h FROM candidates), "
            f"there AS MATERIALIZED ({there}) SELECT row FROM (SELECT row, id, "
            "row_number() OVER (PARTITION BY id ORDER BY row) > 1 AS again FROM ours) "
            "WHERE again OR id IN (SELECT id FROM there)"
        )
        return int(self._run("SELECT count(*) FROM doubled").fetchall()[0][0])

    def _set_aside(self) -> None:
        for event in self.events:
            fields = [
                quoted(f.name) if f.name in self._mapping.fields else f"NULL AS {quoted(f.name)}"
                for f in event_type(event).fields
            ]
            self._run(
                f"INSERT INTO {self.table(event)} SELECT {literal(self._mapping.source)}, id, user_key, occurred_at, "
                f"available_at, {', '.join(fields)} "
                f"FROM candidates ANTI JOIN doubled USING (row) WHERE event = {literal(event)}"
            )
        self._run("INSERT INTO known SELECT hash(id) FROM candidates")

    def rejected_rows(self, *, door: str, at: datetime) -> list[Rejected]:
        """The rejected rows of the last batch, with the user column replaced by the user key."""
        columns = [c for c in self._mapping.columns if c != self._mapping.user_id]
        struct = ", ".join(f"{literal(c)}: CAST(c.{quoted(c)} AS VARCHAR)" for c in columns)
        rows = self._run(
            f"SELECT j.event, j.problem, j.user_key, to_json({{{struct}}}) FROM judged j JOIN chunk c "
            f"ON c.{quoted(ROW)} = j.row WHERE j.refusal IS NULL AND j.problem IS NOT NULL ORDER BY j.row"
        ).fetchall()
        user = str(self._mapping.user_id)
        return [Rejected(door, e, why, key, {**json.loads(raw), user: key}, at) for e, why, key, raw in rows]

    def accepted(self, event: str) -> int:
        """How many events of one type were accepted."""
        return int(self._run(f"SELECT count(*) FROM {self.table(event)}").fetchall()[0][0])

    def accepted_people(self) -> set[str]:
        """The user keys of everyone with an accepted event."""
        union = " UNION ".join(f"SELECT user_key FROM {self.table(e)}" for e in self.events)
        return {r[0] for r in self._run(union).fetchall()}

    @staticmethod
    def table(event: str) -> str:
        """The table where accepted events of one type gather."""
        return f"accepted_{event}"
