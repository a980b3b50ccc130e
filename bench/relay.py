"""A TCP relay that counts round trips: how often somebody who had spoken waited for the answer."""

import socket
import threading


class Relay:
    """Passes bytes between clients and a server, on loopback.

    Attributes:
        port: where clients connect.
        round_trips: how often bytes of the server followed bytes of the client, over all connections.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.round_trips = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            spoke = [False]
            for source, target, from_client in ((client, server, True), (server, client, False)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(source, target, from_client, spoke), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, from_client: bool, spoke: list[bool]) -> None:  # noqa: FBT001
        try:
            while data := source.recv(65536):
                with self._lock:
                    self.round_trips += not from_client and spoke[0]
                    spoke[0] = from_client
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                one.close()

    def close(self) -> None:
        """Take no further clients."""
        self._listener.close()
