"""``run`` with nobody who governs: COMMAND becomes the agent of a session that an obliging other end says is ready."""

import json
import socket
import sys
import threading

from agentcgroup import stdio
from agentcgroup.session import front
from tests.agents import slow_imports  # noqa: F401

REPORT = {
    "session": "s", "calls": [], "loops": [], "log": [], "duration_s": 1.0, "priority": "normal", "kernel": "k", "source": "s", "enforcer": "e",
    "budget": {"session": 1 << 30, "agent_max": 1 << 29},
    "agent": {"exit": 0, "memory_peak_bytes": 1 << 20, "out_of_memory_kills": 0, "processes": []},
}  # fmt: skip


def govern(channel: socket.socket) -> None:
    channel.sendall(b'{"ready": "s"}\n')
    channel.makefile().readline()  # its exit status
    channel.sendall(json.dumps({"report": REPORT}).encode() + b"\n")


stdio.prepare()
ours, theirs = socket.socketpair()
with front.signals_waited_for() as before:
    threading.Thread(target=govern, args=[theirs], daemon=True).start()  # here, so that it takes no signals
    agent, link = front.fork_stub(tuple(sys.argv[1:]), before), front.Link(ours)
    front.until_ready(link, "nobody governs")
    status, report = front.accompany(agent, link, tuple(sys.argv[1:]), lambda _: None)
    assert report == REPORT
    front.show_summary(report)
sys.exit(stdio.finish(front.end_like(status)))
