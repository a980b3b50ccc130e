"""AMQP 0-9-1 over a bare socket: the limit of what Python can do as a consumer, and a quick way to fill a queue.

No heartbeats, no recovery, no options. pika's encoders write the few frames that are not in a hurry.
"""

import socket
import struct
from collections.abc import Callable
from typing import Any

import pika
from pika import frame, spec

_FRAME = struct.Struct(">BHI")
_DELIVER, _ACK, _END = b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x50", b"\xce"
_ACK_FRAME = struct.Struct(">BHIHH8sBB")


class Connection:
    """One connection with channel 1 open, as guest on the vhost /."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._await(spec.Connection.Start)
        self._say(spec.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US"), 0)
        self._await(spec.Connection.Tune)
        self._say(spec.Connection.TuneOk(2047, 131072, 0), 0)
        self._say(spec.Connection.Open("/"), 0)
        self._await(spec.Connection.OpenOk)
        self._ask(spec.Channel.Open(), spec.Channel.OpenOk)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def consume(self, queue: str, handle: Callable[[bytes], None]) -> None:
        """Take one message at a time, for ever; each is acknowledged when `handle` returns."""
        self._ask(spec.Basic.Qos(0, 1), spec.Basic.QosOk)
        self._ask(spec.Basic.Consume(0, queue), spec.Basic.ConsumeOk)
        receive, send, unpack = self._socket.recv, self._socket.send, _FRAME.unpack_from
        data, self._data = self._data, b""
        tag, size, body = b"", 0, b""
        while True:
            at, available = 0, len(data)
            while available - at > 7:
                kind, _, length = unpack(data, at)
                end = at + length + 8
                if end > available:
                    break
                if kind == 1 and data[at + 7 : at + 11] == _DELIVER:
                    start = at + 12 + data[at + 11]
                    tag, body = data[start : start + 8], b""
                elif kind == 2:
                    size = int.from_bytes(data[at + 11 : at + 19], "big")
                elif kind == 3:
                    body += data[at + 7 : end - 1]
                    if len(body) >= size:
                        handle(body)
                        send(_ACK_FRAME.pack(1, 1, 13, 60, 80, tag, 0, 0xCE))
                at = end
            came = receive(65536)
            if not came:
                raise EOFError("the broker closed the connection")
            data = data[at:] + came if at < available else came

    def publish(self, make: Callable[[int], bytes], count: int, window: int = 2000) -> None:
        """Publish the frames of messages 0 … count-1; return when the broker has confirmed all."""
        self._ask(spec.Confirm.Select(), spec.Confirm.SelectOk)
        sent = confirmed = 0  # all up to this tag
        early: set[int] = set()
        while confirmed < count:
            while sent < count and sent - confirmed < window:
                batch = range(sent, min(sent + 100, count))
                self._socket.sendall(b"".join(map(make, batch)))
                sent = batch.stop
            kind, payload = self._frame()
            if kind != 1 or payload[:4] != _ACK:
                raise SystemExit(f"bench: the broker answers a publish with {payload!r}")
            tag = int.from_bytes(payload[4:12], "big")
            if payload[12] & 1:
                confirmed = max(confirmed, tag)
            early.add(tag)
            while confirmed + 1 in early:
                confirmed += 1
                early.discard(confirmed)

    def _say(self, method: Any, channel: int = 1) -> None:
        self._socket.sendall(frame.Method(channel, method).marshal())

    def _ask(self, method: Any, answer: Any) -> None:
        self._say(method)
        self._await(answer)

    def _await(self, method: Any) -> None:
        """Read up to a method of this kind."""
        kind, payload = self._frame()
        while kind != 1 or payload[:4] != struct.pack(">I", method.INDEX):
            kind, payload = self._frame()

    def _frame(self) -> tuple[int, bytes]:
        while True:
            if len(self._data) >= 7:
                kind, _, length = _FRAME.unpack_from(self._data)
                if len(self._data) >= length + 8:
                    payload, self._data = self._data[7 : 7 + length], self._data[length + 8 :]
                    return kind, payload
            came = self._socket.recv(131072)
            if not came:
                raise SystemExit("bench: the broker closed the connection")
            self._data += came


def frames(queue: str, body: bytes, properties: pika.BasicProperties) -> bytes:
    """One publish to a queue, as it goes over the wire; the body fits into one frame."""
    method = frame.Method(1, spec.Basic.Publish(0, "", queue)).marshal()
    header = frame.Header(1, len(body), properties).marshal()
    return bytes(method + header + frame.Body(1, body).marshal())
