"""The errors: between a child and the master, and to a shell, an error is its exit code."""

import importlib
import os
import pkgutil
import signal

import pytest

import workqueued
from workqueued import Reject, WorkqueuedError, errors
from workqueued.amqp.consumer import ConsumerCancelledError
from workqueued.node import BrokerError, DirectoryError
from workqueued.scoreboard import ScoreboardError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.WorkqueuedError, 70),
        (errors.UsageError, 64),
        (errors.DataError, 65),
        (errors.ConfigError, 78),
        (errors.TemporaryError, 75),
        (errors.ConnectionLostError, 75),
        (errors.NotConfirmedError, 75),
        (errors.RefusedError, 77),
        (errors.QueueRefusedError, 77),
        (errors.UnroutableError, 69),
        (ConsumerCancelledError, 75),
        (ScoreboardError, 74),
        (BrokerError, 69),
        (DirectoryError, 73),
    ],
)
def test_each_error_has_its_exit_code(error: type[WorkqueuedError], code: int) -> None:
    """Of sysexits.h; scripts rely on the numbers."""
    assert error("x").exit_code == code
    assert issubclass(error, WorkqueuedError)


def test_every_error_of_the_package_has_a_code_of_sysexits() -> None:
    """Or that of a shell for Ctrl-C, or for a reader that has gone. 0 would mean success, 1 nothing in particular."""
    for module in pkgutil.walk_packages(workqueued.__path__, "workqueued."):
        importlib.import_module(module.name)
    pending, seen = [WorkqueuedError], set()
    while pending:
        error = pending.pop()
        pending += error.__subclasses__()
        if error.__module__.startswith("workqueued."):
            seen.add(error.__name__)
            by_signal = (128 + signal.SIGINT, 128 + signal.SIGPIPE)
            assert error.exit_code in (*range(os.EX_USAGE, os.EX_CONFIG + 1), *by_signal), error
    assert {"ConsumerCancelledError", "DirectoryError", "ScoreboardError", "UnroutableError"} <= seen


def test_what_a_caller_tells_apart_is_told_apart() -> None:
    """A worker ends over a refused queue, and goes on over a refused connection; both go on over a loss."""
    assert issubclass(errors.QueueRefusedError, errors.RefusedError)
    assert not issubclass(errors.RefusedError, errors.TemporaryError)
    assert not issubclass(errors.UnroutableError, errors.TemporaryError)
    assert issubclass(ConsumerCancelledError, errors.ConnectionLostError)


def test_a_reject_is_a_verdict_and_no_error_of_ours() -> None:
    """It is raised by handlers, and must not pass for something that went wrong in here."""
    assert not issubclass(Reject, WorkqueuedError)
    assert Reject("because").reason == str(Reject("because")) == "because"
    assert Reject().reason == "rejected by the handler"


def test_exit_codes_are_those_of_the_system() -> None:
    """The numbers above, by name."""
    assert (os.EX_SOFTWARE, os.EX_CONFIG, os.EX_TEMPFAIL, os.EX_NOPERM) == (70, 78, 75, 77)
