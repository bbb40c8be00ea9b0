"""Progress of long work, its speed, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from orchestrator.screen.terminal import Terminal

PLAIN_EVERY_S = 10.0


def said_when_slow(say: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """Return a callback (done, total) that prints progress now and then if the work takes long."""
    start = last = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S and done < total:
            last = now
            say(f"{what}: {done:,} of {total:,}, {duration((now - start) / done * (total - done))} left")

    return on_progress


@contextmanager
def counting(console: Terminal, what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback (done, total) that moves a bar; it does nothing without a terminal."""
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


def speed(masks_per_s: float) -> str:
    """Return a speed in a suitable unit: masks per second, minute or hour."""
    for unit, factor in (("s", 1), ("min", 60)):
        if masks_per_s * factor >= 1:
            return f"{masks_per_s * factor:.1f} masks/{unit}"
    return f"{masks_per_s * 3600:.1f} masks/h"


def duration(seconds: float) -> str:
    """Return a time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
