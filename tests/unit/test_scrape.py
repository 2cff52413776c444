"""The metrics' port: who asks there is bounded, and who is not root learns no names."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentcgroup.service import scrape

SECRET = "0123456789abcdef"


@pytest.fixture
def server() -> Iterator[scrape.Server]:
    def page(shown: Callable[[str], str]) -> bytes:
        return f"up{{session={shown('hers')}}} 1\n".encode()

    log: list[str] = []
    one = scrape.Server(("127.0.0.1", 0), page, SECRET, log.append)
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield one
    one.close()
    thread.join()
    assert log == []


def get(server: scrape.Server, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_names_are_for_who_has_roots_token_and_a_code_stays_the_same(server: scrape.Server) -> None:
    code, text = get(server)
    assert (code, "hers" in text) == (200, False)
    assert get(server, Authorization="Bearer wrong")[1] == text
    assert "hers" in get(server, Authorization=f"Bearer {SECRET}")[1]


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1:9753", 200), ("localhost", 200), ("[::1]:9", 200), ("evil.example:9753", 403)]
)
def test_a_foreign_name_is_refused(server: scrape.Server, host: str, expected: int) -> None:
    assert get(server, Host=host)[0] == expected


def test_idle_connections_have_a_bound_and_an_end_and_take_no_threads(
    server: scrape.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "_DEADLINE_S", 0.3)
    before = threading.active_count()
    idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(200)]
    for one in idle:
        one.settimeout(20)
        assert one.recv(1) == b""  # closed by the server, at once or at the deadline
    assert threading.active_count() <= before + scrape._WORKERS
    while True:  # until it has noticed that the last of them are gone
        with contextlib.suppress(ConnectionError):
            assert get(server)[0] == 200
            break


def test_the_token_is_roots_alone_whatever_the_umask_and_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "run" / "token"
    found = scrape.token(file)
    assert (len(found), file.stat().st_mode & 0o777) == (32, 0o600)
    file.chmod(0o644)
    assert scrape.token(file) == found
    assert file.stat().st_mode & 0o777 == 0o600
