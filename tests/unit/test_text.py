"""Text from outside: whatever it is, what comes out is one printable line of bounded length."""

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.text import clean, clean_argv, clean_data, clean_lines, csv_cell, tolerate

ANY = st.one_of(
    st.binary(max_size=300),
    st.text(st.characters(exclude_categories=()), max_size=300),
    st.binary(max_size=300).map(lambda data: data.decode(errors="surrogateescape")),
)  # fmt: skip


@given(ANY, st.integers(1, 80))
def test_any_text_becomes_one_printable_line_of_bounded_length(text: str | bytes, limit: int) -> None:
    line = clean(text, limit)
    assert line.isprintable() and len(line) <= limit
    assert line.encode().decode() == line


@given(st.text(st.characters(categories=("L", "N", "P")), max_size=80))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert clean(text, 80) == text


def test_what_attacks_a_terminal_is_taken_out() -> None:
    assert clean("a\x1b]0;owned\x07b") == "a\ufffd]0;owned\ufffdb"
    assert clean("one\r\nagentcgroup: call 1: stopped") == "one agentcgroup: call 1: stopped"
    assert "\u202e" not in clean("txt.\u202eexe") and "\u200b" not in clean("a\u200bb")
    assert clean(b"caf\xe9") == "caf\ufffd" == clean("caf\udce9")
    assert clean("\x9b31m") == "\ufffd31m"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert clean("x" * 1000, 10) == "x" * 9 + "…"
    assert clean(" " * 100_000 + "end", 10) == "…"
    words = clean_argv(["x" * 100_000] * 100_000)
    assert words[-1].startswith("… 9999") and sum(map(len, words)) < 6000
    assert clean_argv(["x"] * 1000)[-1] == "… 936 more"


@given(st.lists(st.one_of(ANY.map(lambda one: one if isinstance(one, str) else one.decode("latin-1")), st.integers(), st.none())))
def test_a_table_has_one_line_for_each_row_and_no_formula(cells: list[object]) -> None:
    file = io.StringIO()
    csv.writer(file).writerow([csv_cell(cell) for cell in cells])
    file.getvalue().encode()
    assert file.getvalue().count("\n") == 1
    for cell in cells:
        if isinstance(cell, str):
            assert not csv_cell(cell).startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))


def test_numbers_of_a_table_stay_numbers() -> None:
    assert csv_cell(-5) == -5 and csv_cell(None) is None
    assert csv_cell('=HYPERLINK("http://x","y")') == '\'=HYPERLINK("http://x","y")'
    assert csv_cell("\n=1+1") == "'=1+1"


@given(st.recursive(st.one_of(st.none(), st.integers(), ANY.filter(lambda one: isinstance(one, str))), lambda inner: st.lists(inner)
                    | st.dictionaries(st.text(st.characters(exclude_categories=())), inner)))  # fmt: skip
def test_data_is_cleaned_at_any_depth(data: object) -> None:
    json.dumps(clean_data(data), ensure_ascii=False).encode()


def test_lines_of_our_own_stay_lines() -> None:
    assert clean_lines("what: why\n  do \x1b[1mthis") == "what: why\n  do \ufffd[1mthis"


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    tolerate(stream)
    tolerate(None)
    print("caf\u00e9 …", file=stream)
