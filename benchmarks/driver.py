"""`python -m benchmarks.driver`: how many replicas a driver keeps busy. They are simulated, everything else is real."""

from __future__ import annotations

import gc
import heapq
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import run_command
from benchmarks.strategies.synthetic import make_synthetic
from headmask.border.shown import counted
from headmask.mask import HeadGrid, HeadMask
from orchestrator.commands.tools import Json, finite, print_json
from orchestrator.screen.terminal import Terminal
from orchestrator.search.loop import Search
from orchestrator.search.session import width_for
from orchestrator.settings.budget import Budget
from orchestrator.study.store import StudyStore
from orchestrator.track.operations import Begin
from orchestrator.track.searchrun import BestCurve
from orchestrator.track.tracker import Tracker
from strategies import MIN_WIDTH, make_sampler
from workers.pool.protocol import Result
from workers.pool.queue import BatchQueue, hand_out, may_wait
from workers.pool.ray import IN_FLIGHT
from workers.scoring.messages import MaskScore, Stage
from workers.scoring.trie import TowerCost

GRID = HeadGrid(24, 16)
"""ViT-L's image tower."""
VIT_L_14 = TowerCost(
    plain_macs=81e9,
    embed=0.0019,
    enter_L=(0.01498,) * 23 + (0.00016,),
    leave_L=(0.02661,) * 23 + (0.0001,),
    head_L=(0.00021,) * 23 + (8e-7,),
    pool=1e-5,
    numbers_per_node=789_504,
    attention_L=(0.01498,) * 24,
)
"""What `TowerCost.of` counts on ViT-L-14: it only counts what is budgeted and shown as progress."""
STRATEGY = "mixture"
SEARCH, DEVICE = Stage("search"), "simulated"


@dataclass(frozen=True)
class DriverBench:
    """What a run of the benchmark measured."""

    masks_per_s: float
    """With evaluations that take no time."""
    replica_efficiency: float
    """Share of the replicas' time in which they evaluate."""
    driver_ms_per_mask: float
    """Processor time of the driver, with evaluations that take no time."""
    bytes_per_trial: float
    """By which the driver's memory grew."""
    resume_s: float
    """Until a stored study of that size is back where it was."""
    trials: int
    replicas: int
    evaluation_ms: float
    block_size: int
    width: int
    strategy: str
    grid: str
    hardware: str
    versions: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)


class SimulatedPool:
    """A pool whose replicas need a given time for every mask, in the order that they would get them from Ray.

    Args:
        value: of a mask.
        replicas: how many.
        evaluation_s: seconds that a replica takes for a mask.
    """

    def __init__(self, value: Callable[[HeadMask], float], replicas: int, evaluation_s: float) -> None:
        self._value, self._num_replicas, self._evaluation_s = value, replicas, evaluation_s
        # Every mask takes the same, whatever it shares.
        self._queue = BatchQueue()
        self._running: list[tuple[float, int, int, Stage, list[HeadMask]]] = []
        """By the time at which they will be done."""
        self._load, self._free_at = [0] * replicas, [0.0] * replicas
        self._idle = [(load, replica) for load in range(IN_FLIGHT) for replica in range(replicas)]
        """Places for batches: first one for every replica, then a second one."""
        self._count = 0

    def submit(self, stage: Stage, masks: Iterable[HeadMask]) -> None:
        """Queue masks."""
        self._queue.put(stage, masks)

    def look_away(self, seconds: float) -> None:
        """Give replicas enough of what waits for so many seconds in which nobody collects."""
        self._dispatch()
        until = time.monotonic() + seconds
        hand_out(self._load, lambda replica: self._free_at[replica] < until, self._start)

    def collect(self, timeout_s: float) -> list[Result]:
        """Return what is done, as soon as anything is."""
        self._dispatch()
        if not self._running:
            return []
        wait_s = min(timeout_s, self._running[0][0] - time.monotonic())
        if wait_s > 0:
            time.sleep(wait_s)
        results: list[Result] = []
        while self._running and self._running[0][0] <= time.monotonic():
            _, _, replica, stage, masks = heapq.heappop(self._running)
            self._load[replica] -= 1
            if self._load[replica] < IN_FLIGHT:
                heapq.heappush(self._idle, (self._load[replica], replica))
            scores = [MaskScore({"mean_recall": self._value(mask)}, self._evaluation_s) for mask in masks]
            self._queue.learn(stage, masks, scores)
            results += [Result(stage, mask, score, DEVICE) for mask, score in zip(masks, scores, strict=True)]
        self._dispatch()
        return results

    def _dispatch(self) -> None:
        while self._idle and self._has_room(self._idle[0][0]) and self._start(self._idle[0][1]):
            heapq.heappop(self._idle)

    def _has_room(self, load: int) -> bool:
        """Return whether a replica with so many batches gets another one."""
        return load == 0 or may_wait(self._num_replicas, len(self._queue), load * self._evaluation_s)

    def _start(self, replica: int) -> bool:
        """Let a replica begin the next batch; return whether there was one."""
        if (batch := self._queue.take(self._num_replicas)) is None:
            return False
        stage, masks = batch
        start = max(time.monotonic(), self._free_at[replica])
        self._free_at[replica] = start + self._evaluation_s * len(masks)
        self._load[replica] += 1
        self._count += 1
        heapq.heappush(self._running, (self._free_at[replica], self._count, replica, stage, masks))
        return True


@dataclass(frozen=True)
class Ran:
    """What a simulated search took of the driver."""

    seconds: float
    cpu_s: float
    bytes_grown: int


def bench_driver(
    *,
    replicas: int = 64,
    evaluation_ms: float = 50.0,
    trials: int = 10_000,
    block_size: int = 32,
    width: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> DriverBench:
    """Return how fast a driver goes, with a journal, tracking and the default strategy.

    Args:
        replicas: that are simulated.
        evaluation_ms: what a mask takes one of them.
        trials: of every run.
        block_size: most masks in a block, unless the study is wide.
        width: masks in flight; by default, as many as a study would have with so many replicas.
        say: told how far it is.
    """
    import torch

    from headmask.border.libraries import versions
    from orchestrator.run.bench import hardware

    value, width = make_synthetic("cliff", GRID, 0), width or width_for(replicas)
    blocks = {"block_size": block_size, "width": width}
    free_pool = SimulatedPool(value, replicas, 0.0)
    paced_pool = SimulatedPool(value, replicas, evaluation_ms / 1000)
    with tempfile.TemporaryDirectory() as scratch:
        # What is imported and made once, models of full size among it, belongs to no trial.
        run_simulated(free_pool, Path(scratch, "warm"), min(trials, 1500), **blocks)
        say(f"{trials:,} masks of 0 ms")
        free = run_simulated(free_pool, Path(scratch, "free"), trials, **blocks)
        say(f"{trials:,} masks of {evaluation_ms:g} ms")
        paced = run_simulated(paced_pool, Path(scratch, "paced"), trials, **blocks)
        say(f"resuming {trials:,} masks")
        resumed = run_simulated(free_pool, Path(scratch, "free"), trials, **blocks, resuming=True)
    return DriverBench(
        masks_per_s=trials / free.seconds,
        replica_efficiency=trials * evaluation_ms / 1000 / (replicas * paced.seconds),
        driver_ms_per_mask=1000 * free.cpu_s / trials,
        bytes_per_trial=free.bytes_grown / trials,
        resume_s=resumed.seconds,
        trials=trials,
        replicas=replicas,
        evaluation_ms=evaluation_ms,
        block_size=block_size,
        width=width,
        strategy=STRATEGY,
        grid=str(GRID),
        hardware=hardware(torch.device("cpu")),
        versions=versions(),
    )


def run_simulated(
    pool: SimulatedPool,
    folder: Path,
    trials: int,
    *,
    block_size: int = 32,
    width: int = MIN_WIDTH,
    resuming: bool = False,
) -> Ran:
    """Return what a search on simulated replicas takes: study and tracking in a folder, the default strategy."""
    folder.mkdir(exist_ok=True)
    gc.collect()
    before = _memory()
    started, cpu = time.perf_counter(), time.process_time()
    location = str(folder / "study.journal")
    opened = StudyStore.open(location, "bench") if resuming else StudyStore.create(location, "bench", {})
    begin = Begin(key="bench", experiment="bench", run_name="bench")
    with opened as store, Tracker(folder, begin, None, lambda run_id: None) as tracker:
        curve = BestCurve(tracker)
        search = Search(
            make_sampler(STRATEGY, GRID, block_size=block_size, width=width),
            store,
            pool,
            stage=lambda mask: SEARCH,
            value=_value,
            cost=VIT_L_14,
            listeners=[curve],
        )
        search.run(Budget(trials))
        store.flush()
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        grown = _memory() - before
    return Ran(seconds, cpu_s, grown)


def _value(metrics: Mapping[str, float]) -> float:
    return metrics["mean_recall"]


def _memory() -> int:
    """Return the process's resident memory in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def driver(
    replicas: Annotated[int, typer.Option(min=1, max=100_000, help="Simulated replicas.")] = 64,
    evaluation_ms: Annotated[
        float, typer.Option(min=0.0, max=1e9, callback=finite, help="What a mask takes one of them.")
    ] = 50.0,
    trials: Annotated[int, typer.Option(min=500, max=10_000_000, help="Masks of every run.")] = 10_000,
    block_size: Annotated[int, typer.Option(min=1, max=100_000, help="Most masks in a block.")] = 32,
    width: Annotated[
        int | None, typer.Option(min=MIN_WIDTH, max=100_000, help="Masks in flight; by default, by the replicas.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time the driver with a journal, tracking and the default strategy; only the replicas are simulated."""
    console = Terminal(stderr=as_json)
    found = bench_driver(
        replicas=replicas,
        evaluation_ms=evaluation_ms,
        trials=trials,
        block_size=block_size,
        width=width,
        say=console.say,
    )
    if as_json:
        print_json(found.as_json())
        return
    console.say(
        f"{found.masks_per_s:,.0f} masks/s and {found.driver_ms_per_mask:.2f} ms of the driver per mask where "
        f"evaluations are free; {counted(found.replicas, 'replica')} of {found.evaluation_ms:g} ms are busy "
        f"{100 * found.replica_efficiency:.0f} % of the time; {found.bytes_per_trial / 1024:.1f} KiB per trial; "
        f"resuming {counted(found.trials, 'mask')} takes {found.resume_s:.1f} s.\n"
        f"{found.strategy} on {found.grid} heads, blocks of up to {found.block_size:,}, a width of {found.width:,}; "
        f"{found.hardware}.",
    )


if __name__ == "__main__":
    run_command(driver, "benchmarks.driver")
