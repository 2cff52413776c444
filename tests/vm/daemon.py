"""What the tests of the daemon share: a daemon, containers with agents in them, users without rights."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from agentcgroup.history import store
from agentcgroup.service.status import sessions

IMAGE = "localhost/agentcgroup-test"
AGENT = "n=0; while :; do n=$((n+1)); x=$(sh -c 'sleep 0.3; echo done'); echo $n; sleep 0.2; done"
"""An agent that runs one short command after another, and says how many it has run."""
T = TypeVar("T")
METRICS = "127.0.0.1:9753"
UNIT = "agentcgroup.service"


def docker(*words: str, engine: str = "docker") -> str:
    return subprocess.run([engine, *words], capture_output=True, text=True, check=True).stdout.strip()


def status(session: str) -> dict[str, Any]:
    """What agentcgroup status knows of a session; asked without its command, whose start takes longer than a call here."""
    return next((one for one in sessions() if one["session"] == session and "error" not in one), {})


def history(session: str) -> list[dict[str, Any]]:
    with store.reading(store.FILE) as kept:
        return store.calls(kept, store.Filter(session=session, limit=100_000))


def until(what: str, true: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until something is so, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


def until_equal(expected: T, read: Callable[[], T], seconds: float = 120) -> None:
    """Wait until something is read that is as expected; else say what was."""
    deadline = time.monotonic() + seconds
    while (found := read()) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == expected


class Kept:
    """What a service manager keeps for the next daemon: named descriptors."""

    def __init__(self) -> None:
        self.descriptors: list[tuple[str, int]] = []

    def take(self, message: bytes, descriptors: list[int]) -> None:
        if descriptors:
            name = next(line[7:] for line in message.decode().splitlines() if line.startswith("FDNAME="))
            self.descriptors += [(name, descriptor) for descriptor in descriptors]

    def words(self, command: list[str]) -> list[str]:
        """The command, started with these descriptors as systemd does it."""
        names = ":".join(name for name, _ in self.descriptors)
        moves = " ".join(f"{3 + at}<&{100 + at}" for at in range(len(self.descriptors)))
        closes = " ".join(f"{100 + at}<&-" for at in range(len(self.descriptors)))
        text = f'LISTEN_PID=$$ LISTEN_FDS={len(self.descriptors)} LISTEN_FDNAMES={names} exec "$0" "$@" {moves} {closes}'
        return ["bash", "-c", text, *command] if self.descriptors else command

    def close(self) -> None:
        for _, descriptor in self.descriptors:
            os.close(descriptor)


@contextmanager
def daemon(folder: Path, *options: str, kept: Kept | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that is ready; ``kept`` is what those before it left, and it may leave."""
    place = folder / f"notify-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place))
        manager.settimeout(240)
        words = [sys.executable, "-m", "agentcgroup", "daemon", "--metrics", METRICS, *options]
        passed = {}
        if kept is not None:
            words = kept.words(words)
            passed = {100 + at: descriptor for at, (_, descriptor) in enumerate(kept.descriptors)}
        for number, descriptor in passed.items():
            os.dup2(descriptor, number, inheritable=True)
        with subprocess.Popen(words, env={**os.environ, "NOTIFY_SOCKET": str(place)}, pass_fds=list(passed)) as child:
            for number in passed:
                os.close(number)
            try:
                message = b""
                while b"READY=1" not in message:
                    message, descriptors, _, _ = socket.recv_fds(manager, 1000, 64)
                    if kept is None:
                        for descriptor in descriptors:
                            os.close(descriptor)
                    else:
                        kept.take(message, descriptors)
                yield child
            finally:
                child.terminate()
    place.unlink()


@contextmanager
def container(
    image: str, *options: str, agent: str = AGENT, label: str = "agentcgroup.enable=true", engine: str = "docker"
) -> Iterator[str]:
    """A running container with an agent in it."""
    words = ["run", "--detach", "--network", "none", "--label", label, *options, image, "sh", "-c", agent]
    identity = docker(*words, engine=engine)
    try:
        yield identity
    finally:
        docker("rm", "--force", identity, engine=engine)


def as_user(user: str, *words: str) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", sys.executable, "-m", "agentcgroup", *words]


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True).stdout.strip()
