"""Counters in shared memory: how many tasks each process of a system has done, read without asking anybody."""

import mmap
import os
from pathlib import Path
from typing import Self

#: Processes that can count; each has a line of the cache (8 words) to itself: its count, its pid.
SLOTS = 1024
_WORDS = 8


class Counters:
    """A file that all processes of one system map."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._path = path
            self.words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    @classmethod
    def create(cls, path: Path) -> Self:
        """A file full of zeros."""
        path.write_bytes(bytes(SLOTS * _WORDS * 8))
        return cls(path)

    def claim(self) -> int:
        """Take a slot for this process; returns the index of its count in `words`."""
        for slot in range(SLOTS):
            try:
                os.close(os.open(f"{self._path}.{slot}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            self.words[slot * _WORDS + 1] = os.getpid()
            return slot * _WORDS
        raise SystemExit("bench: more processes than slots")

    @property
    def counts(self) -> list[int]:
        """The counts of all slots."""
        return self.words[::_WORDS].tolist()

    @property
    def pids(self) -> list[int]:
        """The processes that claimed a slot."""
        return [pid for pid in self.words[1::_WORDS].tolist() if pid]
