"""A container as a session: its cgroup divided, what runs in it governed, until it ends or the daemon does."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentcgroup import cgroup
from agentcgroup.classify import SMALLEST_BUDGET_BYTES, amount, split_budget
from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.history.writer import Writer
from agentcgroup.model import Priority
from agentcgroup.policy import NAMED_POLICIES, HostRule, Policy, load_policy
from agentcgroup.service.limits import memory_limit, telling_of_changes
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
    complaints = [f"{complaint}: ignored" for complaint in complaints]
    try:
        top = cgroup.of_process(container.pid)
    except ProcessLookupError:
        return  # it has ended
    if top.name == AGENT:  # an earlier daemon divided it
        top = top.parent
    _check(container, top)
    name, folder, lock = _claim(wished.name, container)
    told = asyncio.Event()
    try:
        with contextlib.ExitStack() as listening:
            try:
                listening.enter_context(telling_of_changes(top, told.set))
            except OSError as error:
                complaints.append(
                    f"changes of its limit of memory are not seen until the daemon starts again ({errno_words(error)})"
                )
            governed = _Governed(container, top, name, folder, policy, wished, source, source_words, writer, told)
            while await governed.with_its_budget(complaints):
                complaints = ["its limit of memory was changed: it goes on with another budget"]
    finally:
        os.close(lock)
    release(folder)


@dataclass(frozen=True, slots=True)
class _Governed:
    """A container that is governed with one budget after the other; ``told`` is set when its limit may have changed."""

    container: Container
    top: Path
    name: str
    folder: Path
    policy: Policy
    wished: Wishes
    source: Source
    source_words: str
    writer: Writer
    told: asyncio.Event

    def memory(self) -> int:
        """The session's budget now, in bytes."""
        limits = [limit for limit in (self.wished.memory, memory_limit(self.top)) if limit is not None]
        return max(min(limits), SMALLEST_BUDGET_BYTES) if limits else amount(self.policy.session.memory, host_memory())

    async def with_its_budget(self, remarks: list[str]) -> bool:
        """Govern it until it ends, or is to have another budget: then True."""
        memory, policy = self.memory(), self.policy
        budget, priority = split_budget(policy, memory), self.wished.priority or policy.session.priority
        layout = Layout(self.name, self.source, self.top)
        # One that forks all the time takes long; the others are not to wait for it.
        await asyncio.to_thread(layout.take_over, budget, priority, policy.session.agent.cpu_weight)
        (self.folder / CONTAINER).write_text(str(self.top))
        pid = self.container.pid
        subject = Subject(
            self.name, self.folder, policy, budget, priority, self.container.words, "auto", pid, pid, contained=True, adopted=True
        )  # fmt: skip
        governor = Governor(subject, layout, self.source, self.source_words, no_other_host, self.writer)
        for remark in remarks:
            governor.log(remark)
        return await _until_it_ends(governor, self.told, lambda: self.top.exists() and self.memory() != memory)


async def _until_it_ends(governor: Governor, told: asyncio.Event, has_changed: Callable[[], bool]) -> bool:
    """Or until, when that is ``told``, its budget ``has_changed``: then it goes on without limits, to be taken up again, and True."""
    ended = again = False

    def over() -> None:
        nonlocal ended
        ended = True
        told.set()

    try:
        await governor.start(over)
    except OSError:
        return False  # it ended just now
    try:
        await governor.take_up()
        while not ended and not again:
            await told.wait()
            told.clear()
            again = not ended and has_changed()
    except asyncio.CancelledError:
        await governor.suspend()
        raise
    if again:
        await governor.suspend()
        return True
    await governor.quiet()
    peak = governor.agent_peak()
    await governor.let_all_go()
    governor.calls.session_ends()
    governor.calls.end_all()
    await governor.close()
    governor.report(None, peak)
    return False


def _check(container: Container, top: Path) -> None:
    """Only a cgroup that is the container's own may be divided."""
    if container.id[:12] not in str(top):
        raise AgentCgroupError(
            f"container {container.name} can't be governed",
            f"its first process is in {top}, which is not its own cgroup",
            "run the container engine with cgroup v2 and private cgroups",
        )


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
