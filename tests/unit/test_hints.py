"""Hints come out of a model's text: whatever it is, the call must not break."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.hints import LONGEST, MEMORY_RANGE, NONE, TIME_RANGE, Hint, parse_hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("memory:high", Hint(memory="high")),
        ("memory:512m", Hint(memory=512 << 20)),
        ("cpu:low,timeout:5m", Hint(cpu="low", timeout_s=300)),
        (" Memory : HIGH , cpu:high", Hint(memory="high", cpu="high")),
        ("memory:low,memory:2g", Hint(memory=2 << 30)),
        ("", NONE),
    ],
)
def test_what_is_understood_counts(text: str, hint: Hint) -> None:
    assert parse_hint(text) == (hint, ())


@pytest.mark.parametrize(
    "part",
    [
        "memory:loads",
        "memory:",
        "memory",
        "disk:1g",
        "cpu:9",
        "timeout:never",
        "memory:999999t",
        "memory:1",
        "timeout:9999999",
        "::",
    ],
)
def test_an_absurd_part_is_reported_once_and_the_rest_still_counts(part: str) -> None:
    hint, complaints = parse_hint(f"cpu:low,{part}")
    assert hint == Hint(cpu="low")
    assert len(complaints) == 1
    assert part.strip() in complaints[0]


def test_a_novel_is_not_a_hint() -> None:
    hint, complaints = parse_hint("memory:high," * LONGEST)
    assert hint == NONE
    assert len(complaints) == 1


@given(
    st.text()
    | st.lists(st.sampled_from(["memory", "cpu", "timeout", ":", ",", "low", "high", "1g", "-", "9" * 20, "\0"])).map("".join)
)
def test_any_text_gives_a_hint_within_range(text: str) -> None:
    hint, complaints = parse_hint(text)
    assert hint.memory is None or isinstance(hint.memory, str) or MEMORY_RANGE[0] <= hint.memory <= MEMORY_RANGE[1]
    assert hint.timeout_s is None or TIME_RANGE[0] <= hint.timeout_s <= TIME_RANGE[1]
    assert all("\n" not in complaint for complaint in complaints)
