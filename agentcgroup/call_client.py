"""``agentcgroup exec``: the explicit form of a tool call.

This is on a tool call's path, so it imports no more than it needs: asking the session's governor to
make this process the root of a call, then becoming the command.  ``--help`` is answered by ``cli``.
"""

import os
import socket
import sys
from itertools import pairwise

from agentcgroup.errors import AgentCgroupError
from agentcgroup.text import clean

_SLICE = "agentcgroup.slice"
_PATIENCE_S = 2.0


def main(arguments: list[str]) -> int:
    """Run ``[--hint H] -- CMD...`` as a call of its own; returns only when CMD could not be executed."""
    hint, command = parse(arguments)
    session = own_session()
    if hint is not None:
        os.environ["AGENT_RESOURCE_HINT"] = hint
    try:
        declare(session)
    except (OSError, ValueError) as error:
        # The command matters more than its cgroup.
        print(f"agentcgroup: exec: running without a cgroup of its own: {clean(str(error))}", file=sys.stderr)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"agentcgroup: {clean(command[0])} can't be executed: {error.strerror}", file=sys.stderr)
        return 127 if isinstance(error, FileNotFoundError) else 126


def parse(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The hint and the command of ``exec``'s arguments.  Raises AgentCgroupError."""
    hint = None
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        if word == "--hint" and rest:
            hint = rest.pop(0)
        elif word.startswith("--hint="):
            hint = word.removeprefix("--hint=")
        else:
            raise AgentCgroupError(f"exec: unknown option {word!r}", do="agentcgroup exec [--hint H] -- CMD...")
    if not rest:
        raise AgentCgroupError("exec: no command", do="agentcgroup exec [--hint H] -- CMD...")
    if hint is not None:
        _check(hint)
    return hint, rest


def announced(line: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The hint and the command that a process with this command line is about to execute; empty unless it is ``agentcgroup exec``."""
    for place, (program, word) in enumerate(pairwise(line)):
        if word == "exec" and program.rpartition("/")[2] == "agentcgroup":
            try:
                hint, command = parse(list(line[place + 2 :]))
            except AgentCgroupError:
                break
            return hint or "", tuple(command)
    return "", ()


def _check(hint: str) -> None:
    from agentcgroup.hints import parse_hint

    if complaints := parse_hint(hint)[1]:
        raise AgentCgroupError("exec: bad hint", "; ".join(complaints), "for example --hint memory:high,timeout:5m")


def own_session() -> str:
    """The session that this process runs in, from its cgroup."""
    with open("/proc/self/cgroup", "rb") as file:
        lines = os.fsdecode(file.read()).split("\n")  # names in it need not be UTF-8
    for line in lines:
        parts = line.partition("::")[2].split("/")
        if line.startswith("0::") and _SLICE in parts[:-1]:
            scope = parts[parts.index(_SLICE) + 1]
            return scope.removeprefix("agentcgroup-").removesuffix(".scope")
    raise AgentCgroupError(
        "exec: not inside a session", "this process is in no session's cgroup", "start the agent with agentcgroup run"
    )


def declare(session: str, request: str = '{"op": "call"}') -> None:
    """Make this process the root of a tool call of the session.  Raises OSError or ValueError."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(_PATIENCE_S)
        channel.connect(f"/run/agentcgroup/sessions/{session}/control.sock")
        channel.sendall(request.encode() + b"\n")
        answer = channel.recv(4096).decode()
    if '"leaf"' not in answer:
        raise ValueError(f"the session's governor answered {answer.strip() or 'nothing'}")
