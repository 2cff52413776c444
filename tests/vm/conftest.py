"""Fixtures for the virtual host: the small C programs that the tests torment it with, a container image, users."""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from agentcgroup.session.places import SESSIONS
from tests.vm.daemon import IMAGE
from tests.vm.harness import SLICE


def pytest_report_header() -> str:
    return f"kernel {os.uname().release}"


@pytest.fixture(scope="session", autouse=True)
def _sessions_folder() -> None:
    SESSIONS.mkdir(parents=True, exist_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a failed test left running would fail the tests after it."""
    report = yield
    if report.failed:
        for scope in SLICE.glob("agentcgroup-*.scope"):
            subprocess.run(["systemctl", "kill", "--signal=KILL", scope.name], check=False)
        subprocess.run([sys.executable, "-m", "agentcgroup", "cleanup", "--end"], check=False)
    return report


def _compile(name: str, folder: Path) -> str:
    program = folder / name
    subprocess.run(["gcc", "-O1", "-o", program, Path(__file__).parent / f"{name}.c"], check=True)
    return str(program)


@pytest.fixture(scope="session")
def hog(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the program that allocates at full speed."""
    return _compile("hog", tmp_path_factory.mktemp("hog"))


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the program that forks a tree of daemons."""
    return _compile("tree", tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the program that forks as fast as it can."""
    return _compile("bomb", tmp_path_factory.mktemp("bomb"))


@pytest.fixture(scope="session")
def steps(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the program that has memory in steps, each for a time."""
    return _compile("steps", tmp_path_factory.mktemp("steps"))


def _import(engine: str, root: Path) -> str:
    """Give a container engine an image of nothing but this host's busybox; its name."""
    (root / "bin").mkdir()
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for name in ("sh", "sleep", "echo", "cat", "true", "dd", "head", "tail", "seq"):
        (root / "bin" / name).symlink_to("busybox")
    subprocess.run(f"tar -C {root} -c . | {engine} import - {IMAGE}", shell=True, check=True, stdout=subprocess.DEVNULL)
    return IMAGE


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that Docker, which runs then, has."""
    subprocess.run(["systemctl", "start", "docker"], check=True)
    return _import("docker", tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def podman_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that Podman, which answers then, has."""
    subprocess.run(["systemctl", "start", "podman.socket"], check=True)
    return _import("podman", tmp_path_factory.mktemp("podman-image"))


@pytest.fixture(scope="session")
def users() -> tuple[str, str]:
    for name in ("alice", "mallory"):
        subprocess.run(["useradd", "--create-home", name], check=False)
    return "alice", "mallory"
