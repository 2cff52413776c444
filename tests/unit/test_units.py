"""Sizes and durations."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 << 20), ("2G", 2 << 30), ("1.5GiB", 3 << 29), ("4096", 4096), ("64 kb", 64 << 10), (" 1t ", 1 << 40)],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "m", "1e9", "12q", "0x10", "\uff11m", "nan", "1" * 30, "0.0001"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("200ms", 0.2)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-5s", "5w", "inf", "s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(1, 1 << 49))
def test_a_written_number_of_bytes_reads_back(size: int) -> None:
    assert parse_size(str(size)[:12]) == int(str(size)[:12])


@given(st.integers(1, 1 << 45))
def test_a_formatted_size_is_within_a_twentieth_of_the_truth(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.05, abs=0.5)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(ValueError):
            assert parse(text) > 0


@pytest.mark.parametrize(("seconds", "text"), [(0.035, "35 ms"), (1.236, "1.24 s"), (303, "5 min 3 s"), (7260, "2 h 1 min")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
