"""What the kernel writes holds names that somebody chose, in any bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentcgroup import cgroup

NAMES = [b"M\xfc", b"two words", "line\u2028separator".encode(), b"tab\there", b"back\\slash"]


def test_lines_are_what_newlines_separate_and_bytes_stay_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "mounts"
    file.write_bytes(b"\n".join(NAMES) + b"\n")
    assert [os.fsencode(line) for line in cgroup.kernel_lines(file)] == NAMES


def test_a_cgroup_whose_name_is_no_text_can_be_read(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"job-\xff")
    place.mkdir()
    (place / "cgroup.events").write_bytes(b"populated 1\n\xff 2\n")
    assert cgroup.populated(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts something, in a mount namespace of its own")
def test_mount_points_of_any_name_are_found(tmp_path: Path) -> None:
    places = [os.fsencode(tmp_path) + b"/" + name for name in NAMES]
    look = "from agentcgroup import cgroup\nimport os, sys\nfor m in cgroup.mounts(): sys.stdout.buffer.write(os.fsencode(m.place) + b'\\0')\ncgroup.of_process()"
    text = b"".join(b'mkdir "$%d"; mount -t tmpfs none "$%d"; ' % (number, number) for number in range(1, 1 + len(places)))
    words: list[str | bytes] = [
        "unshare",
        "-m",
        "sh",
        "-ec",
        text + f"exec {sys.executable} -c '{look}'".encode().replace(b"b'\\0'", b'b"\\0"'),
        "sh",
        *places,
    ]
    done = subprocess.run(words, capture_output=True)
    if b"unshare" in done.stderr:
        pytest.skip("no mount namespace can be had here")
    assert done.returncode == 0, done.stderr
    assert set(places) <= set(done.stdout.split(b"\0"))
