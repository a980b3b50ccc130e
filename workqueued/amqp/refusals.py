"""What a broker or AMQP cannot take from a publisher, in words that say what to do.

Runs in: whatever publishes.
"""

import re
from collections.abc import Iterable
from typing import Any

import pika

from workqueued.amqp.connection import translate
from workqueued.delivery import Message
from workqueued.errors import DataError, RefusedError, UnroutableError, WorkqueuedError
from workqueued.urls import BrokerUrl

_TOO_LARGE = re.compile(r"message size (\d+) is larger than configured max size (\d+)")


class TooLargeError(DataError):
    """The broker takes no message of this size; `message` is the one, when it is known."""

    message: Message | None = None


class LevelsGoneError(UnroutableError):
    """There are no delay levels, or not all of them: they are declared when first used, and can be deleted."""


def explain_channel_close(error: Any, url: BrokerUrl | None, unconfirmed: Iterable[Message]) -> WorkqueuedError:
    """Why the broker closed a channel that only publishes.

    Args:
        error: pika's.
        url: of the broker.
        unconfirmed: the messages on their way, of which one may be the reason.
    """
    text, code = str(getattr(error, "reply_text", error)), getattr(error, "reply_code", None)
    too_large = _TOO_LARGE.search(text)
    if too_large:
        return _explain_too_large(int(too_large[1]), int(too_large[2]), unconfirmed)
    if code == 403:
        return RefusedError(
            f"no permission to publish: {text}; the user needs write on "
            f"{_exchange(text)}: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ"
        )
    if code == 404 and "no exchange" in text:  # of ours there are only the delay levels'
        return LevelsGoneError(f"the delay levels were deleted on {url}: {text}")
    if code == 406:  # of a channel that only publishes: an expiration or a header that the broker cannot read
        return DataError(f"the broker does not take this message: {text}")
    return translate(error, url)


def _exchange(text: str) -> str:
    """What to ask permission for."""
    return r"wq\.delay\..*" if "'wq.delay." in text else "amq.default"


def _explain_too_large(size: int, most: int, unconfirmed: Iterable[Message]) -> WorkqueuedError:
    error = TooLargeError(
        f"the message has {size} bytes and this broker takes at most {most} "
        "(max_message_size in rabbitmq.conf); put the data elsewhere and send a reference to it"
    )
    error.message = next((message for message in unconfirmed if len(message.body) == size), None)
    return error


def explain_encoding(error: Exception) -> str:
    """Why pika cannot encode a message."""
    if isinstance(error, pika.exceptions.UnsupportedAMQPFieldException):
        value = error.args[-1]
        return f"a header holds {value!r} ({type(value).__name__}); write it as text"
    if isinstance(error, pika.exceptions.ShortStringTooLong):
        return "a property, the queue's name or a header's name has more than 255 bytes"
    return f"AMQP cannot carry this message: {type(error).__name__}: {error}"
