"""Which enforcer is in force on this host: loaded once for all sessions, watched, and replaced when the kernel puts it out.

The order is that of ``ORDER``; what can't be had is said with its reason, and the next one is taken.  One that the kernel
took out is tried again later, each time after twice as long.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agentcgroup import background
from agentcgroup.enforce import Choice, Name
from agentcgroup.errors import AgentCgroupError
from agentcgroup.host.wire import Enforce
from agentcgroup.kernel import memory, pair, scheduler
from agentcgroup.kernel.libbpf import BpfError

ORDER: tuple[Name, ...] = ("sched_ext", "memcg_bpf")
"""Best first: who the scheduler holds keeps no lock of the kernel, who memcg struct_ops delay may.  Cgroup files are what is left."""
_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 300.0


class Program(Protocol):
    """A BPF program in force."""

    calls_id: int
    figures_id: int
    ops_id: int
    slowed_id: int
    without: str

    def fileno(self) -> int | None: ...

    def ejected(self) -> scheduler.Ejected | None: ...

    def close(self) -> None: ...


_LOAD: dict[Name, Callable[[], Program]] = {"memcg_bpf": memory.Memory, "sched_ext": pair.Pair}
_LACKING: dict[Choice, Callable[[], str]] = {"memcg_bpf": memory.lacking, "sched_ext": scheduler.lacking}


def check(choice: Choice) -> None:
    """Raises BpfError when an enforcer is asked for by name that this kernel can't have."""
    if (lacks := _LACKING.get(choice)) is not None and (why := lacks()):
        raise BpfError(f"--enforcer {choice} can't be had here", why, "use --enforcer auto, or cgroup")


@dataclass(slots=True)
class _Member:
    choice: Choice
    tell: Callable[[Enforce], None]


class Enforcement:
    """The enforcer of one host, and the sessions that are told of it."""

    def __init__(self, log: background.Log = background.to_stderr) -> None:
        self._log = log
        self._members: dict[str, _Member] = {}
        self._program: Program | None = None
        self._word = Enforce("cgroup", "nothing else was tried yet")
        self._retry_s = _FIRST_RETRY_S
        self._loading: asyncio.Task[None] | None = None
        self._ahead = False

    def begin(self) -> None:
        """Load the best program before any session asks for it: the kernel's checks take longer than a short session."""
        self._ahead = True
        self._begin_to_load(0.0)

    def join(self, name: str, choice: Choice, tell: Callable[[Enforce], None]) -> None:
        """A session has begun; ``tell`` is called now and whenever something changes for it."""
        member = self._members[name] = _Member(choice, tell)
        if choice != "cgroup" and self._program is None and self._loading is None:
            self._begin_to_load(0.0)
        else:
            self._tell(member)

    def leave(self, name: str) -> None:
        """A session has ended."""
        del self._members[name]

    def _tell(self, member: _Member) -> None:
        if member.choice == "cgroup":
            member.tell(Enforce("cgroup", "as asked"))
        elif member.choice in ("auto", self._word.name):
            member.tell(self._word)
        else:
            member.tell(Enforce("cgroup", f"{member.choice} was asked for, and is not in force: {self._word.why}"))

    def _put(self, word: Enforce) -> None:
        self._word = word
        for member in self._members.values():
            self._tell(member)

    def _begin_to_load(self, after_s: float) -> None:
        self._loading = background.start("loading an enforcer", self._load(after_s), self._log)

    async def _load(self, after_s: float) -> None:
        """Load the best program that works; in a thread, for the kernel's checks take a while."""
        try:
            await asyncio.sleep(after_s)
            await self._load_best()
        finally:
            self._loading = None

    async def _load_best(self) -> None:
        why = []
        wanted: set[Choice] = {member.choice for member in self._members.values()}
        if self._ahead:
            wanted.add("auto")
        for name in ORDER:
            if not wanted & {"auto", name}:
                continue
            try:
                self._program = await asyncio.to_thread(_LOAD[name])
            except AgentCgroupError as error:
                why.append(f"no {name}: {error.why or error.what}")
                continue
            except Exception as error:  # a mistake of ours, or a kernel that nobody has seen yet: the next one may do
                background.failed("loading an enforcer", error, self._log, name)
                why.append(f"no {name}: {background.words(error)}")
                continue
            program = self._program
            if (descriptor := program.fileno()) is not None:
                asyncio.get_running_loop().add_reader(descriptor, self._look)
            words = "; ".join(filter(None, (*why, program.without))) or "the best there is"
            self._put(Enforce(name, words, program.calls_id, program.figures_id, program.ops_id, program.slowed_id))
            break
        else:
            self._put(Enforce("cgroup", "; ".join(why)))

    def _look(self) -> None:
        """The kernel may have taken the program out: cgroup files do its work until it can be loaded again."""
        if self._program is None or (gone := self._program.ejected()) is None:
            return
        if (descriptor := self._program.fileno()) is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
        self._program.close()
        self._program = None
        self._put(Enforce("cgroup", f"{self._word.name} was taken out: {gone.why}; tried again in {self._retry_s:.0f} s"))
        self._begin_to_load(self._retry_s)
        self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
