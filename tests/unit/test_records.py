"""The bytes that Python reads are those that the compiled monitor writes: compared with the object's own type information."""

import json
import struct
import subprocess
from typing import Any

import pytest

from agentcgroup.kernel import records
from agentcgroup.sources import monitor

SIZES = {"Q": 8, "I": 4}


@pytest.fixture(scope="module")
def types() -> list[dict[str, Any]]:
    dump = subprocess.run(
        ["bpftool", "-j", "btf", "dump", "file", str(monitor.object_path())], capture_output=True, text=True, check=True
    )
    return list(json.loads(dump.stdout)["types"])


def one(types: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(each for each in types if each["kind"] == kind and each["name"] == name)


def offsets(layout: struct.Struct) -> list[int]:
    """Byte offsets of the fields of a packed layout."""
    found, at, form = [], 0, layout.format.lstrip("=")
    while form:
        digits = len(form) - len(form.lstrip("0123456789"))
        count, letter = int(form[:digits] or 1), form[digits]
        form = form[digits + 1 :]
        for _ in range(1 if letter == "s" else count):
            found.append(at)
            at += count if letter == "s" else SIZES[letter]
    return found


@pytest.mark.parametrize(
    ("name", "layout", "fields"),
    [
        ("event", records.RECORD, records.Record._fields),
        ("place", records.PLACE, records.Place._fields),
        ("tracked", records.TRACKED, ("released", "padding")),
        ("settings", records.SETTINGS, records.Settings._fields),
        ("counts", records.COUNTS, records.Counts._fields),
    ],
)
def test_layouts(types: list[dict[str, Any]], name: str, layout: struct.Struct, fields: tuple[str, ...]) -> None:
    declared = one(types, "STRUCT", name)
    assert declared["size"] == layout.size
    assert [(member["name"], member["bits_offset"] // 8) for member in declared["members"]] == list(
        zip(fields, offsets(layout), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "ours", "prefix"), [("event_kind", records.Kind, "EVENT_"), ("place_role", records.Role, "PLACE_")]
)
def test_numbers(types: list[dict[str, Any]], name: str, ours: Any, prefix: str) -> None:
    declared = {value["name"]: value["val"] for value in one(types, "ENUM", name)["values"]}
    assert declared == {prefix + member.name: member.value for member in ours}
