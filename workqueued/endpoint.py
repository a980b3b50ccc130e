"""The endpoint: metrics, health and status over HTTP, for whoever watches the service.

Runs in: monitor, in threads of its own; what it imports is imported there alone.

It only reads the scoreboard, so it can disturb nobody. Waitress reads and writes all clients in one thread, so that a
slow one costs a buffer, and answers with two more. There is no access control: it listens on loopback unless told else.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from waitress.server import create_server

from workqueued.logs import Reminder, log
from workqueued.signals import leave_to_main_thread
from workqueued.status import Status
from workqueued.urls import Address

#: How many clients there may be at once, and how long one may be silent, seconds.
_CLIENTS, _SILENCE = 50, 20
#: How large a request's head and body may be, bytes; none of ours needs a body.
_MOST_HEAD, _MOST_BODY = 16_384, 16_384
#: How often a port that is taken is tried again, seconds.
_AGAIN = 5.0

Start = Callable[[str, list[tuple[str, str]]], object]
#: Status line, type, body.
Answer = tuple[str, str, bytes]


class Pages:
    """The WSGI application.

    Args:
        look: the status now.
        facts: a status as plain data, for JSON.
        ailments: why the monitor or the master is not alive; empty when both are.
        registry: of the metrics.
    """

    def __init__(
        self,
        look: Callable[[], Status],
        facts: Callable[[Status], Mapping[str, Any]],
        ailments: Callable[[], list[str]],
        registry: CollectorRegistry,
    ) -> None:
        self._look = look
        self._facts = facts
        self._ailments = ailments
        self._registry = registry
        self._pages: Mapping[str, Callable[[Mapping[str, Any]], Answer]] = {
            "/metrics": self._metrics,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/status.json": self._status,
        }

    def __call__(self, environ: Mapping[str, Any], start: Start) -> Iterable[bytes]:
        """Answer one request."""
        method, page = environ["REQUEST_METHOD"], self._pages.get(environ["PATH_INFO"])
        headers = [("Cache-Control", "no-store")]
        if page is None:
            line, kind, body = _text("404 Not Found", [f"there are {', '.join(self._pages)}"])
        elif method not in ("GET", "HEAD"):
            line, kind, body = _text("405 Method Not Allowed", ["only GET and HEAD"])
            headers.append(("Allow", "GET, HEAD"))
        else:
            line, kind, body = _answer(page, environ)
        start(line, [*headers, ("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [] if method == "HEAD" else [body]

    def _metrics(self, environ: Mapping[str, Any]) -> Answer:
        encode, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        return "200 OK", kind, encode(self._registry)

    def _health(self, _: Mapping[str, Any]) -> Answer:
        return _judged(self._ailments())

    def _readiness(self, _: Mapping[str, Any]) -> Answer:
        status = self._look()
        if status.ready:
            return _text("200 OK", [status.condition.value, *status.reasons])
        return _judged([status.condition.value, *status.reasons])

    def _status(self, _: Mapping[str, Any]) -> Answer:
        return "200 OK", "application/json", json.dumps(self._facts(self._look())).encode() + b"\n"


def _answer(page: Callable[[Mapping[str, Any]], Answer], environ: Mapping[str, Any]) -> Answer:
    try:
        return page(environ)
    except Exception as error:  # noqa: BLE001 - a bug of ours, or a damaged row: told here and there
        log.error("endpoint.failed", page=environ["PATH_INFO"], error=repr(error))
        return _text("500 Internal Server Error", ["see endpoint.failed in the log"])


def _judged(ailments: list[str]) -> Answer:
    return _text("503 Service Unavailable", ailments) if ailments else _text("200 OK", ["ok"])


def _text(line: str, texts: Iterable[str]) -> Answer:
    return line, "text/plain; charset=utf-8", "".join(f"{text}\n" for text in texts).encode(errors="replace")


def serve(pages: Pages, address: Address) -> None:
    """Serve in the background for as long as the process lives; a port that is taken is told and tried again."""
    # What waitress has to say would go to stderr as words, and the log is JSON.
    logging.getLogger("waitress").setLevel(logging.CRITICAL + 1)
    threading.Thread(target=_serve, args=(pages, address), name="endpoint", daemon=True).start()


def _serve(pages: Pages, address: Address) -> None:
    leave_to_main_thread()
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    trouble = Reminder()
    while True:
        try:
            # Ours, as waitress leaves threads and sockets behind where the port is taken.
            listener = socket.create_server((address.host, address.port), family=family)
            server = create_server(
                pages,
                sockets=[listener],
                threads=2,
                ident=None,
                asyncore_loop_timeout=_SILENCE // 2,
                connection_limit=_CLIENTS,
                channel_timeout=_SILENCE,
                cleanup_interval=_SILENCE // 2,
                max_request_header_size=_MOST_HEAD,
                max_request_body_size=_MOST_BODY,
                clear_untrusted_proxy_headers=True,
            )
            log.info("endpoint.opened", address=str(address))
            trouble.end()
            server.run()
        except Exception as error:  # noqa: BLE001 - the monitor has more to do than this
            reason = getattr(error, "strerror", None) or str(error)
            if trouble.due(reason):
                log.warning("endpoint.blocked", address=str(address), error=reason, hint=_HINT)
        time.sleep(_AGAIN)


_HINT = "end whoever has the port, or give this instance another: monitor.listen, then reload (HUP)"
