"""Pools of replicas for a search: what is possible, what is begun, what a study keeps to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

from headmask.errors import ConfigError
from orchestrator.run.display import Display
from orchestrator.screen.border import EXIT_TRY_AGAIN
from orchestrator.settings.commandline import way_on
from orchestrator.settings.config import SearchConfig
from orchestrator.study.runfolder import CONFIG
from orchestrator.study.store import StudyStore

if TYPE_CHECKING:
    from orchestrator.search.session import Session
    from workers.pool.ahead import Ahead
    from workers.pool.protocol import Pool
    from workers.scoring.messages import Survey


@contextlib.contextmanager
def ray_ahead(config: SearchConfig) -> Iterator[Ahead | None]:
    """Start Ray for a block that loads what is searched, where replicas are to be on this machine.

    Importing torch and open_clip takes seconds, here and for every replica: both begin at once, here on a thread.
    """
    pool = config.pool
    if pool.kind == "inline" or pool.address is not None:
        yield None
        return
    # No daemon: one that still imports when Python ends may crash it.
    Thread(target=import_module, args=["open_clip"]).start()
    from workers.pool.ahead import start_ahead

    replicas = None if pool.replicas == "auto" else pool.replicas
    # Shards are started by their group.
    hosts = replicas if pool.shards in (1, "auto") else 0
    ahead = start_ahead(hosts, config.search.threads, pool.gpus_per_replica, lambda reason: _end(config, reason))
    with contextlib.closing(ahead):
        yield ahead


def make_pool(session: Session, display: Display, ahead: Ahead | None = None) -> Pool:
    """Return the pool that a configuration asks for.

    Args:
        session: what is searched.
        display: told what is waited for.
        ahead: Ray on this machine, where it has been started before.
    """
    pool = session.config.pool
    if pool.kind == "inline":
        from workers.pool.inline import InlinePool
        from workers.scoring.devices import chosen_device

        return InlinePool(session.payload, chosen_device(pool.device), steps=session.steps)
    from orchestrator.search.sharding import best_shards
    from workers.pool.ray import RayPool

    def shards(survey: Survey, num_replicas: int, device: str) -> int:
        return best_shards(session.surveyed(survey), num_replicas, device)

    display.say("Starting replicas" + (f" on {pool.address}" if pool.address else " with Ray on this machine"))
    return RayPool(
        session.payload,
        replicas=None if pool.replicas == "auto" else pool.replicas,
        threads=session.config.search.threads,
        gpus_per_replica=pool.gpus_per_replica,
        mixed_devices=pool.mixed_devices,
        shards=shards if pool.shards == "auto" else pool.shards,
        steps=session.steps,
        address=pool.address,
        ahead=ahead,
        say=display.say,
        on_stuck=lambda reason: _end(session.config, reason),
    )


def _end(config: SearchConfig, reason: str) -> None:
    """End the process in the middle of a call of Ray: all scores have been written by now."""
    is_begun = (config.folder / CONFIG).exists()
    way = way_on(config) if is_begun else "Start it again later"
    os.write(2, f"headmask: {reason}. {way}\n".encode(errors="backslashreplace"))
    os._exit(EXIT_TRY_AGAIN)


def check_replicas(config: SearchConfig) -> None:
    """Refuse replicas that are not possible, before anything is loaded."""
    pool = config.pool
    if pool.kind == "inline":
        from workers.scoring.devices import chosen_device

        chosen_device(pool.device)
    else:
        from workers.pool.cluster import check_pool

        check_pool(
            pool.address,
            None if pool.replicas == "auto" else pool.replicas,
            config.search.threads,
            pool.gpus_per_replica,
            None if pool.shards == "auto" else pool.shards,
        )


def check_device(store: StudyStore, pool: Pool) -> None:
    """Refuse to mix devices in one study: their scores differ in the last bits."""
    known = store.attr("device")
    if known is None:
        store.set_attr("device", pool.device)
    elif known != pool.device:
        raise ConfigError(
            f"study {store.name!r} was scored on {known}, this machine is {pool.device}: scores would differ "
            "in their last bits. Resume it where it began, start another study, or accept that with --mixed-devices"
        )
