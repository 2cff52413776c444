"""What can't be found out of a session again, kept on its cgroups as extended attributes: it lives exactly as long as they do.

The daemon that comes after one that died reads them.  Only root can read and write ``trusted`` attributes; where they are not allowed
(no support in the kernel), nothing is kept.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

_NAME = "trusted.agentcgroup"


def mark(place: Path, facts: dict[str, Any]) -> None:
    """Keep facts with a cgroup, instead of those that were there."""
    with contextlib.suppress(OSError):
        os.setxattr(place, _NAME, json.dumps(facts).encode())


def marked(place: Path) -> dict[str, Any]:
    """The facts that were kept with a cgroup; none where there are none."""
    try:
        facts = json.loads(os.getxattr(place, _NAME))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
