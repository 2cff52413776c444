"""The governing process of a session ("embedded mode"): events in, decisions, cgroups out.

It runs in a session of its own, deaf to the terminal, beside the process that the user started
(``front``).  When that one dies, it goes on until the agent ends, so that nothing is left behind; when
it dies itself, the front takes back every limit.  It is told the end of the agent by the front, or
sees it by pidfd.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentcgroup import enforce
from agentcgroup.classify import Budget
from agentcgroup.errors import AgentCgroupError
from agentcgroup.host.arbiter import start as start_host
from agentcgroup.model import Priority
from agentcgroup.policy import Policy
from agentcgroup.session.governor import Governor, Subject
from agentcgroup.session.layout import Layout
from agentcgroup.session.places import end_session, release
from agentcgroup.session.report import write_down
from agentcgroup.sources import Source

_FRONT_PATIENCE_S = 1.0
"""The agent's end is seen by pidfd before the front says with which status; a front that is stopped is not waited for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the engine needs to know of a session; ``stub`` is the process that becomes the agent."""

    name: str
    folder: Path
    policy: Policy
    budget: Budget
    cpu_weight: int
    priority: Priority
    argv: tuple[str, ...]
    enforcer: enforce.Choice
    report: Path | None
    stub: int
    keeper: int
    front: int


class Engine:
    """Governs one session from the first process to the last."""

    def __init__(self, plan: Plan, channel: socket.socket, source: Source, source_words: str, lock: int) -> None:
        self._plan, self._channel, self._lock = plan, channel, lock
        self._source, self._source_words = source, source_words
        self._layout = Layout(plan.name, source)
        self._over = asyncio.Event()
        self._front_is_done = asyncio.Event()
        self._agent_status: int | None = None
        self._governor: Governor
        self.ready = False

    async def run(self) -> None:
        """Set the session up, govern it, end it."""
        plan = self._plan
        subject = Subject(
            plan.name, plan.folder, plan.policy, plan.budget, plan.priority, plan.argv, plan.enforcer, plan.stub, plan.front
        )
        self._layout.create_parts(plan.stub, plan.keeper, plan.budget, plan.priority, plan.policy.session.agent.cpu_weight)
        governor = self._governor = Governor(subject, self._layout, self._source, self._source_words, start_host)
        await governor.start(self._over.set)
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._front_speaks)
        self.ready = True
        with contextlib.suppress(OSError):  # the front was killed: the stub ends without it, and so does the session
            # The lock with it: the session is nobody's only when the front is gone, too.
            socket.send_fds(self._channel, [json.dumps({"ready": str(self._layout.top)}).encode() + b"\n"], [self._lock])
        await self._over.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._front_is_done.wait(), _FRONT_PATIENCE_S)
        await governor.quiet()
        agent_peak = governor.agent_peak()
        await governor.let_all_go()
        await governor.end_processes()
        await governor.close()
        if not end_session(plan.name):
            governor.log(f"{self._layout.top} could not be removed")
        status = governor.follower.agent_status if self._agent_status is None else self._agent_status
        report = governor.report(status, agent_peak)
        if plan.report is not None:
            write_down(report, plan.report)
        _send(self._channel, {"report": report})
        release(plan.folder)

    def _front_speaks(self) -> None:
        try:
            data = self._channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # The front died (kill -9).  The agent goes on, and so do we.
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._governor.log("run has died: the session goes on without it")
            self._governor.follower.stdio_of = self._plan.stub
            self._front_is_done.set()
            return
        self._agent_status = json.loads(data)["exit"]
        self._front_is_done.set()
        self._over.set()


def govern(plan: Plan, channel: socket.socket, open_source: Callable[[], tuple[Source, str]], lock: int) -> None:
    """Govern the planned session; ``channel`` leads to the front, ``lock`` is the session's.

    Raises AgentCgroupError or OSError when it can't be set up; nothing of it is left then.
    """
    engine: Engine | None = None
    try:
        Layout.create_top(plan.name, [plan.stub, plan.keeper], plan.budget, plan.priority, plan.cpu_weight)
        source, words = open_source()
        channel.setblocking(False)
        try:
            engine = Engine(plan, channel, source, words, lock)
            asyncio.run(engine.run())
        finally:
            source.close()
    except BaseException as error:
        if engine is not None and engine.ready:
            raise
        end_session(plan.name)
        release(plan.folder)
        if isinstance(error, (OSError, RuntimeError)):  # RuntimeError: a thread that may not be
            raise AgentCgroupError("the session could not be set up", str(error), _DO) from error
        raise


_DO = "agentcgroup doctor says what this machine lacks"


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the front is gone; the report file, if any, is written
        channel.setblocking(True)
        channel.sendall(json.dumps(message).encode() + b"\n")
        channel.setblocking(False)
