"""Work queues and dead queues, declared as plainly as possible, and what to say when the broker has them otherwise.

Runs in: workers, the commands.

A work queue is durable and has its type, nothing else, so that any client's ordinary declaration matches ours. All
arguments are constants: two hosts with different YAML agree, and nothing that can be tuned is answered with 406.
"""

import contextlib
import re
from typing import Any

from workqueued.amqp.connection import connect, translated
from workqueued.broker_settings import Broker
from workqueued.errors import QueueRefusedError
from workqueued.queue_settings import DEAD_SUFFIX, Queue

#: Arguments of a dead queue. Browsing it returns every message each time, and RabbitMQ 4 drops a message after 20
#: returns. -1 would mean no limit there, but on 3.10 "drop at the first return".
DEAD_QUEUE_ARGUMENTS = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}

_MISMATCH = re.compile(
    r"inequivalent arg '([^']+)' for (queue|exchange) '(.+)' in vhost '(.+)': received (.*?) but current is (.*)"
)
_VALUE = re.compile(r"'([^']*)'")


def queue_arguments(queue_type: str) -> dict[str, Any]:
    """Arguments of a work queue. A classic queue has none: that is how the tutorials of all languages declare it."""
    return {} if queue_type == "classic" else {"x-queue-type": queue_type}


def declare(channel: Any, name: str, queue: Queue) -> None:
    """Declare a work queue and its dead queue on a BlockingChannel.

    Raises:
        QueueRefusedError: the broker has the queue otherwise (406), locked it (405), or we have no permission (403).
        ConnectionLostError: the connection or the channel is gone.
    """
    try:
        with translated():
            if queue.declare == "plain":
                channel.queue_declare(name, durable=True, arguments=queue_arguments(queue.type))
            else:
                channel.queue_declare(name, passive=True)
    except QueueRefusedError as error:
        raise QueueRefusedError(explain_refusal(name, queue, str(error))) from error
    declare_dead_queue(channel, name + DEAD_SUFFIX)


def declare_dead_queue(channel: Any, name: str) -> None:
    """Declare a dead queue on a BlockingChannel; errors as for `declare`."""
    try:
        with translated():
            channel.queue_declare(name, durable=True, arguments=DEAD_QUEUE_ARGUMENTS)
    except QueueRefusedError as error:
        raise QueueRefusedError(explain_dead_queue(name, str(error))) from error


def declare_once(broker: Broker, name: str, queue: Queue, client: str) -> None:
    """The same on a connection of its own; errors as for `declare`, and RefusedError."""
    connection = connect(broker, client)
    try:
        with translated():
            channel = connection.channel()
        declare(channel, name, queue)
    finally:
        with contextlib.suppress(Exception):
            connection.close()


def explain_refusal(name: str, queue: Queue, text: str) -> str:
    """What the broker refused, in words that show found against wanted and say what can be done."""
    difference = find_difference(text)
    if difference is None:
        return _explain_other(name, queue, text)
    argument, wanted, found = difference
    ways = [
        f"declare: false (take the queue as it is), under queues.{name}",
        "another queue name",
        f"drain the queue and delete it (rabbitmqctl delete_queue {name}); it is then declared anew",
    ]
    if argument == "x-queue-type" and found in ("classic", "none"):
        ways.insert(0, f"type: classic, under queues.{name} (the queue was made by a client that asked for no type)")
    elif argument == "x-queue-type" and found == "quorum":
        ways.insert(0, f"type: {found}, under queues.{name}")
    elif argument == "durable" and found == "false":
        ways[0] += ", and then lose its messages whenever the broker restarts"
    return (
        f"queue {name!r} exists with {argument}={found}, and the configuration wants {argument}={wanted}. "
        f"An existing queue cannot be changed; choose one: {'; or '.join(ways)}"
    )


def find_difference(text: str, kind: str = "queue") -> tuple[str, str, str] | None:
    """(argument, wanted, found) from the broker's 406, whose wording differs by version; None if it is another error.

    RabbitMQ 3.10: "received the value 'quorum' of type 'longstr' but current is none"; 4.0: "received 'quorum' but
    current is 'classic'".
    """
    match = _MISMATCH.search(text)
    if match is None or match[2] != kind:
        return None
    argument, _, _, _, received, current = match.groups()
    return argument, _bare(received), _bare(current)


def _bare(words: str) -> str:
    quoted = _VALUE.search(words)
    return quoted[1] if quoted else words.strip()


def _explain_other(name: str, queue: Queue, text: str) -> str:
    if "NOT_FOUND" in text and queue.declare == "false":
        return f"queue {name!r} does not exist, and declare: false means that somebody else makes it ({text})"
    if "ACCESS_REFUSED" in text:
        return _explain_permission(name, text)
    if "RESOURCE_LOCKED" in text:
        return f"queue {name!r} belongs to one connection alone (exclusive); choose another name ({text})"
    return f"the broker refuses queue {name!r}: {text}"


def _explain_permission(name: str, text: str) -> str:
    work = name.removesuffix(DEAD_SUFFIX)
    return (
        f"no permission on queue {name!r} ({text}). The user needs configure, read and write on {work!r} "
        f"and {work + DEAD_SUFFIX!r}, and write on amq.default: "
        "rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ"
    )


def explain_dead_queue(name: str, text: str) -> str:
    """The same for a dead queue, whose arguments are fixed."""
    difference = find_difference(text)
    if "ACCESS_REFUSED" in text:
        return _explain_permission(name, text)
    if difference is None:
        return f"the broker refuses the dead queue {name!r}: {text}"
    argument, wanted, found = difference
    return (
        f"the dead queue {name!r} exists with {argument}={found}, and workqueued needs {argument}={wanted}. "
        f"Move its messages away and delete it (rabbitmqctl delete_queue {name}); it is then declared anew"
    )
