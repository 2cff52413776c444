"""Who may grow and who waits: the rules one by one, and what holds for every history."""

import os
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.model import MIB, Priority
from agentcgroup.policy import HostRule
from agentcgroup.schedule import events as ev
from agentcgroup.schedule.scheduler import ALLOWANCE, BURST_S, LEVELS, LOOK_S, Scheduler

RULE = HostRule().model_copy(update={"reserve": 0})
GIB = 1 << 30


def host(capacity: int = 1000 * MIB, **sessions: Priority) -> Scheduler:
    scheduler = Scheduler(RULE, capacity)
    for name, priority in sessions.items():
        scheduler.step(ev.SessionBegan(name, priority, GIB), 0.0)
    return scheduler


def begin(scheduler: Scheduler, session: str, call: int = 1, announced: int = 0, now: float = 0.0) -> ev.Key:
    scheduler.step(ev.CallBegan((session, call), 4 * GIB, announced), now)
    return session, call


def grow(scheduler: Scheduler, key: ev.Key, held: int, now: float = 0.0) -> list[ev.Action]:
    """Let a call grow to ``held``, asking on its way as it is told to; the answer to the last question."""
    actions: list[ev.Action] = []
    ask_at = ALLOWANCE
    while ask_at <= held:
        actions = scheduler.step(ev.Wants(key, ask_at), now)
        grant = next((action for action in actions if isinstance(action, ev.Grant) and action.key == key), None)
        if grant is None or grant.ask_at <= ask_at or kinds(actions, ev.Wait):
            return actions
        ask_at = grant.ask_at
    scheduler.step(ev.Holds(key, held), now)
    return actions


def exhaust(scheduler: Scheduler, key: ev.Key, held: int, now: float) -> list[ev.Action]:
    """Let a call grow from ``held`` until it is frozen; all that was answered."""
    actions: list[ev.Action] = []
    for _ in range(200):
        if any(isinstance(action, ev.Wait) and action.rung == "freeze" and action.key == key for action in actions):
            break
        actions += scheduler.step(ev.Wants(key, held), now)
        held = max([held + MIB, *(action.ask_at for action in actions if isinstance(action, ev.Grant) and action.key == key)])
    return actions


def kinds(actions: list[ev.Action], kind: type) -> list[ev.Action]:
    return [action for action in actions if isinstance(action, kind)]


def test_nothing_waits_while_there_is_room() -> None:
    scheduler = host(a="low", b="high")
    for session in ("a", "b"):
        assert not kinds(grow(scheduler, begin(scheduler, session), 400 * MIB), ev.Wait)


def test_who_finds_no_room_is_braked_and_then_frozen() -> None:
    scheduler = host(a="normal", b="normal")
    grow(scheduler, begin(scheduler, "a"), 600 * MIB)
    second = begin(scheduler, "b")
    [brake] = kinds(grow(scheduler, second, 999 * MIB, 5.0), ev.Wait)
    assert isinstance(brake, ev.Wait)
    assert (brake.key, brake.rung, brake.for_key) == (second, "brake", ("a", 1))
    [freeze] = kinds(scheduler.step(ev.Wants(second, 999 * MIB), 5.1), ev.Wait)
    assert isinstance(freeze, ev.Wait)
    assert (freeze.rung, freeze.until_s) == ("freeze", 5.1 + RULE.turn)


def test_a_braked_call_that_grows_no_further_goes_on() -> None:
    scheduler = host(a="normal", b="normal")
    grow(scheduler, begin(scheduler, "a"), 600 * MIB)
    second = begin(scheduler, "b")
    grow(scheduler, second, 999 * MIB, 5.0)
    actions = scheduler.step(ev.Tick(), 5.0 + RULE.brake)
    assert kinds(actions, ev.Go) == [ev.Go(second, RULE.brake, "it grew no further")]


def test_when_one_ends_the_first_that_waits_goes_on() -> None:
    scheduler = host(a="normal", b="low", c="normal")
    first, second, third = (begin(scheduler, session) for session in "abc")
    grow(scheduler, first, 990 * MIB)
    for key in (second, third):
        scheduler.step(ev.Wants(key, ALLOWANCE), 1.0)
    actions = scheduler.step(ev.CallEnded(first), 2.0)
    assert [action.key for action in kinds(actions, ev.Go)] == [third, second]


def test_a_call_that_is_found_beyond_its_grant_is_answered_though_its_asking_was_not_heard() -> None:
    scheduler = host(a="normal")
    call = begin(scheduler, "a")
    grow(scheduler, call, 100 * MIB)
    [grant] = kinds(scheduler.step(ev.Holds(call, 500 * MIB), 1.0), ev.Grant)
    assert isinstance(grant, ev.Grant)
    assert grant.up_to > 500 * MIB


def test_memory_that_was_given_back_is_noticed_while_somebody_waits() -> None:
    scheduler = host(a="normal", b="normal")
    first, second = begin(scheduler, "a"), begin(scheduler, "b")
    grow(scheduler, first, 900 * MIB)
    scheduler.step(ev.Wants(second, 200 * MIB), 1.0)
    assert scheduler.next_deadline() == 1.0 + LOOK_S
    assert kinds(scheduler.step(ev.Tick(), 1.0 + LOOK_S), ev.Look) == [ev.Look(first)]
    actions = scheduler.step(ev.Holds(first, 100 * MIB), 1.1)
    assert [action.key for action in kinds(actions, ev.Go)] == [second]


def test_what_a_higher_priority_announced_is_kept_for_it() -> None:
    scheduler = host(a="high", b="low")
    first, second = begin(scheduler, "a", announced=800 * MIB), begin(scheduler, "b")
    assert kinds(grow(scheduler, second, 400 * MIB), ev.Wait)
    assert not kinds(grow(scheduler, first, 799 * MIB), ev.Wait)


def test_an_announced_burst_that_was_had_is_over() -> None:
    scheduler = host(a="high", b="low")
    first, second = begin(scheduler, "a", announced=800 * MIB), begin(scheduler, "b")
    grow(scheduler, first, 790 * MIB)
    scheduler.step(ev.Holds(first, 100 * MIB), 1.0)
    assert not kinds(grow(scheduler, second, 600 * MIB, 3.0), ev.Wait)


def test_who_could_not_have_half_of_what_it_announced_does_not_begin() -> None:
    scheduler = host(a="high", b="low")
    begin(scheduler, "a", announced=800 * MIB)
    second = begin(scheduler, "b", announced=500 * MIB)
    [wait] = kinds(scheduler.step(ev.Wants(second, ALLOWANCE), 0.0), ev.Wait)
    assert isinstance(wait, ev.Wait)
    assert wait.rung == "freeze"


def test_a_call_that_another_scheduler_had_wait_goes_on_when_there_is_room() -> None:
    scheduler = host(a="normal", b="normal")
    grow(scheduler, begin(scheduler, "a"), 900 * MIB)
    waits = ev.CallBegan(("b", 1), GIB, held=90 * MIB, waits=True)
    assert [action.key for action in kinds(scheduler.step(waits, 1.0), ev.Wait)] == [("b", 1)]
    assert [action.key for action in kinds(scheduler.step(ev.CallEnded(("a", 1)), 2.0), ev.Go)] == [("b", 1)]


def test_calls_of_one_session_share_its_budget() -> None:
    scheduler = Scheduler(RULE, 10 * GIB)
    scheduler.step(ev.SessionBegan("a", "normal", 500 * MIB), 0.0)
    scheduler.step(ev.SessionBegan("b", "normal", 500 * MIB), 0.0)
    grow(scheduler, begin(scheduler, "a", 1), 400 * MIB)
    assert kinds(grow(scheduler, begin(scheduler, "a", 2), 400 * MIB), ev.Wait)
    assert not kinds(grow(scheduler, begin(scheduler, "b", 1), 400 * MIB), ev.Wait)


def test_in_a_session_that_is_full_who_grows_waits_whatever_it_was_granted() -> None:
    scheduler = Scheduler(RULE, 10 * GIB)
    scheduler.step(ev.SessionBegan("a", "normal", 500 * MIB), 0.0)
    first, second = (begin(scheduler, "a", call) for call in (1, 2))
    grow(scheduler, second, 200 * MIB)
    held = {first: 330 * MIB, second: 210 * MIB}  # the first was faster than its grant
    for key, size in held.items():
        [grant] = kinds(scheduler.step(ev.Full(key, size), 1.0), ev.Grant)
        assert isinstance(grant, ev.Grant)
        assert (grant.up_to, grant.ask_at) == (size, size)
    [wait] = kinds(scheduler.step(ev.Wants(second, 211 * MIB), 1.1), ev.Wait)
    assert isinstance(wait, ev.Wait)
    assert wait.rung == "freeze"
    assert [go.key for go in kinds(scheduler.step(ev.CallEnded(first), 2.0), ev.Go)] == [second]


def test_where_a_sessions_memory_is_scarce_the_grants_of_its_calls_are_firm() -> None:
    scheduler = Scheduler(RULE, 10 * GIB)
    scheduler.step(ev.SessionBegan("a", "normal", 500 * MIB), 0.0)
    first = begin(scheduler, "a", 1)
    grow(scheduler, first, 350 * MIB)

    def firm(key: ev.Key, held: int) -> list[bool]:
        return [action.firm for action in scheduler.step(ev.Wants(key, held), 9.0) if isinstance(action, ev.Grant)]

    assert firm(first, 400 * MIB) == [False]  # alone, it meets its own limit
    assert firm(begin(scheduler, "a", 2), ALLOWANCE) == [True]


def test_where_the_rest_is_promised_to_others_the_first_grant_is_firm() -> None:
    """What a call takes before the first answer would be missing where it was announced."""

    def first_grant(announced: int) -> ev.Action:
        scheduler = host(a="high", b="low")
        begin(scheduler, "a", announced=announced)
        [grant] = scheduler.step(ev.CallBegan(("b", 1), 4 * GIB), 0.0)
        return grant

    assert first_grant(500 * MIB) == ev.Grant(("b", 1), ALLOWANCE, ALLOWANCE, firm=False)
    assert first_grant(900 * MIB) == ev.Grant(("b", 1), ALLOWANCE, ALLOWANCE, firm=True)


def test_when_all_wait_for_each_other_one_of_the_lowest_is_killed_after_a_moment() -> None:
    scheduler = host(a="high", b="low", c="low")
    keys = [begin(scheduler, session) for session in "abc"]
    sizes = dict(zip(keys, (300, 290, 330), strict=True))
    for key, size in sizes.items():
        scheduler.step(ev.Wants(key, size * MIB), 1.0)
        scheduler.step(ev.Holds(key, size * MIB), 1.0)
    for key in (*keys, keys[0]):
        exhaust(scheduler, key, sizes[key] * MIB, 1.0)
    assert not kinds(scheduler.step(ev.Tick(), 1.0 + BURST_S / 2), ev.Kill)
    [kill] = kinds(scheduler.step(ev.Tick(), 1.0 + BURST_S), ev.Kill)
    assert isinstance(kill, ev.Kill)
    assert kill.key == keys[2]
    assert "3 calls wait for each other" in kill.why
    assert not kinds(scheduler.step(ev.Tick(), 9.0), ev.Kill)  # one at a time
    actions = scheduler.step(ev.CallEnded(keys[2]), 9.1)
    assert [action.key for action in kinds(actions, ev.Go)] == [keys[0]]


def test_before_anybody_is_killed_the_first_gets_what_is_left_and_the_reserve() -> None:
    scheduler = host(a="high", b="low")
    keys = [begin(scheduler, session) for session in "ab"]
    scheduler.step(ev.Capacity(1000 * MIB, 30 * MIB), 0.0)
    grow(scheduler, keys[0], 400 * MIB)
    actions = exhaust(scheduler, keys[1], 500 * MIB, 0.0) + exhaust(scheduler, keys[0], 410 * MIB, 0.0)
    assert {action.key for action in kinds(actions, ev.Go)} == {keys[0]}
    granted = max(action.up_to for action in actions if isinstance(action, ev.Grant) and action.key == keys[0])
    assert granted > 410 * MIB


def test_after_a_turn_the_one_that_took_memory_meanwhile_stands_behind() -> None:
    scheduler = host(a="normal", b="normal")
    first, second = begin(scheduler, "a"), begin(scheduler, "b")
    grow(scheduler, first, 700 * MIB)
    scheduler.step(ev.Wants(second, 290 * MIB), 1.0)
    scheduler.step(ev.Tick(), 1.0 + RULE.turn)
    scheduler.step(ev.Holds(first, 500 * MIB), 12.0)
    [wait] = kinds(grow(scheduler, first, 720 * MIB, 12.1), ev.Wait)
    assert isinstance(wait, ev.Wait)
    assert wait.key == first


def test_patience_ends() -> None:
    scheduler = host(a="high", b="low")
    first, second = begin(scheduler, "a"), begin(scheduler, "b")
    grow(scheduler, first, 900 * MIB)
    scheduler.step(ev.Wants(second, 200 * MIB), 0.0)
    killed: list[ev.Action] = []
    now = 0.0
    while not killed:
        now = scheduler.next_deadline() or now
        killed = kinds(scheduler.step(ev.Tick(), now), ev.Kill)
    assert [kill.key for kill in killed] == [second]
    assert RULE.patience <= now <= RULE.patience + RULE.turn


def test_a_session_of_another_priority_stands_among_those_of_it() -> None:
    scheduler = host(a="normal", b="normal", c="normal")
    keys = [begin(scheduler, name) for name in "abc"]
    exhaust(scheduler, keys[0], 900 * MIB, 0.0)
    for key in keys[1:]:
        exhaust(scheduler, key, 90 * MIB, 0.0)
    scheduler.step(ev.PriorityChanged("c", "high"), 1.0)
    scheduler.step(ev.PriorityChanged("nobody", "high"), 1.0)
    went = kinds(scheduler.step(ev.CallEnded(keys[0]), 2.0), ev.Go)
    assert [go.key for go in went][:1] == [keys[2]]


EXAMPLES = int(os.environ.get("AGENTCGROUP_EXAMPLES") or 1000)
"""How many histories each property is tried with."""
SESSIONS = {"a": "high", "b": "normal", "c": "low"}
KEYS = st.tuples(st.sampled_from(sorted(SESSIONS)), st.integers(1, 4))
BYTES = st.integers(0, 1200).map(lambda size: size * MIB)
EVENTS = st.one_of(
    st.builds(ev.CallBegan, KEYS, st.just(2 * GIB), st.just(0) | BYTES),
    st.builds(ev.Announced, KEYS, BYTES, st.just(2 * GIB)),
    st.builds(ev.Wants, KEYS, BYTES),
    st.builds(ev.Wants, KEYS, BYTES),
    st.builds(ev.Holds, KEYS, BYTES),
    st.builds(ev.Full, KEYS, BYTES),
    st.builds(ev.CallEnded, KEYS),
    st.builds(ev.Capacity, st.integers(100, 1000).map(lambda size: size * MIB), st.integers(0, 50).map(lambda size: size * MIB)),
    st.builds(ev.PriorityChanged, st.sampled_from(sorted(SESSIONS)), st.sampled_from(sorted(LEVELS))),
    st.just(ev.Tick()),
)
HISTORIES = st.lists(st.tuples(EVENTS, st.floats(0, 4)), max_size=40)


def play(history: Any, check: Any = lambda *_: None) -> tuple[Scheduler, float, list[list[ev.Action]]]:
    """Play a history; ``check`` gets the host, the time, the event and the actions of each step."""
    scheduler, now = host(**SESSIONS), 0.0  # type: ignore[arg-type]
    taken: list[list[ev.Action]] = []
    for event, passed in history:
        now += passed
        taken.append(scheduler.step(event, now))
        check(scheduler, now, event, taken[-1])
    return scheduler, now, taken


@settings(max_examples=EXAMPLES, deadline=None)
@given(HISTORIES)
def test_grants_never_exceed_the_capacity_and_only_live_calls_are_named(history):  # type: ignore[no-untyped-def]
    live: set[ev.Key] = set()
    granted: dict[ev.Key, int] = {}
    held: dict[ev.Key, int] = {}
    capacity = [1000 * MIB]

    def check(_, now, event, actions):  # type: ignore[no-untyped-def]
        if isinstance(event, ev.CallBegan):
            live.add(event.key)
        elif isinstance(event, ev.CallEnded):
            live.discard(event.key)
            granted.pop(event.key, None)
            held.pop(event.key, None)
        elif isinstance(event, (ev.Wants, ev.Holds, ev.Full)) and event.key in live:
            held[event.key] = event.held
        elif isinstance(event, ev.Capacity):
            capacity[0] = event.total + event.reserve
        for action in actions:
            assert action.key in live
            if isinstance(action, ev.Grant):
                grew = action.up_to > max(granted.get(action.key, ALLOWANCE), held.get(action.key, 0))
                granted[action.key] = action.up_to
                # Held memory is a fact; what is handed out in addition has to fit beside it.
                taken = sum(max(held.get(key, 0), grant if grant > ALLOWANCE else 0) for key, grant in granted.items())
                assert not grew or taken <= capacity[0]
            elif isinstance(action, ev.Wait):
                assert now < action.until_s <= now + max(RULE.brake, RULE.turn)

    play(history, check)


@settings(max_examples=EXAMPLES, deadline=None)
@given(HISTORIES)
def test_every_wait_ends(history: Any) -> None:
    """Whatever came before: if nothing more happens, everyone who waits goes on or, its patience over, is told and ended."""
    waits: set[ev.Key] = set()

    def note(_: object, now: float, event: ev.Event, actions: list[ev.Action]) -> None:
        if isinstance(event, ev.CallEnded):
            waits.discard(event.key)
        for action in actions:
            if isinstance(action, ev.Wait):
                waits.add(action.key)
            elif isinstance(action, (ev.Go, ev.Kill)):
                waits.discard(action.key)

    scheduler, now, _ = play(history, note)
    end = now + 15 * (RULE.patience + RULE.turn + BURST_S)
    while waits and (deadline := scheduler.next_deadline()) is not None and now < end:
        now = max(deadline, now)
        actions = scheduler.step(ev.Tick(), now)
        note(None, now, ev.Tick(), actions)
        for action in actions:
            if isinstance(action, ev.Kill):
                ended = ev.CallEnded(action.key)
                note(None, now, ended, scheduler.step(ended, now))
    assert not waits


@settings(max_examples=EXAMPLES, deadline=None)
@given(HISTORIES)
def test_the_same_history_gives_the_same_actions(history: Any) -> None:
    assert play(history)[2] == play(history)[2]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), BYTES), min_size=1, max_size=8), st.integers(100, 1000))
def test_of_two_that_want_the_same_the_higher_priority_gets_no_less(holders, capacity):  # type: ignore[no-untyped-def]
    """Monotone in priority: with the same others, a call that ranks higher is never refused where a lower one is not."""

    def refused(priority: Priority) -> bool:
        scheduler = host(capacity * MIB, **SESSIONS, x=priority)  # type: ignore[arg-type]
        for number, (session, announced) in enumerate(holders):
            key = begin(scheduler, session, number, announced // 4)
            scheduler.step(ev.Wants(key, ALLOWANCE), 0.0)
        key = begin(scheduler, "x")
        return bool(kinds(scheduler.step(ev.Wants(key, ALLOWANCE), 0.0), ev.Wait))

    answers = [refused(priority) for priority in sorted(LEVELS, key=LEVELS.__getitem__)]  # type: ignore[arg-type]
    assert answers == sorted(answers)


def test_the_cost_of_an_event_hardly_grows_with_the_number_of_calls() -> None:
    """Counted in function calls, not in time: what an event costs among 1000 tool calls and among 10, with nobody and with many waiting."""

    def work(calls: int, room: int) -> float:
        scheduler = host(calls * room * MIB, a="normal", b="low")
        for number in range(calls):
            scheduler.step(ev.Wants(begin(scheduler, "ab"[number % 2], number), ALLOWANCE), 0.0)
        counted = [0]

        def count(_frame: object, what: str, _argument: object) -> None:
            counted[0] += what == "call"

        sys.setprofile(count)
        for number in range(500):
            key = ("ab"[number % calls % 2], number % calls)
            scheduler.step(ev.Wants(key, (10 + number % 7) * MIB), 2.0 + number / 1000)
        sys.setprofile(None)
        return counted[0] / 500

    for room in (20, 8):
        assert work(1000, room) < 2 * work(100, room)
