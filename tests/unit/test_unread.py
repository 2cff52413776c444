"""Hints in environments that the kernel did not look through, as real processes show them."""

import os
import subprocess

from agentcgroup import control_events as ctl
from agentcgroup.model import CallRecord
from agentcgroup.session import said as module
from agentcgroup.session.live import Live
from agentcgroup.session.said import Said


def test_where_the_kernel_did_not_look_proc_is_looked_at() -> None:
    many = {f"V{number}": "x" for number in range(6000)} | {f"L{number}": "x" * 100_000 for number in range(3)}
    environment = {"PATH": os.environ["PATH"], **many, "AGENT_RESOURCE_HINT": "memory:3g"}
    live = {1: Live(CallRecord(1, 1, ("x",), 0.0))}
    steps: list[ctl.Event] = []
    said = Said(live, True, lambda _: None, steps.append, print)
    with subprocess.Popen(
        ["sh", "-c", "echo; read x"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()  # it runs
        said.hint_unread(1, program.pid)
        said.hint_unread(7, program.pid)  # a call that is over
        said.settle()
        program.communicate(b"\n")
    assert [step.hint.memory for step in steps if isinstance(step, ctl.Hinted)] == [3 << 30]


def test_large_environments_are_not_looked_at_without_end() -> None:
    said = Said({}, True, lambda _: None, lambda _: None, print)
    assert sum(said._may_look(10.0 + number / 1000) for number in range(900)) == module._MOST_LOOKS
    assert said._may_look(11.5)
