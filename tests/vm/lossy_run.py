"""``agentcgroup`` with a source that loses events: lossy_run.py FLAGFILE run ...

While the flag file exists every event is dropped; when it is gone, the loss is reported, as the kernel does it when a
socket's buffer was full.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from agentcgroup.cli import main
from agentcgroup.session import engine
from agentcgroup.sources import Event, Lost
from agentcgroup.sources.connector import Connector


class LossyConnector(Connector):
    """The real source, with a hole in it."""

    flag = Path(sys.argv[1])
    losing = False

    def drain(self, deliver: Callable[[Event], None]) -> None:
        def drop(_: Event) -> None:
            pass

        if self.flag.exists():
            self.losing = True
            super().drain(drop)
            return
        if self.losing:
            self.losing = False
            deliver(Lost())
        super().drain(deliver)


engine.Connector = LossyConnector  # type: ignore[attr-defined]
sys.argv[1:2] = []
sys.exit(main())
