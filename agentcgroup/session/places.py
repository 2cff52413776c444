"""Where sessions live: names, locks, and what is left of those whose processes died.

A session is a folder in /run/agentcgroup/sessions with a lock that its two processes hold, and a cgroup
whose place follows from the name.  A lock that can be taken belongs to nobody: the session is stale.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentcgroup import cgroup, systemd
from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.session.marks import marked

RUN = Path("/run/agentcgroup")
SESSIONS = RUN / "sessions"
DAEMON_SOCKET = RUN / "control.sock"
AGENT = "agent"
TOOLS = "tools"
KEEPER = "keeper"
_LEAF = "tool-"
_LEAF_NAME = re.compile(_LEAF + "[1-9][0-9]{0,8}", re.A)
PLAN = "plan.json"
"""In the folder of a session that the daemon runs: what the next daemon needs."""
CONTAINER = "cgroup"
"""In the folder of a container's session: the path of its cgroup."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}", re.A | re.I)
_END_WAIT_S = 5.0


def check_name(name: str) -> str:
    """The name, if it can be part of a unit's and a folder's name; else AgentCgroupError."""
    if not _NAME.fullmatch(name):
        raise AgentCgroupError(
            f"session name {name!r} refused",
            "a name has 1 to 40 letters, digits, '.', '_' or '-' and begins with a letter or digit",
            "choose another with --name",
        )
    return name


def session_cgroup(name: str) -> Path:
    """The session's own cgroup, existing or not."""
    return cgroup.mount_point() / systemd.SLICE / systemd.scope_name(name)


def leaf_of(top: Path, call: int) -> Path:
    """The cgroup of a call, existing or not, in the session that has ``top``."""
    return top / TOOLS / f"{_LEAF}{call}"


def leaves_in(top: Path) -> dict[int, Path]:
    """The cgroups of calls that there are, ended ones and those that are kept ready included; other folders are nobody's."""
    found = {}
    for leaf in (top / TOOLS).glob(_LEAF + "*"):
        if _LEAF_NAME.fullmatch(leaf.name):
            found[int(leaf.name.removeprefix(_LEAF))] = leaf
    return found


def name_of(path: Path) -> str | None:
    """The session that a cgroup belongs to, None for one outside all sessions."""
    for part in (path, *path.parents):
        if part.parent.name == systemd.SLICE and part.name.startswith("agentcgroup-"):
            return part.name.removeprefix("agentcgroup-").removesuffix(".scope")
    return None


def make_run() -> None:
    """Make the folder of all that lives until the machine's next start, if it is not there: all may look into it, whatever the umask."""
    with contextlib.suppress(FileExistsError):
        RUN.mkdir(parents=True)
        RUN.chmod(0o755)


def open_lock(file: Path) -> int:
    """A descriptor of a lock file that nobody but its owner can open, and so hold: a lock needs no more than to be read.

    One that was made otherwise, by whatever umask, is mended.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


@contextlib.contextmanager
def _registry() -> Iterator[None]:
    """Only one process at a time adds, removes or judges sessions."""
    try:
        make_run()
        SESSIONS.mkdir(parents=True, exist_ok=True)
        lock = open_lock(RUN / "lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
    except PermissionError as error:
        raise AgentCgroupError(f"{RUN} is not writable", errno_words(error), "run as root") from None


def claim(name: str) -> tuple[Path, int]:
    """Make the session's folder; returns it with a locked descriptor (closed on exec, kept by forks).

    Raises AgentCgroupError when the name is in use.
    """
    folder = SESSIONS / check_name(name)
    with _registry():
        _clean_stale(folder)
        if folder.exists() or session_cgroup(name).exists():
            raise AgentCgroupError(
                f"session name {name!r} is taken", "a session of that name is running", "choose another with --name"
            )
        folder.mkdir()
        for part in (SESSIONS, folder):
            part.chmod(0o755)  # agents of any user find their session's socket there
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, descriptor


def reclaim(folder: Path) -> int:
    """The lock of a session that nobody governs any more.  Raises OSError where somebody does, or it is gone."""
    with _registry():
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
    return descriptor


def release(folder: Path) -> None:
    """Forget a session that has ended."""
    with _registry():
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What ``clean`` found of one stale session: leaves removed, and the agent processes that still run."""

    name: str
    removed: int
    running: tuple[int, ...]


def clean(end: bool = False) -> list[Cleaned]:
    """Undo what sessions left whose processes died: nothing stays frozen or limited, empty cgroups go.

    An agent that still runs keeps running, without control, unless ``end`` says to end it.
    """
    found = []
    with _registry():
        named = {folder.name for folder in SESSIONS.iterdir() if folder.is_dir()}
        base = cgroup.mount_point() / systemd.SLICE
        named |= {name for path in base.glob("agentcgroup-*") if (name := name_of(path))}
        for name in sorted(named):
            cleaned = _clean_stale(SESSIONS / name, end)
            if cleaned:
                found.append(cleaned)
    return found


def _clean_stale(folder: Path, end: bool = False) -> Cleaned | None:
    """Clean one session if nobody holds its lock; None when it is alive or there is nothing of it."""
    place = session_cgroup(folder.name)
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        if not place.exists():
            shutil.rmtree(folder, ignore_errors=True)
            return None
        descriptor = None
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    finally:
        if descriptor is not None:
            os.close(descriptor)
    if (container := folder / CONTAINER).exists():
        lift(Path(container.read_text()))
        shutil.rmtree(folder, ignore_errors=True)
        return Cleaned(folder.name, 0, ())
    before = sum(1 for _ in cgroup.subtree(place))
    lift(place)
    running = tuple(cgroup.processes(place / AGENT))
    if not running and not end and (folder / PLAN).exists() and cgroup.processes(place / KEEPER):
        return None  # it has ended while no daemon was there; the next one writes down how
    if running and not end:
        for leaf in (place / TOOLS).glob("*-*"):
            if not marked(leaf):  # else the daemon takes it up
                cgroup.remove(leaf)
    else:
        running = ()
        end_session(folder.name)
        shutil.rmtree(folder, ignore_errors=True)
    return Cleaned(folder.name, before - sum(1 for _ in cgroup.subtree(place)), running)


def let_go(place: Path) -> None:
    """Whatever waits in a session goes on: no brake, no freeze; its limits stay."""
    _write_ours(place, {"cgroup.freeze": "0", "cpu.max": cgroup.MAX})


def lift(place: Path) -> None:
    """Take back every brake, freeze and limit in a session; its own budget stays."""
    let_go(place)
    _write_ours(place, {"memory.high": cgroup.MAX, "memory.max": cgroup.MAX})


def _write_ours(place: Path, values: dict[str, str]) -> None:
    """Write to the cgroups that we made in a session; what its programs made below or beside them has limits of its own."""
    for part in (place / AGENT, place / TOOLS, *leaves_in(place).values()):
        for name, value in values.items():
            with contextlib.suppress(cgroup.CgroupError):
                cgroup.write(part, name, value)


def end_session(name: str) -> bool:
    """Kill what is left of a session and remove its cgroups; False when something could not be removed."""
    place = session_cgroup(name)
    children_gone = all(cgroup.drain(place / part, _END_WAIT_S) for part in (TOOLS, AGENT, KEEPER))
    if systemd.is_running():
        # An empty scope goes by itself, a moment later; waiting for it frees the name now.
        deadline = time.monotonic() + _END_WAIT_S
        while place.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        if place.exists():
            with contextlib.suppress(AgentCgroupError):
                systemd.stop_scope(name)
    return cgroup.drain(place, _END_WAIT_S) and children_gone
