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
        self._answered = self._has_listed = False
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._over.set()

    def _watch(self) -> None:
        wait_s, said = _FIRST_WAIT_S, ""
        while not self._over.is_set():
            self._answered = False
            try:
                self._listen()
            except Exception as error:  # an engine may go in the middle of a word: whatever that looks like, it is asked again
                if (kind := type(error).__name__) != said or self._answered:
                    said = kind
                    if self._is_installed():
                        self._log(f"{self._name} does not answer ({kind}); its containers are governed as soon as it does")
                    if not self._has_listed:
                        self._has_listed = True
                        self._listed(self._name)
            if self._answered:
                wait_s = _FIRST_WAIT_S
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
            listed = [one.id for one in client.containers.list(filters={"label": _LABEL})]
            self._seen = {identity: pid for identity, pid in self._seen.items() if identity in listed}
            for identity in listed:
                self._tell(client, identity)
            self._answered = self._has_listed = True
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
        try:
            container = _container(identity, facts)
        except (KeyError, TypeError, ValueError) as error:
            self._log(f"{self._name} says of container {identity[:12]} what is not understood ({error!r}): it is not governed")
            return
        if container.pid and self._seen.get(identity) != container.pid:
            self._seen[identity] = container.pid
            self._started(container)


def _container(identity: str, facts: dict[str, Any]) -> Container:
    """What an engine says of a container.  Raises KeyError, TypeError or ValueError for what is not as Docker says it."""
    words = (facts["Path"], *(facts["Args"] or ()))
    labels = facts["Config"]["Labels"] or {}
    return Container(identity, facts["Name"].lstrip("/"), int(facts["State"]["Pid"]), words, labels)
