"""The daemon's pure parts: labels, addresses, metrics, what systemd is told, the unit."""

import configparser
import itertools
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from agentcgroup import background, remote_memory, streams
from agentcgroup.classify import SMALLEST_BUDGET_BYTES
from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import CallRecord, Deed
from agentcgroup.service import metrics, notify
from agentcgroup.service.contained import Container, wishes
from agentcgroup.service.install import unit_text
from agentcgroup.session.options import Options
from agentcgroup.session.places import check_name
from agentcgroup.session.recorder import row_of, totals_of
from agentcgroup.session.start import container_words
from agentcgroup.units import parse_size


def container(**labels: str) -> Container:
    return Container("0123456789abcdef", "box", 42, ("sh",), {f"agentcgroup.{key}": value for key, value in labels.items()})


def test_labels_say_name_priority_and_memory() -> None:
    found = wishes(container(enable="true", name="mine", priority="high", memory="2g"))
    assert (found.name, found.priority, found.memory, found.complaints) == ("mine", "high", 2 << 30, ())
    assert wishes(container(enable="true")).name == "box"
    assert wishes(container(policy="strict")).policy == Path("/etc/agentcgroup/policies/strict.yaml")
    assert wishes(container(policy="../../tmp/mine")).policy is None


@given(
    st.dictionaries(st.sampled_from(["name", "priority", "memory", "policy", "x"]), st.text(max_size=60)), st.text(max_size=60)
)
def test_no_label_and_no_name_breaks_anything(labels: dict[str, str], name: str) -> None:
    found = wishes(Container("0123456789abcdef", name, 1, (), {f"agentcgroup.{key}": value for key, value in labels.items()}))
    assert check_name(found.name)
    assert found.memory is None or found.memory >= SMALLEST_BUDGET_BYTES
    assert len(found.complaints) <= len(labels)
    assert ("x" in labels) == any("agentcgroup.x" in words for words in found.complaints)


@pytest.mark.parametrize(
    ("text", "expected"), [("127.0.0.1:9753", ("127.0.0.1", 9753)), ("[::1]:80", ("::1", 80)), ("off", None)]
)
def test_where_metrics_are_served(text: str, expected: object) -> None:
    assert metrics.parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "9753", "localhost:9753", "127.0.0.1:0", "127.0.0.1:x", "127.0.0.1:70000"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AgentCgroupError, match="refused"):
        metrics.parse_address(text)


def exposed(*families: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a server reads on the page: by name and labels."""

    class Given(Collector):
        def collect(self) -> Any:
            return families

    registry = CollectorRegistry()
    registry.register(Given())
    found = text_string_to_metric_families(generate_latest(registry).decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in found for one in family.samples}


def test_the_calls_that_were_counted_are_on_the_page() -> None:
    counted: dict[tuple[str, str, str], float] = {}
    for number, took, peak, status in ((1, 0.05, 3 << 20, 0), (2, 2.0, 5 << 20, 256), (3, 5000.0, 1 << 40, 9)):
        record = CallRecord(number, number, ("make",), 0.0, class_name="build", ended_s=took, exit_status=status)
        record.memory_peak_bytes, record.cpu_s = peak, 0.25
        record.deeds = [Deed(1.0, "waited 2.00 s", "for a/1", 2.0), Deed(2.0, "stopped", "memory")]
        for name, label, value in totals_of(row_of(record)):
            counted[name, "build", label] = counted.get((name, "build", label), 0.0) + value
    page = exposed(*metrics.of_totals(counted))
    of = ("class", "build")
    assert [page["agentcgroup_tool_calls_total", (of, ("ending", how))] for how in ("ok", "failed", "signal")] == [1, 1, 1]
    assert page["agentcgroup_tool_call_cpu_seconds_total", (of,)] == 0.75
    assert page["agentcgroup_tool_call_waited_seconds_total", (of,)] == 6.0
    assert page["agentcgroup_interventions_total", (of, ("what", "stopped"))] == 3
    buckets = [
        (bound, page["agentcgroup_tool_call_duration_seconds_bucket", (of, ("le", bound))]) for bound in ("0.1", "1", "3", "+Inf")
    ]
    assert buckets == [("0.1", 1), ("1", 1), ("3", 2), ("+Inf", 3)]
    assert page["agentcgroup_tool_call_duration_seconds_sum", (of,)] == pytest.approx(5002.05)
    assert page["agentcgroup_tool_call_peak_bytes_count", (of,)] == 3


def test_writes_and_reads_that_may_hang_are_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "given_up", lambda: 3)
    monkeypatch.setattr(remote_memory, "given_up", lambda: 4)
    page = exposed(*itertools.islice(metrics.collect(str), 2))
    assert [page["agentcgroup_hanging", (("what", what),)] for what in ("write", "read")] == [3, 4]


def test_what_failed_beside_the_main_path_is_counted_on_the_page() -> None:
    before = background.failures().get("a test of the page", 0)
    background.failed("a test of the page", ValueError("x"), lambda line: None)
    page = exposed(*itertools.islice(metrics.collect(str), 3))
    assert page["agentcgroup_failures_total", (("work", "a test of the page"),)] == before + 1


def test_running_sessions_are_on_the_page_and_one_that_does_not_answer_is_down() -> None:
    calls = [{"rung": "", "call": 1}, {"rung": "freeze", "call": 2}]
    one = {"session": "a", "priority": "low", "agent_bytes": 10, "calls_bytes": None, "budget_bytes": 99, "calls": calls,
           "pressure": {"memory": 25.0, "cpu": None}, "enforcer": "cgroup (as asked)", "source_figures": {"lost": 3}}  # fmt: skip
    page = exposed(*metrics.of_sessions([one, {"session": "b", "error": "gone"}]))
    who = (("priority", "low"), ("session", "a"))
    assert page["agentcgroup_session_memory_bytes", (("part", "agent"), *who)] == 10
    assert page["agentcgroup_session_calls", (("kind", "tool"), who[0], ("rung", "freeze"), who[1])] == 1
    assert page["agentcgroup_session_pressure_ratio", (("resource", "memory"), ("session", "a"))] == 0.25
    assert page["agentcgroup_session_events_lost_total", (("session", "a"),)] == 3
    assert [page["agentcgroup_session_up", (("session", name),)] for name in "ab"] == [1, 0]


def test_the_journal_gets_any_text_as_one_line_of_one_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        monkeypatch.setattr(notify, "_JOURNAL", tmp_path / "journal")
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        notify.log("two\nlines", "error", session="x=1\ny")
        data = journal.recv(4096)
    found = {}
    while data:
        name, _, rest = data.partition(b"\n")
        (length,) = struct.unpack_from("<Q", rest)
        found[name.decode()], data = rest[8 : 8 + length].decode(), rest[8 + length + 1 :]
    assert found == {
        "MESSAGE": "two lines",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "agentcgroup",
        "AGENTCGROUP_SESSION": "x=1 y",
    }


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"@{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify.notify("READY=1")  # nobody listens any more: no harm


def test_run_in_a_container_is_docker_run_with_labels() -> None:
    options = Options(("agent", "--x"), name="mine", priority="low", memory="2G")
    labels = ["--label", "agentcgroup.enable=true", "--label", "agentcgroup.name=mine", "--label", "agentcgroup.priority=low",
              "--label", "agentcgroup.memory=2G"]  # fmt: skip
    assert container_words(options, "image", True) == [
        "docker",
        "run",
        "--rm",
        "--interactive",
        "--tty",
        *labels,
        "image",
        "agent",
        "--x",
    ]
    assert container_words(Options(()), "image", False) == ["docker", "run", "--rm", "--interactive", *labels[:2], "image"]


def test_the_unit_runs_the_agentcgroup_that_installed_it() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit_text("/opt/x/agentcgroup"))
    assert parser["Service"]["ExecStart"] == "/opt/x/agentcgroup daemon"
    assert parser["Service"]["ExecStopPost"] == "/opt/x/agentcgroup cleanup"


def test_the_unit_bounds_the_daemon_itself() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(unit_text("/opt/x/agentcgroup"))
    assert parse_size(parser["Service"]["MemoryMax"]) <= 1 << 30
    assert int(parser["Service"]["TasksMax"]) <= 256


@pytest.mark.parametrize(
    "words",
    [["daemon", "--metrics", "x"], ["daemon", "--policy", "/none"], ["daemon", "--events", "x"], ["run", "--docker", "x"]],
)
def test_bad_options_of_the_daemon_are_refused_with_words(words: list[str]) -> None:
    done = subprocess.run(["python3", "-m", "agentcgroup", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "agentcgroup: " in done.stderr
    assert "Traceback" not in done.stderr
