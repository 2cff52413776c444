"""A container as a session: its cgroup divided, what runs in it governed, until it ends or the daemon does."""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentcgroup import cgroup
from agentcgroup.classify import SMALLEST_BUDGET_BYTES, amount, split_budget
from agentcgroup.errors import AgentCgroupError
from agentcgroup.history.writer import Writer
from agentcgroup.model import Priority
from agentcgroup.policy import NAMED_POLICIES, HostRule, Policy, load_policy
from agentcgroup.session.governor import Governor, Subject
from agentcgroup.session.layout import Layout
from agentcgroup.session.places import AGENT, CONTAINER, check_name, claim, release
from agentcgroup.session.start import host_memory
from agentcgroup.sources import Source
from agentcgroup.units import format_size, parse_size

ENABLE = "agentcgroup.enable"
_PREFIX = "agentcgroup."
_KNOWN = {"enable", "name", "priority", "memory", "policy"}


@dataclass(frozen=True, slots=True)
class Container:
    """A running container.  ``pid`` is its first process; ``words`` the command, as people know it."""

    id: str
    name: str
    pid: int
    words: tuple[str, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a container's labels ask for; None: nothing said.  ``complaints``: what of them was not understood, and is left out."""

    name: str
    priority: Priority | None
    memory: int | None
    policy: Path | None
    complaints: tuple[str, ...]


def wishes(container: Container) -> Wishes:
    """Read the labels ``agentcgroup.name``, ``.priority``, ``.memory`` and ``.policy``.  Pure; never raises."""
    said = {key.removeprefix(_PREFIX): value.strip() for key, value in container.labels.items() if key.startswith(_PREFIX)}
    complaints = [f"label {_PREFIX}{key}: not known" for key in sorted(said.keys() - _KNOWN)]
    priority: Priority | None = None
    memory = None
    name = f"docker-{container.id[:12]}"
    with contextlib.suppress(AgentCgroupError):
        name = check_name(container.name)
    if "name" in said:
        try:
            name = check_name(said["name"])
        except AgentCgroupError as error:
            complaints.append(f"label {_PREFIX}name: {error.why}")
    match said.get("priority"):
        case None:
            pass
        case "high" | "normal" | "low" as known:
            priority = known
        case other:
            complaints.append(f"label {_PREFIX}priority={other}: write high, normal or low")
    if "memory" in said:
        try:
            memory = max(parse_size(said["memory"]), SMALLEST_BUDGET_BYTES)
        except ValueError as error:
            complaints.append(f"label {_PREFIX}memory: {error}")
    policy = None
    if "policy" in said:
        try:
            policy = NAMED_POLICIES / f"{check_name(said['policy'])}.yaml"
        except AgentCgroupError as error:
            complaints.append(f"label {_PREFIX}policy: {error.why}")
    return Wishes(name, priority, memory, policy, tuple(complaints))


async def govern(container: Container, policy: Policy, source: Source, source_words: str, writer: Writer) -> None:
    """Govern a container until it ends; where this is cancelled, everything in it goes on without limits, to be taken up again.

    Raises AgentCgroupError where the container can't be governed.
    """
    wished = wishes(container)
    complaints = list(wished.complaints)
    if wished.policy is not None:
        try:
            policy = load_policy(wished.policy)
        except AgentCgroupError as error:
            complaints.append(f"label {_PREFIX}policy: {error}")
    try:
        top = cgroup.of_process(container.pid)
    except ProcessLookupError:
        return  # it has ended
    if top.name == AGENT:  # an earlier daemon divided it
        top = top.parent
    _check(container, top)
    priority = wished.priority or policy.session.priority
    budget = split_budget(policy, wished.memory or _limit_of(top) or amount(policy.session.memory, host_memory()))
    name, folder, lock = _claim(wished.name, container)
    try:
        layout = Layout(name, source, top)
        # One that forks all the time takes long; the others are not to wait for it.
        await asyncio.to_thread(layout.take_over, budget, priority, policy.session.agent.cpu_weight)
        (folder / CONTAINER).write_text(str(top))
        subject = Subject(
            name,
            folder,
            policy,
            budget,
            priority,
            container.words,
            "auto",
            container.pid,
            container.pid,
            contained=True,
            adopted=True,
        )
        governor = Governor(subject, layout, source, source_words, no_other_host, writer)
        for complaint in complaints:
            governor.log(f"{complaint}: ignored")
        await _until_it_ends(governor)
    finally:
        os.close(lock)
    release(folder)


async def _until_it_ends(governor: Governor) -> None:
    over = asyncio.Event()
    try:
        await governor.start(over.set)
    except OSError:
        return  # it ended just now
    try:
        await governor.take_up()
        await over.wait()
    except asyncio.CancelledError:
        await governor.suspend()
        raise
    await governor.quiet()
    peak = governor.agent_peak()
    await governor.let_all_go()
    governor.calls.session_ends()
    governor.calls.end_all()
    await governor.close()
    governor.report(None, peak)


def _check(container: Container, top: Path) -> None:
    """Only a cgroup that is the container's own may be divided."""
    if container.id[:12] not in str(top):
        raise AgentCgroupError(
            f"container {container.name} can't be governed",
            f"its first process is in {top}, which is not its own cgroup",
            "run the container engine with cgroup v2 and private cgroups",
        )


def _limit_of(top: Path) -> int | None:
    """The container's own limit of memory, if it has one."""
    with contextlib.suppress(cgroup.CgroupError, ValueError):
        return max(int(cgroup.read(top, "memory.max")), SMALLEST_BUDGET_BYTES)
    return None


def _claim(name: str, container: Container) -> tuple[str, Path, int]:
    """A name for the session: the one that was asked for, or if that is taken one with the container's id."""
    try:
        return name, *claim(name)
    except AgentCgroupError:
        other = f"{name[:27]}-{container.id[:12]}"
        return other, *claim(other)


def no_other_host(_: HostRule) -> None:
    """The daemon is the host process itself."""


def describe(container: Container) -> str:
    """The container for the log."""
    wished = wishes(container)
    memory = f", memory {format_size(wished.memory)}" if wished.memory else ""
    return f"container {container.name} ({container.id[:12]}): session {wished.name}, process {container.pid}{memory}"
