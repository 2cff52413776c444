"""The port that Prometheus asks at: a page for whoever may connect, in bounded threads and time.

Anybody on the machine may ask, so names of sessions are not told: each is a code that stays the same.  Who sends root's token
(``Authorization: Bearer``, from a file that only root reads) is told the names.
"""

import hashlib
import hmac
import http.server
import ipaddress
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agentcgroup.session.places import RUN

TOKEN = RUN / "metrics.token"
_WORKERS, _MOST = 4, 32
"""Threads, and connections that are served or wait; what comes beyond is closed at once."""
_DEADLINE_S = 5.0
"""From a connection to its end."""
_FRESH_S = 1.0
"""A page is made anew when it is older than this."""

Page = Callable[[Callable[[str], str]], bytes]
"""Makes the page, with a function that says how a session's name is shown."""


def token(file: Path = TOKEN) -> str:
    """Root's token, made where there is none; it outlives the daemon, not the machine's next start."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+") as opened:
        os.fchmod(descriptor, 0o600)
        found = opened.read().strip()
        if not found:
            found = secrets.token_hex(16)
            opened.write(found + "\n")
    return found


def is_local_name(host: str) -> bool:
    """Whether a ``Host`` header names an address, or this machine: a page of the web that points its own name here sends that name."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Server(http.server.HTTPServer):
    """Answers ``GET /metrics``.  Raises OSError where the port can't be had."""

    address_family = socket.AF_INET
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], page: Page, secret: str, log: Callable[[str], None]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._page, self._secret, self._log = page, secret, log
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="metrics")
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._open: dict[Any, float] = {}
        self._made: dict[bool, tuple[float, bytes]] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            room = len(self._open) < _MOST
            if room:
                self._open[request] = time.monotonic() + _DEADLINE_S
        if room:
            self._pool.submit(self._serve, request, client_address)
        else:
            self.shutdown_request(request)

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # it went, or its time was over
        except Exception as error:
            self._log(f"the metrics could not be told: {error!r}")
        finally:
            with self._lock:
                del self._open[request]
                self.shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second: end what takes too long."""
        now = time.monotonic()
        with self._lock:
            for request, deadline in self._open.items():
                if now > deadline:
                    try:
                        request.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        continue  # the other end went first

    def page(self, authorization: str) -> bytes:
        """The page: with names for who knows the token."""
        named = hmac.compare_digest(authorization.encode(errors="replace"), f"Bearer {self._secret}".encode())
        with self._making:
            made_at, text = self._made.get(named, (0.0, b""))
            if time.monotonic() > made_at + _FRESH_S or not text:
                text = self._page(str if named else self._code)
                self._made[named] = time.monotonic(), text
        return text

    def _code(self, name: str) -> str:
        return "s-" + hashlib.blake2b(name.encode(errors="replace"), key=self._secret.encode(), digest_size=6).hexdigest()

    def close(self) -> None:
        """End the server, which runs in another thread, and what it serves."""
        self.shutdown()
        self.server_close()
        with self._lock:
            for request in self._open:
                request.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    timeout = _DEADLINE_S

    def do_GET(self) -> None:
        if not is_local_name(self.headers.get("Host", "localhost")):
            self.send_error(403, "ask by an address, or by localhost")
        elif self.path.split("?")[0] not in ("/metrics", "/"):
            self.send_error(404, "metrics are at /metrics")
        else:
            text = self.server.page(self.headers.get("Authorization", ""))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Scrapes are not logged."""
