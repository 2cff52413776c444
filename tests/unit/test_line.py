"""The line of calls that share one amount of memory: the tree against the definition."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.schedule.line import Line

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "set", "remove"]), st.integers(0, 2), st.integers(0, 50), st.integers(0, 100)), max_size=120
)


def room_by_definition(members: list[tuple[int, int, int]], capacity: int, at: int) -> int:
    """Of members (rank order; key, held, announced beyond): the smallest slack of those before ``at``, or what is free."""
    free = capacity - sum(held for _, held, _ in members)
    before, least = 0, free
    for _, held, announced in members[:at]:
        least = min(least, free + before - announced)
        before += held
    return least


@settings(max_examples=300)
@given(OPERATIONS, st.integers(50, 500))
def test_room_is_what_the_definition_says(operations, capacity):  # type: ignore[no-untyped-def]
    line: Line[int] = Line(capacity, 3)
    levels: list[list[tuple[int, int, int]]] = [[], [], []]
    for key, (what, level, held, announced) in enumerate(operations):
        members = levels[level]
        if what == "add":
            line.add(key, level)
            members.append((key, 0, 0))
        elif members:
            at = held % len(members)
            victim = members[at][0]
            if what == "remove":
                line.remove(victim)
                del members[at]
            else:
                line.set(victim, held, announced)
                members[at] = (victim, held, announced)
        ranked = [member for level_members in levels for member in level_members]
        assert line.held == sum(member[1] for member in ranked)
        for at, (member, _, _) in enumerate(ranked):
            assert line.room(member)[0] == room_by_definition(ranked, capacity, at)


def test_who_sets_the_bound_is_named() -> None:
    line: Line[str] = Line(100, 1)
    for name in ("first", "second", "third"):
        line.add(name, 0)
    line.set("first", 10, 0)
    line.set("second", 10, 70)
    assert line.room("third") == (20, "second")
    assert line.room("second") == (80, None)


def test_many_come_and_go() -> None:
    """Ranks are reused: a line is not larger than what is in it at a time."""
    line: Line[int] = Line(1 << 40, 3)
    for key in range(10_000):
        line.add(key, key % 3)
        line.set(key, 1, 0)
        if key >= 100:
            line.remove(key - 100)
    assert len(line) == line.held == 100


def test_no_more_stays_lent_than_the_reserve_has() -> None:
    line: Line[str] = Line(100, reserve=10)
    line.add("one", 0)
    assert line.lend(20) == 10
    line.set("one", 110, 0)
    line.change(105, 4)
    assert (line.lent, line.free) == (4, -1)
