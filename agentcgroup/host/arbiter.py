"""The host process: governors connect, tell what their calls want, and hear who may grow and who waits.

Its socket belongs to root alone.  A connection speaks for the session that it begins with, and for no other.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from agentcgroup import background, cgroup, systemd
from agentcgroup.classify import amount
from agentcgroup.enforce import can_brake
from agentcgroup.errors import AgentCgroupError
from agentcgroup.host import wire
from agentcgroup.host.enforcement import Enforcement
from agentcgroup.host.protection import Protection
from agentcgroup.policy import HostRule
from agentcgroup.schedule import events as ev
from agentcgroup.schedule.scheduler import Scheduler
from agentcgroup.session.places import AGENT, RUN, leaf_of, let_go, make_run, open_lock

SOCKET = RUN / "host.sock"
_LOCK = RUN / "host.lock"
DAEMON_LOCK = RUN / "daemon.lock"
_ERRORS = RUN / "host.err"
_GOING_S, _LOOKING_S = 5.0, 0.5
NAME = "agentcg-host"
"""As ps and top show the process."""
_LINGER_S = 2.0
"""It ends when there has been no session for this long."""
_STALE_S = 0.1
"""How old the figure of what is left for calls may be when one of them wants more,"""
_REST = 20
"""or so many times what it took to measure it, if that is longer: with many calls, too, it takes a twentieth of a processor at most."""


class Arbiter:
    """The scheduler, and the governors that it speaks with."""

    def __init__(self, rule: HostRule, linger_s: float | None = _LINGER_S, log: background.Log = background.to_stderr) -> None:
        """``linger_s``: it is over when there has been no session for this long; None: never."""
        self._log = log
        rule = _possible(rule)
        self._rule, self._linger_s = rule, linger_s
        self._governors: dict[str, asyncio.StreamWriter] = {}
        self._places: dict[str, Path] = {}
        self._enforcement = Enforcement(log)
        self._scheduler = Scheduler(rule, 0)
        self._protection = Protection(log)
        self._stale_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self.over = asyncio.Event()
        self._wait_for_sessions()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One governor, from its first word to the end of its session."""
        name = None
        try:
            hello = wire.decode_event(await reader.readline())
            if not isinstance(hello, wire.Hello) or hello.began.session in self._governors:
                return
            name = hello.began.session
            self._governors[name], self._places[name] = writer, Path(hello.place)
            self._enforcement.join(name, hello.enforcer, lambda word: writer.write(wire.encode(word)))
            if self._linger is not None:
                self._linger.cancel()
            self._protection.change(_base(), name, self._places[name])
            self._step(hello.began)
            while line := await reader.readline():
                event = wire.decode_event(line)
                if isinstance(event, (wire.Hello, ev.SessionEnded)):
                    break
                if (event.session if isinstance(event, ev.PriorityChanged) else event.key[0]) != name:
                    break
                self._step(event)
                if isinstance(event, ev.PriorityChanged):
                    self._protection.change(_base(), name, self._places[name])
        except (ValueError, ConnectionError):
            pass  # whoever it was does not speak our language
        except Exception as error:  # its governor comes again
            background.failed("a request to the host process", error, self._log, f"session {name}")
        finally:
            writer.close()
            if name is not None:
                self._ended(name)

    def _ended(self, name: str) -> None:
        """A governor is gone, with its session or without it: nothing of it stays slowed or stopped."""
        del self._governors[name]
        self._enforcement.leave(name)
        with contextlib.suppress(AgentCgroupError, OSError):
            let_go(self._places.pop(name))
        self._step(ev.SessionEnded(name))
        self._protection.change(_base(), name, None)
        if not self._governors:
            self._wait_for_sessions()

    def begin(self) -> None:
        """Have an enforcer in force before the first session comes."""
        self._enforcement.begin()

    def change(self, rule: HostRule) -> None:
        """Another rule for the host, from now on."""
        self._rule, self._stale_at = _possible(rule), 0.0
        self._scheduler.change(self._rule)
        self._step(ev.Tick())

    def _wait_for_sessions(self) -> None:
        if self._linger_s is not None:
            self._linger = asyncio.get_running_loop().call_later(self._linger_s, self.over.set)

    def _step(self, event: ev.Event) -> None:
        now = time.monotonic()
        if now > self._stale_at and isinstance(event, (ev.SessionBegan, ev.SessionEnded, ev.Wants, ev.Tick)):
            began = time.thread_time()  # not the time that others had the processor
            self._do(self._scheduler.step(self._capacity(), now))
            self._stale_at = time.monotonic() + max(_STALE_S, _REST * (time.thread_time() - began))
        self._do(self._scheduler.step(event, now))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._scheduler.next_deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(max(deadline, now + 0.005), self._step, ev.Tick())

    def _do(self, actions: list[ev.Action]) -> None:
        for action in actions:
            if (governor := self._governors.get(action.key[0])) is not None:
                governor.write(wire.encode(action))

    def _capacity(self) -> ev.Capacity:
        """What all calls may hold together: the budget, less the reserve, less what is held and is no call's."""
        budget = host_budget(self._rule)
        reserve = amount(self._rule.reserve, budget)
        # Other programs on this host may leave less than the budget.
        total = min(budget - self._no_calls(), _available() + self._scheduler.held) - reserve
        # The rest is for what calls take before they can be stopped: a full host would evict its programs' own pages.
        return ev.Capacity(max(0, total), reserve * 3 // 4)

    def _no_calls(self) -> int:
        """Bytes that sessions hold beside their live calls: the agents, and what calls left that have ended.

        Of the sessions in our slice it is what the slice holds, less the calls: nothing is read of one that runs no call.
        """
        base = _base()
        calls = sum(_holds(leaf) for leaf in self._leaves() if base in leaf.parents)
        containers = sum(_holds(place / AGENT) for place in self._places.values() if place.parent != base)
        return max(0, _holds(base) - calls) + containers

    def _leaves(self) -> Iterator[Path]:
        """Of all live calls."""
        for session, call in self._scheduler.live():
            if (place := self._places.get(session)) is not None:
                yield leaf_of(place, call)


def _possible(rule: HostRule) -> HostRule:
    """The rule as this kernel allows it: where nothing slows a call before it is frozen, it has to ask earlier."""
    return rule if can_brake() else rule.model_copy(update={"brake": 0.0, "step": 2 * rule.step})


def _base() -> Path:
    """The slice that all sessions are in but those of containers."""
    return cgroup.mount_point() / systemd.SLICE


def _holds(place: Path) -> int:
    """Bytes that a cgroup's processes would miss; 0 of one that is gone."""
    with contextlib.suppress(cgroup.CgroupError):
        return cgroup.working_set(place)
    return 0


def host_budget(rule: HostRule) -> int:
    """The memory for all sessions together, in bytes: the policy's share of the host, or the slice's own limit if that is lower."""
    budget = amount(rule.memory, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = cgroup.read(_base(), "memory.max")
    except cgroup.CgroupError:
        limit = cgroup.MAX
    return budget if limit == cgroup.MAX else min(budget, int(limit))


def _available() -> int:
    """MemAvailable of the host, in bytes."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


@contextlib.asynccontextmanager
async def serving(arbiter: Arbiter) -> AsyncIterator[None]:
    """Governors can connect."""
    SOCKET.unlink(missing_ok=True)
    before = os.umask(0o177)
    server = await asyncio.start_unix_server(arbiter.serve, SOCKET, limit=wire.LONGEST_LINE)
    os.umask(before)
    try:
        yield
    finally:
        SOCKET.unlink(missing_ok=True)
        server.close()


async def _run(rule: HostRule) -> None:
    background.watch(asyncio.get_running_loop(), background.to_stderr)
    arbiter = Arbiter(rule)
    async with serving(arbiter):
        await arbiter.over.wait()


def daemon_runs() -> bool:
    """Whether a daemon is there, which is the host process itself, or is about to be."""
    with contextlib.suppress(OSError), open(DAEMON_LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def take_over() -> int:
    """Be the host process instead of one that was started for a session, which is asked to go; returns the lock that says so.

    Raises AgentCgroupError where another daemon runs, or the host process does not go.
    """
    make_run()
    ours, lock = map(open_lock, (DAEMON_LOCK, _LOCK))
    if not _locked(ours, _LOOKING_S):  # whoever looks holds it for a moment
        raise AgentCgroupError("the daemon runs already", "only one can govern a host", "systemctl status agentcgroup")
    if not _locked(lock):
        # Its sessions notice at once, and come to us.
        with contextlib.suppress(ValueError, OSError):
            pid = _holder(lock)
            if Path(f"/proc/{pid}/comm").read_bytes().strip() == NAME.encode():
                os.kill(pid, signal.SIGTERM)
        if not _locked(lock, _GOING_S):
            raise AgentCgroupError("the host process does not go", f"it holds {_LOCK}", f"end the process {NAME}")
    return ours


def _locked(descriptor: int, patience_s: float = 0.0, in_vain: Callable[[], bool] = lambda: False) -> bool:
    """Whether the lock was there to take within some time, or before it was ``in_vain`` to wait for it."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline or in_vain():
                return False
            time.sleep(0.02)


def start(rule: HostRule) -> None:
    """Fork the host process off this one, if there is none yet; it belongs to nobody, and outlives its starter.

    Forked and not executed, for a Python that starts anew takes longer than a burst.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            errors = os.open(_ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for number, descriptor in enumerate((null, null, errors)):
                os.dup2(descriptor, number)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.chdir("/")
            _be_host(rule)
    except BaseException:
        # Nobody else prints it: this process never returns to its caller.
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _serves() -> bool:
    """Whether a host process takes connections; one that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as channel:
        return channel.connect_ex(str(SOCKET)) == 0


def _sign(lock: int) -> None:
    """Write down in the lock who holds it, instead of who did before: a daemon that begins asks this process to go."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


def _holder(lock: int) -> int:
    """The process that holds the lock.  Raises ValueError where none has written that."""
    return int(os.pread(lock, 20, 0))


def _be_host(rule: HostRule) -> None:
    """Be the host process, after the one before if that is about to end; at once over if there is one that serves."""
    with os.fdopen(open_lock(_LOCK), "r+") as lock:
        if not _locked(lock.fileno(), _GOING_S, in_vain=_serves) or daemon_runs():
            return
        _sign(lock.fileno())
        Path("/proc/self/comm").write_text(NAME)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # its starter is deaf to it
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("-900")
        asyncio.run(_run(rule))
