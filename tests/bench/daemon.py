"""What many calls and many sessions cost the daemon.

Calls: sessions whose agents start /bin/true all the time; its memory, descriptors, cgroups and history are looked at on the way,
and how many calls it sustains.  Sessions: the processor time of one agent's calls, alone and beside many idle sessions.
AGENTCGROUP_CALLS and AGENTCGROUP_SESSIONS choose how many; a round is one daemon for the calls and one for the sessions.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentcgroup.history.store import FILE
from agentcgroup.service.status import sessions
from agentcgroup.session.places import DAEMON_SOCKET
from tests.vm.harness import SLICE

CALLS = int(os.environ.get("AGENTCGROUP_CALLS") or 20_000)
SESSIONS = int(os.environ.get("AGENTCGROUP_SESSIONS") or 500)
BUSY = 8
"""Sessions that start calls at the same time."""
FEW = 200
"""Calls of the one agent whose cost is measured beside many sessions."""
GROWS = "dd if=/dev/zero of=/dev/null bs=24M count=1 2>&-"
"""A call that has to ask for memory, and whose agent's host has to be measured."""
MEMORY = 64 << 20


class Session:
    """A session of ``run``, without a ``run`` of its own: hundreds of those would fill the guest."""

    def __init__(self, name: str, script: str) -> None:
        words = ["sh", "-c", f"read go; {script}; echo done; read end"]
        self.stub = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._keeper = subprocess.Popen(["sleep", "infinity"])
        self._link = socket.socket(socket.AF_UNIX)
        self._link.connect(str(DAEMON_SOCKET))
        order = {"version": 1, "op": "run", "argv": ["sh"], "stub": self.stub.pid, "keeper": self._keeper.pid, "name": name}
        self._link.sendall(json.dumps({**order, "memory": MEMORY}).encode() + b"\n")
        self._lines = self._link.makefile("rb")
        answer = json.loads(self._lines.readline())
        assert "ready" in answer, answer

    def go(self) -> None:
        assert self.stub.stdin is not None
        self.stub.stdin.write("go\n")
        self.stub.stdin.flush()

    def wait(self) -> None:
        """Until the agent has made its calls; the daemon may still be busy with them."""
        assert self.stub.stdout is not None
        self.stub.stdout.readline()

    def end(self) -> dict[str, Any]:
        """End the agent; the session's report."""
        assert self.stub.stdin is not None
        self.stub.stdin.close()
        self.stub.wait()
        with contextlib.suppress(BrokenPipeError):  # it has waited for that long enough
            self._link.sendall(b'{"exit": 0}\n')
        answer = json.loads(self._lines.readline())
        self.leave()
        return dict(answer["report"])

    def leave(self) -> None:
        for process in (self.stub, self._keeper):
            process.kill()
            process.wait()
        self._link.close()


@contextlib.contextmanager
def daemon() -> Iterator[int]:
    words = [sys.executable, "-m", "agentcgroup", "daemon", "--metrics", "off"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        while not DAEMON_SOCKET.exists():
            time.sleep(0.1)
        time.sleep(5)  # its enforcer is in force by then
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def cpu_s(pid: int) -> float:
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def figures(pid: int) -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "RSS, MiB": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "cgroups": sum(1 for _ in SLICE.rglob("cgroup.procs")),
        "history, MiB": sum(file.stat().st_size for file in FILE.parent.glob("history.db*")) / (1 << 20),
        "CPU, s": cpu_s(pid),
    }


def agent(calls: int, command: str = "/bin/true") -> str:
    return f"i=0; while [ $i -lt {calls} ]; do {command}; i=$((i+1)); done"


def many_calls() -> dict[str, Any]:
    points = sorted({min(CALLS, point) for point in (1000, 10_000, CALLS)})
    parts = [until - since for since, until in itertools.pairwise([0, *points])]
    script = "; read go; ".join(agent(part // BUSY) for part in parts)
    with daemon() as pid:
        running = [Session(f"busy-{number}", script) for number in range(BUSY)]
        began = time.monotonic()
        seen = [{"calls": 0, "after, s": 0.0, **figures(pid)}]
        for point in points:
            for one in running:
                one.go()
            # Agents are faster than the daemon: it is looked at when it is abreast.
            deadline = time.monotonic() + max(60, point)
            while (ended := sum(one.get("ended_calls", 0) for one in sessions())) < point:
                assert time.monotonic() < deadline, f"{point - ended} of {point} calls are missing"
                time.sleep(1)
            seen.append({"calls": ended, "after, s": time.monotonic() - began, **figures(pid)})
            print(", ".join(f"{name} {value:.1f}" for name, value in seen[-1].items()), flush=True)
        reports = [one.end() for one in running]
    took, first, last = seen[-1]["after, s"], seen[0], seen[-1]
    rate = last["calls"] / took
    each_ms = 1000 * (last["CPU, s"] - first["CPU, s"]) / max(1, last["calls"] - first["calls"])
    print(f"{rate:.1f} calls/s with {BUSY} agents; the daemon used {each_ms:.2f} ms of a processor for each", flush=True)
    return {
        "figures": seen,
        "rate": rate,
        "cpu_ms_per_call": each_ms,
        "lost": sum(one["source_figures"]["lost"] for one in reports),
    }


def beside(idle: int) -> dict[str, float]:
    """Milliseconds of the daemon's processor time for each call of one agent, beside so many idle sessions."""
    with daemon() as pid:
        others = [Session(f"idle-{number}", ":") for number in range(idle)]
        time.sleep(10)
        before = cpu_s(pid)
        time.sleep(10)
        idle_cpu_s = (cpu_s(pid) - before) / 10
        one = Session("measured", agent(FEW, GROWS))
        before = cpu_s(pid)
        began = time.monotonic()
        one.go()
        one.wait()
        time.sleep(2)
        took = time.monotonic() - began
        each_ms = 1000 * (cpu_s(pid) - before - idle_cpu_s * took) / FEW
        facts = figures(pid)
        one.end()
        for other in others:
            other.leave()
        while sessions():  # the next daemon would have to end them
            time.sleep(1)
    print(f"beside {idle} idle sessions: {each_ms:.2f} ms for each call; idle {100 * idle_cpu_s:.2f} % of a processor, "
          f"RSS {facts['RSS, MiB']:.0f} MiB, {facts['descriptors']:.0f} descriptors", flush=True)  # fmt: skip
    return {"sessions": idle + 1, "cpu_ms_per_call": each_ms, "idle_cpu": idle_cpu_s, **facts}


def main(file: Path, rounds: int) -> None:
    done: list[dict[str, Any]] = []
    for _ in range(rounds):
        calls = many_calls() if CALLS else {}
        sizes = [beside(0), beside(SESSIONS - 1)] if SESSIONS else []
        done.append({"calls": calls, "sessions": sizes})
        if sizes:
            print(f"cost of an event, {SESSIONS} sessions / 1: {sizes[1]['cpu_ms_per_call'] / sizes[0]['cpu_ms_per_call']:.2f}")
    file.write_text(json.dumps({"name": "daemon", "kernel": os.uname().release, "rounds": done}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
