"""The process that the user started: parent of the agent, and as invisible as can be.

It forks the *stub*, which waits and becomes the agent, and the *keeper*, which sleeps in the session's cgroup (see ``layout``) as long
as one of the others lives; without a daemon also the *engine*, which governs (``embedded``).  Where the daemon governs, the keeper
stays until the daemon has written down what the session did.
Then it does what a shell does for a command: waits, passes signals on, stops when the agent stops, and ends as the agent ended.  It
shares the agent's process group, so the terminal's own signals reach the agent directly, once.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from agentcgroup import stdio
from agentcgroup.errors import AgentCgroupError, errno_words

_FORWARDED = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
              signal.SIGWINCH, signal.SIGCONT, signal.SIGALRM}  # fmt: skip
HANDLED = _FORWARDED | {signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_SI_KERNEL = 0x80
"""si_code of signals that the terminal made: the agent, in the same process group, got its own."""
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
_DAEMON_PATIENCE_S = 60
"""How long an ended session is kept for the daemon, where none is there at that moment: it is about to be started again."""
_PASSED_ON = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "busybox", "fish", "systemd", "systemd-executo", "init"}
)
"""Parents whose ignored signals are those that they start their children with; other programs may reset them."""
_COERCED = (b"LC_CTYPE=C.UTF-8", b"LC_CTYPE=C.utf8", b"LC_CTYPE=UTF-8")


class Before(NamedTuple):
    """How signals were when this process was started, for the agent: blocked ones, and ignored ones that Python changed."""

    mask: Iterable[int]
    ignored: frozenset[int]


class Agent(NamedTuple):
    """The stub, what lets it become the agent, and where it says why it could not."""

    pid: int
    go: int
    failed: int


def run_with_daemon(link: socket.socket, argv: tuple[str, ...], order: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """Run a session that the daemon governs; returns the agent's exit status as wait(2) encodes it, and the report.

    ``link`` leads to the daemon, ``order`` says what is wished for (``service.orders``).  Raises AgentCgroupError when it refuses.
    """
    with signals_waited_for() as before:
        agent, keeper, lines = fork_stub(argv, before), 0, Link(link)
        try:
            keeper = fork_keeper(_DAEMON_PATIENCE_S)
            lines.tell({**order, "argv": argv, "stub": agent.pid, "keeper": keeper})
            until_ready(lines, "the daemon ended before the session began")
        except AgentCgroupError:
            give_up(agent, keeper)
            raise
        return accompany(agent, lines, argv, lambda _: None)


@contextlib.contextmanager
def signals_waited_for() -> Iterator[Before]:
    """Signals are waited for, not handled; gives how they were before."""
    ignored = _ignored()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, the kernel forgets how a child ended
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield Before(mask, ignored)
    finally:
        # Signals that came meanwhile were for the agent, which is gone: take them off before unblocking.
        while signal.sigtimedwait(HANDLED, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _ignored() -> frozenset[int]:
    """Signals that this program found ignored, of those that Python or we change.

    Python ignores SIGPIPE and SIGXFSZ before any code of ours runs, so what they were is looked up at the parent.
    """
    found = {number for number in (signal.SIGINT, signal.SIGCHLD) if signal.getsignal(number) is signal.SIG_IGN}
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{os.getppid()}/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        if os.fsdecode(fields[b"Name"].strip()) in _PASSED_ON:
            mask = int(fields[b"SigIgn"], 16)
            found |= {number for number in (signal.SIGPIPE, signal.SIGXFSZ) if mask >> (number - 1) & 1}
    return frozenset(found)


class Link:
    """Lines of JSON from whoever governs; descriptors that come with them are kept."""

    def __init__(self, link: socket.socket) -> None:
        self._link, self._buffer = link, b""
        self.descriptors: list[int] = []

    def next(self) -> dict[str, Any]:
        """The next message; empty when the other end has died."""
        try:
            while b"\n" not in self._buffer:
                data, descriptors, _, _ = socket.recv_fds(self._link, 1 << 18, 4)
                self.descriptors += descriptors
                if not data:
                    return {}
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\n")
            answer = json.loads(line)
        except (OSError, ValueError):
            answer = {}
        return answer if isinstance(answer, dict) else {}

    def tell(self, message: dict[str, Any]) -> None:
        """Say something, if anybody is there."""
        with contextlib.suppress(OSError):
            self._link.sendall(json.dumps(message).encode() + b"\n")


def until_ready(link: Link, otherwise: str) -> None:
    """Wait until whoever governs is ready.  Raises AgentCgroupError where there will be no session; ``otherwise`` is why, if nobody says."""
    while "ready" not in (answer := link.next()):
        if "note" not in answer:
            raise AgentCgroupError(answer.get("error") or otherwise)
        stdio.say(str(answer["note"]))


def accompany(
    agent: Agent, link: Link, argv: tuple[str, ...], other_ended: Callable[[int], None]
) -> tuple[int, dict[str, Any] | None]:
    """Let the stub become the agent, and be its parent until it ends: its status, and the report.

    Raises AgentCgroupError where the agent can't be executed.
    """
    with contextlib.suppress(BrokenPipeError):
        os.write(agent.go, b"g")
    os.close(agent.go)
    prepare_summary()
    status = attend(agent.pid, other_ended)
    failure = os.read(agent.failed, 16)
    link.tell({"exit": status})
    report = link.next().get("report")
    if failure:
        error = AgentCgroupError(f"{argv[0]} can't be executed", os.strerror(int(failure)), "check the command after --")
        error.exit_code = os.waitstatus_to_exitcode(status)
        raise error
    return status, report


def fork(what: str) -> int:
    """fork(2) in words.  Raises AgentCgroupError where there may be no more processes."""
    try:
        return os.fork()
    except OSError as error:
        raise AgentCgroupError(
            f"{what} can't be started",
            errno_words(error),
            "allow more processes (ulimit -u, TasksMax= of the unit, pids.max of the cgroup): a session needs about ten processes and threads beside the agent's",
        ) from None


def fork_stub(argv: tuple[str, ...], before: Before) -> Agent:
    """Fork the process that becomes the agent: it waits for the word, which comes when its cgroup is there."""
    waits, go = os.pipe()
    failed, fails = os.pipe()
    pid = fork("the agent's process")
    if pid:
        os.close(waits)
        os.close(fails)
        return Agent(pid, go, failed)
    try:
        os.close(go)
        if os.read(waits, 1) != b"g":
            os._exit(1)
        _as_found(before)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(fails, str(error.errno).encode())
        os._exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_EXECUTE)
    finally:
        os._exit(1)


def _as_found(before: Before) -> None:
    """Signals and environment as they were before Python changed them for itself."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN if number in before.ignored else signal.SIG_DFL)
    if b"LC_CTYPE=" + os.environb.get(b"LC_CTYPE", b"") in _COERCED:
        with contextlib.suppress(OSError), open("/proc/self/environ", "rb") as file:
            if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
                del os.environ["LC_CTYPE"]
    signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)


def fork_keeper(stay_s: float = 0) -> int:
    """Fork the keeper: it ends ``stay_s`` after front and engine, the holders of its pipe's other end, unless somebody ends it."""
    waits, _ = os.pipe()
    pid = fork("the session's keeper")
    if pid:
        os.close(waits)
        return pid
    try:
        os.setsid()
        os.closerange(3, waits)
        os.closerange(waits + 1, os.sysconf("SC_OPEN_MAX"))
        for number in (0, 1, 2):
            os.close(number)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # only root may
            file.write("-1000")
        os.read(waits, 1)
        time.sleep(stay_s)
    finally:
        os._exit(0)


def give_up(agent: Agent, keeper: int) -> None:
    """There will be no session: end what was forked for it."""
    for descriptor in (agent.go, agent.failed):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    for pid in (agent.pid, keeper):
        if pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def attend(agent: int, other_ended: Callable[[int], None]) -> int:
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
        info = signal.sigwaitinfo(HANDLED)
        number = signal.Signals(info.si_signo)
        if number in _FORWARDED and info.si_code != _SI_KERNEL and info.si_pid != agent:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # sudo's process is root's
                os.kill(agent, number)


def prepare_summary() -> None:
    """Import what the summary needs while the agent runs; signals are passed on meanwhile."""
    import threading

    def load() -> None:
        with contextlib.suppress(Exception):
            import rich.console
            import rich.table
            import rich.text  # noqa: F401

            import agentcgroup.session.report  # noqa: F401

    with contextlib.suppress(RuntimeError):  # there may be no more threads: then it is imported when it is needed
        threading.Thread(target=load, daemon=True).start()


def show_summary(report: dict[str, Any]) -> None:
    """The summary on stderr.  Whatever goes wrong with that is no business of the agent's, nor of who waits for its exit code."""
    try:
        from agentcgroup.session.report import print_summary

        print_summary(report, sys.stderr)
    except (OSError, SystemExit):
        pass  # a full disk; a pipe that nobody reads any more, which makes rich leave
    except Exception as error:
        from agentcgroup.errors import report_fault

        report_fault(error)


def end_like(status: int) -> int:
    """The exit code for ``status``; does not return where the agent was ended by a signal: so are we then."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        stdio.finish(0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the agent's core is the one of interest
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
