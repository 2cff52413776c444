"""A session's share of the host's memory: what its calls want is asked of the host process, and done as it answers.

Without the host process (it is being started, it has died) every call goes on as it likes; the session's
own limits hold anyway.  A wait that nobody ends is ended here.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from agentcgroup import background, cgroup
from agentcgroup.enforce import CgroupFiles, Choice, Enforcer, InKernel
from agentcgroup.host import wire
from agentcgroup.host.arbiter import SOCKET
from agentcgroup.kernel.libbpf import BpfError
from agentcgroup.kernel.scheduler import Figures, read_figures
from agentcgroup.model import Priority
from agentcgroup.policy import HostRule
from agentcgroup.schedule import events as ev
from agentcgroup.schedule.scheduler import LEVELS
from agentcgroup.session.live import Live, Waiting
from agentcgroup.session.places import session_cgroup
from agentcgroup.sources import Source
from agentcgroup.units import format_duration, format_size

_NO_WORD_YET = "cgroup (the host process has not said which enforcer is in force)"
_RETRY_S, _LONGEST_RETRY_S = 0.05, 1.0
_STARTING_S = 2.0
"""A host process that was started this long ago and can't be reached is started again."""
_WITHOUT_HOST_S = 1.0
"""How long those that wait when the host process dies wait for another one: on a full host, letting them go at once could kill."""
_OVERDUE_S = 2.0
"""A wait that is not ended this long after its time is ended here."""
_MOST_SAID = 20
_POLL_S = 0.05
"""Where the kernel does not tell of growth, it is looked for this often."""


class Share:
    """The calls of one session, as the host process knows them."""

    def __init__(
        self, began: ev.SessionBegan, tools: Path, choice: Choice, rule: HostRule, source: Source, live: Mapping[int, Live],
        note: Callable[[Live, str, str, float | None], None], kill: Callable[[Live, ev.Kill], None],
        start_host: Callable[[HostRule], None], log: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._hello, self._source, self._live = wire.Hello(began, choice, str(tools.parent)), source, live
        self._began, self._rule = began, rule
        self._tools = tools
        self.enforcer: Enforcer = CgroupFiles()
        self.enforcer_words = _NO_WORD_YET
        self._figures_id = 0
        self._note, self._kill, self._log = note, kill, log
        self._start_it = start_host
        self._writer: asyncio.StreamWriter | None = None
        self._started_at = float("-inf")
        self._asks: dict[int, int] = {}
        self._poll: asyncio.TimerHandle | None = None
        self._said: set[str] = set()

    async def keep(self) -> None:
        """Stay connected, until cancelled; everybody goes on in the meantime."""
        try:
            await background.keep_doing("the link to the host process", self._connect, self._log)
        finally:
            self._lose(0.0)
            self.enforcer.close()

    async def _connect(self) -> None:
        try:
            await self._stay_connected()
        except Exception:
            self._lose(_WITHOUT_HOST_S)  # it is tried again
            raise

    async def _stay_connected(self) -> None:
        pause_s = _RETRY_S
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(SOCKET, limit=wire.LONGEST_LINE)
            except OSError:
                self._start_host()
                await asyncio.sleep(_RETRY_S)
                continue
            began = time.monotonic()
            await self._converse(reader)
            self._log("the host process is gone")
            # It may have been about to end; but one that does not want us must not be asked without end.
            pause_s = _RETRY_S if time.monotonic() > began + _STARTING_S else min(2 * pause_s, _LONGEST_RETRY_S)
            await asyncio.sleep(pause_s)

    def _start_host(self) -> None:
        if time.monotonic() > self._started_at + _STARTING_S:
            self._started_at = time.monotonic()
            self._start_it(self._rule)

    async def _converse(self, reader: asyncio.StreamReader) -> None:
        self._send(self._hello)
        for live in list(self._live.values()):
            self.began(live, live.announced)
        while (line := await self._next_line(reader)) is not None:
            try:
                self._act(wire.decode_action(line))
            except ValueError as error:
                self._say_once(f"the host process says what is not understood: {error}")
            except Exception as error:  # one answer that can't be carried out must not cost all that come after it
                background.failed("an answer of the host process", error, self._log)
        self._enforce(wire.Enforce("cgroup", "the host process is gone"))
        self._lose(_WITHOUT_HOST_S)

    async def _next_line(self, reader: asyncio.StreamReader) -> bytes | None:
        """None when the host process is gone."""
        while True:
            try:
                return await reader.readline() or None
            except OSError:
                return None
            except ValueError:  # longer than any message: what follows is read on
                self._say_once("the host process says more than a line can hold")

    def _say_once(self, line: str) -> None:
        if line not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(line)
            self._log(line)

    def _lose(self, patience_s: float) -> None:
        """No word comes any more: nobody asks, and whoever waits goes on, if no other host process says otherwise soon."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._asks.clear()
        for live in list(self._live.values()):
            if live.wait is not None and patience_s:
                live.wait.lift.cancel()
                live.wait.lift = asyncio.get_running_loop().call_later(patience_s, self._go_on, live, "the host process is gone")
            else:
                self._go_on(live, "the host process is gone")

    def _enforce(self, word: wire.Enforce) -> None:
        """Another enforcer is in force: every call is told to it, and a brake goes over."""
        before = self.enforcer
        self.enforcer, word = self._take(word)
        words, self._figures_id = f"{word.name} ({word.why})", word.figures
        if words != self.enforcer_words:
            self._log(f"enforcer: {words}")
        self.enforcer_words = words
        for live in list(self._live.values()):
            if live.leaf is None:
                continue
            if live.wait is not None and live.wait.rung == "brake":
                before.release(live.leaf, live.limits)
            try:
                for pid in cgroup.processes(live.leaf):
                    self.enforcer.adopt(live.leaf, pid)
            except cgroup.CgroupError as error:
                self._log(f"call {live.record.call}: not told to the enforcer: {error}")
            if live.wait is not None and live.wait.rung == "brake":
                self.enforcer.brake(live.leaf)
        before.close()

    def _take(self, word: wire.Enforce) -> tuple[Enforcer, wire.Enforce]:
        """The enforcer that is in force, as far as it can be for this session."""
        if not word.calls:
            return CgroupFiles(), word
        try:
            if word.ops and self._tools.parent != session_cgroup(self._began.session):
                # A link that outlives its cgroup leaves the kernel with operations that are gone, and an engine removes a container's
                # when it likes.
                raise BpfError("memcg struct_ops are not used", "a container's cgroup is removed by its engine")
            rank = LEVELS[self._began.priority]
            return InKernel(word.name, word.calls, rank, self._tools, word.ops, word.slowed), word
        except BpfError as error:
            why = f"{error.what}: {error.why}"
            if word.ops and word.name == "sched_ext":
                return self._take(replace(word, ops=0, why=f"{word.why}; {why}"))
            return CgroupFiles(), wire.Enforce("cgroup", why)

    def change_priority(self, priority: Priority) -> None:
        """The session has another priority from now on."""
        self._began = replace(self._began, priority=priority)
        self._hello = replace(self._hello, began=self._began)
        self._send(ev.PriorityChanged(self._began.session, priority))
        self.enforcer.change_rank(LEVELS[priority])

    def figures(self) -> Figures | None:
        """What the scheduler in force has counted so far, for all sessions; None where there is none."""
        if not self._figures_id:
            return None
        with contextlib.suppress(BpfError):
            return read_figures(self._figures_id)
        return None

    def _send(self, event: ev.Event | wire.Hello) -> None:
        if self._writer is not None:
            self._writer.write(wire.encode(event))

    # What the calls do

    def _key(self, live: Live) -> ev.Key:
        return self._began.session, live.record.call

    def began(self, live: Live, announced: int) -> None:
        """A call has its leaf and its limits."""
        live.announced = announced
        if live.leaf is None or live.limits is None or self._writer is None:
            return
        with contextlib.suppress(cgroup.CgroupError):
            held = int(cgroup.read(live.leaf, "memory.current"))
            waits = live.wait is not None  # another host process has died
            self._send(ev.CallBegan(self._key(live), live.limits.memory_high_bytes, announced, held, waits))

    def adopt(self, leaf: Path, pid: int) -> None:
        """A process was put into a leaf: the enforcer in force is to know it."""
        self.enforcer.adopt(leaf, pid)

    def slowed_s(self, leaf: Path) -> float:
        """For how long the enforcer in force made a leaf's processes sleep, and the kernel took that for a lack of memory."""
        return self.enforcer.slowed_s(leaf)

    def announced(self, live: Live, announced: int) -> None:
        """A call said what it needs, or its limits have changed."""
        live.announced = announced
        if live.limits is not None:
            self._send(ev.Announced(self._key(live), announced, live.limits.memory_high_bytes))

    def grown(self, live: Live, amount: int) -> None:
        """A call has grown to where it was to ask for more."""
        live.told = amount
        self._send(ev.Wants(self._key(live), max(0, amount - live.loose)))

    def full(self) -> None:
        """All calls together hold more than the session's share."""
        for live in self._live.values():
            self._look(live, ev.Full, closely=True)

    def ended(self, live: Live) -> None:
        """A call is over."""
        self._asks.pop(live.record.call, None)
        self._go_on(live, "it ended")
        if live.leaf is not None:
            self.enforcer.forget(live.leaf)
        self._send(ev.CallEnded(self._key(live)))

    # What the host process answers

    def _act(self, action: ev.Action | wire.Enforce) -> None:
        if isinstance(action, wire.Enforce):
            self._enforce(action)
            return
        live = self._live.get(action.key[1])
        if live is None or live.leaf is None:
            return
        if isinstance(action, ev.Grant):
            self.enforcer.grant(live.leaf, action.up_to + live.loose if action.firm else None)
            self._ask_at(live, action.ask_at + live.loose)
        elif isinstance(action, ev.Wait):
            self._wait(live, action)
        elif isinstance(action, ev.Go):
            self._go_on(live, action.why)
        elif isinstance(action, ev.Look):
            self._look(live, ev.Holds, closely=False)
        else:
            self._kill(live, action)

    def ask_again(self) -> None:
        """Events were lost, perhaps a call's asking for more: each that is beyond that point asks."""
        for live in self._live.values():
            if live.ask_at:
                self._ask_at(live, live.ask_at)

    def _ask_at(self, live: Live, amount: int) -> None:
        live.ask_at = amount
        if self._source.sees_memory:
            self._source.ask_at(live.cgroup_id, amount)
            self._ask_if_beyond(live)
            return
        self._asks[live.record.call] = amount
        if self._poll is None:
            self._poll = asyncio.get_running_loop().call_later(_POLL_S, self._look_for_growth)

    def _ask_if_beyond(self, live: Live) -> None:
        """The kernel tells of a call that is beyond its point only when it grows again, which may be never."""
        with contextlib.suppress(cgroup.CgroupError):
            if live.leaf is not None:
                current = int(cgroup.read(live.leaf, "memory.current"))
                if current > max(live.told, live.ask_at):
                    self.grown(live, current)

    def _look_for_growth(self) -> None:
        """The kernel does not tell: see which calls have come to where they are to ask."""
        self._poll = None
        for call, amount in list(self._asks.items()):
            live = self._live.get(call)
            with contextlib.suppress(cgroup.CgroupError):
                if live is not None and live.leaf is not None:
                    current = int(cgroup.read(live.leaf, "memory.current"))
                    if current >= amount:
                        del self._asks[call]
                        self.grown(live, current)
        if self._asks:
            self._poll = asyncio.get_running_loop().call_later(_POLL_S, self._look_for_growth)

    def _wait(self, live: Live, action: ev.Wait) -> None:
        assert live.leaf is not None
        try:
            if action.rung == "freeze":
                self.enforcer.freeze(live.leaf)
            else:
                self.enforcer.brake(live.leaf)
        except cgroup.CgroupError as error:
            # It is not slowed, so it does not wait; the host process asks again when its turn is over.
            self._log(f"call {live.record.call}: not {'frozen' if action.rung == 'freeze' else 'braked'}: {error}")
            return
        loop = asyncio.get_running_loop()
        overdue = loop.call_at(action.until_s + _OVERDUE_S, self._go_on, live, "nobody ended its wait")
        whom = f"{action.for_key[0]}/{action.for_key[1]}" if action.for_key else "others"
        why = f"for {whom}: {action.why}"
        since = time.monotonic()
        if live.wait is not None:
            live.wait.lift.cancel()
            since = live.wait.since_s
        first = live.wait is None or live.wait.rung != action.rung
        live.wait = Waiting(since, action.rung, why, overdue)
        if first:
            self._log(f"call {live.record.call}: {'frozen' if action.rung == 'freeze' else 'braked'} {why}")
        if action.rung == "freeze":
            self._look(live, ev.Holds, closely=True)  # what is only page cache is no reason to wait

    def _go_on(self, live: Live, why: str) -> None:
        wait, live.wait = live.wait, None
        if wait is None or live.leaf is None:
            return
        wait.lift.cancel()
        try:
            self.enforcer.release(live.leaf, live.limits)
            if not live.held:
                self.enforcer.thaw(live.leaf)
        except cgroup.CgroupError as error:
            self._log(f"call {live.record.call}: not let go: {error}")
            live.wait = wait
            wait.lift = asyncio.get_running_loop().call_later(_WITHOUT_HOST_S, self._go_on, live, why)
            return
        waited = time.monotonic() - wait.since_s
        self._note(live, f"waited {format_duration(waited)}", f"{wait.why}; went on: {why}", waited)

    def _look(self, live: Live, kind: type[ev.Holds | ev.Full], closely: bool) -> None:
        """Say what a call holds; how much of its memory is page cache is expensive to find out, and read only ``closely``."""
        if live.leaf is None:
            return
        with contextlib.suppress(cgroup.CgroupError):
            if closely:
                usage = cgroup.usage(live.leaf)
                live.loose = usage.current - usage.firm
                held, live.told = usage.firm, usage.current
            else:
                live.told = int(cgroup.read(live.leaf, "memory.current"))
                held = max(0, live.told - live.loose)
            self._send(kind(self._key(live), held))


def kill_words(kill: ev.Kill) -> str:
    """Why a call was chosen, for the log and the summary."""
    return f"it held {format_size(kill.held)} of {format_size(kill.capacity)}; {kill.why}"
