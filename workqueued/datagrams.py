"""Datagrams to systemd and its journal: they look the sender up in /proc, so it must not be gone before they have read.

Runs in: every process of the daemon, before it ends.
"""

import fcntl
import socket
import termios
import time


def await_read(sender: socket.socket, patience: float) -> None:
    """Wait until what was sent through a socket has been received, at most `patience` seconds.

    The socket may be shared with other processes, which may keep it from ever being empty.
    """
    deadline = time.monotonic() + patience
    while any(fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4))) and time.monotonic() < deadline:  # SIOCOUTQ, unix(7)
        time.sleep(0.001)
