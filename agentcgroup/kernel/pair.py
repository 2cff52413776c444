"""The scheduler slows calls; where the kernel has memcg struct_ops, these keep calls of the highest rank from reclaim.

memcg struct_ops could slow them, too, but where the kernel asks for that, a task may hold locks that others need.
"""

from agentcgroup.kernel.libbpf import BpfError
from agentcgroup.kernel.memory import Memory
from agentcgroup.kernel.scheduler import Ejected, Scheduler


class Pair:
    """Both in force, or the scheduler alone; ``without`` says why."""

    slowed_id = 0

    def __init__(self) -> None:
        """Raises BpfError when the scheduler can't be had here, with the reason."""
        self._scheduler = Scheduler()
        self._memory: Memory | None = None
        self.without = ""
        try:
            self._memory = Memory(slows=False, calls=self._scheduler.calls)
        except BpfError as error:
            self.without = f"no memcg_bpf: {error.why or error.what}"
        except BaseException:
            self._scheduler.close()
            raise
        self.calls_id, self.figures_id = self._scheduler.calls_id, self._scheduler.figures_id
        self.ops_id = self._memory.ops_id if self._memory else 0

    def fileno(self) -> int:
        """Readable when the kernel has taken the scheduler out."""
        return self._scheduler.fileno()

    def ejected(self) -> Ejected | None:
        """Why the scheduler is not in force any more; None while it is."""
        return self._scheduler.ejected()

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
        self._scheduler.close()
