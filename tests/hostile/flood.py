"""What a user without rights can say to sockets, too often, too much, wrongly, or without listening.

Usage: flood.py unread SESSION | alternate SESSION SECONDS | messages SESSION COUNT | orders | history | metrics PORT | locks
"""

import fcntl
import json
import os
import random
import socket
import sys
import threading
import time
from pathlib import Path

RUN = Path("/run/agentcgroup")
DAEMON = str(RUN / "control.sock")
SETTLED_S = 3.0
"""How long what is wrong is kept up."""


def connected(place: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(20)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    channel.connect(place)
    return channel


def session_socket(name: str) -> str:
    return str(RUN / "sessions" / name / "control.sock")


def say(place: str, line: bytes) -> bytes:
    try:
        with connected(place) as channel:
            channel.sendall(line)
            return channel.makefile("rb").readline()
    except OSError:
        return b""


def unread(place: str, line: bytes, count: int) -> None:
    """Ask, and do not listen."""
    held = []
    for _ in range(count):
        try:
            held.append(connected(place))
            held[-1].sendall(line)
        except OSError:
            time.sleep(0.01)
    print("held", len(held))
    time.sleep(SETTLED_S)


def alternate(place: str, seconds: float) -> None:
    """Ask for a call, which is refused, and for the status, from many sides at once."""
    end, counts = time.monotonic() + seconds, [0]

    def ask() -> None:
        while time.monotonic() < end:
            say(place, b'{"op":"call"}\n')
            say(place, b'{"op":"status"}\n')
            counts[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("asked", 2 * counts[0])


def messages(places: list[str], count: int) -> None:
    dice = random.Random(3)
    pieces = [b"{", b"}", b"[", b'"op"', b":", b",", b'"run"', b'"status"', b'"exit"', b"1e999", b"Infinity", str(2**70).encode(), b"\xff",
              b'"call"', b'"argv"', b"[" * 1000, b'{"a":' * 500, b'"\\ud800"', b"\0"]  # fmt: skip
    for place in places:
        for _ in range(count):
            say(place, b"".join(dice.choices(pieces, k=dice.randrange(1, 9)))[:4000] + b"\n")
        say(place, b"x" * 300_000)


def forked() -> tuple[int, int]:
    """A child that waits for its word, and the descriptor that gives it."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writes)
        os.read(reads, 1)
        os._exit(0)
    os.close(reads)
    return pid, writes


def orders() -> None:
    """Sessions whose agent is said to have ended in a way that no process can."""
    for number, status in enumerate(("1180591620717411303424", "Infinity", "-1", "[" * 60_000)):
        (stub, go), (keeper, stop) = forked(), forked()
        with connected(DAEMON) as link:
            order = {
                "version": 1,
                "op": "run",
                "argv": ["x"],
                "name": f"odd-{number}",
                "stub": stub,
                "keeper": keeper,
                "memory": 100 << 20,
            }
            link.sendall(json.dumps(order).encode() + b"\n")
            answers = link.makefile("rb")
            print("order", number, answers.readline()[:80])
            os.write(go, b"g")
            os.waitpid(stub, 0)
            link.sendall(b'{"exit": ' + status.encode() + b"}\n")
            answers.readline()
        os.close(stop)
        os.waitpid(keeper, 0)


def metrics(port: int) -> None:
    held = []
    for _ in range(200):
        channel = socket.socket()
        channel.settimeout(5)
        try:
            channel.connect(("127.0.0.1", port))
            held.append(channel)
        except OSError:
            continue
    for channel in held[::2]:
        try:
            channel.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        except OSError:
            continue
    time.sleep(SETTLED_S)


def locks() -> None:
    """Fails when any lock can be held."""
    for file in (*RUN.glob("*lock"), *RUN.glob("sessions/*/lock")):
        try:
            with open(file) as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        sys.exit(f"{file} can be locked by anybody")


match sys.argv[1:]:
    case ["unread", name]:
        unread(session_socket(name), b'{"op":"status"}\n', 200)
    case ["history"]:
        unread(DAEMON, b'{"version":1,"op":"history","limit":1000}\n', 40)
    case ["alternate", name, seconds]:
        alternate(session_socket(name), float(seconds))
    case ["messages", name, count]:
        messages([DAEMON, session_socket(name)], int(count))
    case ["orders"]:
        orders()
    case ["metrics", port]:
        metrics(int(port))
    case ["locks"]:
        locks()
    case _:
        sys.exit(__doc__)
