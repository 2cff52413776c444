"""Which processes talk with each other: real sockets of real processes."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agentcgroup.sockets import partners

Sockets = tuple[socket.socket, socket.socket]


def unix() -> Sockets:
    return socket.socketpair()


def tcp(family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1", to: str = "127.0.0.1") -> Sockets:
    with socket.create_server((host, 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as server:
        client = socket.create_connection((to, server.getsockname()[1]))
        return server.accept()[0], client


def mixed() -> Sockets:
    """A server for both versions of IP, as Java's are, and a client of the old one."""
    return tcp(socket.AF_INET6, "::")


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("pair", [unix, tcp, mixed])
def test_who_is_connected_with_a_process_is_told_from_who_is_not(pair: object, processes: ExitStack) -> None:
    assert callable(pair)
    one, two = pair()
    three, four = pair()
    pids = []
    for end in (one, two, three, four):
        child = subprocess.Popen(["sleep", "60"], stdin=end)
        processes.callback(child.wait)
        processes.callback(child.kill)
        pids.append(child.pid)
        end.close()
    assert partners([pids[0]], {7: [pids[1]], 8: [pids[2]], 9: [pids[3]]}) == {7}
    assert partners([pids[0], pids[2]], {7: [pids[1]], 8: [], 9: [pids[3]]}) == {7, 9}


def test_who_has_no_sockets_or_is_gone_talks_with_nobody(processes: ExitStack) -> None:
    child = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
    processes.callback(child.wait)
    processes.callback(child.kill)
    assert partners([child.pid, 2**22 + 5], {1: [child.pid]}) == set()
    assert partners([], {1: [child.pid]}) == set()
