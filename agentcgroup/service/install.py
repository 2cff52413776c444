"""``agentcgroup install`` and ``uninstall``: the systemd unit for the agentcgroup that is asked, and nothing else."""

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.history.store import FILE

UNIT = Path("/etc/systemd/system/agentcgroup.service")


def install() -> int:
    """Write the unit, enable and start it; exit code 0.  Raises AgentCgroupError where others could change what it runs, or systemd refuses."""
    _need_root("install")
    command = _command()
    for part in (command[0], sys.executable, __file__):
        if weakness := others_may_change(Path(part)):
            raise AgentCgroupError(
                "install refused",
                f"{weakness}, and systemd would run {command[0]} as root",
                "use the package, or an environment that is root's alone, such as one below /opt",
            )
    _write(unit_text(" ".join(command)))
    for words in (["daemon-reload"], ["enable", "--quiet", UNIT.name], ["restart", UNIT.name]):
        _systemctl(*words)
    print(f"agentcgroup: {UNIT} is enabled and runs; journalctl -u agentcgroup shows what it does")
    return 0


def uninstall() -> int:
    """Stop the daemon and take the unit away; sessions go on, without it.  The history stays."""
    _need_root("uninstall")
    if UNIT.exists():
        _systemctl("disable", "--quiet", "--now", UNIT.name)
        UNIT.unlink()
        _systemctl("daemon-reload")
    print(f"agentcgroup: uninstalled; the history is still in {FILE}")
    return 0


def unit_text(command: str) -> str:
    """The unit, for the agentcgroup at this path."""
    packaged = resources.files("agentcgroup") / "configs" / UNIT.name
    source = packaged if packaged.is_file() else Path(__file__).parents[2] / "configs" / UNIT.name
    return source.read_text().replace("/usr/bin/agentcgroup", command)


def others_may_change(file: Path) -> str:
    """How somebody other than root may put something else in a file's place, in words; empty if nobody can."""
    for place in _way_to(file):
        seen = place.lstat()
        if seen.st_uid:
            return f"{place} belongs to {_name(seen.st_uid)}"
        # In a folder with the sticky bit nobody can replace what is root's.
        if stat.S_ISLNK(seen.st_mode) or (stat.S_ISDIR(seen.st_mode) and seen.st_mode & stat.S_ISVTX):
            continue
        if seen.st_mode & stat.S_IWOTH or (seen.st_mode & stat.S_IWGRP and seen.st_gid):
            return f"{place} may be written by others than root"
    return ""


def _way_to(file: Path) -> Iterator[Path]:
    """All folders and links that lead to a file, and the file."""
    place, left = Path("/"), [*file.absolute().parts]
    while left:
        part = left.pop(0)
        place = place.parent if part == ".." else place / part
        yield place
        if place.is_symlink():
            left[:0] = place.readlink().parts
            place = place.parent


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _command() -> list[str]:
    """What systemd is to run: the command beside this Python, or this Python with the module."""
    beside = Path(sys.executable).with_name("agentcgroup")
    return [str(beside)] if os.access(beside, os.X_OK) else [sys.executable, "-I", "-m", "agentcgroup"]


def _need_root(what: str) -> None:
    if os.geteuid():
        raise AgentCgroupError(f"{what} needs root", "it changes system services", "run it with sudo, or as root")


def _write(text: str) -> None:
    try:
        UNIT.write_text(text)
    except OSError as error:
        raise AgentCgroupError(f"{UNIT} can't be written", errno_words(error)) from None


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True)
    except OSError as error:
        raise AgentCgroupError("systemctl can't be run", errno_words(error), "this needs a host with systemd") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise AgentCgroupError(
            f"systemctl {' '.join(words)} failed", said[-1] if said else "", "journalctl -u agentcgroup says why"
        )
