"""Writes the history: every governor for itself, in a thread beside its event loop.

SQLite's write-ahead log lets several write, and others read, at the same time.
"""

import contextlib
import json
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from agentcgroup.history.store import BUSY_S, MIGRATIONS, SCHEMA, VERSION, check_version
from agentcgroup.model import LARGEST_STATUS

_CLOSE_S = 5.0
_LARGEST = (1 << 63) - 1
_MOST_SAID = 100
_GATHER_S = 0.2
"""How long rows are gathered for one transaction."""
_FORGET_EVERY = 1000
"""Calls: a session may last for months."""
Total = tuple[str, str, float]
"""Something that is counted: its name, its label (which of its endings, which bucket of a histogram), and the amount."""
_Work = tuple[Callable[[sqlite3.Connection], object], Callable[[], object] | None]
"""A piece of a transaction, and what is to be done when that is over."""


class Writer:
    """Writes the history of one or of many sessions beside everything else; what can't be written is said, and holds nothing up."""

    def __init__(self, file: Path, keep_s: float, keep_bytes: int, complain: Callable[[str], None]) -> None:
        """``keep_s`` and ``keep_bytes``: what is older goes, and the oldest while there is more.

        ``complain`` is called in the writing thread.
        """
        self._file, self._keep_s, self._keep_bytes, self._complain = file, keep_s, keep_bytes, complain
        self._until_forget = _FORGET_EVERY
        self._said: set[str] = set()
        self._closing = threading.Event()
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="history", daemon=True)
        self._thread.start()

    def put(self, table: str, row: dict[str, Any]) -> None:
        """Add a row, or replace the one with the same key; a session that is there already stays, with all that belongs to it."""
        self._work.put((partial(_put, table, row), None))

    def call_ended(
        self, session: dict[str, Any], row: dict[str, Any], totals: Iterable[Total], then: Callable[[], object] | None = None
    ) -> None:
        """The last word on a call of a session, and what it adds to the totals of its class: it counts once, however often it is said.

        ``then`` is called in the writing thread when it is written, or can't be.
        """
        self._work.put((partial(_end_call, session, row, tuple(totals)), then))
        self._until_forget -= 1
        if not self._until_forget:
            self.forget_old()

    def change_session(self, session: int, **values: Any) -> None:
        """Say more of a session that was put before."""
        self._work.put((partial(_change_session, session, values), None))

    def change_kind(self, session: int, call: int, kind: str) -> None:
        """Whose command a call was is known better than when it ended; the totals stay as they were counted."""
        self._work.put((partial(_change_kind, session, call, kind), None))

    def change(self, keep_s: float, keep_bytes: int) -> None:
        """Another rule of what is kept, from now on."""
        self._keep_s, self._keep_bytes = keep_s, keep_bytes

    def forget_old(self) -> None:
        """What is not to be kept any longer goes."""
        self._until_forget = _FORGET_EVERY
        self._work.put((partial(_forget, time.time_ns() - int(self._keep_s * 1e9), self._keep_bytes), None))

    def close(self) -> None:
        """Write what is left, and wait for it."""
        self._work.put(None)
        self._closing.set()
        self._thread.join(_CLOSE_S)

    def _write(self) -> None:
        connection: sqlite3.Connection | None = None
        over = False
        while not over:
            batch = [self._work.get()]
            # Others come soon; and this thread must not take the interpreter from the event loop for each of them.
            self._closing.wait(_GATHER_S)
            while not self._work.empty():
                batch.append(self._work.get())
            over = batch[-1] is None
            pieces = [piece for piece in batch if piece is not None]
            try:
                connection = self._write_batch(connection, pieces)
            except Exception as error:  # the thread goes on: what comes next may be written
                self._say(f"the history could not be written: {error}")
            for _, then in pieces:
                if then is not None:
                    then()
        if connection is not None:
            connection.close()

    def _write_batch(self, connection: sqlite3.Connection | None, pieces: list[_Work]) -> sqlite3.Connection:
        """Do the pieces in one transaction; returns the connection to go on with.  Each error is one of the file, not of a piece."""
        for last in (False, True):
            try:
                connection = connection or _open_to_write(self._file)
                with connection:
                    # Begun with a look, a transaction could not wait for another's end before it writes.
                    connection.execute("BEGIN IMMEDIATE")
                    for do, _ in pieces:
                        self._do(do, connection)
                return connection
            except sqlite3.DatabaseError as error:
                if last or not _is_damaged(error):
                    raise
                if connection is not None:
                    connection.close()
                    connection = None
                self._say(
                    f"the history is damaged ({error}): it is set aside as {_set_aside(self._file)}, and a new one is begun"
                )
        raise AssertionError("the second try returns or raises")

    def _do(self, do: Callable[[sqlite3.Connection], object], connection: sqlite3.Connection) -> None:
        try:
            do(connection)
        except sqlite3.IntegrityError:
            pass  # of a session that is forgotten already
        except sqlite3.Error:
            raise
        except Exception as error:  # a mistake of ours in one row: the others are written
            self._say(f"something was not written to the history: {error!r}")

    def _say(self, text: str) -> None:
        """Once for each text: a full disk would be said at each batch."""
        if text not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(text)
            self._complain(text)


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _set_aside(file: Path) -> Path:
    """Rename a damaged history, with what belongs to it; its new name."""
    aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    for tail in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            file.with_name(file.name + tail).rename(aside.with_name(aside.name + tail))
    return aside


def _use_wal(connection: sqlite3.Connection) -> None:
    """The one statement for which SQLite does not wait where another does the same."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _put(table: str, row: dict[str, Any], connection: sqlite3.Connection) -> None:
    way = "IGNORE" if table == "sessions" else "REPLACE"
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT OR {way} INTO {table} ({names}) VALUES ({marks})", _encoded(row))


def _end_call(session: dict[str, Any], row: dict[str, Any], totals: tuple[Total, ...], connection: sqlite3.Connection) -> None:
    known = "SELECT 1 FROM calls WHERE session = ? AND call = ? AND over"
    if connection.execute(known, [session["id"], row["call"]]).fetchone():
        return
    _put("sessions", session, connection)  # one that did nothing for long may be forgotten
    _put("calls", {"session": session["id"], **row, "over": 1}, connection)
    for name, label, value in totals:
        connection.execute(
            "INSERT INTO totals VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            [name, row["class"], label, value],
        )


def _change_session(session: int, values: dict[str, Any], connection: sqlite3.Connection) -> None:
    changes = ", ".join(f"{name} = ?" for name in values)
    connection.execute(f"UPDATE sessions SET {changes} WHERE id = ?", [*_encoded(values), session])


def _change_kind(session: int, call: int, kind: str, connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE calls SET kind = ? WHERE session = ? AND call = ?", [kind, session, call])


def _forget(oldest_ns: int, most_bytes: int, connection: sqlite3.Connection) -> None:
    _forget_before(oldest_ns, connection)
    while _used_bytes(connection) > most_bytes:
        tenth = (
            "SELECT session + CAST(started_s * 1e9 AS INTEGER) AS at FROM calls ORDER BY at LIMIT 1"
            " OFFSET (SELECT count(*) / 10 FROM calls)"
        )
        found = connection.execute(tenth).fetchone()
        if found is None:
            break
        _forget_before(found[0] + 1, connection)


def _forget_before(moment_ns: int, connection: sqlite3.Connection) -> None:
    """Calls and samples of before that go, and sessions that began before and have none."""
    for table, at in (("calls", "started_s"), ("samples", "at_s")):
        connection.execute(f"DELETE FROM {table} WHERE session + CAST({at} * 1e9 AS INTEGER) < ?", [moment_ns])
    nothing = " AND ".join(f"NOT EXISTS (SELECT 1 FROM {table} WHERE session = id)" for table in ("calls", "samples"))
    connection.execute(f"DELETE FROM sessions WHERE id < ? AND {nothing}", [moment_ns])


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Of the file; what is free in it is used again."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _encoded(row: dict[str, Any]) -> list[Any]:
    return [_bounded(name, value) for name, value in row.items()]


def _bounded(name: str, value: Any) -> Any:
    """A value that SQLite takes and that everybody who reads it understands, whatever was said at an edge."""
    match value:
        case list() | dict():
            return json.dumps(value)
        case int() if name == "exit_status":
            return value if 0 <= value <= LARGEST_STATUS else None
        case int():
            return max(-_LARGEST - 1, min(value, _LARGEST))
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value


def _open_to_write(file: Path) -> sqlite3.Connection:
    """The history's file, made if it is not there: for root alone, as commands may hold secrets."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    connection = sqlite3.connect(file, timeout=BUSY_S)
    connection.execute("PRAGMA foreign_keys = ON")
    _use_wal(connection)
    # A row that a power failure takes is no loss; that each is flushed to the disk would be one.
    connection.execute("PRAGMA synchronous = NORMAL")
    version = check_version(connection, file)
    steps = "".join(MIGRATIONS[old] for old in range(version, VERSION)) if version else ""
    change = SCHEMA if not version else f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;" if steps else ""
    try:
        connection.executescript(change)
    except sqlite3.OperationalError:  # another session did it at this moment
        connection.rollback()
    return connection
