"""``run`` without a daemon: a process of its own governs the session (``engine``).

It is forked before anything heavy is imported, so that the process that the user started stays small, and does in it at the same time
what does not depend on each other: having the kernel check the BPF programs, asking systemd for a scope, importing.
"""

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentcgroup import stdio
from agentcgroup.errors import AgentCgroupError, errno_words, fault_words
from agentcgroup.session.front import (
    HANDLED,
    Agent,
    Link,
    accompany,
    end_like,
    fork,
    fork_keeper,
    fork_stub,
    give_up,
    show_summary,
    signals_waited_for,
    until_ready,
)
from agentcgroup.session.options import Options
from agentcgroup.session.start import free_name, host_memory, memory_of, refuses_to_run, report_path

if TYPE_CHECKING:
    from agentcgroup.classify import Budget
    from agentcgroup.policy import Policy
    from agentcgroup.session.places import Cleaned

_ENGINE_NICE = -15
_ENGINE_ERRORS = "engine.err"
T = TypeVar("T")


def run(options: Options) -> int:
    """Run a session to its end; returns the exit code.  Raises AgentCgroupError when it can't be set up; nothing of it is left then."""
    if os.geteuid():
        raise _no_root()
    report_path(options.report)
    if options.memory is not None:
        memory_of(options.memory, host_memory())
    if code := refuses_to_run(options.argv[0]):
        return code
    name = options.name or free_name(options.argv)
    with signals_waited_for() as before:
        agent, keeper, engine = fork_stub(options.argv, before), 0, 0
        ours, theirs = socket.socketpair()
        link = Link(ours)
        try:
            keeper = fork_keeper()
            front = os.getpid()
            engine = fork("the governing process")
            if engine == 0:
                ours.close()
                _be_engine(options, name, (agent, keeper, front), theirs)
            theirs.close()
            until_ready(link, "the governing process ended before the session began")
        except AgentCgroupError:
            give_up(agent, keeper)
            if engine and os.WIFSIGNALED(os.waitpid(engine, 0)[1]):
                _clean_after_engine()
            raise

        def other_ended(pid: int) -> None:
            if pid == engine:
                # Without its governor, nothing may stay braked, frozen or capped.
                from agentcgroup.session import places

                places.lift(places.session_cgroup(name))

        status, report = accompany(agent, link, options.argv, other_ended)
        if report is None:
            _engine_died(name)
        else:
            show_summary(report)
    return end_like(status)


def _clean_after_engine() -> None:
    """It was killed while it set up the session: what there is of that is nobody's, and is told from others' by its lock."""
    from agentcgroup.session import places

    with contextlib.suppress(AgentCgroupError):
        places.clean()


def _engine_died(name: str) -> None:
    """Say so, and leave nothing of the session."""
    from agentcgroup.session import places

    folder = places.SESSIONS / name
    last = []
    with contextlib.suppress(OSError):
        last = (folder / _ENGINE_ERRORS).read_text(errors="replace").strip().splitlines()[-1:]
    why = last[0] if last else "killed"
    stdio.say(f"agentcgroup: the governing process of this session died ({why}); the agent ran on without limits")
    places.end_session(name)
    places.release(folder)


# In the engine's process


def _be_engine(options: Options, name: str, pids: tuple[Agent, int, int], channel: socket.socket) -> None:
    """The engine's process: a session of its own, no terminal, nothing of the caller's kept open."""
    stub, _, _ = pids
    code = 1
    try:
        os.close(stub.go)
        os.close(stub.failed)
        os.setsid()
        with contextlib.suppress(OSError):
            # It reacts to what saturates the machine, so it must not wait behind it; it uses little time itself.
            os.setpriority(os.PRIO_PROCESS, 0, _ENGINE_NICE)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        for number in HANDLED - {signal.SIGCHLD, signal.SIGALRM}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        _govern(options, name, pids, channel)
        code = 0
    except AgentCgroupError as error:
        _tell(channel, {"error": str(error)})
    except BaseException as error:
        words = fault_words(error)
        stdio.say(words)  # in the session's folder; or to nobody, if there is none yet
        _tell(channel, {"error": words})
    finally:
        os._exit(code)


def _tell(channel: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        channel.setblocking(True)
        channel.sendall(json.dumps(message).encode() + b"\n")


def _govern(options: Options, name: str, pids: tuple[Agent, int, int], channel: socket.socket) -> None:
    """Check, set up and govern the session.  Raises AgentCgroupError where there can be none; nothing of it is left then."""
    from agentcgroup.policy import load_policy

    def note(text: str) -> None:
        _tell(channel, {"note": f"agentcgroup: {text}"})

    policy = load_policy(Path(options.policy) if options.policy else None)
    priority = options.priority or policy.session.priority
    budget = session_budget(policy, options.memory, note)
    cpu_weight = options.cpu_weight or policy.session.cpu_weight[priority]
    from agentcgroup.session import places

    places.check_name(name)
    check_machine()
    if options.enforcer not in ("auto", "cgroup"):
        from agentcgroup.host import enforcement

        enforcement.check(options.enforcer)
    for stale in places.clean():
        note(_cleaned_words(stale))
    folder, lock = places.claim(name)
    _log_to(folder / _ENGINE_ERRORS)
    try:
        from agentcgroup.host.arbiter import start as start_host

        start_host(policy.host)  # before there is anything that it could inherit
    except OSError as error:
        places.release(folder)
        raise AgentCgroupError(
            "the host process can't be started", errno_words(error), "allow more processes (ulimit -u, TasksMax=)"
        ) from None
    from agentcgroup.sources.choice import open_source

    source = Background(lambda: open_source(policy.monitor, options.events))
    from agentcgroup.session.engine import Plan, govern

    stub, keeper, front = pids
    report = None if options.report is None else Path(options.report).absolute()
    plan = Plan(name, folder, policy, budget, cpu_weight, priority, options.argv, options.enforcer, report,
                stub=stub.pid, keeper=keeper, front=front)  # fmt: skip
    govern(plan, channel, source.result, lock)


def _log_to(file: Path) -> None:
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    os.close(log)


class Background(Generic[T]):
    """Something that is done in a thread while others are waited for."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._error: BaseException | None = None
        self._result: T
        self._thread = threading.Thread(target=self._run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # there may be no more threads: now, then
            self._run()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What it gave, when it is there; raises what it raised."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result


# What is checked before


def session_budget(
    policy: "Policy", memory: str | None, note: Callable[[str], None] = lambda text: stdio.say(f"agentcgroup: {text}")
) -> "Budget":
    """The session's budget from ``--memory`` or the policy.  Notes where it exceeds the host's memory.  Raises AgentCgroupError."""
    from agentcgroup.classify import SMALLEST_BUDGET_BYTES, amount, split_budget
    from agentcgroup.units import format_size

    host = host_memory()
    wanted = amount(policy.session.memory, host) if memory is None else memory_of(memory, host)
    if wanted < SMALLEST_BUDGET_BYTES:
        smallest = format_size(SMALLEST_BUDGET_BYTES)
        raise AgentCgroupError(
            f"a budget of {format_size(wanted)} is too small", f"an idle agent and a shell need {smallest}", "give more --memory"
        )
    if wanted > host:
        note(f"warning: the budget of {format_size(wanted)} is more than this host's memory, {format_size(host)}")
    return split_budget(policy, wanted)


def check_machine() -> None:
    """Raises AgentCgroupError where no session can be had: no root, no cgroup v2, or inside a session."""
    from agentcgroup import cgroup
    from agentcgroup.session import places

    if os.geteuid():
        raise _no_root()
    missing = set(cgroup.CONTROLLERS) - set(cgroup.read(cgroup.mount_point(), "cgroup.controllers").split())
    if missing:
        raise AgentCgroupError(
            "run can't work here",
            f"cgroup v2 lacks the controllers {', '.join(sorted(missing))} (bound to v1, or disabled at boot)",
            "boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=; agentcgroup doctor says more",
        )
    inside = places.name_of(cgroup.of_process())
    if inside:
        raise AgentCgroupError(
            "run inside a session",
            f"this process belongs to session {inside!r}",
            "its commands are governed already; use agentcgroup exec",
        )


def _no_root() -> AgentCgroupError:
    return AgentCgroupError(
        "run needs root, or the daemon",
        "it makes cgroups and reads the kernel's process events",
        "run it with sudo, or have an administrator say agentcgroup install",
    )


def clean_up(end: bool) -> int:
    """``agentcgroup cleanup``: clean stale sessions and say what was found; exit code 0."""
    from agentcgroup.session import places

    check_machine()
    found = places.clean(end)
    for one in found:
        stdio.say(f"agentcgroup: {_cleaned_words(one)}")
    if not found:
        stdio.say("agentcgroup: nothing to clean up")
    return 0


def _cleaned_words(one: "Cleaned") -> str:
    if not one.running:
        return f"cleaned up after session {one.name} ({one.removed} cgroups)"
    pids = ", ".join(map(str, one.running))
    return (
        f"session {one.name}: its run has died, its agent still runs (processes {pids}), without control;"
        " end it with agentcgroup cleanup --end"
    )
