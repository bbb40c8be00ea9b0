"""The actor that holds a replica, reports where it started, and answers while it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headmask.errors import HeadmaskError, PixelsChangedError, PixelsGoneError


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
    """The actor: holds a replica, and answers while the replica computes.

    Args:
        replica_class: class of the replica; anything with the methods of `Replica`.
        arguments: arguments of its constructor.
    """

    def __init__(self, replica_class: type, *arguments: Any) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        try:
            self._replica = replica_class(*arguments)
            self._birth = Birth(node, self._replica.device_kind())
        except (PixelsChangedError, PixelsGoneError) as error:
            self._birth = Birth(node, failure=str(error), error=error)
        # Whatever it is, the driver is to hear on which node.
        except Exception as error:
            self._birth = Birth(node, failure=f"{type(error).__name__}: {error}")

    def birth(self) -> Birth:
        """Return where the replica started, or why it did not."""
        return self._birth

    def sign(self) -> None:
        """Return at once, to show that the process runs."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Return the result of a method of the replica."""
        return getattr(self._replica, method)(*arguments)
