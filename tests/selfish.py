"""A handler module that takes things for itself at import, as modules in the wild do."""

import faulthandler
import signal
import sys

import structlog
from ledgers import work

structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory())
faulthandler.enable(sys.stderr)
faulthandler.register(signal.SIGUSR1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)

handle = work
