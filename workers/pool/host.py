"""The actor that holds a replica, reports where it started, and answers while it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headmask.errors import HeadmaskError, PixelsChangedError, PixelsGoneError
from workers.pool.cluster import Resources

Start = Callable[[dict[str, Any]], tuple[Any, Any]]
"""Begins a replica, given its placement options, and returns its host and the reference to its `Birth`."""


@dataclass(frozen=True)
class Birth:
    """Where a replica started, or why it did not."""

    node: str
    device: str = ""
    """Kind of device and version."""
    failure: str | None = None
    error: HeadmaskError | None = None
    """Why no other replica would start either, if that is the case."""


class Host:
    """The actor: holds a replica, and answers while the replica computes."""

    def import_ahead(self, after: None) -> None:
        """Import what replicas need, which takes seconds; Ray waits until the argument is there."""
        import workers.scoring.replica  # noqa: F401

    def begin(self, replica_class: type, *arguments: Any) -> Birth:
        """Make the replica, and return where, or why it could not be made.

        Args:
            replica_class: its class; anything with the methods of `Replica`.
            arguments: arguments of its constructor.
        """
        import ray

        node = ray.get_runtime_context().get_node_id()
        try:
            self._replica = replica_class(*arguments)
            return Birth(node, self._replica.device_kind())
        except (PixelsChangedError, PixelsGoneError) as error:
            return Birth(node, failure=str(error), error=error)
        # Whatever it is, the driver is to hear on which node.
        except Exception as error:
            return Birth(node, failure=f"{type(error).__name__}: {error}")

    def sign(self) -> None:
        """Return at once, to show that the process runs."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Return the result of a method of the replica."""
        return getattr(self._replica, method)(*arguments)


def host_for(ray: Any, need: Resources) -> Any:
    """Return the class of the actors that hold replicas with these resources."""
    options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "max_restarts": 0, "max_task_retries": 0}
    return ray.remote(**options, concurrency_groups={"signs": 1})(Host)


def starter(
    host: Any, replica_class: type, arguments: Callable[[], tuple[Any, ...]], waiting: list[Any] | None = None
) -> Start:
    """Return what begins replicas.

    Args:
        host: class of the actors that hold them.
        replica_class: their class.
        arguments: returns the arguments of its constructor.
        waiting: actors that have been started ahead, and are used first.
    """

    def start(placement: dict[str, Any]) -> tuple[Any, Any]:
        actor = waiting.pop(0) if waiting and not placement else host.options(**placement).remote()
        return actor, actor.begin.remote(replica_class, *arguments())

    return start
