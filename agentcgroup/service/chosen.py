"""The daemon's policy: what its file says, or while that is broken the last one that was not.

A daemon that does not start for a mistake in a file would leave every session of the host without limits.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from agentcgroup.errors import AgentCgroupError
from agentcgroup.history.store import FILE
from agentcgroup.policy import Policy, default_policy_path, load_policy, shipped_policy_path

LAST = FILE.parent / "policy.last.yaml"
"""A copy of the last policy that was not broken."""


def read_policy(path: Path | None) -> Policy:
    """The policy of a file (None: the host's own), remembered for when it is broken.  Raises AgentCgroupError."""
    chosen = path or default_policy_path()
    policy = load_policy(chosen)
    with contextlib.suppress(OSError):
        LAST.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = LAST.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(chosen.read_bytes())
        new.replace(LAST)
    return policy


def first_policy(path: Path | None, complain: Callable[[str], None]) -> Policy:
    """The policy to begin with; ``complain`` is told when it is not that of the file.

    Raises AgentCgroupError only for a file that is asked for and is not there.
    """
    try:
        return read_policy(path)
    except AgentCgroupError as error:
        if path is not None and not path.exists():
            raise
        broken = f"the policy is broken: {error}"
    for instead, words in ((LAST, "the last one that was not"), (shipped_policy_path(), "the one that is shipped")):
        with contextlib.suppress(AgentCgroupError):
            policy = load_policy(instead)
            complain(f"{broken}\n  until it is mended and read again (systemctl reload agentcgroup), {words} holds: {instead}")
            return policy
    raise AgentCgroupError(broken)
