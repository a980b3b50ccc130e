"""A RabbitMQ cluster of three nodes on one machine, whose nodes can be killed, stopped and cut off one by one."""

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from harness import eventually

from workqueued.node import Node, _free_port

# Two nodes that do not agree on the cookie do not talk. One side is told, since the same wrong one on both would fit.
_CUT_OFF = """[erlang:set_cookie(N, cut_off) || N <- [{others}]],
    [erlang:disconnect_node(N) || N <- [{others}]]."""
_REJOIN = "[erlang:set_cookie(N, erlang:get_cookie()) || N <- [{others}]]."
_MOVE_LEADER = """{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
    rabbit_quorum_queue:transfer_leadership(Q, '{name}')."""


class Member(Node):
    """A node with the cookie that all share, and with the first one's port mapper, which outlives them."""

    def __init__(self, directory: Path, name: str, cookie: str, first: "Member | None") -> None:
        # What an operator of quorum queues sets: the side without a majority pauses.
        super().__init__(directory, name=name, settings={"cluster_partition_handling": "pause_minority"})
        self._cookie = cookie
        self._first = first or self
        self.mapper: subprocess.Popen[bytes] | None = None

    def _write_files(self) -> None:
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(0o600)
            cookie.write_text(self._cookie)
        super()._write_files()

    def _start_epmd(self) -> None:
        first = self._first
        if first.mapper is None:
            super()._start_epmd()
            first.mapper, self._epmd = self._epmd, None
            return
        port = int(first._options["env"]["ERL_EPMD_PORT"])
        environment = self._environment(epmd_port=port, dist_port=_free_port(self.port, port))
        self._options = {**first._options, "cwd": self.directory, "env": environment}


class Cluster:
    """Three nodes: a, b and c. To be started in the main thread, with which its processes die."""

    def __init__(self, directory: Path) -> None:
        cookie = secrets.token_hex(20)
        first = Member(directory / "a", "a", cookie, None)
        self.nodes = [first, *(Member(directory / name, name, cookie, first) for name in "bc")]
        self._apart: Member | None = None

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            for node in self.nodes[1:]:
                for command in ["stop_app"], ["reset"], ["join_cluster", self.nodes[0].name], ["start_app"]:
                    node.ctl(*command)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        mapper = self.nodes[0].mapper
        if mapper is not None:
            mapper.kill()
            mapper.wait()

    @property
    def urls(self) -> list[str]:
        """The addresses of all nodes."""
        return [node.url for node in self.nodes]

    def ctl(self, *arguments: str) -> list[list[str]]:
        """Ask a node that runs and is not cut off; returns rows of columns."""
        node = next(node for node in self.nodes if node.running and node is not self._apart)
        return [line.split("\t") for line in node.ctl(*arguments).splitlines()]

    def leader(self, queue: str) -> Member:
        """The node with the leader of a quorum queue in vhost /, once there is one."""

        def find() -> Member | None:
            rows = self.ctl("list_queues", "name", "leader", "--no-table-headers")
            return next((node for node in self.nodes if [queue, node.name] in rows), None)

        leader: Member = eventually(find, within=30, what=f"a leader of {queue}")
        return leader

    def move_leader(self, queue: str, to: Member) -> None:
        """Make a node the leader of a quorum queue in vhost /."""
        if self.leader(queue) is not to:
            to.ctl("eval", _MOVE_LEADER.format(queue=queue, name=to.name))
            eventually(lambda: self.leader(queue) is to, within=30, what=f"{to.name} leads {queue}")

    @contextlib.contextmanager
    def cut_off(self, node: Member) -> Iterator[None]:
        """Part a node from the two others, and see it pause; after the block, wait until all three are one again."""
        others = ", ".join(f"'{other.name}'" for other in self.nodes if other is not node)
        node.ctl("eval", _CUT_OFF.format(others=others))
        self._apart = node
        try:
            self.await_pause(node)
            yield
        finally:
            node.ctl("eval", _REJOIN.format(others=others))
            self._apart = None
        self.await_whole()

    def await_pause(self, node: Member) -> None:
        """Wait until a node without a majority serves nobody."""
        eventually(lambda: "false" in node.ctl("eval", "rabbit:is_running()."), within=30, what=f"{node.name} paused")

    def await_whole(self) -> None:
        """Wait until all nodes see each other and serve clients."""
        ask = "[rpc:call(N, rabbit, is_running, []) || N <- [node() | nodes()]]."
        whole = [True] * len(self.nodes)
        eventually(lambda: json.loads(self.nodes[0].ctl("eval", ask)) == whole, within=60, what="one cluster")
