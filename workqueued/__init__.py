"""workqueued: any Python function as a fleet of reliable RabbitMQ workers.

What a handler and a sender need is exported here; everything else is the daemon's own business:

    from workqueued import Reject, Retry, Task, TimeLimitExceeded    # in a handler
    from workqueued import Sender                                    # in a program that enqueues
"""

from typing import TYPE_CHECKING, Any

from workqueued.errors import Reject, Retry, TimeLimitExceeded, WorkqueuedError

if TYPE_CHECKING:
    from workqueued.sender import Sender
    from workqueued.task import Task

__version__ = "0.1.0"
__all__ = ["Reject", "Retry", "Sender", "Task", "TimeLimitExceeded", "WorkqueuedError", "__version__"]


def __getattr__(name: str) -> Any:
    """Import what brings further modules when it is first asked for: `wq-send` needs no Task, a handler no pika."""
    if name == "Sender":
        from workqueued.sender import Sender  # noqa: PLC0415 - the point of this function

        return Sender
    if name == "Task":
        from workqueued.task import Task  # noqa: PLC0415

        return Task
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
