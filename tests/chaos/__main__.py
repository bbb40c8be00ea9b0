"""Disturb searches in every way that is known, and write down what they survived.

python -m tests.chaos                                all scenarios on the demo's model, in forty minutes
python -m tests.chaos replicas_killed --seed 7       one of them, with other moments and victims
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.record import save
from orchestrator.demo import DEMO_CHUNK, unpack_demo
from orchestrator.run.bench import hardware
from tests.chaos.arena import Arena, NotSurvived
from tests.chaos.scenarios import SCENARIOS

MASKS = 150


def main() -> int:
    """Run scenarios, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims")
    parser.add_argument("--masks", type=int, default=MASKS)
    parser.add_argument("--no-record", action="store_true", help="write no file")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in SCENARIOS]:
        parser.error(f"no scenario {', '.join(unknown)}: there are {', '.join(SCENARIOS)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        demo = unpack_demo(folder / "demo")
        flags = ["--model", f"local-dir:{demo.model}", "--data", str(demo.data), "--image-chunk", str(DEMO_CHUNK)]
        flags += ["--precision", "float32"]
        arena = Arena(folder / "runs", [*flags, "--masks", str(given.masks), "--fold"], given.seed)
        print(f"undisturbed: {arena.seconds:.0f} s", flush=True)
        about = {"masks": given.masks, "seed": given.seed, "seconds_undisturbed": round(arena.seconds, 1)}
        about |= {"hardware": hardware(torch.device("cpu"))}
        rows = []
        for name in given.names or SCENARIOS:
            started = time.monotonic()
            try:
                survived, is_equal = SCENARIOS[name](arena), True
            except NotSurvived as error:
                survived, is_equal = str(error), False
            rows.append({"scenario": name, "survived": is_equal, "what": survived.splitlines()[0],
                         "seconds": round(time.monotonic() - started, 1)})  # fmt: skip
            print(f"{name}: {'survived' if is_equal else 'NOT SURVIVED:'} {survived}", flush=True)
            if not given.no_record:
                save("chaos", {**about, "rows": rows}, sys.argv[1:])
    return 0 if all(row["survived"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
