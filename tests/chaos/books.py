"""The books of a chaos run: who was promised what, and what became of it.

Three witnesses, none of which shares anything with the program under test but the messages themselves: the sender
writes down each number that was confirmed, each handler process what it finished (one O_APPEND write each), and at the
end the dead queue is emptied with plain pika. `audit` compares them. A message is `NUMBER KIND CHECKSUM PADDING`.
"""

import os
import random
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: The body of a message that is in nobody's books: it has the delay levels declared.
WARM_UP = b"warm-up"
#: What a message does to its handler, and how many of a million are to do so. The others are just done.
KINDS = {"once": 10_000, "hopeless": 2_000, "crash": 500, "hang": 200, "stubborn": 100, "leak": 1_000}
#: Those that cannot be done, whose place is the dead queue.
POISON = frozenset({"hopeless", "crash", "hang", "stubborn"})
#: Every so many messages one is larger than a read of a socket.
_LARGE_EVERY, _LARGE = 50, 20_000


def kind_of(seed: int, number: int) -> str:
    """What the message of a number does: drawn, and the same whoever asks."""
    drawn = random.Random(f"{seed}/{number}").randrange(1_000_000)
    for kind, share in KINDS.items():
        drawn -= share
        if drawn < 0:
            return kind
    return "do"


def write_body(seed: int, number: int) -> bytes:
    """The body of a number."""
    padding = "x" * (_LARGE if number % _LARGE_EVERY == 0 else 8)
    told = f"{number} {kind_of(seed, number)} {padding}"
    return f"{told} {zlib.crc32(told.encode()):08x}".encode()


def read_body(body: bytes) -> tuple[int, str]:
    """Number and kind of a message.

    Raises:
        ValueError: it is not what was sent.
    """
    told, _, check = body.rpartition(b" ")
    if f"{zlib.crc32(told):08x}".encode() != check:
        raise ValueError(f"checksum of {body[:40]!r}")
    number, kind, _ = told.split(b" ")
    return int(number), kind.decode()


class Witness:
    """A file to which one process appends a line with one write: `NUMBER SECONDS`, of the host's monotonic clock."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, *lines: tuple[int, float]) -> None:
        """Write down."""
        text = "".join(f"{number} {at:.3f}\n" for number, at in lines).encode()
        if os.write(self._descriptor, text) != len(text):
            raise OSError("the witness could not write: is the disk full?")


def read_witness(paths: Iterable[Path]) -> list[tuple[int, float]]:
    """All that was written to some files, by time."""
    lines = [line.split() for path in paths for line in path.read_text().splitlines()]
    return sorted(((int(number), float(at)) for number, at in lines), key=lambda line: line[1])


@dataclass
class Books:
    """What the witnesses of one queue say.

    Attributes:
        attempted: the highest number that was ever given to the publisher.
        confirmed, finished: numbers and when.
        dead: numbers in the dead queue.
        corrupt: bodies that came and were never sent.
    """

    seed: int
    attempted: int
    confirmed: Sequence[tuple[int, float]]
    finished: Sequence[tuple[int, float]]
    dead: Sequence[int]
    corrupt: int = 0

    @classmethod
    def read(cls, directory: Path, seed: int, dead: Iterable[bytes]) -> "Books":
        """From the files of a run, and the bodies of its dead letters."""
        letters, corrupt = [], len(list(directory.glob("corrupt.*")))
        for body in dead:
            try:
                letters.append(read_body(body)[0])
            except ValueError:
                corrupt += 1
        attempted = max((number for number, _ in read_witness(directory.glob("attempted"))), default=-1)
        return cls(
            seed,
            attempted,
            read_witness(directory.glob("confirmed")),
            read_witness(directory.glob("finished.*")),
            letters,
            corrupt,
        )


@dataclass
class Account:
    """What became of the messages. All but `duplicates` and `buried` should be nothing.

    Attributes:
        lost: confirmed, and neither finished nor dead.
        duplicates: finished more than once, by the time of the later one.
        invented: finished or dead, and never sent, or not as it was sent.
        falsely_dead: in the dead queue, though it can be done.
        unburied: cannot be done, and was finished all the same.
        buried: in the dead queue, as it should be.
    """

    confirmed: int = 0
    finished: int = 0
    lost: list[tuple[int, float]] = field(default_factory=list)
    duplicates: list[tuple[int, float]] = field(default_factory=list)
    invented: int = 0
    falsely_dead: list[int] = field(default_factory=list)
    unburied: int = 0
    buried: int = 0

    @property
    def balanced(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.invented or self.falsely_dead or self.unburied)


def audit(books: Books) -> Account:
    """Compare the witnesses."""
    times = Counter(number for number, _ in books.finished)
    letters = set(books.dead)
    poison = {number for number in letters | times.keys() if kind_of(books.seed, number) in POISON}
    account = Account(confirmed=len(books.confirmed), finished=len(times))
    account.lost = [(number, at) for number, at in books.confirmed if number not in times and number not in letters]
    account.duplicates = later_ones(books.finished)
    account.invented = books.corrupt + sum(number > books.attempted for number in letters | times.keys())
    account.falsely_dead = sorted(letters - poison)
    account.unburied = len(poison & times.keys())
    account.buried = len(letters & poison)
    return account


def later_ones(finished: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Those that were finished before."""
    seen: set[int] = set()
    again = []
    for number, at in finished:
        if number in seen:
            again.append((number, at))
        seen.add(number)
    return again


def share_out(times: Iterable[float], begins: Sequence[float]) -> Counter[int]:
    """How many fall to which fault: the last one that began before; -1: before the first."""
    return Counter(bisect_right(begins, at) - 1 for at in times)
