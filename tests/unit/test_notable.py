"""Which calls are worth a line, and how the rest is said."""

from agentcgroup.notable import deed_words, own_words, program_of, rank

WEIGHT = {"what": "limits set (CPU weight 50)", "why": "share", "lasted_s": None}
STOP = {"what": "stopped", "why": "memory", "lasted_s": None}
WAITS = [{"what": f"waited {n} s", "why": "for a/1", "lasted_s": float(n)} for n in (1, 2)]


def test_weights_are_no_news() -> None:
    assert rank([WEIGHT], 0, 0) == "well" and deed_words([WEIGHT]) == "" and "CPU weight" in deed_words([WEIGHT], every=True)
    assert [rank(deeds, status, peak) for deeds, status, peak in (([WEIGHT, STOP], 9, 0), (WAITS, 0, 0), ([], 256, 0), ([], 0, 1 << 30),
            ([], None, None))] == ["stopped", "acted on", "failed", "large", "well"]  # fmt: skip


def test_what_was_done_again_and_again_is_said_once_and_the_end_is_always_there() -> None:
    assert deed_words([*WAITS, STOP]) == "waited 3.00 s (for a/1) 2 times, stopped (memory)"
    many = [{"what": f"limits set ({n}M of memory)", "why": "hint", "lasted_s": None} for n in range(644)]
    words = deed_words([*many, STOP])
    assert words.endswith("and 639 more, stopped (memory)") and len(words) < 400


def test_commands_of_the_agent_are_counted_by_program() -> None:
    counted = {"git status": 200, "git log -1": 50, "ps aux | grep x": 9, "cd /x && rg --files": 1} | {
        f"p{n}": 1 for n in range(9)
    }
    assert own_words(counted) == "+ 269 commands of the agent itself: git 250, ps 9, rg 1, p0 1, p1 1, p2 1, others 6"
    assert own_words(counted, 300).endswith("others 37") and own_words({}) == ""
    assert program_of("/usr/bin/git\x1b[31m x").isprintable() and len(program_of("x" * 200_000)) <= 30
