"""What ended sessions left in files in memory (tmpfs), by user: it is taken from what the user may have, until it is removed.

The kernel knows how much all ended sessions left together: what is charged to the slice and to no session in it.  Whose that is,
is known from each session's end.
"""

import contextlib
from pathlib import Path

from agentcgroup import cgroup
from agentcgroup.errors import AgentCgroupError
from agentcgroup.systemd import SLICE


class Left:
    """Bytes by user.  A user who removed the files is charged, at most, as much as others left."""

    def __init__(self, base: Path | None = None) -> None:
        """``base``: the cgroup that the sessions are in."""
        self._base = base
        self._left: dict[int, int] = {}

    def session_ended(self, uid: int, left: int) -> None:
        """A session of a user left so much; root may leave what it likes."""
        if uid and left > 0:
            self._left[uid] = self._left.get(uid, 0) + left

    def of(self, uid: int) -> int:
        """What is to be charged to a user now."""
        if uid in self._left:
            with contextlib.suppress(AgentCgroupError):  # unknown: nothing was removed
                self._left[uid] = min(self._left[uid], self._there())
        return self._left.get(uid, 0)

    def _there(self) -> int:
        base = self._base or cgroup.mount_point() / SLICE
        of_sessions = 0
        for session in base.glob("agentcgroup-*"):
            with contextlib.suppress(cgroup.CgroupError):  # it ends at this moment
                of_sessions += cgroup.tmpfs(session)
        return max(0, cgroup.tmpfs(base) - of_sessions)
