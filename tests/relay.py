"""A TCP relay between a client and a broker that does what networks do: cut, freeze, slow down, tear a frame."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

#: What a filter makes of the bytes of one direction of one connection: those that go on.
Filter = Callable[[bytes], bytes]
#: close(2) then sends RST instead of FIN, and forgets what was not sent yet.
_RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Link:
    """One connection through the relay."""

    client: socket.socket
    broker: socket.socket
    #: Pass on half of the next thing that the broker says, then reset.
    tear: bool = False
    #: The client was the last to speak.
    asked: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        """End both sides at once, as a firewall does that lost its memory."""
        for end in (self.client, self.broker):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RD)  # wakes our thread, and tells the peer nothing
        self.done.set()


class Relay:
    """Listens on a free port of 127.0.0.1 and passes everything on to another.

    Args:
        target: the broker's port.
        from_broker: makes the filter for what the broker says on a new connection; None: all goes on.
        listener: a socket that listens already, instead of that port.

    Attributes:
        port: where it listens.
        round_trips: how often the broker spoke after a client had, on all connections that there ever were.
    """

    def __init__(
        self,
        target: int,
        from_broker: Callable[[], Filter] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self._target = target
        self.from_broker = from_broker
        self.round_trips = 0
        self._counting = threading.Lock()
        self._pace: float | None = None
        self._open = threading.Event()
        self._open.set()
        self._links: list[Link] = []
        self._threads: list[threading.Thread] = []
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.thaw()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    @property
    def links(self) -> list[Link]:
        """The connections that live."""
        return [link for link in self._links if not link.done.is_set()]

    def cut(self) -> None:
        """Reset every connection."""
        for link in self.links:
            link.reset()

    def tear(self) -> None:
        """Reset every connection in the middle of the next frame that the broker sends."""
        for link in self.links:
            link.tear = True

    def freeze(self) -> None:
        """Pass nothing on, in either direction, and tell nobody: half-open links."""
        self._open.clear()

    def thaw(self) -> None:
        """End a `freeze`; what was held back goes on."""
        self._open.set()

    def slow(self, bytes_per_second: float | None) -> None:
        """Let each connection pass no more than so much; None: all it can."""
        self._pace = bytes_per_second

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            for end in (client, broker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, broker)
            self._links = [*self.links, link]
            chosen = self.from_broker() if self.from_broker else None
            self._start(self._pump, link, client, broker, None, False)
            self._start(self._pump, link, broker, client, chosen, True)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _pump(
        self, link: Link, source: socket.socket, sink: socket.socket, chosen: Filter | None, from_broker: bool
    ) -> None:
        """Pass on one direction; the first of the two that ends resets both."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                if from_broker and link.asked:
                    with self._counting:
                        self.round_trips += 1
                link.asked = not from_broker
                if self._pace is not None:
                    time.sleep(len(data) / self._pace)
                if from_broker and link.tear:
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(chosen(data) if chosen else data)
        if not link.done.is_set():
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)  # an orderly end stays one
            time.sleep(0.05)
            link.reset()
        source.close()
