"""Replay: publish a letter's message, and only when the broker has confirmed it take the letter out.

Runs in: `wq-dead replay`.

Killed between the two, the message is in both queues: handled twice perhaps, never lost. The publisher has a connection
of its own, as an alarm stops whoever publishes, and acks must go on.
"""

import time
from collections.abc import Callable
from typing import Self

from workqueued.amqp.connection import may_overflow_a_frame
from workqueued.amqp.copies import fit
from workqueued.amqp.look import Look
from workqueued.amqp.publisher import Publisher
from workqueued.amqp.refusals import TooLargeError
from workqueued.broker_settings import Broker
from workqueued.delivery import Message
from workqueued.errors import DataError, NotConfirmedError, UnroutableError, WorkqueuedError
from workqueued.letters import LEFT_OUT, Letter

#: How many messages are on their way at once, and how many bytes of body.
_WINDOW, _WINDOW_BYTES = 1000, 16 * 2**20
#: After so many publishes they are sent and confirms heard, so that the broker has its work while we do ours.
_TURN_AFTER = 100
#: How many letters that could not be moved are remembered one by one.
_REMEMBERED = 10


class Replay:
    """Moves the letters of a look.

    Attributes:
        moved: how many are in their queue, confirmed, and taken out of the dead queue.
        left: how many could not be moved; they stay in the dead queue.
        reasons: why, of the first few: (identity, error).
        full: why nothing more is to be put, if so: a queue takes no more.
    """

    def __init__(self, broker: Broker, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._publisher = Publisher(broker, "wq-dead", clock)
        self._timeout = timeout
        self._clock = clock
        self._on_their_way: dict[int, tuple[Letter, Message]] = {}
        self._missing: dict[str, WorkqueuedError] = {}
        self._smallest_refused: int | None = None
        self._progress_at = 0.0
        self._untaken = 0
        self._unsent = 0
        self.moved = 0
        self.left = 0
        self.reasons: list[tuple[str, WorkqueuedError]] = []
        self.full: WorkqueuedError | None = None

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ConnectionLostError, RefusedError: no address answered, or one said no.
        """
        self._publisher.open(self._clock() + self._timeout)
        return self

    def __exit__(self, *_: object) -> None:
        self._publisher.close()

    @property
    def unknown(self) -> int:
        """How many were published and not taken out: they are in the dead queue, and perhaps in their own too."""
        return len(self._on_their_way) + self._untaken

    def put(self, look: Look, letter: Letter, message: Message) -> None:
        """Put a letter's message on its way.

        Raises:
            ConnectionLostError, NotConfirmedError, RefusedError, DataError: the publisher's connection or channel is
                gone, or nothing was confirmed for the timeout.
        """
        if message.queue in self._missing:
            self._leave(look, letter, self._missing[message.queue])
            return
        if self._smallest_refused is not None and len(message.body) >= self._smallest_refused:
            self._leave(look, letter, DataError(f"its {len(message.body)} bytes are more than this broker takes"))
            return
        self._publish(look, letter, message)
        self._unsent += 1
        if self._unsent >= _TURN_AFTER:
            self.turn(look)
        while self._publisher.in_flight >= _WINDOW or self._publisher.in_flight_bytes >= _WINDOW_BYTES:
            self.turn(look, 0.5)

    def _publish(self, look: Look, letter: Letter, message: Message) -> None:
        if not self._publisher.in_flight:
            self._progress_at = self._clock()
        try:
            if may_overflow_a_frame(message.properties.headers):
                message = fit(message)
            try:
                ticket = self._publisher.publish(message)
            except DataError:
                message = fit(message)  # a header that cannot be sent again is left out, and named
                ticket = self._publisher.publish(message)
        except DataError as error:
            self._leave(look, letter, error)
        else:
            self._on_their_way[ticket] = (letter, message)

    def turn(self, look: Look, wait: float = 0) -> None:
        """Hear what was confirmed, and take it out; waits so many seconds for the first. Errors as for `put`."""
        self._unsent = 0
        _in_one_piece(self._publisher)
        confirms = self._publisher.confirms
        try:
            if not wait or not self._publisher.in_flight:
                self._publisher.look()
            else:
                self._publisher.pump_until(lambda: bool(confirms), self._clock() + wait)
        except TooLargeError as error:
            self._settle(look)
            self._go_on_without(look, error)
        else:
            self._settle(look)
        look.service()
        if self._publisher.in_flight and self._clock() - self._progress_at > self._timeout:
            raise self._publisher.late()

    def _settle(self, look: Look) -> None:
        confirms = self._publisher.confirms
        if confirms:
            self._progress_at = self._clock()
        while confirms:
            confirm = confirms.popleft()
            letter, message = self._on_their_way.pop(confirm.ticket)
            if confirm.error is None:
                look.ack(letter)
                self._untaken += 1
                continue
            self._leave(look, letter, confirm.error)
            if isinstance(confirm.error, UnroutableError):
                self._missing[message.queue] = confirm.error
            elif isinstance(confirm.error, NotConfirmedError):
                self.full = confirm.error
        look.flush()
        self.moved += self._untaken
        self._untaken = 0

    def _go_on_without(self, look: Look, error: TooLargeError) -> None:
        """The broker closed the channel over one message; the others on their way are published again.

        Some of them it may have taken before, so they may be handled twice.
        """
        if error.message is None:
            raise error
        self._smallest_refused = len(error.message.body)
        again = list(self._on_their_way.values())
        self._on_their_way.clear()
        self._publisher.close()
        self._publisher.confirms.clear()
        self._publisher.open(self._clock() + self._timeout)
        for letter, message in again:
            if len(message.body) >= self._smallest_refused:
                self._leave(look, letter, error)
            else:
                self._publish(look, letter, message)

    def _leave(self, look: Look, letter: Letter, error: WorkqueuedError) -> None:
        look.hold(letter)
        self.left += 1
        if len(self.reasons) < _REMEMBERED:
            self.reasons.append((letter.identity, error))

    def drain(self, look: Look) -> None:
        """Wait until everything that was put is confirmed or refused. Errors as for `put`."""
        while self._publisher.in_flight:
            self.turn(look, 0.5)
        self._settle(look)


def _in_one_piece(publisher: Publisher) -> None:
    """Let what waits to be sent go out with one send(2): pika makes one of each frame, three for a message.

    A sixth of a replay's time was spent on these, and as much on the broker's side, which was woken for each. pika has
    no public way; without the private one everything works, only slower.
    """
    try:
        waiting = publisher._connection._transport._tx_buffers  # noqa: SLF001
    except AttributeError:
        return
    if len(waiting) > 1:
        together = b"".join(waiting)
        waiting.clear()
        waiting.append(together)


def checked(message: Message) -> Message:
    """The message, whose headers fit into one frame.

    Raises:
        DataError: they do not, or one cannot be sent.
    """
    if may_overflow_a_frame(message.properties.headers):
        left_out = fit(message).properties.headers.get(LEFT_OUT)
        if left_out != message.properties.headers.get(LEFT_OUT):
            raise DataError(f"its headers do not fit into one AMQP frame, or cannot be sent: {left_out}")
    return message
