"""What ``run`` may ask the daemon for, and what a user gets of it.  Pure, but for what is looked up of the two processes.

One line of JSON on ``/run/agentcgroup/control.sock`` asks: ``{"version": 1, "op": "run", "argv": [...], "stub": PID, "keeper": PID}``, with a
name, a priority and a budget if they are wished for.  The daemon answers ``{"ready": NAME}``; the caller lets its stub become the agent,
says ``{"exit": STATUS}`` when that has ended, and gets ``{"report": ...}``; or an ``{"error": ...}`` instead of either.
``{"version": 1, "op": "history"}``, with conditions like those of ``agentcgroup history``, is answered by ``{"calls": [...]}``: the calls
of the caller's own sessions, or to root of all; ``{"version": 1, "op": "explain", "session": NAME}``, which may have the number of a
``call``, by ``{"deeds": [...], "last_call": N}``: what was done to the calls of such a session.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from agentcgroup import cgroup
from agentcgroup.classify import SMALLEST_BUDGET_BYTES, amount
from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.model import Kind, Priority
from agentcgroup.policy import Policy
from agentcgroup.schedule.scheduler import LEVELS
from agentcgroup.session.places import check_name, name_of
from agentcgroup.units import format_size

VERSION = 1
LONGEST_ORDER = 256 * 1024
Word = Annotated[str, Field(max_length=65536)]
Wanted = Annotated[str, Field(max_length=256)]
Pid = Annotated[int, Field(ge=2, le=1 << 22)]
"""The kernel has no larger ones."""


class Order(BaseModel):
    """A session that somebody wants to run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1]
    op: Literal["run"]
    argv: Annotated[list[Word], Field(min_length=1, max_length=4096)]
    stub: Pid
    keeper: Pid
    name: Annotated[str, Field(max_length=40)]
    priority: Priority | None = None
    memory: Annotated[int, Field(ge=1, le=1 << 50)] | None = None


class Question(BaseModel):
    """Calls of the past that somebody wants to know of; the fields are those of ``history.store.Filter``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1]
    op: Literal["history"]
    session: Wanted | None = None
    name: Wanted | None = None
    text: Wanted | None = None
    since: Annotated[float, Field(allow_inf_nan=False)] | None = None
    failed: bool = False
    acted_on: bool = False
    notable: bool = False
    kind: Kind | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50


class Explain(BaseModel):
    """What was done to the calls of a session, or to one of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1]
    op: Literal["explain"]
    session: Wanted
    call: Annotated[int, Field(ge=0, le=1 << 31)] | None = None


class Ended(BaseModel):
    """The agent has ended, with this status as wait(2) encodes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    exit: Annotated[int, Field(ge=0, le=0xFFFF)]


ASKED: TypeAdapter[Order | Question | Explain] = TypeAdapter(Annotated[Order | Question | Explain, Field(discriminator="op")])


@dataclass(frozen=True, slots=True)
class Granted:
    """What a session gets: whose it is, its priority, and its budget in bytes."""

    uid: int
    priority: Priority
    memory: int


def admit(policy: Policy, host_bytes: int, uid: int, order: Order, theirs: Sequence[Granted], in_files: int = 0) -> Granted:
    """What a user's session gets beside those that the user has.  Raises AgentCgroupError for what is more than the policy allows.

    Root may have anything; a wish that is not said is cut down to what is allowed.  ``in_files``: memory that files of the user's ended
    sessions take.
    """
    check_name(order.name)
    memory = order.memory or amount(policy.session.memory, host_bytes)
    priority = order.priority or policy.session.priority
    if uid:
        rule = policy.users
        if len(theirs) >= rule.sessions:
            raise AgentCgroupError(
                f"user {uid} has {len(theirs)} sessions", "the policy allows no more (users: sessions)", "end one of them"
            )
        if LEVELS[priority] < LEVELS[rule.priority]:
            if order.priority:
                raise AgentCgroupError(
                    f"--priority {priority} refused", f"users may have {rule.priority} at most (users: priority)", "ask for less"
                )
            priority = rule.priority
        share, taken = amount(rule.memory, host_bytes), sum(one.memory for one in theirs)
        left = share - taken - in_files
        if memory > left and order.memory:
            raise AgentCgroupError(
                f"--memory {format_size(memory)} refused",
                f"of what users may have, {format_size(max(0, left))} is left for user {uid} (users: memory){_beside(in_files)}",
                "ask for less, or end a session",
            )
        memory = min(memory, left)
        if theirs and memory < SMALLEST_BUDGET_BYTES:
            raise AgentCgroupError(
                f"no memory is left for another session of user {uid}",
                f"of its share of {format_size(share)} (users: memory), {len(theirs)} running sessions have {format_size(taken)};"
                f" {format_size(max(0, left))} is left, and a session needs {format_size(SMALLEST_BUDGET_BYTES)}{_beside(in_files)}",
                "end one of them, or start each with a budget of its own, e.g. --memory"
                f" {format_size(max(SMALLEST_BUDGET_BYTES, share // 4))}; a session without --memory takes all that is left",
            )
    if memory < SMALLEST_BUDGET_BYTES:
        raise AgentCgroupError(
            f"a budget of {format_size(max(0, memory))} is too small",
            f"an idle agent and a shell need {format_size(SMALLEST_BUDGET_BYTES)}{_beside(in_files)}",
            "give more --memory, or end a session",
        )
    return Granted(uid, priority, memory)


def _beside(in_files: int) -> str:
    if not in_files:
        return ""
    return (
        f"; {format_size(in_files)} is taken by files in memory (tmpfs, such as /dev/shm) that ended sessions left: remove them"
    )


def _whose(pid: int) -> tuple[int, int] | None:
    """The user and the parent of a process; None when it is gone.  Raises AgentCgroupError where it can't be known."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid  # of the files in there, root may be the owner
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise AgentCgroupError(f"process {pid} can't be looked at", errno_words(error), "try again later") from None
    return owner, int(line[line.rindex(b")") + 2 :].split()[1])


def check_processes(order: Order, caller: int, uid: int) -> None:
    """The stub and the keeper have to be children of the caller, owned by the same user, and in no session.

    Raises AgentCgroupError: nobody's process is put anywhere because somebody else says so.
    """
    for pid in (order.stub, order.keeper):
        if _whose(pid) != (uid, caller):
            raise AgentCgroupError(f"process {pid} is not the caller's child", "only its own processes can be given to a session")
    try:
        inside = name_of(cgroup.of_process(order.stub))
    except ProcessLookupError:
        raise AgentCgroupError(f"process {order.stub} is gone", "it ended before the session began") from None
    if inside:
        raise AgentCgroupError(
            "run inside a session", f"it belongs to session {inside!r}", "its commands are governed already; use agentcgroup exec"
        )
