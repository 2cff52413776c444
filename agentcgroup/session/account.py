"""What was done to the calls of a session, and why: kept while it runs and for some time after, and told by ``explain``.

A running session appends each deed as a line of JSON to its folder; of the last sessions that ended the reports are kept, until the
next boot.  The files are root's: a user is shown what is in them by the daemon.
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentcgroup.model import CallRecord, Deed
from agentcgroup.session.places import PLAN, RUN, SESSIONS, check_name
from agentcgroup.session.report import command_words

ENDED = RUN / "ended"
_KEPT = 32
_DEEDS = "deeds"
_LARGEST_BYTES = 1 << 20
"""Of a file that a session writes in memory (/run): beyond it, the older half goes."""


def note(folder: Path, record: CallRecord, deed: Deed) -> None:
    """Append one deed to what is known of a running session."""
    line = {
        "call": record.call,
        "command": command_words(record),
        "class": record.class_name,
        "rule": record.rule,
        **asdict(deed),
    }
    append(folder / _DEEDS, json.dumps(line))


def append(file: Path, line: str) -> None:
    """Append a line; a file that has grown large enough becomes ``FILE.1``, instead of the one before it.

    A container may run for months.  A line that can't be written is lost.
    """
    with contextlib.suppress(OSError):
        with open(file, "a", opener=_for_root) as opened:
            opened.write(line + "\n")
            large = opened.tell() > _LARGEST_BYTES
        if large:
            file.replace(_older(file))


def _for_root(file: str, flags: int) -> int:
    return os.open(file, flags | os.O_CLOEXEC, 0o600)


def _older(file: Path) -> Path:
    return file.with_name(f"{file.name}.1")


def keep(name: str, report: dict[str, Any], owner: int, last_call: int) -> None:
    """Keep the report of a session that has ended; the oldest ones go."""
    with contextlib.suppress(OSError):
        ENDED.mkdir(mode=0o700, exist_ok=True)
        (ENDED / f"{name}.json").write_text(json.dumps({**report, "owner": owner, "last_call": last_call}))
        for old in sorted(ENDED.iterdir(), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
            old.unlink()


@dataclass(frozen=True, slots=True)
class Account:
    """What was done to the calls of a session, in their order.

    ``last_call`` is the number of its last call, None where only the running session knows.
    """

    owner: int
    deeds: list[dict[str, Any]]
    last_call: int | None


def account(name: str) -> Account | None:
    """Of a session, running or ended; None where nothing is known of it.  Raises AgentCgroupError for what is no name."""
    folder = SESSIONS / check_name(name)
    try:
        return _of_running(folder) if folder.exists() else _of_ended(ENDED / f"{name}.json")
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _of_running(folder: Path) -> Account:
    files = (_older(folder / _DEEDS), folder / _DEEDS)
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    plan = folder / PLAN  # there is one where the daemon runs it, for whoever asked
    owner = json.loads(plan.read_text())["uid"] if plan.exists() else 0
    return Account(owner, sorted((json.loads(line) for line in lines), key=lambda deed: deed["call"]), None)


def _of_ended(file: Path) -> Account:
    report = json.loads(file.read_text())
    deeds = [
        {"call": call["call"], "command": call["command"], "class": call["class_name"], "rule": call["rule"], **deed}
        for call in report["calls"]
        for deed in call["deeds"]
    ]
    return Account(report["owner"], deeds, report["last_call"])


def names() -> list[str]:
    """The sessions that something is known of."""
    return sorted({*(one.name for one in _listed(SESSIONS)), *(one.stem for one in _listed(ENDED))})


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
