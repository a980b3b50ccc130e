"""Datagrams to systemd and its journal: they look the sender up in /proc, so it must not be gone before they have read.

Runs in: every process of the daemon, before it ends.
"""

import fcntl
import socket
import termios
import time


def await_read(sender: socket.socket, patience: float) -> bool:
    """Wait until what was sent through a socket has been received, at most `patience` seconds; returns whether it was.

    The socket may be shared with other processes, which may keep it from ever being empty.
    """
    deadline = time.monotonic() + patience
    while any(fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4))):  # SIOCOUTQ, unix(7)
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.001)
    return True
