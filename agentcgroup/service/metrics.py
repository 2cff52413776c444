"""The Prometheus endpoint: gauges of the sessions that run, counters of all calls since the history began.

Counters come from the history's totals, so they survive the daemon; nothing is read unless somebody scrapes.  Labels are sessions,
priorities, classes of the policy and fixed words: never a command.
"""

import contextlib
import ipaddress
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_args

from agentcgroup import __version__, background, remote_memory, streams
from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.history import store
from agentcgroup.model import Kind
from agentcgroup.service import status
from agentcgroup.service.scrape import Server, token
from agentcgroup.session.recorder import BYTES, INTERVENTIONS, SECONDS

Address = tuple[str, int]
_OFF = "off"


def parse_address(text: str) -> Address | None:
    """``127.0.0.1:9753`` as host and port; None for ``off``.  Raises AgentCgroupError for anything else."""
    if text == _OFF:
        return None
    host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
        if not 0 < int(port) < 65536:
            raise ValueError(port)
    except ValueError:
        raise AgentCgroupError(
            f"--metrics {text!r} refused", "that is no address and port", "write 127.0.0.1:9753, or off"
        ) from None
    return host.strip("[]"), int(port)


def serve(address: Address, log: Callable[[str], None]) -> Callable[[], None]:
    """Answer scrapes in threads of their own; returns what ends it.  Raises AgentCgroupError where the port can't be had."""
    try:
        server = Server(address, page, token(), log)
    except OSError as error:
        raise AgentCgroupError(
            f"the metrics can't be served at {address[0]}:{address[1]}", errno_words(error), "choose another port with --metrics"
        ) from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.close


def page(shown: Callable[[str], str]) -> bytes:
    """All metrics, as Prometheus reads them; ``shown`` says how a session's name is shown."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector as Base

    class Collector(Base):
        def collect(self) -> Iterator[Any]:
            return collect(shown)

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)


def collect(shown: Callable[[str], str]) -> Iterator[Any]:
    """All metrics, as the client library has them."""
    from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily

    yield InfoMetricFamily("agentcgroup_build", "The version that runs.", {"version": __version__})
    hanging = GaugeMetricFamily(
        "agentcgroup_hanging",
        "What the daemon has begun and may hang: writes to tool calls' streams, reads of processes.",
        labels=["what"],
    )
    hanging.add_metric(["write"], streams.given_up())
    hanging.add_metric(["read"], remote_memory.given_up())
    yield hanging
    yield of_failures(background.failures())
    yield from of_sessions({**one, "session": shown(one["session"])} for one in status.sessions())
    with contextlib.suppress(AgentCgroupError), store.reading(store.FILE) as history:
        yield from of_totals(store.totals(history))


def of_failures(counted: Mapping[str, int]) -> Any:
    """A counter of what failed beside the main path; the log says what and where."""
    from prometheus_client.metrics_core import CounterMetricFamily

    failures = CounterMetricFamily(
        "agentcgroup_failures", "Work of the daemon that failed, by kind; its log says more.", labels=["work"]
    )
    for work, count in sorted(counted.items()):
        failures.add_metric([work], count)
    return failures


def of_sessions(found: Iterable[dict[str, Any]]) -> Iterator[Any]:
    """Gauges of the sessions that run."""
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    memory = GaugeMetricFamily(
        "agentcgroup_session_memory_bytes", "Memory of a session, by part.", labels=["session", "priority", "part"]
    )
    budget = GaugeMetricFamily("agentcgroup_session_budget_bytes", "Memory budget of a session.", labels=["session", "priority"])
    calls = GaugeMetricFamily(
        "agentcgroup_session_calls",
        "Calls that run, by rung of the ladder and by whose they are.",
        labels=["session", "priority", "rung", "kind"],
    )
    stalled = GaugeMetricFamily(
        "agentcgroup_session_pressure_ratio",
        "Share of the last 10 s in which a call waited for the resource.",
        labels=["session", "resource"],
    )
    enforcer = GaugeMetricFamily("agentcgroup_session_enforcer", "1 for the enforcer in force.", labels=["session", "enforcer"])
    lost = CounterMetricFamily(
        "agentcgroup_session_events_lost", "Events of the kernel that did not arrive, and were read again.", labels=["session"]
    )
    up = GaugeMetricFamily("agentcgroup_session_up", "1 where the governor answers.", labels=["session"])
    for one in found:
        name = one["session"]
        up.add_metric([name], 0 if "error" in one else 1)
        if "error" in one:
            continue
        who = [name, one["priority"]]
        for part in ("agent", "calls"):
            if one[f"{part}_bytes"] is not None:
                memory.add_metric([*who, part], one[f"{part}_bytes"])
        budget.add_metric(who, one["budget_bytes"])
        running = Counter((call["rung"] or "observe", call.get("kind", "tool")) for call in one["calls"])
        for rung, kind in itertools.product(("observe", "brake", "freeze"), get_args(Kind)):
            calls.add_metric([*who, rung, kind], running[rung, kind])
        for resource, percent in one["pressure"].items():
            if percent is not None:
                stalled.add_metric([name, resource], percent / 100)
        enforcer.add_metric([name, one["enforcer"].split(" ")[0]], 1)
        lost.add_metric([name], one["source_figures"].get("lost", 0))
    return iter([memory, budget, calls, stalled, enforcer, lost, up])


def of_totals(totals: dict[tuple[str, str, str], float]) -> Iterator[Any]:
    """Counters and histograms of all calls, by class."""
    from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily

    def counter(name: str, key: str, words: str, label: str = "") -> Any:
        family = CounterMetricFamily(f"agentcgroup_{name}", words, labels=["class", *([label] if label else [])])
        for (kind, of_class, what), value in sorted(totals.items()):
            if kind == key:
                family.add_metric([of_class, *([what] if label else [])], value)
        return family

    yield counter("tool_calls", "calls", "Tool calls that ended, by how.", "ending")
    yield counter("commands", "commands", "Commands of agents that ended: the model's (tool), its own, its helpers.", "kind")
    yield counter("tool_call_cpu_seconds", "cpu_seconds", "Processor time of tool calls.")
    yield counter("tool_call_stalled_seconds", "stalled_seconds", "Time that tool calls waited for memory.")
    yield counter("tool_call_waited_seconds", "waited_seconds", "Time that tool calls were made to wait for others.")
    yield counter(
        "interventions",
        "interventions",
        f"What was done to tool calls: {', '.join(sorted(set(INTERVENTIONS.values())))}.",
        "what",
    )
    for name, key, words, bounds in (
        ("tool_call_duration_seconds", "seconds", "How long tool calls took.", SECONDS),
        ("tool_call_peak_bytes", "peak_bytes", "The highest memory of tool calls.", BYTES),
    ):
        family = HistogramMetricFamily(f"agentcgroup_{name}", words, labels=["class"])
        for of_class in sorted({of_class for kind, of_class, _ in totals if kind == key}):
            below, buckets = 0.0, []
            for bound in (*bounds, float("inf")):
                below += totals.get((key, of_class, f"{bound:g}"), 0.0)
                buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", below))
            family.add_metric([of_class], buckets, totals.get((key, of_class, "sum"), 0.0))
        yield family
