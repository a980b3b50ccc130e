"""All that can go wrong on one machine. A fault returns when its cause is over; what follows is recovery."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

import harness
import pika

from chaos.world import MAIN, PASSWORD, USER, VICTIM, World
from workqueued.errors import WorkqueuedError
from workqueued.scoreboard import Kind

Fault = Callable[[World], None]

#: What is drawn from: name, fault, and how many cards it has in the deck.
DECK: dict[str, tuple[Fault, int]] = {}


def card(name: str, cards: int = 1) -> Callable[[Fault], Fault]:
    """Put a fault into the deck."""

    def put(fault: Fault) -> Fault:
        DECK[name] = (fault, cards)
        return fault

    return put


def kill(pid: int) -> None:
    """SIGKILL, and wait until its parent has reaped it or will."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def hold(pid: int, seconds: float) -> None:
    """SIGSTOP, and SIGCONT later."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)


def a_while(world: World, least: float = 0.5, most: float = 4.0) -> float:
    """Some seconds."""
    return world.chance.uniform(least, most)


def a_worker(world: World) -> int:
    """One of the main queue's; waits for one."""
    while not (pids := world.at_work()):
        time.sleep(0.02)
    return world.chance.choice(pids)


# --- our own processes ----------------------------------------------------------------------------------------------


@card("worker killed", 6)
def kill_worker(world: World) -> None:
    """The out-of-memory killer's choice."""
    kill(a_worker(world))


@card("half of the workers killed")
def kill_half(world: World) -> None:
    """At one moment."""
    pids = world.at_work()
    for pid in world.chance.sample(pids, len(pids) // 2):
        kill(pid)


@card("monitor killed")
def kill_monitor(world: World) -> None:
    """Nobody's work depends on it."""
    for pid in world.children(Kind.MONITOR):
        kill(pid)


@card("master killed", 2)
def kill_master(world: World) -> None:
    """Its children must notice, and supervisord."""
    kill(world.master)


@card("supervisord killed")
def kill_supervisord(world: World) -> None:
    """And started again, as systemd would."""
    world.supervisor.kill()
    world.start_supervisord()


@card("worker stopped and continued", 2)
def hold_worker(world: World) -> None:
    """SIGSTOP, SIGCONT."""
    hold(a_worker(world), a_while(world))


@card("monitor stopped and continued")
def hold_monitor(world: World) -> None:
    """SIGSTOP, SIGCONT."""
    for pid in world.children(Kind.MONITOR):
        hold(pid, a_while(world))


@card("master stopped and continued")
def hold_master(world: World) -> None:
    """SIGSTOP, SIGCONT; meanwhile a worker dies unseen."""
    worker, master = a_worker(world), world.master
    with contextlib.suppress(ProcessLookupError):
        os.kill(master, signal.SIGSTOP)
        kill(worker)
        time.sleep(a_while(world))
        os.kill(master, signal.SIGCONT)


@card("supervisord stopped and continued")
def hold_supervisord(world: World) -> None:
    """Nobody reads the daemon's log meanwhile."""
    hold(world.supervisor.process.pid, a_while(world))


@card("reload", 2)
def reload(world: World) -> None:
    """All workers are replaced, one after the other."""
    world.reload()


@card("reload of a broken file")
def reload_broken(world: World) -> None:
    """The old configuration goes on."""
    (world.directory / "workqueued.yaml").write_text("queues: [")
    world.reload()
    time.sleep(0.5)
    world.write_config()


@card("scaled", 2)
def scale(world: World) -> None:
    """To another number of workers."""
    world.workers = world.chance.choice([count for count in range(2, world.plan.workers + 3) if count != world.workers])
    world.write_config()
    world.reload()


@card("stopped and started")
def restart(world: World) -> None:
    """By the operator: it drains."""
    world.supervisor.ctl("restart", "workqueued")


@card("handed back and started")
def hand_back(world: World) -> None:
    """SIGQUIT: what is in hand goes back to the broker."""
    os.kill(world.master, signal.SIGQUIT)


# --- the broker -----------------------------------------------------------------------------------------------------


@card("broker killed")
def kill_broker(world: World) -> None:
    """Kill -9, and started again."""
    world.node.kill()
    world.node.start()


@card("broker stopped and started")
def stop_broker(world: World) -> None:
    """In order."""
    world.node.stop()
    world.node.start()


@card("broker hung for a moment", 2)
def pause_broker(world: World) -> None:
    """SIGSTOP: no FIN, no RST, nothing."""
    world.node.pause()
    time.sleep(a_while(world))
    world.node.resume()


@card("broker hung for long")
def pause_broker_long(world: World) -> None:
    """Longer than twice (heartbeat + 5 s): every client gives up."""
    world.node.pause()
    time.sleep(22)
    world.node.resume()


@card("connections closed by an operator", 2)
def close_connections(world: World) -> None:
    """As the management page does."""
    world.node.ctl("close_all_connections", "chaos")


@card("memory alarm")
def memory_alarm(world: World) -> None:
    """Publishers are blocked."""
    with harness.memory_alarm(world.node):
        time.sleep(a_while(world, 1, 6))


@card("disk alarm")
def disk_alarm(world: World) -> None:
    """Publishers are blocked."""
    world.node.ctl("set_disk_free_limit", "90000GB")
    time.sleep(a_while(world, 1, 6))
    world.node.ctl("set_disk_free_limit", "200MB")


@card("access to the vhost revoked")
def revoke_vhost(world: World) -> None:
    """530, until it is given back."""
    world.node.ctl("clear_permissions", USER)
    world.node.ctl("close_all_connections", "chaos")
    time.sleep(a_while(world))
    world.node.ctl("set_permissions", USER, ".*", ".*", ".*")


@card("permissions revoked")
def revoke_permissions(world: World) -> None:
    """403 on everything; given back, with a reload, as a refused queue is tried again once a minute only."""
    world.node.ctl("set_permissions", USER, "", "", "")
    world.node.ctl("close_all_connections", "chaos")
    time.sleep(a_while(world))
    world.node.ctl("set_permissions", USER, ".*", ".*", ".*")
    world.reload()


@card("password changed")
def change_password(world: World) -> None:
    """And changed back."""
    world.node.ctl("change_password", USER, "another")
    world.node.ctl("close_all_connections", "chaos")
    time.sleep(a_while(world))
    world.node.ctl("change_password", USER, PASSWORD)


@card("queue purged")
def purge(world: World) -> None:
    """One of the two that may lose: what the broker says that it removed."""
    with world.direct().channel() as channel:
        world.removed += channel.queue_purge(VICTIM).method.message_count


@card("queue deleted")
def delete(world: World) -> None:
    """The other."""
    for _ in range(5):
        with contextlib.suppress(pika.exceptions.ChannelClosedByBroker), world.direct().channel() as channel:
            waiting = channel.queue_declare(VICTIM, passive=True).method.message_count
            world.removed += max(waiting, channel.queue_delete(VICTIM).method.message_count) + 1
            return
        time.sleep(0.5)


# --- the network ----------------------------------------------------------------------------------------------------


@card("connections cut", 2)
def cut(world: World) -> None:
    """RST on every link."""
    world.relay.cut()


@card("connections cut in mid-frame", 2)
def tear(world: World) -> None:
    """Half a frame, then RST."""
    world.relay.tear()
    time.sleep(0.5)


@card("links half-open for a moment", 2)
def freeze(world: World) -> None:
    """Nothing passes; nobody is told."""
    world.relay.freeze()
    time.sleep(a_while(world))
    world.relay.thaw()


@card("links half-open for long")
def freeze_long(world: World) -> None:
    """Until both sides have given up."""
    world.relay.freeze()
    time.sleep(22)
    world.relay.thaw()


@card("links slow")
def slow(world: World) -> None:
    """A few kilobytes a second."""
    world.relay.slow(4_000)
    time.sleep(a_while(world, 2, 6))
    world.relay.slow(None)


def inject(world: World, name: str) -> None:
    """Let it happen; a broker that fails to answer rabbitmqctl in the middle of it is asked again once."""
    fault, _ = DECK[name]
    try:
        fault(world)
    except (WorkqueuedError, pika.exceptions.AMQPError, OSError):
        time.sleep(1)
        fault(world)


__all__ = ["DECK", "MAIN", "inject"]
