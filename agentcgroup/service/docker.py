"""Which labelled containers run: those that Docker has now, and each one that it starts.

Docker's client waits for events in a thread of its own; where Docker is not there, or goes away, it is tried again, less and less often.
"""

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from agentcgroup.service.contained import ENABLE, Container

_LABEL = f"{ENABLE}=true"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_ANSWER_S = 10


class Docker:
    """Tells of each labelled container once for each of its starts."""

    def __init__(self, started: Callable[[Container], None], listed: Callable[[None], None], log: Callable[[str], None]) -> None:
        """All are called in the thread that waits; ``listed`` when all that ran before were told, or Docker does not answer."""
        self._started, self._listed, self._log = started, listed, log
        self._over = threading.Event()
        self._stream: Any = None
        self._seen: dict[str, int] = {}
        self._thread = threading.Thread(target=self._watch, name="docker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._over.set()

    def _watch(self) -> None:
        from docker.errors import DockerException
        from requests import RequestException

        wait_s, said = _FIRST_WAIT_S, False
        while not self._over.is_set():
            try:
                self._listen()
                wait_s = _FIRST_WAIT_S
            except (DockerException, RequestException, OSError) as error:
                if not said:
                    self._log(f"Docker does not answer ({type(error).__name__}); containers are governed as soon as it does")
                    self._listed(None)
                said = True
            self._over.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _listen(self) -> None:
        """Until Docker goes away."""
        import docker

        # An answer has to come soon; events may take as long as they like.
        with closing(docker.from_env(timeout=_ANSWER_S)) as client, closing(docker.from_env(timeout=None)) as listener:
            filters = {"type": "container", "event": "start", "label": _LABEL}
            events = listener.events(decode=True, filters=filters)  # asked for before the list: nothing falls between the two
            for one in client.containers.list(filters={"label": _LABEL}):
                self._tell(client, one.id)
            self._listed(None)
            for event in events:
                if self._over.is_set():
                    break
                self._tell(client, event["Actor"]["ID"])

    def _tell(self, client: Any, identity: str) -> None:
        from docker.errors import NotFound

        try:
            facts = client.api.inspect_container(identity)
        except NotFound:
            return
        pid = int(facts["State"]["Pid"])
        if pid and self._seen.get(identity) != pid:
            self._seen[identity] = pid
            words = (facts["Path"], *(facts["Args"] or ()))
            labels = facts["Config"]["Labels"] or {}
            self._started(Container(identity, facts["Name"].lstrip("/"), pid, words, labels))
