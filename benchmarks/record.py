"""Run `headmask bench engine` and keep what it prints, with date and commit, in `benchmarks/results/`.

python benchmarks/record.py --workload scan --model ViT-B-32 --precision float32
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, and write one dated file."""
    arguments = sys.argv[1:]
    program = "from orchestrator.cli import main; main()"
    command = [sys.executable, "-c", program, "bench", "engine", *arguments, "--json"]
    measured = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    content = json.loads(measured.stdout)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True, check=False)
    today = date.today().isoformat()
    content = {"date": today, "commit": commit.stdout.strip(), "arguments": arguments, **content}
    precisions = content["precision"]
    if content["plain_precision"] != content["precision"]:
        precisions += f"-over-{content['plain_precision']}"
    place = "cuda" if "GiB" in content["hardware"] else "cpu"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{today}-engine-{content['workload']}-{content['model']}-{precisions}-{place}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
