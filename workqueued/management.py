"""Management: what RabbitMQ's management API tells of a queue and AMQP does not.

Runs in: monitor, a thread of its own, so that an API that is slow or hangs delays nothing else.

How many messages are given out and not acknowledged, and what goes in and out on all hosts. The API's figures are up to
five seconds old (`collect_statistics_interval`), so it is not asked more often. The user needs the tag `monitoring`.
"""

import base64
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from workqueued import tls
from workqueued.broker_settings import Broker
from workqueued.errors import ConfigError, WorkqueuedError
from workqueued.flow import Flow, Whole
from workqueued.logs import Reminder, log
from workqueued.signals import leave_to_main_thread
from workqueued.urls import ManagementUrl

#: How long one answer may take, seconds, and how large it may be, bytes: with its columns it is some hundred.
_TIMEOUT, _MOST = 5.0, 1_000_000
#: How often it is asked at most, seconds.
_RHYTHM = 5.0
#: Messages leave a queue acknowledged, or given to somebody who need not acknowledge.
_IN, _OUT = ("publish",), ("ack", "deliver_no_ack", "get_no_ack")
_COLUMNS = ",".join(
    ["messages_unacknowledged", *(f"message_stats.{name}_details.rate" for name in (*_IN, *_OUT))],
)


class ManagementError(WorkqueuedError):
    """The management API gives no answer, or not the one that we need."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection would carry the password to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


class ManagementReader:
    """Asks the API of one broker for the queues of its vhost."""

    def __init__(self, broker: Broker, url: ManagementUrl) -> None:
        first = broker.url[0]
        user = first.user if url.user is None else url.user
        password = first.secret if url.password is None else url.password
        self._user = user
        self._headers = {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
        self._base = f"{url.base}/api/queues/{quote(first.vhost, safe='')}"
        self._tls = url.tls
        self._certificates = broker.tls
        self._opener: urllib.request.OpenerDirector | None = None

    def read(self, queue: str) -> Whole:
        """What it says of a queue; nothing of one that it does not know.

        Raises:
            ManagementError: no answer; the text says what to do.
        """
        url = f"{self._base}/{quote(queue, safe='')}?columns={_COLUMNS}"
        request = urllib.request.Request(url, headers=self._headers)  # noqa: S310 - http or https, see ManagementUrl
        try:
            self._opener = self._opener or self._make_opener()
            with self._opener.open(request, timeout=_TIMEOUT) as answer:
                return understand(json.loads(answer.read(_MOST)))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.client.NOT_FOUND:
                    return Whole()
                raise ManagementError(self._explain(error.code)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ManagementError(f"{self._base}: {getattr(error, 'reason', None) or error}") from error

    def _make_opener(self) -> urllib.request.OpenerDirector:
        # Not through a proxy of the environment either: it would read the password.
        handlers: list[Any] = [urllib.request.ProxyHandler({}), _NoRedirect]
        if self._tls:
            try:
                handlers.append(urllib.request.HTTPSHandler(context=tls.context(self._certificates)))
            except ConfigError as error:  # a file that was there when the configuration was read
                raise ManagementError(str(error)) from error
        return urllib.request.build_opener(*handlers)

    def _explain(self, code: int) -> str:
        if code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            return (
                f"{self._base}: the user {self._user!r} is refused ({code}); it needs the right password and the tag "
                f"monitoring: rabbitmqctl set_user_tags {self._user} monitoring"
            )
        return f"{self._base}: found status {code}, expected 200; is it the management API of RabbitMQ?"


def understand(answer: Any) -> Whole:
    """What an answer says; whatever is not there is unknown."""
    told = answer if isinstance(answer, dict) else {}
    unacked = told.get("messages_unacknowledged")
    if not isinstance(unacked, int):
        return Whole()  # a queue that was declared a moment ago has no figures yet
    stats = told.get("message_stats")
    if not isinstance(stats, dict) or not stats:
        return Whole(unacked)  # nothing was ever published to it, or rates_mode is none
    return Whole(unacked, Flow(_sum(stats, _IN), _sum(stats, _OUT)))


def _sum(stats: Mapping[str, Any], names: Iterable[str]) -> float:
    """The rates of these together; what never happened is not there."""
    details = (stats.get(f"{name}_details") for name in names)
    rates = (one.get("rate") for one in details if isinstance(one, dict))
    return float(sum(rate for rate in rates if isinstance(rate, int | float)))


class Clerk(threading.Thread):
    """Asks again and again, and has the last answers ready.

    Attributes:
        answers: by queue; empty when the last round failed. Replaced as a whole.
    """

    def __init__(
        self,
        read: Callable[[str], Whole],
        queues: Iterable[str],
        interval: float,
        pause: Callable[[float], Any] = time.sleep,
    ) -> None:
        super().__init__(name="clerk", daemon=True)
        self.answers: Mapping[str, Whole] = {}
        self._read = read
        self._queues = list(queues)
        self._interval = max(interval, _RHYTHM)
        self._pause = pause
        self._trouble = Reminder()

    def run(self) -> None:
        """Ask for ever; the thread is a daemon."""
        leave_to_main_thread()
        while True:
            self.ask()
            self._pause(self._interval)

    def ask(self) -> None:
        """One round."""
        try:
            self.answers = {queue: self._read(queue) for queue in self._queues}
            self._trouble.end()
        except Exception as error:  # noqa: BLE001 - a thread that ended would never answer again
            self.answers = {}
            if self._trouble.due(str(error)):
                log.warning("management.unreachable", error=str(error))
