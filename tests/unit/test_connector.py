"""The process connector, on this machine's own kernel."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from agentcgroup.errors import AgentCgroupError
from agentcgroup.sources import Event, Execed, Exited, Forked, Lost, connector


@pytest.fixture
def source() -> Iterator[connector.Connector]:
    try:
        opened = connector.Connector()
    except AgentCgroupError as error:
        pytest.skip(f"no process connector here: {error.why}")
    yield opened
    opened.close()


def drained(source: connector.Connector) -> list[Event]:
    events: list[Event] = []
    time.sleep(0.05)
    for _ in range(200):
        source.drain(events.append)
    return events


def test_fork_exec_and_exit_of_a_process_arrive_in_order_with_its_status(source: connector.Connector) -> None:
    process = subprocess.Popen(["sh", "-c", "exit 7"])
    process.wait()
    mine = [event for event in drained(source) if process.pid in (getattr(event, "pid", 0), getattr(event, "child", 0))]
    assert [type(event) for event in mine] == [Forked, Execed, Exited]
    forked, execed, exited = mine
    assert isinstance(forked, Forked)
    assert isinstance(execed, Execed)
    assert isinstance(exited, Exited)
    assert forked.parent == os.getpid()
    assert os.waitstatus_to_exitcode(exited.status) == 7
    assert forked.at_ns <= execed.at_ns <= exited.at_ns <= time.monotonic_ns()


def test_threads_and_changes_of_identity_wake_nobody(source: connector.Connector) -> None:
    code = (
        "import threading, os\nfor _ in range(50):\n t = threading.Thread(target=lambda: None); t.start(); t.join()\nos.setsid()"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    process.wait()
    mine = [event for event in drained(source) if process.pid in (getattr(event, "pid", 0), getattr(event, "parent", 0))]
    assert [type(event) for event in mine] == [Execed, Exited]


def test_an_overrun_is_reported_as_lost(monkeypatch: pytest.MonkeyPatch, source: connector.Connector) -> None:
    monkeypatch.setattr(connector, "_BUFFER_BYTES", 4096)
    small = connector.Connector()
    for _ in range(60):
        subprocess.run(["true"], check=True)
    assert any(isinstance(event, Lost) for event in drained(small))
    small.close()
    assert not any(isinstance(event, Lost) for event in drained(source))
