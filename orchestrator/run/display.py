"""The display of a running search: one live block on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from orchestrator.screen.terminal import Terminal
from orchestrator.screen.waiting import PLAIN_EVERY_S, duration, speed
from orchestrator.search import progress as search


class Display(Protocol):
    """Shows the progress of a search."""

    def say(self, text: str) -> None:
        """Show a permanent line."""
        ...

    def update(self, progress: search.Progress, pool_status: str) -> None:
        """Show the current progress."""
        ...

    def stop(self) -> None:
        """End the live part."""
        ...


def make_display(console: Terminal) -> Display:
    """Return a live display on a terminal, plain lines elsewhere."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def summary(progress: search.Progress, pool_status: str) -> str:
    """Return the state of a search in one line: speed, best value, surrogate, scales, time left, replicas."""
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
    if progress.scales and progress.scales.step:
        parts.append(f"scales {progress.scales.step} steps, loss {progress.scales.losses[-1]:.3f}")
    if rate and len(progress.records) < progress.budget.masks and progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join([*parts, pool_status])


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def update(self, progress: search.Progress, pool_status: str) -> None:
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

    def update(self, progress: search.Progress, pool_status: str) -> None:
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

    def update(self, progress: search.Progress, pool_status: str) -> None:
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
