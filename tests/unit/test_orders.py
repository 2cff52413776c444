"""What a user gets of the daemon, and that nobody's words or processes are taken for what they are not."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentcgroup.classify import SMALLEST_BUDGET_BYTES
from agentcgroup.errors import AgentCgroupError
from agentcgroup.policy import Policy
from agentcgroup.schedule.scheduler import LEVELS
from agentcgroup.service.left import Left
from agentcgroup.service.orders import Granted, Order, admit, check_processes
from tests.unit.folders import Folders, folders

__all__ = ["folders"]

GIB = 1 << 30
HOST = 16 * GIB
POLICY = Policy.model_validate({"version": 1, "users": {"sessions": 2, "memory": "50%", "priority": "normal"}})


def order(**more: Any) -> Order:
    return Order.model_validate({"version": 1, "op": "run", "argv": ["sh"], "stub": 10, "keeper": 11, "name": "mine", **more})


def test_root_gets_what_it_asks_for() -> None:
    assert admit(POLICY, HOST, 0, order(priority="high", memory=64 * GIB), [Granted(0, "high", HOST)] * 9) == Granted(
        0, "high", 64 * GIB
    )


def test_a_user_gets_what_is_left_of_its_share() -> None:
    assert admit(POLICY, HOST, 1000, order(), []).memory == 8 * GIB
    assert admit(POLICY, HOST, 1000, order(), [Granted(1000, "low", 6 * GIB)]).memory == 2 * GIB
    assert admit(POLICY, HOST, 1000, order(priority="low", memory=GIB), []) == Granted(1000, "low", GIB)


def test_files_that_ended_sessions_left_in_memory_are_taken_from_a_users_share(folders: Folders) -> None:
    base, left = folders.make("agentcgroup.slice"), Left(folders.top / "agentcgroup.slice")
    session = folders.make("agentcgroup.slice", "agentcgroup-other.scope")
    (session / "memory.stat").write_text(f"shmem {GIB}")

    def there(amount: int) -> None:
        (base / "memory.stat").write_text(f"shmem {GIB + amount}")

    there(6 * GIB)
    left.session_ended(1000, 2 * GIB)
    left.session_ended(1000, 4 * GIB)
    left.session_ended(0, GIB)
    assert [left.of(uid) for uid in (1000, 1001, 0)] == [6 * GIB, 0, 0]
    assert admit(POLICY, HOST, 1000, order(), [], left.of(1000)).memory == 2 * GIB
    with pytest.raises(AgentCgroupError, match=r"6G is taken by files in memory .* that ended sessions left: remove them"):
        admit(POLICY, HOST, 1000, order(memory=3 * GIB), [], left.of(1000))
    (session / "memory.stat").unlink()  # it ends at this moment
    assert left.of(1000) == 6 * GIB
    (session / "memory.stat").write_text(f"shmem {GIB}")
    there(0)  # they were removed, and do not come back with what others leave
    assert left.of(1000) == 0
    there(5 * GIB)
    assert left.of(1000) == 0


@pytest.mark.parametrize(
    ("wished", "theirs", "expected"),
    [
        ({"memory": 9 * GIB}, [], "is left for user 1000"),
        ({"memory": 3 * GIB}, [Granted(1000, "low", 6 * GIB)], "is left for user 1000"),
        ({"priority": "high"}, [], "--priority high refused"),
        ({}, [Granted(1000, "low", GIB)] * 2, "allows no more"),
        ({}, [Granted(1000, "low", 8 * GIB)], "1 running sessions have 8G; 0 is left.*--memory 2G"),
        ({"name": "../x"}, [], "name"),
    ],
)
def test_a_user_gets_no_more(wished: dict[str, Any], theirs: list[Granted], expected: str) -> None:
    with pytest.raises(AgentCgroupError, match=f"(?s){expected}"):
        admit(POLICY, HOST, 1000, order(**wished), theirs)


@given(
    st.lists(st.tuples(st.sampled_from([None, "high", "normal", "low"]), st.none() | st.integers(1, 2 * HOST)), max_size=12),
    st.sampled_from(["high", "normal", "low"]),
)
def test_whatever_a_user_asks_for_its_sessions_stay_within_the_policy(wishes: list[tuple[Any, int | None]], highest: Any) -> None:
    policy = POLICY.model_copy(update={"users": POLICY.users.model_copy(update={"sessions": 5, "priority": highest})})
    theirs: list[Granted] = []
    for priority, memory in wishes:
        try:
            theirs.append(admit(policy, HOST, 1000, order(priority=priority, memory=memory), theirs))
        except AgentCgroupError:
            continue
    assert len(theirs) <= 5
    assert sum(one.memory for one in theirs) <= HOST // 2
    assert all(one.memory >= SMALLEST_BUDGET_BYTES and LEVELS[one.priority] >= LEVELS[highest] for one in theirs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["version", "op", "argv", "stub", "keeper", "name", "priority", "memory", "policy", "path"])


@given(st.binary(max_size=200) | st.dictionaries(KEYS, JSON).map(lambda made: json.dumps(made).encode()))
def test_what_is_no_order_is_refused_and_what_is_one_is_exactly_what_was_said(line: bytes) -> None:
    try:
        found = Order.model_validate_json(line)
    except ValidationError:
        return
    said = json.loads(line)
    assert said.keys() <= Order.model_fields.keys()
    assert {name: value for name, value in found.model_dump().items() if name in said} == said


def test_only_the_callers_own_children_can_be_given_to_a_session() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        mine = order(stub=child.pid, keeper=child.pid)
        check_processes(mine, os.getpid(), os.getuid())
        for caller, uid in ((1, os.getuid()), (os.getpid(), 12345)):
            with pytest.raises(AgentCgroupError, match="not the caller's child"):
                check_processes(mine, caller, uid)
        with pytest.raises(AgentCgroupError, match="not the caller's child"):
            check_processes(order(stub=os.getppid(), keeper=child.pid), os.getpid(), os.getuid())
        child.communicate(b"\n")
