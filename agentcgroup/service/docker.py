"""Which labelled containers run: those that a container engine has now, and each one that it starts.

Podman speaks Docker's protocol, too, at a socket of its own.  Docker's client waits for events in a thread for each engine; where one
is not there, or goes away, it is tried again, less and less often.
"""

import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from agentcgroup.service.contained import ENABLE, Container

_LABEL = f"{ENABLE}=true"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_ANSWER_S = 10
ENGINES = {"Docker": Path("/run/docker.sock"), "Podman": Path("/run/podman/podman.sock")}
"""Where each engine listens; DOCKER_HOST says it of Docker, if it is set."""


class Engine:
    """Tells of each labelled container of one engine once for each of its starts."""

    def __init__(
        self, name: str, started: Callable[[Container], None], listed: Callable[[str], None], log: Callable[[str], None]
    ) -> None:
        """All are called in the thread that waits; ``listed`` when all that ran before were told, or the engine does not answer."""
        self._name, self._started, self._listed, self._log = name, started, listed, log
        self._over = threading.Event()
        self._stream: Any = None
        self._seen: dict[str, int] = {}
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
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
                    if self._is_installed():
                        self._log(
                            f"{self._name} does not answer ({type(error).__name__}); its containers are governed as soon as it does"
                        )
                    self._listed(self._name)
                said = True
            self._over.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _is_installed(self) -> bool:
        return ENGINES[self._name].exists() or (self._name == "Docker" and "DOCKER_HOST" in os.environ)

    def _client(self, timeout_s: int | None) -> Any:
        import docker

        address = {} if self._name == "Docker" else {"DOCKER_HOST": f"unix://{ENGINES[self._name]}"}
        return docker.from_env(timeout=timeout_s, environment=address or None)

    def _listen(self) -> None:
        """Until the engine goes away."""
        # An answer has to come soon; events may take as long as they like.
        with closing(self._client(_ANSWER_S)) as client, closing(self._client(None)) as listener:
            filters = {"type": "container", "event": "start", "label": _LABEL}
            events = listener.events(decode=True, filters=filters)  # asked for before the list: nothing falls between the two
            for one in client.containers.list(filters={"label": _LABEL}):
                self._tell(client, one.id)
            self._listed(self._name)
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
