"""Connections: pika's parameters from our configuration, pika's errors in our words.

Runs in: workers, the monitor, the commands.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pika
import pika.data
from pika.adapters.utils import connection_workflow
from pika.credentials import ExternalCredentials
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AMQPHeartbeatTimeout,
    AuthenticationError,
    ChannelClosed,
    ChannelClosedByBroker,
    ChannelWrongStateError,
    ConnectionBlockedTimeout,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    StreamLostError,
)

from workqueued import tls
from workqueued.amqp import decoding, handshake
from workqueued.broker_settings import Broker
from workqueued.delivery import Properties
from workqueued.errors import ConfigError, ConnectionLostError, QueueRefusedError, RefusedError, WorkqueuedError
from workqueued.urls import BrokerUrl

# What pika says of a lost connection is raised as well, and our log is JSON.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
decoding.guard()

#: How long sent data may stay unacknowledged by the peer's kernel, ms: finds a half-open link (tcp(7)). It says
#: nothing about a hung broker, whose kernel goes on acknowledging; the heartbeat finds that.
_TCP_USER_TIMEOUT = 10_000

#: That needs something sent, and an idle worker sends its heartbeats half a heartbeat apart: so the kernel asks after
#: 5 s of silence, then every 2 s. Without an answer it gives up after 11 s with TCP_USER_TIMEOUT, else after 13.
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 4}
#: Text of headers that may be sent as it is: in UTF-8 it is at most four times as long, and one frame holds 128 KiB.
_SAFE_TEXT = 30_000
#: All properties and headers must fit into one frame of 131,072 bytes, or the broker closes the connection (501). The
#: other properties are short strings: 2 KiB hold them all.
MOST_HEADER_BYTES = 131_072 - 2_048
#: Texts of 404 that heal by themselves: a classic queue's home node is down (RabbitMQ 3.10, 4.0).
_TRANSIENT_404 = ("home node", "due to timeout")


def parameters(broker: Broker, url: BrokerUrl, name: str, *, publishes: bool = False) -> pika.ConnectionParameters:
    """Pika's parameters for one address.

    Args:
        broker: timeouts and heartbeat.
        url: the address.
        name: what `rabbitmqctl list_connections client_properties` shows.
        publishes: a connection that publishes may rightly be stalled by the broker's alarm: no TCP_USER_TIMEOUT, which
            would also end a connection whose peer keeps its window shut.

    Raises:
        RefusedError: the files of `broker.tls` cannot be used (any more).
    """
    return pika.ConnectionParameters(
        host=url.host,
        port=url.port,
        virtual_host=url.vhost,
        credentials=_credentials(broker, url),
        heartbeat=int(broker.heartbeat),
        blocked_connection_timeout=None,
        socket_timeout=broker.connect_timeout,
        stack_timeout=broker.connect_timeout,
        connection_attempts=1,
        retry_delay=0,
        client_properties={
            "connection_name": f"{name} {socket.gethostname()} {os.getpid()}",
            "product": "workqueued",
        },
        tcp_options=tcp_options(publishes=publishes),
        ssl_options=_ssl_options(broker, url) if url.tls else None,
    )


def _credentials(broker: Broker, url: BrokerUrl) -> Any:
    if url.tls and broker.tls is not None and broker.tls.login:
        return ExternalCredentials()
    return pika.PlainCredentials(url.user, url.secret)


def _ssl_options(broker: Broker, url: BrokerUrl) -> Any:
    try:
        return pika.SSLOptions(tls.context(broker.tls), url.host)
    except ConfigError as error:  # the files were good when the configuration was read; they may be so again
        raise RefusedError(f"no connection to the broker {url}: {error}") from error


def tcp_options(*, publishes: bool) -> dict[str, int]:
    """What the kernel is to do about a peer that has gone without a word; with `heartbeat: 0` nobody else notices.

    pika sets SO_KEEPALIVE when one of these is given; by itself the kernel would begin after two hours (tcp(7)).
    """
    return _KEEPALIVE if publishes else {"TCP_USER_TIMEOUT": _TCP_USER_TIMEOUT, **_KEEPALIVE}


def connect(broker: Broker, name: str) -> Any:
    """Open a BlockingConnection to the first address that answers; they are tried in order.

    Raises:
        ConnectionLostError: no address answered.
        RefusedError: an address answered no (and none said yes).
    """
    failures: list[WorkqueuedError] = []
    for url in broker.url:
        try:
            with translated(url):
                return pika.BlockingConnection(parameters(broker, url, name))
        except WorkqueuedError as error:
            failures.append(error)
    raise worst(failures)


def worst(failures: list[WorkqueuedError]) -> WorkqueuedError:
    """The error to report after every address failed: a no says more than a silence."""
    refusals = [error for error in failures if isinstance(error, RefusedError)]
    if refusals:
        return refusals[0]
    if len(failures) == 1:
        return failures[0]
    return ConnectionLostError("; ".join(str(error) for error in failures))


#: What pika raises when something is wrong with the connection or the channel. Three of these derive from neither
#: AMQPError nor each other: gaierror (an OSError) for DNS, ValueError("Timeout closed before call") from a closed
#: connection, AMQPConnectorException for a handshake that takes too long.
PIKA_ERRORS = (AMQPError, connection_workflow.AMQPConnectorException, OSError, ValueError)


@contextlib.contextmanager
def translated(url: BrokerUrl | None = None) -> Iterator[None]:
    """Turn what pika raises inside the block into our errors."""
    try:
        yield
    except WorkqueuedError:
        raise
    except PIKA_ERRORS as error:
        raise translate(error, url) from error


def why_closed(channel: Any) -> WorkqueuedError:
    """What ended a channel that is closed; pika itself goes on returning normally."""
    # pika keeps the reason in a private attribute; without it we still know that the channel is closed.
    reason = getattr(channel, "_closing_reason", None)
    return translate(reason) if reason else ConnectionLostError("the broker closed the channel")


def translate(error: BaseException, url: BrokerUrl | None = None) -> WorkqueuedError:
    """One of pika's errors in our words."""
    at = f" {url}" if url else ""
    while isinstance(error, connection_workflow.AMQPConnectionWorkflowFailed) and error.exceptions:
        error = error.exceptions[-1]
    while isinstance(error, connection_workflow.AMQPConnectorPhaseErrorBase):
        error = error.exception
    if isinstance(error, AMQPConnectionError) and len(error.args) == 1 and isinstance(error.args[0], BaseException):
        return translate(error.args[0], url)
    if url is not None and (told := handshake.explain(error, url)) is not None:
        return told
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        if ExternalCredentials.TYPE in str(error):
            return RefusedError(
                f"the broker{at} does not log us in by our certificate ({_text(error)}): it needs the plugin "
                "rabbitmq_auth_mechanism_ssl, EXTERNAL in auth_mechanisms, and a user of the certificate's name"
            )
        user = f" {url.user!r}" if url else ""
        return RefusedError(f"the broker{at} refuses user{user}: wrong name or password ({_text(error)})")
    if isinstance(error, ProbableAccessDeniedError):
        vhost = f" {url.vhost!r}" if url else ""
        return RefusedError(f"the broker{at} refuses vhost{vhost}: not there, or no permission ({_text(error)})")
    if isinstance(error, ChannelClosedByBroker):
        return _translate_channel_close(error)
    if isinstance(error, ConnectionClosedByBroker) and error.reply_code == 403:
        return RefusedError(f"the broker{at} closed the connection: {error.reply_text}")
    what = f"no connection to the broker{at}" if url else "lost the connection to the broker"
    return ConnectionLostError(f"{what}: {_text(error)}")


def _translate_channel_close(error: Any) -> WorkqueuedError:
    """A channel that the broker closed: 403, 404, 405 and 406 mean one queue; the rest heals by itself."""
    text = str(error.reply_text)
    if error.reply_code == 404 and any(word in text for word in _TRANSIENT_404):
        return ConnectionLostError(f"the queue is out of reach for now: {text}")
    # A delivery that was not acknowledged in time is a 406 as well, and no reason to refuse the queue.
    if error.reply_code == 406 and "inequivalent arg" not in text and "invalid arg" not in text:
        return ConnectionLostError(f"the broker closed the channel: {text}")
    if error.reply_code in (403, 404, 405, 406):
        return QueueRefusedError(text)
    return ConnectionLostError(f"the broker closed the channel: {error.reply_code} {text}")


def _text(error: BaseException) -> str:
    """What an error says, in the fewest words that still name the cause."""
    if isinstance(error, socket.gaierror):
        return f"the host name is not known ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if isinstance(error, connection_workflow.AMQPConnectorStackTimeout | TimeoutError):
        return "it did not answer in time"
    if isinstance(error, AMQPHeartbeatTimeout):
        return "no sign of life for two heartbeats"
    if isinstance(error, ConnectionClosedByBroker):
        return f"closed by the broker: {error.reply_code} {error.reply_text}"
    if isinstance(error, StreamLostError):
        # pika keeps of the kernel's error only its repr.
        return "nobody answers at the other end any more" if "TimeoutError(" in str(error) else "it broke"
    if isinstance(error, ConnectionBlockedTimeout):
        return "the broker blocks publishers"
    if isinstance(error, ChannelClosed | ChannelWrongStateError):
        return "the channel is closed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


# --- properties -----------------------------------------------------------------------------------------------------

_PLAIN = (
    "message_id",
    "type",
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "app_id",
    "priority",
    "expiration",
)


def properties_from_pika(raw: Any) -> Properties:
    """Our properties from pika's; headers stay as pika decoded them."""
    return Properties(
        **{name: getattr(raw, name) for name in _PLAIN},
        timestamp=raw.timestamp if isinstance(raw.timestamp, int) else None,
        headers=raw.headers or {},
    )


def properties_to_pika(ours: Properties) -> Any:
    """Pika's properties from ours, persistent."""
    return pika.BasicProperties(
        **{name: getattr(ours, name) for name in _PLAIN},
        timestamp=ours.timestamp,
        headers=dict(ours.headers) or None,
        delivery_mode=pika.DeliveryMode.Persistent.value,
    )


def may_overflow_a_frame(headers: Mapping[str, Any]) -> bool:
    """Whether they are so large that it is worth the time to measure whether they fit into one frame.

    Over which the broker closes the connection (501). The broker's own letters may fill theirs, and a replay adds one.
    """
    size = 0
    for value in headers.values():
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, dict | list):
            return True
    return size + 50 * len(headers) > _SAFE_TEXT


def encoded_size(headers: Mapping[str, Any]) -> int:
    """Bytes that a header table takes on the wire.

    Raises:
        ValueError: a value that AMQP cannot carry.
    """
    try:
        return int(pika.data.encode_table([], headers))
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
