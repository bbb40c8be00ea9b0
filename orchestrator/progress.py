"""What a search shows while it runs: one live line block on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from orchestrator import search as loop
from orchestrator.terminal import Terminal

PLAIN_EVERY_S = 10.0


class Display(Protocol):
    """Shows how a search goes."""

    def say(self, text: str) -> None:
        """Show a line that stays."""
        ...

    def update(self, progress: loop.Progress, pool_status: str) -> None:
        """Show how far the search is."""
        ...

    def stop(self) -> None:
        """End the live part."""
        ...


def make_display(console: Terminal) -> Display:
    """Return a live display on a terminal, plain lines elsewhere."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def summary(progress: loop.Progress, pool_status: str) -> str:
    """Return the state of a search in one line: speed, best against baseline, surrogate, gates, time left, replicas."""
    scored = len(progress.records) - progress.served
    rate = scored / progress.seconds if progress.seconds >= 1 else 0.0
    parts = [speed(rate)] if rate else []
    if progress.best and progress.best.value is not None:
        text = f"best {progress.guide} {100 * progress.best.value:.2f}"
        if progress.baseline and progress.baseline.value is not None:
            text += f" (baseline {100 * progress.baseline.value:.2f})"
        parts.append(text)
    if progress.rank_correlation is not None:
        parts.append(f"surrogate {progress.rank_correlation:.2f}")
    if progress.gates and progress.gates.step:
        parts.append(f"gates {progress.gates.step} steps, loss {progress.gates.losses[-1]:.3f}")
    if rate and len(progress.records) < progress.budget.masks and progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join([*parts, pool_status])


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def update(self, progress: loop.Progress, pool_status: str) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class PlainDisplay:
    """Plain lines, one every ten seconds."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._next, self._shown = 0.0, -1

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.say(text)

    def update(self, progress: loop.Progress, pool_status: str) -> None:
        """Print the state, every ten seconds and at the end."""
        if (time.monotonic() >= self._next or progress.is_done) and len(progress.records) != self._shown:
            self._next, self._shown = time.monotonic() + PLAIN_EVERY_S, len(progress.records)
            count = f"{len(progress.records)}/{progress.budget.masks} masks"
            self.say(f"{count}, {summary(progress, pool_status)}")

    def stop(self) -> None:
        """Do nothing."""


class LiveDisplay:
    """A bar with the state behind it."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("masks"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            transient=False,
        )
        self._task = self._progress.add_task("search", total=None, state="", start=True, visible=False)
        self._progress.start()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.say(text)

    def update(self, progress: loop.Progress, pool_status: str) -> None:
        """Move the bar."""
        self._progress.update(
            self._task,
            visible=True,
            total=progress.budget.masks,
            completed=len(progress.records),
            state=summary(progress, pool_status),
        )

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


def said_when_slow(say: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """Return a callback (done, total) that says how far something is, now and then, if it takes long."""
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
    """Return a speed in the unit that shows it: masks per second, minute or hour."""
    for unit, factor in (("s", 1), ("min", 60)):
        if masks_per_s * factor >= 1:
            return f"{masks_per_s * factor:.1f} masks/{unit}"
    return f"{masks_per_s * 3600:.1f} masks/h"


def duration(seconds: float) -> str:
    """Return a time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
