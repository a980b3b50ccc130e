"""An errand: what one run of `wq-dead` is to do, with which letters of which queue."""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from workqueued.amqp.deadletters import DeadQueue
from workqueued.amqp.look import PREFETCH, Look
from workqueued.cli.screen import Screen, note
from workqueued.cli.where import Where
from workqueued.delivery import REPLAYED
from workqueued.errors import UnroutableError, WorkqueuedError
from workqueued.letters import Filter, Letter

#: With their bodies fewer letters may wait here at once.
_PREFETCH_WITH_BODIES = 100


class NotFoundError(WorkqueuedError):
    """A letter that was asked for by its id is not there."""

    exit_code = os.EX_NOINPUT


class Selection:
    """Which letters are taken, in the order in which they come.

    Args:
        filter_: what they must be like.
        limit: at most so many.
        asked: hashes of the identities that somebody was asked about and agreed to; nothing else is taken then.

    Attributes:
        taken: how many were.
        passed: how many were not.
        found: identities of the filter that were there.
    """

    def __init__(self, filter_: Filter, limit: int | None = None, asked: frozenset[int] | None = None) -> None:
        self.filter, self.limit, self.asked = filter_, limit, asked
        self.taken = self.passed = 0
        self.found: set[str] = set()
        self._since = int(time.time() * 1000)

    def takes(self, letter: Letter) -> bool:
        """Whether this letter is to be taken; counts it."""
        if self.filter.ids and letter.identity in self.filter.ids:
            self.found.add(letter.identity)
        if self.full or not self._means(letter):
            self.passed += 1
            return False
        self.taken += 1
        return True

    def _means(self, letter: Letter) -> bool:
        if not self.filter.matches(letter):
            return False
        if self.asked is not None and hash(letter.identity) not in self.asked:
            return False
        # We have just replayed it, and it has died again: once is enough.
        return (letter.at(REPLAYED) or 0) < self._since

    @property
    def full(self) -> bool:
        """Whether no further letter is taken, whatever it is like."""
        return self.limit is not None and self.taken >= self.limit

    @property
    def missing(self) -> list[str]:
        """Ids that were asked for and are not there."""
        return sorted(self.filter.ids - self.found)


@dataclass(slots=True)
class Errand:
    """What a verb needs.

    Attributes:
        work: the work queue.
        stopped: the signal that asked to stop, or 0.
    """

    options: argparse.Namespace
    where: Where
    work: str
    dead: DeadQueue
    filter: Filter
    screen: Screen
    stopped: Callable[[], int] = field(default=lambda: 0)

    def select(self) -> Selection:
        """A selection as the options say."""
        return Selection(self.filter, getattr(self.options, "limit", None))

    def letters(self, selection: Selection, *, bodies: bool = False) -> Iterator[tuple[Letter, Look]]:
        """The selected letters, all of which stay in the queue. Errors as for `Look.take`."""
        look = self.dead.look(bodies=bodies, prefetch=_PREFETCH_WITH_BODIES if bodies else PREFETCH)
        self.mention(look)
        try:
            while not look.ended and not selection.full:
                for letter in look.take(0.2):
                    look.hold(letter)
                    if selection.takes(letter):
                        yield letter, look
        finally:
            look.abandon()

    def mention(self, look: Look) -> None:
        """Say so when somebody else has a hand in the queue."""
        if look.shared:
            note(f"somebody else consumes from {self.dead.name}; what they hold is not seen here")

    def anything(self) -> bool:
        """Whether there is a dead queue; where there is none, says what that means.

        Raises:
            UnroutableError: the name is wrong, as far as anybody can tell.
        """
        if self.dead.exists:
            return True
        self.check_name()
        note(f"nothing is dead: {self.work} has no dead queue yet")
        return False

    def check_name(self) -> None:
        """Raise UnroutableError where neither the broker nor the configuration knows the queue."""
        if self.work in self.where.queues or self.dead.has_queue(self.work):
            return
        known = f"the configuration has {', '.join(self.where.queues)}" if self.where.queues else "is the name right?"
        raise UnroutableError(
            f"there is neither a queue {self.work!r} nor {self.dead.name!r} on {self.where.broker.url[0]}; {known}"
        )


def messages(count: int) -> str:
    """`1 message`, `2 messages`."""
    return f"{count} message{'' if count == 1 else 's'}"
