"""Fixtures for the virtual host: the small C programs that the tests torment it with."""

import os
import subprocess
from pathlib import Path

import pytest

from agentcgroup.session.places import SESSIONS


def pytest_report_header() -> str:
    return f"kernel {os.uname().release}"


@pytest.fixture(scope="session", autouse=True)
def _sessions_folder() -> None:
    SESSIONS.mkdir(parents=True, exist_ok=True)


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
