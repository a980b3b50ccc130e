"""The limits and the plainest peers: `N` processes, each with one loop over one queue.

python -m bench.loops N PORT QUEUE raw | pika
python -m bench.loops N PORT QUEUE PROGRAM ARGUMENT …    {slot} in an argument is the number of the process
"""

import os
import sys


def main() -> int:
    """Fork, and wait."""
    workers, port, queue, *words = sys.argv[1:]
    run = {"raw": run_raw, "pika": run_pika}.get(words[0])
    for slot in range(int(workers)):
        if os.fork() == 0:
            if run is None:
                os.execvp(words[0], [word.replace("{slot}", str(slot)) for word in words])  # noqa: S606 - no shell
            run(int(port), queue)
    os.wait()  # the first that ends spoils the measurement
    return os.EX_SOFTWARE


def run_raw(port: int, queue: str) -> None:
    """A bare socket."""
    from bench.bench_handlers import nothing  # noqa: PLC0415 - not for a C program
    from bench.wire import Connection  # noqa: PLC0415

    Connection(port).consume(queue, nothing)


def run_pika(port: int, queue: str) -> None:
    """The loop of RabbitMQ's tutorial."""
    import pika  # noqa: PLC0415

    from bench.bench_handlers import nothing  # noqa: PLC0415

    def on_message(channel: pika.channel.Channel, method: pika.spec.Basic.Deliver, _: object, body: bytes) -> None:
        nothing(body)
        channel.basic_ack(method.delivery_tag)

    channel = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)).channel()
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue, on_message)
    channel.start_consuming()


if __name__ == "__main__":
    sys.exit(main())
