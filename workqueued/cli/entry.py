"""The way into and out of the commands that are over soon, without what would take longer than they do.

Runs in: wq-send, wq-status.
"""

import gc
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def send() -> NoReturn:
    """Run `wq-send`."""
    gc.disable()  # all that is imported stays, and the collector would walk through it again and again
    from workqueued.cli.send import main

    _run(main)


def status() -> NoReturn:
    """Run `wq-status`."""
    gc.disable()
    from workqueued.cli.status import main

    _run(main)


def _run(main: Callable[[], int]) -> NoReturn:
    gc.freeze()
    gc.enable()
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads it
        code = code or os.EX_IOERR
    os._exit(code)  # without taking apart all that was imported
