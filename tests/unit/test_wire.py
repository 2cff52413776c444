"""The lines between governors and the host process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.host import wire
from agentcgroup.schedule import events as ev

KEYS = st.tuples(st.text(min_size=1, max_size=40), st.integers(1, 1 << 40))
BEGUN = st.builds(ev.SessionBegan, st.text(max_size=40), st.sampled_from(["high", "normal", "low"]), st.integers(0, 1 << 50))
EVENTS = st.one_of(
    st.builds(wire.Hello, BEGUN, st.sampled_from(["auto", "cgroup", "sched_ext"])),
    st.builds(ev.CallBegan, KEYS, st.integers(0), st.integers(0), st.integers(0), st.booleans()),
    st.builds(ev.Wants, KEYS, st.integers(0)),
    st.builds(ev.Full, KEYS, st.integers(0)),
    st.builds(ev.CallEnded, KEYS),
)
ACTIONS = st.one_of(
    st.builds(ev.Wait, KEYS, st.sampled_from(["brake", "freeze"]), st.floats(0, 1e9), st.none() | KEYS, st.text(max_size=80)),
    st.builds(ev.Grant, KEYS, st.integers(0), st.integers(0)),
    st.builds(wire.Enforce, st.sampled_from(["cgroup", "sched_ext"]), st.text(max_size=80), st.integers(0), st.integers(0)),
    st.builds(ev.Kill, KEYS, st.integers(0), st.integers(0), st.floats(0, 1e9), st.text(max_size=80)),
)


@given(EVENTS)
def test_an_event_arrives_as_it_was_sent(event: ev.Event | wire.Hello) -> None:
    assert wire.decode_event(wire.encode(event)) == event


@given(ACTIONS)
def test_an_action_arrives_as_it_was_sent(action: ev.Action | wire.Enforce) -> None:
    assert wire.decode_action(wire.encode(action)) == action


@given(st.binary(max_size=200))
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        wire.decode_event(line)


@pytest.mark.parametrize(
    "line",
    [b'["Grant", {"key": ["a", 1], "up_to": 1, "ask_at": 1}]', b'["Wants", {"key": ["a", "b"], "held": 1}]', b'["Wants", {"held": 1}]',
     b'["Hello", {"began": {"session": "a", "priority": "royal", "budget": 1}, "enforcer": "auto"}]', b'{"Wants": 1}',
     b'["Hello", {"began": {"session": "a", "priority": "low", "budget": 1}, "enforcer": "magic"}]'],
)  # fmt: skip
def test_what_a_governor_may_not_say_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        wire.decode_event(line)
