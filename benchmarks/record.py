"""Run `headmask bench engine`, the driver or the contest of strategies, and keep the result in `benchmarks/results/`.

python -m benchmarks.record --workload scan --model ViT-B-32 --precision float32
python -m benchmarks.record driver --replicas 64 --evaluation-ms 50
python -m benchmarks.record strategies --full
python -m benchmarks.record strategies --label widths --landscape pairwise-384 --width 64 --width 256
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def save(name: str, content: dict[str, Any], arguments: list[str]) -> Path:
    """Write one dated file, and return its path."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True, check=False)
    today = date.today().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{today}-{name}.json"
    about = {"date": today, "commit": commit.stdout.strip(), "arguments": arguments}
    path.write_text(json.dumps({**about, **content}, indent=2) + "\n")
    return path


def engine(arguments: list[str]) -> Path:
    """Time the engine, and write one dated file."""
    program = "from orchestrator.cli import main; main()"
    content = measured(["-c", program, "bench", "engine", *arguments])
    precisions = content["precision"]
    if content["plain_precision"] != content["precision"]:
        precisions += f"-over-{content['plain_precision']}"
    place = "cuda" if "GiB" in content["hardware"] else "cpu"
    return save(f"engine-{content['workload']}-{content['model']}-{precisions}-{place}", content, arguments)


def driver(arguments: list[str]) -> Path:
    """Time the driver, and write one dated file."""
    return save("driver", measured(["-m", "benchmarks.driver", *arguments]), arguments)


def strategies(arguments: list[str]) -> Path:
    """Hold a contest of strategies, and write one dated file and a picture beside it; `--label` goes into the names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--label", default="full" if "--full" in arguments else None)
    given, passed = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "plot.png"
        content = measured(["-m", "benchmarks.strategies", *passed, "--plot", str(picture)])
        name = "-".join(filter(None, ("strategies", given.label)))
        path = save(name, {"versions": versions(), **content}, arguments)
        shutil.move(picture, path.with_suffix(".png"))
    return path


def measured(arguments: list[str]) -> dict[str, Any]:
    """Return what a command of this interpreter prints."""
    command = [sys.executable, *arguments, "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def versions() -> dict[str, str]:
    """Return the versions of what decides the masks that are proposed."""
    return {name: version(name) for name in ("headmask", "numpy", "optuna", "cmaes", "pymoo", "torch")}


def main() -> None:
    """Measure, and write one dated file."""
    name, *rest = sys.argv[1:] or [""]
    named = {"driver": driver, "strategies": strategies}
    print(named[name](rest) if name in named else engine(sys.argv[1:]))


if __name__ == "__main__":
    main()
