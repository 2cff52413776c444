"""The scripts for the virtual host: what can be tested without booting one."""

import subprocess
import sys
from pathlib import Path

import pytest
from guest import boot, packages, results


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("debian.sources", "Types: deb\nURIs: http://mirror/debian-security\nSuites: CODE-security\n\nTypes: deb\nURIs: http://mirror/debian\nSuites: CODE CODE-updates\n"),
        ("a.list", "# deb http://old/ CODE main\ndeb [signed-by=/k] http://mirror/debian CODE main\n"),
    ],
)  # fmt: skip
def test_the_archive_is_the_one_that_the_machine_uses(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(text.replace("CODE", packages.codename()))
    monkeypatch.setattr(packages, "SOURCES", (tmp_path / "none", tmp_path))
    assert packages.archive() == "http://mirror/debian"


def test_no_archive_is_an_error_that_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "SOURCES", (tmp_path / "none", tmp_path))
    with pytest.raises(packages.VmError, match="no apt source"):
        packages.archive()


@pytest.mark.parametrize("guest", [boot.Guest(kernel="5.4"), boot.Guest(memory="lots"), boot.Guest(cpus=0)])
def test_values_that_qemu_would_not_understand_are_refused(guest: boot.Guest) -> None:
    with pytest.raises(packages.VmError):
        boot.check(guest)


def test_only_what_emulation_broke_is_tried_again() -> None:
    emulated, real = ["-accel", "tcg,thread=multi,tb-size=512"], ["-accel", "kvm"]
    oops = "[  927.596] Oops: int3: 0000 [#1] SMP NOPTI\n[  927.597] RIP: 0010:__schedule+0x30c/0x1080"
    assert boot.lost_race(oops, emulated)
    assert not boot.lost_race(oops, real)
    assert not boot.lost_race("Oops: general protection fault", emulated)


def test_what_failed_in_a_guest_can_be_run_again_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "vm"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder.parent / "__init__.py").touch()
    (folder / "test_some.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.parametrize('way', ['a b', 'x::y'])\n"
        "def test_slow(way): assert way == 'a b' or 'FIXED' in os.environ\n"
        "@pytest.fixture\n"
        "def broken(): assert 'FIXED' in os.environ\n"
        "def test_set_up(broken): assert True\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): assert False\n"
    )

    def run(report: str, *tests: str, **variables: str) -> int:
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *tests]
        return subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **variables}, capture_output=True).returncode

    assert run("first.xml", "tests/vm") == 1
    failed = list(results.failed(tmp_path / "first.xml"))
    assert failed == ["tests/vm/test_some.py::test_slow[x::y]", "tests/vm/test_some.py::test_set_up"]
    assert run("second.xml", *failed, FIXED="1") == 0
    lines = results.flaky(tmp_path / "first.xml", tmp_path / "second.xml")
    assert [line.split(" (failed after ")[0] for line in lines] == failed
