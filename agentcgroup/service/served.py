"""A session of ``run`` in the daemon: set up for whoever asks, governed, and taken up again by the next daemon."""

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentcgroup import cgroup
from agentcgroup.classify import split_budget
from agentcgroup.errors import AgentCgroupError
from agentcgroup.history.writer import Writer
from agentcgroup.model import Priority
from agentcgroup.policy import Policy
from agentcgroup.service.contained import no_other_host
from agentcgroup.service.orders import Ended, Granted, Order
from agentcgroup.session.governor import Governor, Subject
from agentcgroup.session.layout import Layout
from agentcgroup.session.places import AGENT, PLAN, SESSIONS, end_session, reclaim, release, session_cgroup
from agentcgroup.sources import Source

_FRONT_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is kept of a session for the next daemon.  Bytes; ``stub`` is the agent's first process."""

    name: str
    uid: int
    priority: Priority
    memory: int
    argv: tuple[str, ...]
    stub: int

    @property
    def granted(self) -> Granted:
        return Granted(self.uid, self.priority, self.memory)


class Served:
    """One session of ``run``."""

    def __init__(
        self, plan: Plan, folder: Path, lock: int, policy: Policy, source: Source, source_words: str, writer: Writer
    ) -> None:
        self.plan = plan
        self._folder, self._policy = folder, policy
        self._lock: int | None = lock
        self._source, self._words, self._writer = source, source_words, writer
        self._layout = Layout(plan.name, source)
        self._over = asyncio.Event()
        self._status: int | None = None
        self._governor: Governor

    async def set_up(self, order: Order) -> None:
        """Make the session's cgroups around the caller's processes.  Raises AgentCgroupError; nothing is left then."""
        plan, rule = self.plan, self._policy.session
        budget = split_budget(self._policy, plan.memory)
        try:
            # systemd is asked for a scope, and waited for.
            await asyncio.to_thread(
                self._layout.create,
                order.stub,
                order.keeper,
                budget,
                plan.priority,
                rule.cpu_weight[plan.priority],
                rule.agent.cpu_weight,
            )
            await self._govern()
            await self._source.begun()
            (self._folder / PLAN).write_text(json.dumps({name: getattr(plan, name) for name in plan.__slots__}))
        except (AgentCgroupError, OSError) as error:
            await asyncio.to_thread(end_session, plan.name)
            self._forget()
            raise AgentCgroupError("the session could not be set up", str(error)) from None

    async def take_up(self) -> None:
        """Go on with a session that an earlier daemon had, or write down how it ended.  Raises AgentCgroupError or OSError."""
        self._layout.watch_again()
        await self._govern(over=self.plan.stub not in cgroup.processes(self._layout.agent))
        await self._governor.take_up()

    async def _govern(self, over: bool = False) -> None:
        plan = self.plan
        subject = Subject(
            plan.name, self._folder, self._policy, split_budget(self._policy, plan.memory), plan.priority, plan.argv, "auto",
            plan.stub, plan.stub, adopted=True, owner=plan.uid,
        )  # fmt: skip
        self._governor = Governor(subject, self._layout, self._source, self._words, no_other_host, self._writer)
        await self._governor.start(self._over.set, over)

    async def run(self, reader: asyncio.StreamReader | None) -> dict[str, Any]:
        """Until the agent has ended: the session's report.  ``reader`` is the caller, who says with which status.

        Cancelled: everything goes on without limits, to be taken up again.
        """
        governor = self._governor
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            await governor.suspend()
            self.unlock()
            raise
        if reader is not None:
            with contextlib.suppress(TimeoutError, ValueError, OSError):
                self._status = Ended.model_validate_json(await asyncio.wait_for(reader.readline(), _FRONT_PATIENCE_S)).exit
        await governor.quiet()
        peak = governor.agent_peak()
        await governor.let_all_go()
        await governor.end_processes()
        await governor.close()
        if not await asyncio.to_thread(end_session, self.plan.name):
            governor.log(f"{self._layout.top} could not be removed")
        report = governor.report(governor.follower.agent_status if self._status is None else self._status, peak)
        self._forget()
        return report

    async def give_up(self) -> None:
        """Nobody can govern it any more, so nothing of it may stay; of one that has ended, its name may be another's by now."""
        if self._lock is None:
            return
        with contextlib.suppress(Exception):
            await self._governor.close()
        await asyncio.to_thread(end_session, self.plan.name)
        with contextlib.suppress(OSError, AgentCgroupError):
            self._forget()

    async def let_go(self) -> None:
        """It goes on without limits, and whoever is able to may take it up."""
        with contextlib.suppress(Exception):
            await self._governor.suspend()
        self.unlock()

    def close(self) -> None:
        """It has ended, or somebody else takes it up."""
        self._source.close()

    def unlock(self) -> None:
        """Whoever wants to may take the session up."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _forget(self) -> None:
        release(self._folder)
        self.unlock()


def left_by_another() -> list[tuple[Plan, Path, int]]:
    """Sessions that an earlier daemon had and whose cgroups are there, with their folders and locks."""
    found = []
    for folder in sorted(SESSIONS.iterdir()) if SESSIONS.exists() else []:
        with contextlib.suppress(OSError, ValueError, TypeError, AgentCgroupError):
            said = json.loads((folder / PLAN).read_text())
            plan = Plan(**{**said, "argv": tuple(said["argv"])})
            if (session_cgroup(plan.name) / AGENT).exists():
                found.append((plan, folder, reclaim(folder)))
    return found
