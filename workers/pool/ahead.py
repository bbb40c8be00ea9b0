"""Processes for replicas, which import what these need before it is known what they score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workers.pool.cluster import Connection, connect, need_of, room_for
from workers.pool.host import host_for


@dataclass(frozen=True)
class Ahead:
    """Ray, started on this machine, and hosts without replicas."""

    connection: Connection
    hosts: list[Any]
    """A pool takes from it."""

    def close(self) -> None:
        """End the hosts that no pool has taken, and Ray."""
        for host in self.hosts:
            self.connection.ray.kill(host)
        self.connection.close()


def start_ahead(
    replicas: int | None, threads: int, gpus_per_replica: float | None, on_stuck: Callable[[str], None]
) -> Ahead:
    """Start Ray on this machine and hosts for replicas; see `workers.pool.ray.RayPool` for the arguments.

    Raises:
        ReplicasLostError: Ray cannot be started.
    """
    connection = connect(None, on_stuck)
    try:
        nodes = connection.ray.nodes()
        need = need_of(nodes, threads, gpus_per_replica)
        host = host_for(connection.ray, need)
        hosts = [host.remote() for _ in range(room_for(nodes, need) if replicas is None else replicas)]
        # The driver imports, too. As many do so at once as there are cores, so that the first replica starts soon.
        at_once = max(1, int(connection.ray.cluster_resources().get("CPU", 1)) - 1)
        imported: list[Any] = []
        for number, each in enumerate(hosts):
            imported.append(each.import_ahead.remote(imported[number - at_once] if number >= at_once else None))
        return Ahead(connection, hosts)
    except BaseException:
        connection.close()
        raise
