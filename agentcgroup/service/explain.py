"""``agentcgroup explain``: what was done to the calls of a session, as it was kept (``session.account``).

Root reads it; a user is shown it by the daemon, of sessions of its own.
"""

import json
import os
import re
from typing import Any

from agentcgroup.errors import AgentCgroupError
from agentcgroup.service import status
from agentcgroup.session import account
from agentcgroup.session.places import check_name
from agentcgroup.text import clean

MOST = 5000
"""Deeds that the daemon shows, the last ones."""
_NUMBER = re.compile("[0-9]{1,9}", re.A)
_USAGE = "agentcgroup explain SESSION[/CALL]"


def explain(what: str, as_json: bool) -> int:
    """Print what was done to the calls of ``SESSION``, or to one, ``SESSION/CALL``; returns the exit code."""
    name, slash, number = what.partition("/")
    check_name(name)
    if slash and not _NUMBER.fullmatch(number):
        raise AgentCgroupError(f"{what!r}: {number!r} is not the number of a call", do=_USAGE)
    call = int(number) if slash else None
    known = _of_own(name, call) if os.geteuid() else _of_any(name, call)
    if call is not None:
        last = known["last_call"] if known["last_call"] is not None else status.ask(name).get("last_call")
        if last is not None and not 1 <= call <= last:
            there = f"its calls are 1 to {last}" if last else "it has had no call"
            raise AgentCgroupError(f"{name}/{call}: there was no such call", there, f"agentcgroup history --all --session {name}")
    if as_json:
        print(json.dumps(known["deeds"]))
    else:
        _print(name, call, known["deeds"])
    return 0


def _print(name: str, wanted: int | None, deeds: list[dict[str, Any]]) -> None:
    call = None
    for deed in deeds:
        if deed["call"] != call:
            call = deed["call"]
            print(f"{name}/{call}: {clean(deed['command'])}  [{clean(deed['class'])}: {clean(deed['rule'])}]")
        print(f"  {deed['at_s']:9.3f} s  {clean(deed['what'])}: {clean(deed['why'])}")
    if not deeds:
        print(f"agentcgroup: nothing was done to {'any call of this session' if wanted is None else 'this call'}")


def _of_any(name: str, call: int | None) -> dict[str, Any]:
    known = answer(name, call, 0)
    if known is None:
        raise AgentCgroupError(f"no session {name!r}", f"there are: {', '.join(account.names()) or 'none'}", _USAGE)
    return known


def _of_own(name: str, call: int | None) -> dict[str, Any]:
    found = status.ask_daemon(op="explain", session=name, **({} if call is None else {"call": call}))
    if "error" in found:
        raise AgentCgroupError(f"{name}: the daemon does not show it", found["error"], "use sudo for sessions of others")
    return found


def answer(name: str, call: int | None, uid: int) -> dict[str, Any] | None:
    """What ``uid`` may know of a session, or of one of its calls; None where nothing is known, or it is another's."""
    known = account.account(name)
    if known is None or uid not in (0, known.owner):
        return None
    deeds = [deed for deed in known.deeds if call in (None, deed["call"])]
    return {"deeds": deeds[-MOST:] if uid else deeds, "last_call": known.last_call}
