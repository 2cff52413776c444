"""``agentcgroup`` with a source that loses events while a flag file exists: lossy_run.py FLAGFILE run --events SOURCE ...

The process connector's are dropped, and their loss is reported as the kernel does it when a socket's buffer was full.  The
monitor's reader goes deaf, and its small ring buffer overflows.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from agentcgroup.cli import main
from agentcgroup.policy import MonitorRule
from agentcgroup.sources import Event, Lost, choice
from agentcgroup.sources.connector import Connector
from agentcgroup.sources.monitor import Monitor

FLAG = Path(sys.argv[1])


class LossyConnector(Connector):
    """The real source, with a hole in it."""

    losing = False

    def drain(self, deliver: Callable[[Event], None]) -> None:
        def drop(_: Event) -> None:
            pass

        if FLAG.exists():
            self.losing = True
            super().drain(drop)
            return
        if self.losing:
            self.losing = False
            deliver(Lost())
        super().drain(deliver)


class DeafMonitor(Monitor):
    """The real source, with little room, and nobody to read it."""

    def __init__(self, rule: MonitorRule, **_: object) -> None:
        super().__init__(rule, ring_bytes=4096)

    def drain(self, deliver: Callable[[Event], None]) -> None:
        if FLAG.exists():
            time.sleep(0.01)
        else:
            super().drain(deliver)


setattr(choice, "Connector", LossyConnector)  # noqa: B010
setattr(choice, "Monitor", DeafMonitor)  # noqa: B010
sys.argv[1:2] = []
sys.exit(main())
