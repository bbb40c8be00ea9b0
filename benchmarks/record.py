"""Run `headmask bench engine` and keep what it prints, with date and commit, in `benchmarks/results/`.

python benchmarks/record.py --workload scan --model ViT-B-32 --precision float32
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
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


def main() -> None:
    """Measure, and write one dated file."""
    arguments = sys.argv[1:]
    program = "from orchestrator.cli import main; main()"
    command = [sys.executable, "-c", program, "bench", "engine", *arguments, "--json"]
    measured = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    content = json.loads(measured.stdout)
    precisions = content["precision"]
    if content["plain_precision"] != content["precision"]:
        precisions += f"-over-{content['plain_precision']}"
    place = "cuda" if "GiB" in content["hardware"] else "cpu"
    print(save(f"engine-{content['workload']}-{content['model']}-{precisions}-{place}", content, arguments))


if __name__ == "__main__":
    main()
