"""The bytes that Python reads are those that the compiled monitor writes: compared with the object's own type information."""

import json
import struct
import subprocess
from functools import lru_cache
from typing import Any

import pytest

from agentcgroup.kernel import records
from agentcgroup.kernel.files import object_path
from agentcgroup.kernel.scheduler import Figures

SIZES = {"Q": 8, "I": 4}


@lru_cache(maxsize=4)
def types(name: str) -> list[dict[str, Any]]:
    """What a compiled object says of its types."""
    dump = subprocess.run(
        ["bpftool", "-j", "btf", "dump", "file", str(object_path(name))], capture_output=True, text=True, check=True
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
    ("of", "name", "layout", "fields"),
    [
        ("monitor", "event", records.RECORD, records.Record._fields),
        ("monitor", "started", records.STARTED, ("event", "args_bytes", "padding", "args")),
        ("monitor", "place", records.PLACE, records.Place._fields),
        ("monitor", "tracked", records.TRACKED, ("released", "padding", "exec_id")),
        ("monitor", "grant", records.GRANT, ("ask_at_bytes", "asked", "padding")),
        ("monitor", "settings", records.SETTINGS, records.Settings._fields),
        ("monitor", "counts", records.COUNTS, records.Counts._fields),
        *((each, "call", records.CALL, records.Call._fields) for each in ("scheduler", "memory")),
        *((each, "rates", records.RATES, records.Rates._fields) for each in ("scheduler", "memory")),
        ("memory", "slowed", records.SLOWED, records.Slowed._fields),
        ("scheduler", "farewell", records.FAREWELL, records.Farewell._fields),
    ],
)
def test_layouts(of: str, name: str, layout: struct.Struct, fields: tuple[str, ...]) -> None:
    declared = one(types(of), "STRUCT", name)
    assert declared["size"] == layout.size
    assert [(member["name"], member["bits_offset"] // 8) for member in declared["members"]] == list(
        zip(fields, offsets(layout), strict=True)
    )


@pytest.mark.parametrize(
    ("of", "name", "ours", "prefix"),
    [
        ("monitor", "event_kind", records.Kind, "EVENT_"),
        ("monitor", "place_role", records.Role, "PLACE_"),
        ("scheduler", "hold_reason", records.HoldReason, "HOLD_"),
    ],
)
def test_numbers(of: str, name: str, ours: Any, prefix: str) -> None:
    declared = {
        value["name"]: value["val"] for value in one(types(of), "ENUM", name)["values"] if value["name"] != "HOLD_REASONS"
    }
    assert declared == {prefix + member.name: member.value for member in ours}


def test_the_schedulers_figures_are_in_the_order_that_python_reads_them_in() -> None:
    declared = one(types("scheduler"), "STRUCT", "figures")
    assert declared["size"] == records.FIGURES.size
    assert [member["name"] for member in declared["members"]] == list(Figures._fields)
    histogram = {member["name"]: member["bits_offset"] // 8 for member in declared["members"]}
    assert histogram["delays"] - histogram["waits"] == 8 * records.BUCKETS
