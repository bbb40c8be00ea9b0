"""The files of deploy/, and a stand-in for `headmask` that writes down what it was asked."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCHEMAS = ROOT.parent / "shared" / "schemas"
SCRIPTS = sorted(DEPLOY.rglob("*.sh"))
SEARCH_OR_RESUME = DEPLOY / "search-or-resume.sh"
TWO_HOSTS = Path(__file__).with_name("two_hosts.sh")
BIN = Path(sys.executable).parent
"""Where pip puts the linters."""

RECORDER = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "studies":
    answers = json.loads(os.environ["ANSWERS"])
    calls = sum(1 for line in open(os.environ["RECORD"]) if json.loads(line)[0] == "studies")
    answer = answers[min(calls, len(answers)) - 1]
    sys.exit(answer) if isinstance(answer, int) else print(json.dumps(answer))
else:
    if os.environ["RESULT"]:
        out = sys.argv[sys.argv.index("--out") + 1]
        os.makedirs(out, exist_ok=True)
        open(os.path.join(out, "result.json"), "w").close()
    sys.exit(int(os.environ["CODE"]))
"""


def documents(name: str) -> list[dict]:
    """Return the YAML documents of a file."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@dataclass
class FakeHeadmask:
    """A folder with a `headmask` that only records; scripts find it first."""

    folder: Path
    answers: list = field(default_factory=lambda: [[]])
    """What `headmask studies` answers, call by call: a list of studies, or an exit code."""
    code: int = 0
    """What all else ends with."""
    leaves_result: bool = True

    def __post_init__(self) -> None:
        program = self.folder / "headmask"
        program.write_text(RECORDER)
        program.chmod(0o755)
        (self.folder / "search-or-resume").symlink_to(SEARCH_OR_RESUME)
        (self.folder / "unless-final").symlink_to(DEPLOY / "kuberay" / "unless-final.sh")

    def run(self, command: list, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command that calls `headmask`."""
        known = {
            "PATH": f"{self.folder}:{BIN}:{os.environ['PATH']}",
            "RECORD": str(self.folder / "record"),
            "ANSWERS": json.dumps(self.answers),
            "CODE": str(self.code),
            "RESULT": "yes" if self.leaves_result else "",
        }
        return subprocess.run(
            list(map(str, command)),
            env={**os.environ, **known, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        """The commands so far, as one would type them."""
        record = self.folder / "record"
        lines = record.read_text().splitlines() if record.exists() else []
        return [shlex.join(["headmask", *json.loads(line)]) for line in lines]


def commands(text: str, beginning: str) -> list[str]:
    """Return the commands in a text that begin as a pattern says, to the end of their lines; comments have none."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line for line in joined.splitlines() if not line.lstrip().startswith("#")]
    found = [re.search(rf"(?<!\S)(?:{beginning})(?!\S)[^;&|]*", line) for line in lines]
    return [match.group().strip() for match in found if match]


def shown(page: str) -> str:
    """Return what a page shows as commands: its indented lines."""
    return "\n".join(re.findall(r"^ {4}(.*)$", page, re.MULTILINE))
