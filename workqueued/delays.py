"""Delay levels: how a number of seconds becomes a way through queues of the broker.

Runs in: whatever publishes with a delay.

A message waits in the broker, never in a worker. Level k is a queue that holds each message for 2^k seconds and then
passes it on to level k-1, so a delay is its binary number: the digits say in which levels the message waits. All
messages of a level wait equally long, so none waits behind a longer delay, and 25 queues do for any number of seconds.

The routing key is the digits, the highest first, then one word for the target queue:

    0.0. … .1.0.1.task_queue        five seconds: levels 2 and 0

All names and arguments are constants of the wire contract (docs/messages.md): any version of ours on any host finds
the levels that another one has declared.
"""

import hashlib
import re

#: RabbitMQ takes no time to live beyond 2^32 - 1 ms, so 2^22 s is the most for one level (49 days).
_LONGEST_LEVEL = 22
#: Two more levels of that length, beyond the binary number, bring the longest delay from 97 days to 194.
HIGHEST = 24
#: The longest delay, seconds: each level once.
LONGEST = 2**24 - 1
#: The same for people.
LONGEST_IN_WORDS = f"{LONGEST // 86400} days"

#: Where a message goes when it has waited; from here to its target's outbox.
DELIVER = "wq.delay.deliver"
#: What has no outbox (somebody deleted it) is kept here.
ASTRAY = "wq.delay.dead"
#: Names that a user needs permission on, as a regular expression of RabbitMQ's.
PERMISSION = r"wq\.delay\..*"

#: Bytes of a routing key.
_SHORT_STRING = 255
#: Bytes that a key has left for the word: each digit and its dot take two.
_LONGEST_WORD = _SHORT_STRING - 2 * (HIGHEST + 1)
#: What means something in a topic's pattern, and the escape itself.
_SPECIAL = re.compile(r"[%.*#]")


def level(number: int) -> str:
    """The name of a level: both of its exchange and of its queue."""
    return f"wq.delay.{number}"


def below(number: int) -> str:
    """The exchange that a level passes its messages on to."""
    return level(number - 1) if number else DELIVER


def holds(number: int) -> int:
    """How long a message waits in a level, seconds."""
    return 1 << min(number, _LONGEST_LEVEL)


def digits(seconds: int) -> str:
    """A 1 for each level to wait in and a 0 for each other one, the highest first.

    Raises:
        ValueError: no delay, or a longer one than all levels together.
    """
    if not 1 <= seconds <= LONGEST:
        raise ValueError(f"a delay of {seconds} s; there are delays from 1 to {LONGEST} s")
    long, rest = divmod(seconds, holds(_LONGEST_LEVEL))
    return f"{(1 << long) - 1:03b}{rest:0{_LONGEST_LEVEL}b}"


def highest(seconds: int) -> int:
    """The first level that a message waits in. Errors as for `digits`."""
    return HIGHEST - digits(seconds).index("1")


def word(queue: str) -> str:
    """A queue's name as one word of a routing key, and no other queue's word.

    What a topic's pattern would take for more than itself is escaped. A name that is too long is digested: the
    escape is never followed by an s otherwise.
    """
    escaped = _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", queue)
    if len(escaped.encode()) <= _LONGEST_WORD:
        return escaped
    return f"%sha256-{hashlib.sha256(queue.encode()).hexdigest()}"


def route(queue: str, seconds: int) -> tuple[str, str]:
    """The exchange and the routing key to publish with. Errors as for `digits`."""
    return level(highest(seconds)), f"{'.'.join(digits(seconds))}.{word(queue)}"


def pattern(number: int, digit: int) -> str:
    """What a level's exchange compares keys with: only the level's own digit counts."""
    return "*." * (HIGHEST - number) + f"{digit}.#"


def target_pattern(queue: str) -> str:
    """What `DELIVER` compares keys with: the queue's word after as many digits as there are."""
    return "*." * (HIGHEST + 1) + word(queue)


def outbox(queue: str) -> str:
    """The name of the queue between `DELIVER` and a target, which keeps what the target cannot take now."""
    return f"wq.delay.to.{word(queue)}"
