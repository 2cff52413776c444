"""Which source of events a session gets."""

from collections.abc import Mapping
from typing import Literal

from agentcgroup.kernel.libbpf import BpfError
from agentcgroup.policy import MonitorRule
from agentcgroup.sources import Source
from agentcgroup.sources.connector import Connector
from agentcgroup.sources.monitor import Monitor

Choice = Literal["auto", "bpf", "connector"]


def open_source(
    rule: MonitorRule, choice: Choice, kept: Mapping[str, Mapping[str, list[int]]] | None = None
) -> tuple[Source, str]:
    """The better source that works here (``auto``), or the named one; and in words which it is, and why not a better one.

    ``kept``: what monitors of earlier processes left.  Raises AgentCgroupError when none works.
    """
    if choice == "connector":
        return Connector(), f"{Connector.name} (as asked)"
    try:
        monitor = Monitor(rule, kept=kept)
    except BpfError as error:
        if choice == "bpf":
            raise
        return Connector(), f"{Connector.name} (no {Monitor.name}: {error.what}: {error.why})"
    without = f" without {', '.join(monitor.without)}, which this kernel refuses" if monitor.without else ""
    return monitor, monitor.name + without
