"""The process that the user started: parent of the agent, and as invisible as can be.

It forks three children: the *stub*, which waits and becomes the agent; the *engine*, which governs; and
the *keeper*, which sleeps in the session's cgroup (see ``layout``) as long as one of the others lives.  Where the daemon governs, there is
no engine, and the keeper stays until the daemon has written down what the session did.
Then it does what a shell does for a command: waits, passes signals on, stops when the agent
stops, and ends as the agent ended.  It shares the agent's process group, so the terminal's own
signals reach the agent directly, once.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentcgroup.errors import AgentCgroupError
from agentcgroup.session.engine import Plan, govern
from agentcgroup.session.places import end_session, lift, release, session_cgroup
from agentcgroup.session.report import print_summary

_FORWARDED = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
              signal.SIGWINCH, signal.SIGCONT, signal.SIGALRM}  # fmt: skip
_HANDLED = _FORWARDED | {signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_SI_KERNEL = 0x80
"""si_code of signals that the terminal made: the agent, in the same process group, got its own."""
_ENGINE_NICE = -15
_ENGINE_ERRORS = "engine.err"
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
_DAEMON_PATIENCE_S = 60
"""How long an ended session is kept for the daemon, where none is there at that moment: it is about to be started again."""


@dataclass(slots=True)
class _Agent:
    pid: int
    go: int
    failed: int


def run_session(plan: Plan, lock: int) -> int:
    """Run a planned session to its end; returns the agent's exit status as wait(2) encodes it.

    ``plan.stub``, ``plan.keeper`` and ``plan.front`` are filled in here.  Raises AgentCgroupError when the session can't be
    set up; nothing of it is left then.
    """
    with _signals_blocked() as before:
        agent = _fork_stub(plan.argv, before)
        ours, theirs = socket.socketpair()
        plan = replace(plan, stub=agent.pid, keeper=_fork_keeper(), front=os.getpid())
        engine = os.fork()
        if engine == 0:
            ours.close()
            os.close(agent.go)
            os.close(agent.failed)
            _be_engine(plan, theirs)
        theirs.close()

        def other_ended(pid: int) -> None:
            if pid == engine:
                # Without its governor, nothing may stay braked, frozen or capped.
                lift(session_cgroup(plan.name))

        try:
            status, report = _accompany(agent, ours, plan.argv, other_ended)
        except _NotReadyError as error:
            os.waitpid(engine, 0)
            _clear(plan)
            raise AgentCgroupError(str(error) or "the governing process ended before the session began") from None
        os.close(lock)
        _finish(plan, report)
    return status


def run_with_daemon(link: socket.socket, argv: tuple[str, ...], order: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """Run a session that the daemon governs; returns the agent's exit status as wait(2) encodes it, and the report.

    ``link`` leads to the daemon, ``order`` says what is wished for (``service.orders``).  Raises AgentCgroupError when it refuses.
    """
    with _signals_blocked() as before:
        agent = _fork_stub(argv, before)
        keeper = _fork_keeper(_DAEMON_PATIENCE_S)
        try:
            link.sendall(json.dumps({**order, "argv": argv, "stub": agent.pid, "keeper": keeper}).encode() + b"\n")
            return _accompany(agent, link, argv, lambda _: None)
        except (_NotReadyError, BrokenPipeError) as error:
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGKILL)
            raise AgentCgroupError(str(error) or "the daemon ended before the session began") from None


class _NotReadyError(Exception):
    """The session could not be set up; the stub is gone."""


@contextlib.contextmanager
def _signals_blocked() -> Iterator[Iterable[int]]:
    """Signals are waited for, not handled; gives the mask of before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        yield before
    finally:
        # Signals that came meanwhile were for the agent, which is gone: take them off before unblocking.
        while signal.sigtimedwait(_HANDLED, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _accompany(
    agent: _Agent, link: socket.socket, argv: tuple[str, ...], other_ended: Callable[[int], None]
) -> tuple[int, dict[str, Any] | None]:
    """Let the stub become the agent when whoever governs is ready, and be its parent until it ends: its status, and the report.

    Raises AgentCgroupError where the agent can't be executed.
    """
    lines = link.makefile("r", encoding="utf-8")
    answer = _next(lines)
    if "ready" not in answer:
        os.close(agent.go)
        os.waitpid(agent.pid, 0)
        raise _NotReadyError(answer.get("error") or "")
    with contextlib.suppress(BrokenPipeError):
        os.write(agent.go, b"g")
    os.close(agent.go)
    status = _attend(agent.pid, other_ended)
    failure = os.read(agent.failed, 16)
    with contextlib.suppress(OSError):
        link.sendall(json.dumps({"exit": status}).encode() + b"\n")
    report = _next(lines).get("report")
    if failure:
        error = AgentCgroupError(f"{argv[0]} can't be executed", os.strerror(int(failure)), "check the command after --")
        error.exit_code = os.waitstatus_to_exitcode(status)
        raise error
    return status, report


def _fork_stub(argv: tuple[str, ...], mask: Iterable[int]) -> _Agent:
    """Fork the process that becomes the agent: it waits for the word, which comes when its cgroup is there."""
    waits, go = os.pipe()
    failed, fails = os.pipe()
    pid = os.fork()
    if pid:
        os.close(waits)
        os.close(fails)
        return _Agent(pid, go, failed)
    try:
        os.close(go)
        if os.read(waits, 1) != b"g":
            os._exit(1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python changed these for itself
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(fails, str(error.errno).encode())
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_EXECUTE)
    os._exit(1)


def _fork_keeper(stay_s: float = 0) -> int:
    """Fork the keeper: it ends ``stay_s`` after front and engine, the holders of its pipe's other end, unless somebody ends it."""
    waits, _ = os.pipe()
    pid = os.fork()
    if pid:
        os.close(waits)
        return pid
    try:
        os.setsid()
        os.closerange(3, waits)
        os.closerange(waits + 1, os.sysconf("SC_OPEN_MAX"))
        for number in (0, 1, 2):
            os.close(number)
        with contextlib.suppress(OSError):  # only root may
            Path("/proc/self/oom_score_adj").write_text("-1000")
        os.read(waits, 1)
        time.sleep(stay_s)
    finally:
        os._exit(0)


def _be_engine(plan: Plan, channel: socket.socket) -> None:
    """The engine's process: a session of its own, no terminal, nothing of the caller's kept open."""
    try:
        os.setsid()
        # It reacts to what saturates the machine, so it must not wait behind it; it uses little time itself.
        os.setpriority(os.PRIO_PROCESS, 0, _ENGINE_NICE)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        log = os.open(plan.folder / _ENGINE_ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        for number in _HANDLED - {signal.SIGCHLD, signal.SIGALRM}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        channel.setblocking(False)
        govern(plan, channel)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _attend(agent: int, other_ended: Callable[[int], None]) -> int:
    """Be the agent's parent until it ends; returns its status."""
    while True:
        # Look before waiting: a child's change and a signal may have come together.
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                break
            if pid != agent:
                other_ended(pid)
            elif os.WIFSTOPPED(status):
                os.kill(os.getpid(), signal.SIGSTOP)  # the shell that waits for us must see it
            else:
                return status
        info = signal.sigwaitinfo(_HANDLED)
        number = signal.Signals(info.si_signo)
        if number in _FORWARDED and info.si_code != _SI_KERNEL and info.si_pid != agent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent, number)


def _next(lines: Any) -> dict[str, Any]:
    """The engine's next message; empty when it has died."""
    try:
        line = lines.readline()
        answer = json.loads(line) if line else {}
    except (OSError, ValueError):
        answer = {}
    return answer if isinstance(answer, dict) else {}


def _finish(plan: Plan, report: dict[str, Any] | None) -> None:
    if report is None:
        details = plan.folder / _ENGINE_ERRORS
        last = details.read_text().strip().splitlines()[-1:] if details.exists() else []
        why = last[0] if last else "killed"
        print(
            f"agentcgroup: the governing process of this session died ({why}); the agent ran on without limits", file=sys.stderr
        )
        _clear(plan)
        return
    print_summary(report, sys.stderr)


def _clear(plan: Plan) -> None:
    end_session(plan.name)
    release(plan.folder)


def end_like(status: int) -> int:
    """The exit code for ``status``; does not return where the agent was ended by a signal: so are we then."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the agent's core is the one of interest
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        sys.stdout.flush()
        sys.stderr.flush()
        os.kill(os.getpid(), number)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
