"""Says what must not be believed to the daemon's socket: no orders, half orders, orders about others' processes, and too much.

Usage: liar.py TIMES.  Fails when any of it is granted.
"""

import json
import os
import random
import socket
import sys

SOCKET = "/run/agentcgroup/control.sock"
GOOD = {"version": 1, "op": "run", "argv": ["true"], "stub": os.getppid(), "keeper": os.getppid(), "name": "x"}
VALUES = [None, -1, 2**70, "../..", [], {}, "high", os.getpid(), 1, "a" * 1000]


def lie() -> bytes:
    bad = dict(GOOD)
    for _ in range(random.randint(0, 3)):
        bad[random.choice([*GOOD, "priority", "memory", "x"])] = random.choice(VALUES)
    whole = json.dumps(bad).encode()
    line = random.choice([whole, whole[: random.randint(0, 60)], os.urandom(50), b"[" * 3000])
    return line + b"\n" * random.randint(0, 1)


def say(data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(SOCKET)
        try:
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            return link.recv(4096)
        except OSError:
            return b""


if __name__ == "__main__":
    random.seed(1)
    for _ in range(int(sys.argv[1])):
        data = lie()
        answer = say(data)
        assert b"ready" not in answer, (data, answer)
    say(b"x" * 2_000_000)
