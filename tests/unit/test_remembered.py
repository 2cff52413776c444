"""Results that are kept for command lines."""

from agentcgroup.remembered import ENTRIES, LONGEST, remembered


def test_a_short_line_is_worked_out_once_and_a_long_one_is_never_kept() -> None:
    asked = []

    def work(argv: tuple[str, ...], kind: str) -> int:
        asked.append(argv)
        return len(argv)

    kept = remembered(work)
    long = ("x" * (LONGEST + 1),)
    assert [kept(("ls",), "tool"), kept(("ls",), "tool"), kept(long, "tool"), kept(long, "tool")] == [1, 1, 1, 1]
    assert asked == [("ls",), long, long]
    for number in range(ENTRIES + 1):
        kept((str(number),), "tool")
    kept(("ls",), "tool")
    assert asked[-1] == ("ls",)
