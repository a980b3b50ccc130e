"""Delay levels: every number of seconds is the sum of the levels it waits in, every queue has a word of its own."""

import itertools
import random
from fnmatch import fnmatchcase

import pytest

from workqueued.delays import (
    ASTRAY,
    DELIVER,
    HIGHEST,
    LONGEST,
    LONGEST_IN_WORDS,
    below,
    digits,
    highest,
    holds,
    level,
    outbox,
    pattern,
    route,
    target_pattern,
    word,
)

#: The longest time to live that RabbitMQ takes, ms.
_LONGEST_TTL = 2**32 - 1
_CHANCE = random.Random(1)
RANDOM = [_CHANCE.randint(1, LONGEST) for _ in range(5000)] + [2**_CHANCE.randint(0, 23) for _ in range(100)]
EDGES = [2**22 - 1, 2**22, 2**22 + 1, 2**23 - 1, 2**23, 3 * 2**22, LONGEST - 1, LONGEST, 180 * 86400]

NAMES = [
    "task_queue", "a.b", "a%2Eb", "a%2eb", "a%252Eb", "a*b", "a#b", "*", "#", ".", "..", "%", "%2", "a b", "é",
    "日本語", "A.B", "a.b.dead", "x" * 205, "x" * 206, "x" * 250, "x" * 251, "." * 68, "." * 69,
    "." * 250, "é" * 102, "é" * 103, "日" * 83,
    "%sha256-", "sha256-", "wq.delay.0", "wq.delay.to.a", "'\"", "\\", "\n", "amq.gen",
]  # fmt: skip


def matches(topic: str, key: str) -> bool:
    """What RabbitMQ's topic exchange says: `*` is one word, `#` at the end any number."""
    wanted, words = topic.split("."), key.split(".")
    if wanted[-1] == "#":
        wanted, words = wanted[:-1], words[: len(wanted) - 1]
    return len(wanted) == len(words) and all(
        one in ("*", other) for one, other in zip(wanted, words, strict=True)
    )


def way(queue: str, seconds: int) -> tuple[list[int], str]:
    """The levels that a message waits in, as the exchanges would route it, and its key."""
    exchange, key = route(queue, seconds)
    waits = []
    for number in range(HIGHEST, -1, -1):
        if exchange != level(number):
            continue
        one, zero = matches(pattern(number, 1), key), matches(pattern(number, 0), key)
        assert one != zero
        if one:
            waits.append(number)
        exchange = below(number)
    assert exchange == DELIVER
    return waits, key


@pytest.mark.parametrize("seconds", [range(1, 5001), RANDOM, EDGES], ids=["1 to 5000", "random", "edges"])
def test_the_levels_that_a_message_waits_in_add_up_to_its_delay(seconds: list[int]) -> None:
    """Exactly, and it waits in the first exchange's level at once: no hop in vain."""
    for delay in seconds:
        waits, _ = way("q", delay)
        assert sum(map(holds, waits)) == delay
        assert waits[0] == highest(delay)
        assert len(digits(delay)) == HIGHEST + 1


def test_no_level_holds_longer_than_the_broker_can() -> None:
    """RabbitMQ refuses a time to live of more than 32 bits."""
    assert max(holds(number) for number in range(HIGHEST + 1)) * 1000 <= _LONGEST_TTL
    assert sum(holds(number) for number in range(HIGHEST + 1)) == LONGEST
    assert LONGEST >= 180 * 86400
    assert LONGEST_IN_WORDS == "194 days"


@pytest.mark.parametrize("seconds", [0, -1, LONGEST + 1])
def test_what_no_levels_can_hold_is_refused(seconds: int) -> None:
    """Rather than delivered at another time."""
    with pytest.raises(ValueError, match="there are delays from 1 to 16777215 s"):
        route("q", seconds)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_fits_and_has_one_word_for_the_queue(name: str) -> None:
    """255 bytes are what AMQP takes for a routing key, a pattern and a queue's name."""
    _, key = route(name, LONGEST)
    assert len(key.encode()) <= 255
    assert len(target_pattern(name).encode()) <= 255
    assert len(outbox(name).encode()) <= 255
    assert key.count(".") == HIGHEST + 1
    assert not set(word(name)) & set(".*#")


def test_a_key_reaches_its_own_queue_alone() -> None:
    """Whatever the two names have in common."""
    for one, other in itertools.product(NAMES, repeat=2):
        assert matches(target_pattern(one), route(other, 5)[1]) == (one == other), (one, other)
    assert len({outbox(name) for name in NAMES}) == len(NAMES)


def test_names_that_differ_only_in_escapes_have_different_words() -> None:
    """Any two of some thousand names made of the characters that mean something."""
    names = ["".join(letters) for length in range(6) for letters in itertools.product("a.%2E", repeat=length)]
    assert len({word(name) for name in names}) == len(names)


def test_the_name_of_a_digest_is_no_other_queues_word() -> None:
    """A queue may be called like the digest of another one."""
    digest = word("x" * 250)
    assert digest.startswith("%sha256-")
    assert word(digest) != digest


def test_what_is_ours_has_names_of_one_kind() -> None:
    """So that one pattern of permissions is enough."""
    names = [DELIVER, ASTRAY, outbox("a.b"), *map(level, range(HIGHEST + 1))]
    assert all(fnmatchcase(name, "wq.delay.*") for name in names)
    assert len(set(names)) == len(names)
