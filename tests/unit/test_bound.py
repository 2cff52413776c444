"""The figure that isolation is compared with, where it can be told by hand."""

import pytest

from tests.bench.bound import earliest


@pytest.mark.parametrize(
    ("capacity", "slots"),
    [
        (5, 2),  # all at once
        (3, 4),  # one low run after the other
        (2, 6),  # and both after the high one
        (1, None),
    ],
)
def test_two_runs_that_hold_two_beside_one_that_holds_one(capacity: int, slots: int | None) -> None:
    assert earliest([1, 1], [2, 2], capacity) == slots


def test_a_run_that_stops_holds_what_it_has() -> None:
    """Stopped after its first slot, the other's second does not fit beside it: it has to wait with its first."""
    assert earliest([], [1, 3], 4) == 3
    assert earliest([], [2, 3], 4) == 4
