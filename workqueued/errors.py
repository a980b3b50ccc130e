"""The errors of workqueued, each with the exit code that a command ends with.

Exit codes are those of sysexits.h; between a child and the master they are the protocol (docs/design.md).
"""

import math
import os
from datetime import timedelta


class WorkqueuedError(Exception):
    """Root of all errors that workqueued raises on purpose; the text is written for the operator."""

    exit_code: int = os.EX_SOFTWARE


class UsageError(WorkqueuedError):
    """The command line makes no sense."""

    exit_code = os.EX_USAGE


class DataError(WorkqueuedError):
    """The input is not what it claims to be: broken NDJSON, a message the broker is too small for."""

    exit_code = os.EX_DATAERR


class ConfigError(WorkqueuedError):
    """The YAML file, or a handler it names, is wrong; the text lists every mistake."""

    exit_code = os.EX_CONFIG


class UnusableError(ConfigError):
    """A command cannot be run: it is not there, not executable, or says so itself."""


class TemporaryError(WorkqueuedError):
    """It may well work when tried again: broker away, blocked, queue full, time is up."""

    exit_code = os.EX_TEMPFAIL


class ConnectionLostError(TemporaryError):
    """The connection to the broker could not be made, or is gone."""


class NotConfirmedError(TemporaryError):
    """The broker did not take responsibility for a message in time, or refused to."""


class RefusedError(WorkqueuedError):
    """The broker knows us and says no: password, vhost, permission. Or we say no: its certificate cannot be trusted."""

    exit_code = os.EX_NOPERM


class QueueRefusedError(RefusedError):
    """The broker refuses one queue: other arguments (406), no permission (403), missing (404), locked (405)."""


class UnroutableError(WorkqueuedError):
    """There is no queue for the message; the broker gave it back."""

    exit_code = os.EX_UNAVAILABLE


class Reject(Exception):  # noqa: N818 - a verdict that a handler raises, not an error of ours
    """Raised by a handler: this message can never be handled; send it to the dead queue.

    Args:
        reason: one line for the person who looks into the dead queue.
    """

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Exception):  # noqa: N818 - a verdict that a handler raises, not an error of ours
    """Raised by a handler: not now; try this message again later. It counts as an attempt.

    Args:
        reason: one line for the person who wonders why it is tried again.
        delay: seconds until then (or a timedelta), rounded up to whole ones, at most 194 days; None: by the queue's
            `retry` policy.

    Raises:
        ValueError: a delay below 0, or none that can be waited for.
    """

    def __init__(
        self, reason: str = "the handler asked for it", *, delay: float | timedelta | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.delay = delay.total_seconds() if isinstance(delay, timedelta) else delay
        if self.delay is not None and not 0 <= self.delay < math.inf:
            raise ValueError(f"Retry(delay={delay!r}): expected seconds, 0 or more")


class TimeLimitExceeded(BaseException):
    """Raised inside a handler that has run for its queue's `time_limit`.

    It does not derive from Exception, so that `except Exception` in a handler does not swallow it.
    """


class Undecodable(Reject, ValueError):  # noqa: N818 - as Reject
    """The body is not what the handler takes it for: no text, no JSON. It will not be the next time either."""
