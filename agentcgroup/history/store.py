"""The history's file: sessions, their tool calls and samples of their memory, in SQLite; and how it is read (``writer`` writes)."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentcgroup.errors import AgentCgroupError
from agentcgroup.notable import LARGE_BYTES, ROUTINE
from agentcgroup.text import clean, clean_data

FILE = Path("/var/lib/agentcgroup/history.db")
VERSION = 3
BUSY_S = 10.0
"""How long one who writes waits for another."""
MIGRATIONS = {
    1: "ALTER TABLE sessions ADD COLUMN owner INTEGER NOT NULL DEFAULT 0;",
    2: "ALTER TABLE calls ADD COLUMN over INTEGER NOT NULL DEFAULT 0; UPDATE calls SET over = duration_s IS NOT NULL;",
}
"""What makes the next version of each."""
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,      -- nanoseconds since the epoch when it began
    name TEXT NOT NULL,
    command TEXT NOT NULL,
    priority TEXT NOT NULL,
    owner INTEGER NOT NULL DEFAULT 0,  -- the user whose it is
    budget_bytes INTEGER NOT NULL,
    duration_s REAL,             -- NULL: it runs, or was never seen to end
    exit_status INTEGER,         -- as wait(2) has it
    agent_peak_bytes INTEGER,
    source TEXT,
    enforcer TEXT,
    loops TEXT NOT NULL DEFAULT '[]'
) STRICT;
CREATE TABLE calls (
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    call INTEGER NOT NULL,
    started_s REAL NOT NULL,     -- since the session's start
    duration_s REAL,
    kind TEXT NOT NULL,          -- tool (the model's), own (the agent's), helper (a server of the agent)
    class TEXT NOT NULL,
    command TEXT NOT NULL,
    hint TEXT NOT NULL,
    exit_status INTEGER,
    limit_bytes INTEGER,
    peak_bytes INTEGER,
    mean_bytes INTEGER,          -- of the samples; NULL: it ended before the first
    cpu_s REAL,
    stalled_s REAL,
    waited_s REAL,
    processes INTEGER NOT NULL,
    deeds TEXT NOT NULL,         -- what was done to it: JSON, as in the report
    over INTEGER NOT NULL DEFAULT 0,  -- 1: these are its last figures; its root may have ended long before (duration_s)
    PRIMARY KEY (session, call)
) STRICT, WITHOUT ROWID;
CREATE TABLE samples (
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    at_s REAL NOT NULL,
    agent_bytes INTEGER NOT NULL,
    calls_bytes INTEGER NOT NULL,
    cpu_s REAL NOT NULL,         -- processor time of the whole session so far
    PRIMARY KEY (session, at_s)
) STRICT, WITHOUT ROWID;
CREATE TABLE totals (            -- since the file was made: they outlive the rows they count
    name TEXT NOT NULL,
    class TEXT NOT NULL,
    label TEXT NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (name, class, label)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = {VERSION};
COMMIT;
"""
_CALL_COLUMNS = (
    "call", "started_s", "duration_s", "kind", "class", "command", "hint", "exit_status", "limit_bytes", "peak_bytes", "mean_bytes",
    "cpu_s", "stalled_s", "waited_s", "processes", "deeds",
)  # fmt: skip


_MOST_OWN = 200
"""Different commands of agents themselves that are looked at for a line about them."""


def check_version(connection: sqlite3.Connection, file: Path) -> int:
    """The version of an open history, 0 for an empty file.  Raises AgentCgroupError for one that is newer than this program."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise AgentCgroupError(
            f"{file} can't be used",
            f"it has version {version}, and this agentcgroup knows {VERSION}",
            "use the newer agentcgroup",
        )
    return version


@contextlib.contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """The history, to be read.  Raises AgentCgroupError where there is none, or it can't be read."""
    try:
        if not file.exists():
            raise AgentCgroupError("no history yet", f"{file} does not exist", "it begins with the first agentcgroup run")
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as connection:
            check_version(connection, file)
            connection.row_factory = sqlite3.Row
            yield connection
    except (OSError, sqlite3.Error) as error:
        raise AgentCgroupError(f"{file} can't be read", str(error), "the history belongs to root: use sudo") from None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls: all conditions that are given must hold; the ``limit`` newest ones.  ``owner``: of this user's sessions."""

    session: str | None = None
    name: str | None = None
    text: str | None = None
    since: float | None = None
    """Seconds since the epoch."""
    failed: bool = False
    acted_on: bool = False
    limit: int = 50
    owner: int | None = None
    kind: str | None = None
    notable: bool = False
    """Only calls that are worth a line (``agentcgroup.notable``): the model's that were acted on, failed or large, and others that were acted on."""


_DONE = f"EXISTS (SELECT 1 FROM json_each(calls.deeds) WHERE json_extract(value, '$.what') NOT LIKE '{ROUTINE}%')"
_NOTABLE = f"({_DONE} OR calls.kind = 'tool' AND (coalesce(calls.exit_status, 0) != 0 OR coalesce(calls.peak_bytes, 0) >= {LARGE_BYTES}))"


def _where(chosen: Filter) -> tuple[str, list[Any]]:
    conditions = {
        "sessions.name = ?": chosen.session,
        "calls.class = ?": chosen.name,
        "instr(calls.command, ?)": chosen.text,
        "sessions.id / 1e9 + calls.started_s >= ?": chosen.since,
        "sessions.owner = ?": chosen.owner,
        "calls.kind = ?": chosen.kind,
    }
    given = {condition: clean_data(value) for condition, value in conditions.items() if value is not None}
    where = [
        *given,
        *(["calls.exit_status != 0"] if chosen.failed else []),
        *([_DONE] if chosen.acted_on else []),
        *([_NOTABLE] if chosen.notable else []),
    ]
    return f"FROM calls JOIN sessions ON sessions.id = calls.session WHERE {' AND '.join(where) or '1'}", list(given.values())


def calls(connection: sqlite3.Connection, chosen: Filter) -> list[dict[str, Any]]:
    """Calls, oldest first, each with the ``name`` of its session and ``started_at`` in seconds since the epoch."""
    columns = ", ".join(f"calls.{name}" for name in _CALL_COLUMNS)
    selection, values = _where(chosen)
    rows = connection.execute(
        f"SELECT sessions.name AS session, sessions.id / 1e9 + calls.started_s AS started_at, {columns} {selection}"
        " ORDER BY started_at DESC LIMIT ?",
        [*values, chosen.limit],
    )
    return [_decoded(row) for row in rows][::-1]


def folded(connection: sqlite3.Connection, chosen: Filter) -> dict[str, Any]:
    """What a filter leaves out that asks for notable calls only: how many of the model's (``well``), the agent's own commands with how
    often each ran (``own``, the most frequent ones) and in all (``owns``), and ``helpers``.
    """  # fmt: skip
    selection, values = _where(replace(chosen, notable=False))
    rest = f"{selection} AND NOT {_NOTABLE}"
    counts = dict(connection.execute(f"SELECT calls.kind, count(*) {rest} GROUP BY calls.kind", values).fetchall())
    own = connection.execute(
        f"SELECT calls.command, count(*) AS times {rest} AND calls.kind = 'own' GROUP BY calls.command ORDER BY times DESC LIMIT ?",
        [*values, _MOST_OWN],
    )
    return {
        "well": counts.get("tool", 0),
        "own": {clean(command): times for command, times in own},
        "owns": counts.get("own", 0),
        "helpers": counts.get("helper", 0),
    }


def sessions(connection: sqlite3.Connection, name: str | None = None) -> list[dict[str, Any]]:
    """All sessions, or those of a name, oldest first."""
    rows = connection.execute("SELECT * FROM sessions WHERE ?1 IS NULL OR name = ?1 ORDER BY id", [clean_data(name)])
    return [_decoded(row) for row in rows]


def calls_of(connection: sqlite3.Connection, session: int) -> list[dict[str, Any]]:
    """The calls of one session, in order, whosever they are."""
    rows = connection.execute(f"SELECT {', '.join(_CALL_COLUMNS)} FROM calls WHERE session = ? ORDER BY call", [session])
    return [_decoded(row) for row in rows]


def samples_of(connection: sqlite3.Connection, session: int) -> list[dict[str, Any]]:
    """The samples of one session, in order."""
    rows = connection.execute(
        "SELECT at_s, agent_bytes, calls_bytes, cpu_s FROM samples WHERE session = ? ORDER BY at_s", [session]
    )
    return [dict(row) for row in rows]


def totals(connection: sqlite3.Connection) -> dict[tuple[str, str, str], float]:
    """What was counted since the file was made, by name, class and label."""
    return {(name, kind, label): value for name, kind, label, value in connection.execute("SELECT * FROM totals")}


def _decoded(row: sqlite3.Row) -> dict[str, Any]:
    """A row; its texts cleaned again, for an earlier version may have written them, or another program."""
    found = {name: json.loads(value) if name in ("deeds", "loops") else value for name, value in dict(row).items()}
    return {name: clean_data(value) for name, value in found.items()}
