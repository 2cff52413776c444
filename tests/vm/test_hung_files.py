"""A call whose stderr nobody will ever take: a file on a file system that hangs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.harness import assert_nothing_left, policy, script

pytestmark = pytest.mark.one_kernel


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """A folder in which every file opens, and no write ever returns."""
    folder = tmp_path / "hung"
    folder.mkdir()
    subprocess.run(["modprobe", "fuse"], check=True)
    server = subprocess.Popen([sys.executable, str(Path(__file__).parent / "hung_files.py"), str(folder)])
    while not os.path.ismount(folder):
        assert server.poll() is None, "the file system could not be mounted"
    yield folder
    server.send_signal(signal.SIGKILL)  # which also ends what hangs in it
    server.wait()
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_call_with_its_stderr_on_a_hung_file_is_stopped_and_the_session_goes_on(tmp_path: Path, hog: str, hung: Path) -> None:
    limits = policy(tmp_path, "default: {memory: 64M}\n")
    calls = [{"command": f"exec >{hung}/file 2>&1; {hog} 500 600; true"}, {"command": "echo after; sleep 1"}]
    done, said = script(tmp_path, calls, "--memory", "1G", "--policy", str(limits))
    assert [call["returncode"] for call in said][1:] == [0], done.stderr
    assert said[1]["stdout"] == "after\n"
    stopped, after = done.calls
    assert "stopped" in [deed["what"] for deed in stopped["deeds"]], done.report
    assert [deed["what"] for deed in after["deeds"] if deed["what"] in ("stopped", "braked")] == []
    assert [line for line in done.report["log"] if "nobody could be told" in line], done.report["log"]
    assert_nothing_left()
