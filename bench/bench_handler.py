"""Handlers that do next to nothing: what is measured is everything else."""

from typing import Any


def nothing(_task: object) -> None:
    """Do nothing."""


def fail_once(task: Any) -> None:
    """Fail the first attempt."""
    if task.attempt == 1:
        raise ValueError("the first attempt")


def fail(_task: object) -> None:
    """Fail."""
    raise ValueError("always")
