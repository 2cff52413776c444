"""What install looks at before systemd is told to run something as root."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentcgroup.errors import AgentCgroupError
from agentcgroup.service import install

SOMEBODY = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to somebody else")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that is root's alone, and a link to it: as an environment's Python is one."""
    for name in ("bin", "linked"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "bin/agentcgroup").touch(mode=0o755)
    (tmp_path / "linked/link").symlink_to("../bin/agentcgroup")
    (tmp_path / "linked/python").symlink_to(tmp_path / "linked/link")
    return tmp_path / "linked/python"


def given_away(path: Path) -> None:
    os.lchown(path, SOMEBODY, 0)


def for_everybody(path: Path) -> None:
    path.chmod(0o777)


def for_a_group(path: Path) -> None:
    os.chown(path, 0, SOMEBODY)
    path.chmod(0o775)


@needs_root
def test_a_program_that_is_roots_alone_may_be_installed(program: Path) -> None:
    assert install.others_may_change(program) == ""


@needs_root
@pytest.mark.parametrize(
    ("place", "how"),
    [
        ("bin/agentcgroup", given_away),
        ("bin/agentcgroup", for_everybody),
        ("bin", given_away),
        ("bin", for_a_group),
        ("linked", for_everybody),
        ("linked/link", given_away),
        (".", given_away),
    ],
)
def test_install_refuses_what_others_may_change(
    place: str, how: Callable[[Path], None], program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how(tmp_path / place)
    done: list[str] = []
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(install, "_systemctl", lambda *words: done.extend(words))
    monkeypatch.setattr(install, "UNIT", tmp_path / "unit")
    with pytest.raises(AgentCgroupError, match=f"{re.escape(str((tmp_path / place).absolute()))} (belongs to|may be written)"):
        install.install()
    assert not done
    assert not (tmp_path / "unit").exists()
