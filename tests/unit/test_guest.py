"""The scripts for the virtual host: what can be tested without booting one."""

from pathlib import Path

import pytest
from guest import boot, packages


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
