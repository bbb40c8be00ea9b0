"""How long it takes from a command to its first scored mask: the demo, begun and resumed.

python -m benchmarks.start
python -m benchmarks.start --rounds 1

Each round also imports open_clip in a process of its own, which the driver and every replica have to do, and starts Ray
alone: the parts that are not headmask's.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.record import save
from orchestrator.run.bench import hardware

SCORED = b'"op_code":4'
"""How a line of Optuna's journal begins that adds a scored mask."""
HEADMASK = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
LOOK_S, MAX_S = 0.02, 300.0
IMPORT = "import open_clip"
RAY = "import ray; ray.init(address='local', include_dashboard=False, log_to_driver=False)"


def alone(program: str) -> float:
    """Return the seconds that a program takes in a process of its own."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return time.monotonic() - started


def until_scored(arguments: list[str], run: Path) -> float:
    """Return the seconds until a command has stored the score of another mask; it is stopped then.

    Raises:
        RuntimeError: it ends before, or takes too long.
    """
    before, started = _num_scored(run), time.monotonic()
    command = [*HEADMASK, *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while _num_scored(run) == before:
            if process.poll() is not None or time.monotonic() > started + MAX_S:
                process.kill()
                raise RuntimeError(f"no mask was scored: {process.communicate()[1]}")
            time.sleep(LOOK_S)
        seconds = time.monotonic() - started
        process.send_signal(signal.SIGINT)
        process.communicate()
    return seconds


def _num_scored(run: Path) -> int:
    journal = run / "study.journal"
    return journal.read_bytes().count(SCORED) if journal.exists() else 0


def measured() -> dict[str, float]:
    """Return the seconds of one round."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        return {
            "import": alone(IMPORT),
            "ray": alone(RAY),
            "demo": until_scored(["demo", "--out", str(run)], run),
            "resume": until_scored(["resume", str(run)], run),
        }


def main(arguments: list[str] | None = None) -> Path:
    """Measure, print, and write a result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rounds = []
    for number in range(options.rounds):
        rounds.append(measured())
        print(f"round {number + 1}: " + ", ".join(f"{name} {value:.1f} s" for name, value in rounds[-1].items()))
    medians = {name: round(median(each[name] for each in rounds), 2) for name in rounds[0]}
    print("median: " + ", ".join(f"{name} {value:.1f} s" for name, value in medians.items()))
    content = {
        "cores": os.cpu_count(),
        "hardware": hardware(torch.device("cpu")),
        "median_s": medians,
        "rounds_s": rounds,
    }
    return save("start", content, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    print(main())
