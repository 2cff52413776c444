"""What a session writes down of itself while it runs."""

import json
from pathlib import Path

import pytest

from agentcgroup.model import CallRecord, Deed
from agentcgroup.session import account


def test_of_a_long_session_the_newest_deeds_are_kept_and_its_files_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(account, "_LARGEST_BYTES", 2000)
    monkeypatch.setattr(account, "SESSIONS", tmp_path)
    folder = tmp_path / "long"
    folder.mkdir()
    for number in range(1, 101):
        account.note(folder, CallRecord(number, 1, ("make",), 0.0), Deed(number, "told", "because"))
    files = list(folder.iterdir())
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < 4300
    assert account.explain("long", as_json=True) == 0
    calls = [deed["call"] for deed in json.loads(capsys.readouterr().out)]
    assert len(calls) > 10
    assert calls == list(range(101 - len(calls), 101))


def test_what_can_not_be_written_is_no_failure(tmp_path: Path) -> None:
    account.append(tmp_path / "gone" / "log", "line")
    assert list(tmp_path.iterdir()) == []
