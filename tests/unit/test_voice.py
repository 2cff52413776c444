"""To whom of a call's processes something is said."""

import os
import subprocess
from pathlib import Path

from agentcgroup.session.voice import _voices


def leaf_of(folder: Path, *pids: int) -> Path:
    """A folder that stands for a call's leaf."""
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return folder


def test_what_leads_out_of_the_call_comes_before_what_one_of_its_own_processes_reads(tmp_path: Path) -> None:
    text = "exec > >(tee /dev/null) 2>&1; echo ready; exec sleep 60"
    with subprocess.Popen(["bash", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
        (tee,) = map(int, subprocess.run(["pgrep", "-P", str(shell.pid), "tee"], capture_output=True, text=True).stdout.split())
        outside = os.readlink(f"/proc/self/fd/{shell.stdout.fileno()}")
        found = _voices(shell.pid, leaf_of(tmp_path, shell.pid, tee), discarded_too=False)
        assert found[0].leads_to == outside
        shell.kill()


def test_the_root_comes_first_and_one_that_has_ended_is_not_asked(tmp_path: Path) -> None:
    with (
        subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as one,
        subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as two,
    ):
        leaf = leaf_of(tmp_path, one.pid, two.pid)
        assert _voices(two.pid, leaf, True)[0].pid == two.pid
        assert {stream.pid for stream in _voices(2**22 + 5, leaf, True)} == {one.pid, two.pid}
        one.kill()
        two.kill()
