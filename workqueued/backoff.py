"""How long to wait before the next try: exponential growth with full jitter.

Full jitter (a uniform draw between 0 and the ceiling) spreads a fleet that lost its broker at one moment; it is the
variant that finished first in the AWS Architecture Blog's "Exponential Backoff and Jitter" (2015).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays for one thing that is tried again and again.

    Attributes:
        first: ceiling of the first delay, seconds.
        most: ceiling of every later delay, seconds.
        failures: how often it failed in a row.
    """

    first: float
    most: float
    chance: Callable[[], float] = field(default=random.random, repr=False)
    failures: int = 0

    def next_delay(self) -> float:
        """Count one failure and return the seconds to wait before the next try."""
        # 2.0 ** 1024 overflows; far below that the ceiling has long been reached.
        ceiling = min(self.most, self.first * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return ceiling * self.chance()

    def reset(self) -> None:
        """It worked: the next failure starts again with the first delay."""
        self.failures = 0
