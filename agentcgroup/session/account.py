"""What was done to the calls of a session, and why: kept while it runs and for some time after, and told by ``explain``.

A running session appends each deed as a line of JSON to its folder; of the last sessions that ended the reports are kept, until the
next boot.
"""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentcgroup.command import display
from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import CallRecord, Deed
from agentcgroup.session.places import RUN, SESSIONS, check_name

ENDED = RUN / "ended"
_KEPT = 32
_DEEDS = "deeds"
_LARGEST_BYTES = 1 << 20
"""Of a file that a session writes in memory (/run): beyond it, the older half goes."""


def note(folder: Path, record: CallRecord, deed: Deed) -> None:
    """Append one deed to what is known of a running session."""
    line = {
        "call": record.call,
        "command": display(record.argv, 200),
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
        with open(file, "a") as opened:
            opened.write(line + "\n")
            large = opened.tell() > _LARGEST_BYTES
        if large:
            file.replace(_older(file))


def _older(file: Path) -> Path:
    return file.with_name(f"{file.name}.1")


def keep(name: str, report: dict[str, Any]) -> None:
    """Keep the report of a session that has ended; the oldest ones go."""
    with contextlib.suppress(OSError):
        ENDED.mkdir(mode=0o700, exist_ok=True)
        (ENDED / f"{name}.json").write_text(json.dumps(report))
        for old in sorted(ENDED.iterdir(), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
            old.unlink()


def explain(what: str, as_json: bool) -> int:
    """Print what was done to the calls of ``SESSION``, or to one, ``SESSION/CALL``; returns the exit code."""
    name, slash, number = what.partition("/")
    check_name(name)
    if slash and not number.isdigit():
        raise AgentCgroupError(f"{what!r}: {number!r} is not the number of a call", do="agentcgroup explain SESSION[/CALL]")
    found = [deed for deed in _deeds(name) if not number or deed["call"] == int(number)]
    if as_json:
        print(json.dumps(found))
        return 0
    call = None
    for deed in found:
        if deed["call"] != call:
            call = deed["call"]
            print(f"{name}/{call}: {deed['command']}  [{deed['class']}: {deed['rule']}]")
        print(f"  {deed['at_s']:9.3f} s  {deed['what']}: {deed['why']}")
    if not found:
        print(f"agentcgroup: nothing was done to {'this call' if number else 'any call of this session'}")
    return 0


def _deeds(name: str) -> list[dict[str, Any]]:
    """All deeds of a session, running or ended, by call.  Raises AgentCgroupError where nothing is known of it."""
    folder, report = SESSIONS / name, ENDED / f"{name}.json"
    try:
        if folder.exists():
            files = (_older(folder / _DEEDS), folder / _DEEDS)
            lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
            return sorted((json.loads(line) for line in lines), key=lambda deed: deed["call"])
        calls = json.loads(report.read_text())["calls"]
    except PermissionError:
        raise AgentCgroupError(f"{name}: not for this user", "sessions belong to root", "run it with sudo, or as root") from None
    except (OSError, ValueError):
        known = sorted({*(one.name for one in _listed(SESSIONS)), *(one.stem for one in _listed(ENDED))})
        raise AgentCgroupError(
            f"no session {name!r}", f"there are: {', '.join(known) or 'none'}", "agentcgroup explain SESSION[/CALL]"
        ) from None
    return [
        {"call": call["call"], "command": call["command"], "class": call["class_name"], "rule": call["rule"], **deed}
        for call in calls
        for deed in call["deeds"]
    ]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
