"""Slots: who is where in the pool, how a child ended, and what can be done about it.

Runs in: master. Values only; what is done when is the pool's business.
"""

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from workqueued.backoff import Backoff

#: So many deaths within a minute are a crash loop; those longer ago are forgotten, seconds.
MANY_DEATHS = 5
REMEMBERED = 60.0


class Ending(enum.Enum):
    """What the end of a child means."""

    #: It was told to stop, and did.
    STOPPED = "stopped"
    #: It died: by a signal, by a bug, or although nobody told it to stop.
    DIED = "died"
    #: The broker refuses its queue.
    REFUSED = "refused"
    #: Its handler cannot be used.
    MISCONFIGURED = "misconfigured"
    #: It made room for a fresh one, between two messages.
    RECYCLED = "recycled"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Fork a child for a slot; `hold`: it waits for Release before it takes messages."""

    slot: str
    hold: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """SIGTERM: finish the task in hand, then exit."""

    pid: int


@dataclass(frozen=True, slots=True)
class HandBack:
    """SIGQUIT: give the message in hand back and exit."""

    pid: int


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""

    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """SIGUSR1: take messages now."""

    pid: int


Action = Spawn | Drain | HandBack | Kill | Release


@dataclass(slots=True)
class Child:
    """What the master knows of one child. Times are monotonic seconds."""

    pid: int
    slot: str
    queue: str
    generation: int
    spawned_at: float
    held: bool
    ready: bool = False
    tick: float = 0.0
    busy: bool = False
    drain_at: float | None = None
    told_at: float = 0.0
    hand_back_at: float | None = None
    killed: bool = False
    #: How long one task may take before the master kills the worker, seconds; None: as long as it likes.
    hard_limit: float | None = None
    #: When the task in hand is to be ended so; 0: there is none, or it has no limit.
    deadline: float = 0.0
    over_limit: bool = False


@dataclass(slots=True)
class Slot:
    """One place: who serves it, who is to succeed, and since when it may be filled again."""

    name: str
    queue: str
    backoff: Backoff
    current: Child | None = None
    successor: Child | None = None
    retry_at: float = 0.0
    unhealthy: int = 0
    #: When its last children died.
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=MANY_DEATHS))

    def children(self) -> Iterator[Child]:
        """The living."""
        if self.current is not None:
            yield self.current
        if self.successor is not None:
            yield self.successor


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """Many deaths in a queue: how many within how many seconds, and over how many different messages."""

    deaths: int
    seconds: float
    messages: int

    @property
    def likely(self) -> str:
        """What that means."""
        if self.messages == 0:
            return "they die without a message in hand: at their start, or in a thread of the handler's"
        if self.messages == 1:
            return "poison: it is one message"
        return f"the code is broken: {self.messages} different messages"


@dataclass(slots=True)
class QueueFate:
    """What is known of a queue as a whole."""

    #: The newest generation that had a child ready.
    proven: int = 0
    #: The generation whose canary failed; the old one goes on.
    failed: int = 0
    refused_until: float = 0.0
    #: A child of it came as far as the broker, so its handler could be imported once.
    imported: bool = False
    #: Its command cannot be run: nobody serves it until a reload.
    paused: bool = False
    #: When its last workers died, and the identity of the message each had in hand, if any.
    deaths: deque[tuple[float, str | None]] = field(default_factory=lambda: deque(maxlen=50))

    def crash_loop(self, now: float) -> CrashLoop | None:
        """Whether its workers die again and again."""
        recent = [(at, message) for at, message in self.deaths if now - at < REMEMBERED]
        if len(recent) < MANY_DEATHS:
            return None
        messages = {message for _, message in recent if message}
        return CrashLoop(len(recent), round(now - recent[0][0], 1), len(messages))
