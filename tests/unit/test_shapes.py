"""What real agents start, in short: each command's shape, and whose it has to be by the end of the session.

Streams are a letter each: n /dev/null, p pipe, s socket, f a file, t the session's terminal.
"""

from dataclasses import dataclass

import pytest

from agentcgroup.policy import load_policy
from agentcgroup.process import Facts, at_start
from agentcgroup.tracker import Tracker

POLICY = load_policy()
ROOT = 100
KINDS = {"n": "/dev/null", "p": "pipe:[{}]", "s": "socket:[{}]", "f": "/tmp/{}.out", "t": "/dev/pts/1"}


@dataclass(frozen=True)
class Seen:
    """One program that the agent starts.  ``then``: what its process becomes, and the variables it has then; ``gone``: before it is looked at."""

    whose: str
    argv: tuple[str, ...]
    streams: str = "nss"
    leads: bool = False
    names: tuple[str, ...] = ()
    inherits: bool = True
    gone: bool = False
    then: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    times: int = 1


def text(shell: str, command: str) -> tuple[str, ...]:
    return (*shell.split(), command)


def model(shell: str, streams: str, leads: bool, *names: str, wrap: str = "{}") -> list[Seen]:
    commands = ("ls -la", "git status", "pytest -x", "make; make test", "cat <<'E'\nit's\nE")
    return [Seen("tool", text(shell, wrap.format(command)), streams, leads, names) for command in commands]


SNAPSHOT = "source /h/snapshot-bash-1.sh 2>/dev/null || true && eval '{}' < /dev/null && pwd -P >| /tmp/x-cwd"
EVERYWHERE = ("X_ENTRYPOINT",)
CLAUDE = [
    Seen("own", ("git", "-c", "a=b", "ls-files"), names=EVERYWHERE, times=4),
    Seen("own", ("python3", "mcp.py"), "sss", names=("CLAUDECODE",)),
    Seen("own", text("/bin/sh -c", "ps aux | grep -E 'code|idea'"), "sss", names=EVERYWHERE),
    Seen("own", text("/bin/bash -c", "env"), "sss", True, ("CLAUDECODE", *EVERYWHERE)),
    Seen("own", text("/bin/bash -c -l", "SNAPSHOT_FILE=/h/x; declare -f > $SNAPSHOT_FILE"), "sss", names=("CLAUDECODE",)),
    *model("/bin/bash -c", "sff", True, "CLAUDECODE", "CLAUDE_CODE_CHILD_SESSION", *EVERYWHERE, wrap=SNAPSHOT),
    Seen("own", ("/usr/bin/git", "status"), "sss", names=EVERYWHERE),
    Seen("own", text("/bin/bash -c", "env"), gone=True),
    Seen("tool", text("/bin/bash -c", SNAPSHOT.format("ls")), gone=True),
    Seen("own", (), gone=True),
]
SIGNS = ("CODEX_TOOL_CALL_ID", "PAGER")
CODEX = [
    Seen("agent", ("/opt/codex/bin/codex", "exec", "do it"), "nff"),
    Seen("own", ("/bin/sh", "/usr/bin/lsb_release", "-a"), "npp"),
    Seen("own", text("/bin/bash -lc", "if [ -z \"$X\" ]; then declare -f; fi"), "npp", True),
    Seen("own", text("/bin/bash -c", 'set -e; . "/h/shell_snapshots/1"'), "npp", True),
    Seen("own", ("python3", "mcp.py"), "ppp"),
    *(
        Seen("tool", ("/proc/self/exe", "--as-process-setup", "55", "/bin/bash", *text("/bin/bash -c", f"x; exec bash -c '{command}'")),
             "npp", inherits=False, then=((text("/bin/bash -c", command), SIGNS), ((command.split()[0],), SIGNS)))
        for command in ("ls -la", "git status", "pytest -x")
    ),
    Seen("own", ("git", "-c", "a=b", "config"), "npp", times=3),
    # Its first program's arguments were too long for the kernel to tell, and it was over at once.
    Seen("tool", (), gone=True, then=((text("/bin/bash -c", "echo over"), ()),)),
]  # fmt: skip
OPENCODE = [
    Seen("own", ("git", "rev-parse", "--git-dir"), "nss", True, ("OPENCODE",), times=9),
    Seen("own", ("python3", "mcp.py"), "sss", names=("OPENCODE",)),
    Seen("own", (), gone=True, times=3),
    Seen("own", ("git", "status"), gone=True, times=3),
    *model("/usr/bin/bash -c", "nss", True, "OPENCODE"),
    # Shells that ran the command in their own place before they were looked at.
    Seen("tool", ("git", "status"), "nss", True, ("OPENCODE",), then=((("git", "status"), ("OPENCODE",)),)),
    Seen("tool", ("ls", "-la"), "nss", True, ("OPENCODE",), then=((("ls", "-la"), ("OPENCODE",)),)),
    Seen("own", ("git", "add", "."), "sss", True, ("OPENCODE",), times=9),
    Seen("own", (), gone=True, times=3),
    Seen("own", ("git", "status"), gone=True, times=3),
    Seen("own", ("pgrep", "-P", "7"), "nss", True, ("OPENCODE",)),
]
POLLS_BY_SH = [
    Seen("own", text("/bin/sh -c", "git rev-parse --is-inside-work-tree"), "nnn", times=2),
    Seen("own", text("/bin/sh -c", "rg --version"), "sss", times=5),
    *model("/bin/bash -l -c", "sss", False),
    Seen("own", text("/bin/sh -c", "rg --version"), "sss", times=5),
    Seen("own", ("node", "server.js"), "sss"),
]
MARKED = [
    Seen("own", text("/bin/sh -c", "command -v rg"), "sss", names=("MY_MODEL",), times=2),
    Seen("own", ("git", "-c", "a=b", "status"), "sss", names=("MY_MODEL",)),
    Seen("own", ("inhibit-sleep", "--help"), "nnn", names=("MY_MODEL",), times=9),
    *model("bash -c", "nss", True, "MY_MODEL", "MY_CALL"),
    Seen("own", text("/bin/sh -c", "ps -o ppid= -p 7"), "sss", names=("MY_MODEL",)),
]
NO_SHELLS = [Seen("tool", ("python3", "x.py"), "npp"), Seen("tool", ("make", "test"), "npp"), Seen("tool", ("./run",), "npp")]
ONLY_SHELLS = [
    *model("/bin/sh -c", "npp", True),
    Seen("tool", (), gone=True),
    Seen("tool", text("/bin/sh -c", "true"), gone=True),
]
AGENTS = {
    "claude": CLAUDE, "codex": CODEX, "opencode": OPENCODE,
    "polls by sh": POLLS_BY_SH, "marks its calls": MARKED, "starts no shells": NO_SHELLS, "starts only shells": ONLY_SHELLS,
}  # fmt: skip


def facts(pid: int, argv: tuple[str, ...], streams: str, leads: bool, names: tuple[str, ...], inherits: bool = True) -> Facts:
    named = [KINDS[letter].format(1000 * pid + number) for number, letter in enumerate(streams)]
    inherited = ("PATH", "HOME") if inherits else ()
    return Facts(
        pid, ROOT, pid if leads else 1, argv, "/", streams[1:] == "tt", argv[0], (named[0], named[1], named[2]),
        frozenset({*names, *inherited}),
    )  # fmt: skip


@pytest.mark.parametrize("name", AGENTS)
def test_whose_each_command_of_an_agent_is(name: str) -> None:
    tracker = Tracker(POLICY, ROOT)
    program = name if name in ("claude", "codex", "opencode") else "/opt/stranger"
    tracker.execed(ROOT, facts(ROOT, (program,), "ttt", False, ()), 1)
    whose: dict[int, str] = {}
    expected: dict[int, str] = {}
    pid = ROOT
    for seen in (one for one in AGENTS[name] for _ in range(one.times)):
        pid += 1
        tracker.forked(ROOT, pid, 1)
        found = None if seen.gone else facts(pid, seen.argv, seen.streams, seen.leads, seen.names, seen.inherits)
        begun = tracker.execed(pid, at_start(pid, seen.argv, found), 1)
        if begun is None:
            assert seen.whose == "agent"
            continue
        whose[begun.call], expected[begun.call] = begun.verdict.kind, seen.whose
        assert not (tracker.is_candidate(begun.call) and seen.whose == "tool" and name != "starts no shells"), seen
        for argv, names in seen.then:
            if tracker.is_unsure_root(pid):
                became = None if seen.gone else facts(pid, argv, seen.streams, True, names)
                if (now := at_start(pid, argv, became)) is not None:
                    tracker.replaced(pid, now)
        whose.update({call: verdict.kind for call, verdict in tracker.decided_again})
        tracker.decided_again.clear()
    assert whose == expected
