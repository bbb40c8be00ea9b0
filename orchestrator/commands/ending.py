"""How a command ends that keeps what it has computed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headmask.border.foreign import reason_of
from headmask.errors import HeadmaskError, ReplicasLostError
from orchestrator.screen.border import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from orchestrator.run.display import Display
    from orchestrator.screen.terminal import Terminal


@contextmanager
def told_how_to_go_on(console: Terminal, display: Display, way_on: Callable[[], str]) -> Iterator[None]:
    """Stop the display in the end, and say how to go on where a signal, lost replicas or a full disk ended the work.

    Args:
        console: where an interruption is said.
        display: stopped.
        way_on: returns the sentence that says what is kept and how to go on, without its full stop.
    """
    from orchestrator.search.scoring import Interrupted

    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        display.stop()
        console.say(f"Interrupted. {way_on()}")
        sys.exit(EXIT_INTERRUPTED)
    except ReplicasLostError as error:
        raise ReplicasLostError(f"{error}. {way_on()}") from None
    except OSError as error:
        # A full disk, a folder that may not be written.
        raise HeadmaskError(f"{reason_of(error)}. {way_on()}") from None
    finally:
        display.stop()
