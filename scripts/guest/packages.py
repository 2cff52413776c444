"""Debian packages for the host and for the guest, from wherever this machine's apt gets its own.

No mirror is named here: the archive's address is read from the machine's apt sources, and other
suites (backports, trixie) are asked for at the same address, with configuration of our own so that
the machine's stays untouched.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentcgroup"
SOURCES = Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d")


class VmError(Exception):
    """Something the user must know about; the message says what to do."""


def say(message: str) -> None:
    """One progress line; standard output belongs to the guest's command."""
    print(f"vm: {message}", file=sys.stderr, flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a tool, return its standard output; its error output is shown only when it fails."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env, cwd=cwd)
    if result.returncode:
        tail = (result.stderr or result.stdout).strip()[-3000:]
        raise VmError(f"{' '.join(map(str, command[:4]))} ... failed ({result.returncode}):\n{tail}")
    return result.stdout


def codename() -> str:
    """The host's Debian release, e.g. ``bookworm``."""
    match = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    if not match or not shutil.which("apt-get"):
        raise VmError("the virtual host is built from Debian packages: run this on Debian")
    return match[1]


def archive() -> str:
    """Address of the Debian archive that this machine's own apt sources use for its release."""
    files = [SOURCES[0], *sorted(SOURCES[1].glob("*.list")), *sorted(SOURCES[1].glob("*.sources"))]
    for file in filter(Path.is_file, files):
        text = file.read_text()
        for stanza in text.split("\n\n") if file.suffix == ".sources" else []:
            uri = re.search(r"^URIs:\s*(\S+)", stanza, re.M)
            if uri and re.search(rf"^Suites:.*\b{codename()}(\s|$)", stanza, re.M):
                return uri[1]
        line = re.search(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{codename()}\s", text, re.M)
        if line:
            return line[1]
    raise VmError(f"no apt source for {codename()} found in {SOURCES[0]} or {SOURCES[1]}")


class Apt:
    """apt with its own source list and caches (the signing keys are the machine's)."""

    def __init__(self, name: str, suites: list[str], own_packages: bool = False) -> None:
        """``own_packages``: see what is installed on this machine, and be able to add to it."""
        self.folder = CACHE / "apt" / name
        (self.folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        sources = self.folder / "sources.list"
        sources.write_text("".join(f"deb {archive()} {suite} main\n" for suite in suites))
        self.options = [
            f"-oDir::Etc::SourceList={sources}",
            "-oDir::Etc::SourceParts=-",
            f"-oDir::State::Lists={self.folder / 'lists'}",
            f"-oDir::Cache={self.folder}",
            "-oAPT::Sandbox::User=root",
        ]
        if not own_packages:
            self.options.append("-oDir::State::Status=/dev/null")

    def get(self, *words: str, cwd: Path | None = None) -> str:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        return run("apt-get", "-q", *self.options, *words, env=env, cwd=cwd)

    def names(self, pattern: str) -> list[str]:
        """Names of the packages that match a regular expression."""
        found = run("apt-cache", *self.options, "search", "--names-only", pattern)
        return [line.split(" - ")[0] for line in found.splitlines()]

    def download(self, package: str, folder: Path) -> Path:
        """Fetch a package's file without installing it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.get("download", package, cwd=folder)
        return max(folder.glob(f"{package}_*.deb"), key=lambda file: file.stat().st_mtime)


def qemu_version() -> tuple[int, int]:
    """Version of the installed x86 QEMU; (0, 0) when there is none."""
    if not shutil.which("qemu-system-x86_64"):
        return 0, 0
    match = re.search(r"version (\d+)\.(\d+)", run("qemu-system-x86_64", "--version"))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def install_host_tools() -> None:
    """Install QEMU and mmdebstrap on this machine where they are missing.

    QEMU before 9 is replaced: 7.2 crashed guests while they patched jump labels under
    ``thread=multi`` software emulation, 10.0 booted every time.
    """
    wanted = [
        (not shutil.which("mmdebstrap"), ["mmdebstrap"]),
        (importlib.util.find_spec("pip") is None, ["python3-pip"]),
        (not shutil.which("busybox"), ["busybox-static"]),
        (not shutil.which("cpio"), ["cpio"]),
        (not shutil.which("zstd"), ["zstd"]),
        (not shutil.which("mke2fs"), ["e2fsprogs"]),
        (qemu_version() < (9, 0), ["qemu-system-x86", "seabios"]),
    ]
    missing = [name for absent, names in wanted if absent for name in names]
    if not missing:
        return
    say(f"installing {', '.join(missing)} on this machine")
    suites = [codename(), f"{codename()}-updates", f"{codename()}-backports"]
    apt = Apt("host", suites, own_packages=True)
    apt.get("update")
    apt.get("install", "-y", "--no-install-recommends", "-t", suites[2], *missing)
