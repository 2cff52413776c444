"""``agentcgroup daemon``: governs each labelled container and each ``run``, and is the host process of those that govern themselves.

It may die at any moment.  A guardian lets everything go then; the service manager holds the monitor's descriptors, so that the
kernel goes on writing down what happens; and the next daemon takes up what it finds, and reads what happened meanwhile.
"""

import asyncio
import json
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from agentcgroup import background
from agentcgroup.errors import AgentCgroupError
from agentcgroup.history import store
from agentcgroup.history.store import FILE
from agentcgroup.history.writer import Writer
from agentcgroup.host import arbiter
from agentcgroup.policy import Policy
from agentcgroup.service import contained, explain, metrics
from agentcgroup.service.chosen import first_policy, read_policy
from agentcgroup.service.contained import Container
from agentcgroup.service.docker import ENGINES, Engine
from agentcgroup.service.guardian import Guardian
from agentcgroup.service.left import Left
from agentcgroup.service.notify import forget, keep, kept, log, notify, watchdog_s
from agentcgroup.service.orders import ASKED, LONGEST_ORDER, Explain, Order, Question, admit, check_processes
from agentcgroup.service.served import Plan, Served, left_by_another
from agentcgroup.session import places
from agentcgroup.session.callers import CALLERS
from agentcgroup.session.control import peer
from agentcgroup.session.embedded import check_machine
from agentcgroup.session.start import host_memory
from agentcgroup.sources import Source
from agentcgroup.sources.choice import Choice, open_source
from agentcgroup.sources.hub import Hub
from agentcgroup.sources.monitor import Monitor
from agentcgroup.text import clean_argv

T = TypeVar("T")
_SPARE_CALLERS = 8
"""Connections of a user beside those of its sessions: nobody takes all descriptors."""
_PATIENCE_S = 5.0
"""For an order to arrive, and for a report to be taken."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``daemon`` as they were typed."""

    policy: Path | None
    events: Choice
    metrics: str


def run(options: Options) -> int:
    """Be the daemon until SIGTERM; returns the exit code.  Raises AgentCgroupError where it can't begin."""
    policy = first_policy(options.policy, lambda text: log(text, "error"))
    address = metrics.parse_address(options.metrics)
    check_machine()
    guardian = Guardian()
    lock = arbiter.take_over()
    # Each session has some descriptors; systemd's unit allows many, a shell's usual limit is for few.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    left = kept()
    source, words = open_source(policy.monitor, options.events, left)
    log(f"events from the {words}")
    mine = source.kind if isinstance(source, Monitor) else ""
    for name, descriptors in left.items():
        if name != mine:
            forget(name, descriptors)
    if isinstance(source, Monitor) and mine not in left:
        keep(mine, source.to_keep())
    try:
        asyncio.run(Daemon(policy, options, words).serve(source, address, guardian))
    finally:
        os.close(lock)
    return 0


class Daemon:
    """The daemon's parts, and the containers that it governs."""

    def __init__(self, policy: Policy, options: Options, source_words: str) -> None:
        self._policy, self._options, self._words = policy, options, source_words
        self._arbiter = arbiter.Arbiter(policy.host, None, _complain)
        self._sessions: dict[str, asyncio.Task[None]] = {}
        self._served: dict[str, Served] = {}
        self._serving: set[asyncio.Task[Any]] = set()
        self._callers: Counter[int] = Counter()
        self._over = asyncio.Event()
        self._unlisted = set(ENGINES)
        self._left = Left()
        self._hub: Hub
        self._writer = Writer(FILE, policy.history.keep, policy.history.size, _complain)

    async def serve(self, source: Source, address: metrics.Address | None, guardian: Guardian) -> None:
        """Until SIGTERM or SIGINT; SIGHUP reads the policy again."""
        loop = asyncio.get_running_loop()
        background.watch(loop, _complain)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._hub = Hub(source)
        async with arbiter.serving(self._arbiter):
            self._arbiter.begin()
            stop_metrics = metrics.serve(address, _complain) if address else None
            for plan, folder, lock in left_by_another():
                self._keep(asyncio.create_task(self._take_up(plan, folder, lock, self._hub.part())))
            told, listed, say = self._from_thread(self._began), self._from_thread(self._listed), self._from_thread(log)
            engines = [Engine(name, told, listed, say) for name in ENGINES]
            for stale in places.clean():
                log(f"cleaned up after session {stale.name}", session=stale.name)
            places.DAEMON_SOCKET.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self._asked, places.DAEMON_SOCKET, limit=LONGEST_ORDER)
            places.DAEMON_SOCKET.chmod(0o666)  # who asks is checked by what the kernel says of the peer
            notify("READY=1\nSTATUS=governing")
            beating = background.start("the watchdog's beat", _beat(), _complain)
            guarded = background.start("the guardian's beat", guardian.beat(), _complain)
            await self._over.wait()
            notify("STOPPING=1")
            beating.cancel()
            guarded.cancel()
            self._hub.pause()
            for engine in engines:
                engine.close()
            server.close()
            places.DAEMON_SOCKET.unlink(missing_ok=True)
            tasks = [*self._sessions.values(), *self._serving]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if stop_metrics:
                stop_metrics()
        self._hub.close()
        self._writer.close()

    @staticmethod
    def _from_thread(function: Callable[[T], None]) -> Callable[[T], None]:
        """The function, to be called in another thread: it is done in the event loop."""
        loop = asyncio.get_running_loop()

        def call(value: T) -> None:
            loop.call_soon_threadsafe(function, value)

        return call

    def _listed(self, engine: str) -> None:
        """All containers that an engine had when this daemon began are told."""
        self._unlisted.discard(engine)
        if not self._unlisted:
            self._hub.all_known()

    def _began(self, container: Container) -> None:
        """A labelled container runs."""
        log(contained.describe(container), container=container.id)
        earlier = self._sessions.get(container.id)
        self._sessions[container.id] = asyncio.create_task(self._govern(container, earlier, self._hub.part()))

    async def _govern(self, container: Container, earlier: asyncio.Task[None] | None, source: Source) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])  # it was started again: the end of the one before is about to be seen
        try:
            await contained.govern(container, self._policy, source, self._words, self._writer)
            log(f"container {container.name} has ended", container=container.id)
        except AgentCgroupError as error:
            log(str(error), "error", container=container.id)
            await asyncio.to_thread(places.clean)
        except Exception as error:  # a mistake of ours: nobody governs it any more, so nothing of it may stay limited
            background.failed("the governor", error, _complain, f"container {container.name}")
            await asyncio.to_thread(places.clean)
        finally:
            source.close()
            if self._sessions.get(container.id) is asyncio.current_task():
                del self._sessions[container.id]

    # Sessions of run

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _take_up(self, plan: Plan, folder: Path, lock: int, source: Source) -> None:
        """Go on with a session that an earlier daemon had."""
        served = Served(plan, folder, lock, self._policy, source, self._words, self._writer)
        self._served[plan.name] = served
        log(f"session {plan.name} is taken up", session=plan.name)
        try:
            await served.take_up()
            report = await served.run(None)
            self._left.session_ended(plan.uid, report["left_in_memory"]["bytes"])
        except (AgentCgroupError, OSError) as error:
            log(f"session {plan.name} is not governed any more: {error}", "warning", session=plan.name)
            await served.let_go()
        except Exception as error:
            background.failed("the governor", error, _complain, f"session {plan.name}")
            await served.give_up()
        finally:
            served.close()
            del self._served[plan.name]

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody wants to run a session, or to know of earlier ones."""
        task = asyncio.current_task()
        assert task is not None
        self._keep(task)
        name = None
        pid, uid = peer(writer)
        self._callers[uid] += 1
        try:
            if uid and self._callers[uid] > self._policy.users.sessions + _SPARE_CALLERS:
                raise AgentCgroupError(f"user {uid} has too many connections", "each session needs one", "end some")
            order = ASKED.validate_json(await asyncio.wait_for(reader.readline(), _PATIENCE_S))
            await CALLERS.turn(uid)
            if not isinstance(order, Order):
                async with CALLERS.alone(uid):
                    await CALLERS.answer(writer, uid, await asyncio.to_thread(_answer, order, uid))
                return
            served = self._begin(order, pid, uid)
            name = order.name
            await served.set_up(order)
            writer.write(json.dumps({"ready": name}).encode() + b"\n")
            log(f"session {name} of user {uid} began", session=name, user=str(uid))
            report = await served.run(reader)
            self._left.session_ended(uid, report["left_in_memory"]["bytes"])
            await CALLERS.answer(writer, uid, await asyncio.to_thread(_line, {"report": report}))
        except ValidationError as error:
            writer.write(_refusal(f"the order is not understood ({error.errors()[0]['msg']})"))
        except (AgentCgroupError, ValueError, OSError, TimeoutError) as error:
            writer.write(_refusal(str(error) or type(error).__name__))
            if name is not None:
                await self._served[name].give_up()
        except Exception as error:
            background.failed("a request", error, _complain, f"user {uid}")
            writer.write(_refusal("the daemon failed at this; its log says more"))
            if name is not None:
                await self._served[name].give_up()
        finally:
            if name is not None:
                self._served.pop(name).close()
            self._callers[uid] -= 1
            if not self._callers[uid]:
                del self._callers[uid]
            writer.close()

    def _begin(self, order: Order, pid: int, uid: int) -> Served:
        """What the order asks for, if this user may have it.  Raises AgentCgroupError."""
        check_processes(order, pid, uid)
        theirs = [served.plan.granted for served in self._served.values() if served.plan.uid == uid]
        granted = admit(self._policy, host_memory(), uid, order, theirs, self._left.of(uid))
        folder, lock = places.claim(order.name)
        plan = Plan(order.name, uid, granted.priority, granted.memory, clean_argv(order.argv), order.stub)
        served = self._served[order.name] = Served(plan, folder, lock, self._policy, self._hub.part(), self._words, self._writer)
        return served

    def _reload(self) -> None:
        """The policy file again: a broken one changes nothing."""
        notify("RELOADING=1")
        try:
            self._policy = read_policy(self._options.policy)
            self._arbiter.change(self._policy.host)
            self._writer.change(self._policy.history.keep, self._policy.history.size)
            log("policy read again: it holds for what begins from now on; for the host's memory and the history at once")
        except AgentCgroupError as error:
            log(f"the policy was not changed: {error}", "error")
        notify("READY=1")


def _complain(text: str) -> None:
    log(text, "warning")


def _answer(question: Question | Explain, uid: int) -> bytes:
    """What a user wants to know, and may.  Raises AgentCgroupError."""
    if isinstance(question, Explain):
        if (known := explain.answer(question.session, question.call, uid)) is None:
            raise AgentCgroupError(
                f"no session {question.session!r} of user {uid}", "none of that name runs, or ended since the last boot"
            )
        return _line(known)
    conditions = question.model_dump(exclude={"version", "op"})
    with store.reading(FILE) as history:
        chosen = store.Filter(**conditions, owner=uid or None)
        return _line({"calls": store.calls(history, chosen), "folded": store.folded(history, chosen) if chosen.notable else None})


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _refusal(why: str) -> bytes:
    return _line({"error": why})


async def _beat() -> None:
    """Tell the service manager that events are still taken in."""
    every_s = watchdog_s()
    while every_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(every_s)
