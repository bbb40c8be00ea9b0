"""Runs a search in a child process that kills itself at a chosen moment, as kill -9 would.

python -m tests.orchestrator.run.killed MOMENT=CONFIG.json ...
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import mlflow  # noqa: F401  imported once, before the children fork
import optuna

from headmask.apply import exporting
from orchestrator.outcome import schema as result
from orchestrator.run import runner
from orchestrator.settings.config import parse_config
from orchestrator.study import journal, store
from orchestrator.verdict import decide as verdict
from tests.orchestrator.studies import start
from workers.pool.inline import InlinePool
from workers.pool.ray import RayPool  # noqa: F401
from workers.scoring.displacement_store import DisplacementStore


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def after(calls, owner, name, first=lambda *_: None):
    """Let a method run a number of times; the next call is the end."""
    method, count = getattr(owner, name), iter(range(calls))

    def counting(*args, **kwargs):
        if next(count, None) is None:
            first(*args)
            die()
        return method(*args, **kwargs)

    setattr(owner, name, counting)


def half_a_line(backend, logs):
    line = json.dumps(logs[0])
    with open(backend._file_path, "a") as file:
        file.write(line[: len(line) // 2])


def at_stage(split):
    """Die with some masks of a stage scored."""
    collect = InlinePool.collect

    def watching(pool, timeout_s):
        results = collect(pool, timeout_s)
        if any(each.stage.split == split for each in results):
            die()
        return results

    InlinePool.collect = watching


def at_result(number):
    """Die with so many masks scored, the last ones not told, and those before on disk."""
    collect, count = InlinePool.collect, iter(range(number - 1))
    store.GROUP_S = 0.1

    def counting(pool, timeout_s):
        results = collect(pool, timeout_s)
        if any(next(count, None) is None for each in results if not each.stage.predicted):
            time.sleep(10 * store.GROUP_S)
            die()
        return results

    InlinePool.collect = counting


MOMENTS = {
    "scoring": lambda: after(6, InlinePool, "collect"),
    "storage": lambda: after(30, journal.GroupCommitBackend, "append_logs", half_a_line),
    "confirm": lambda: at_stage("confirm"),
    "test": lambda: at_stage("test"),
    "export": lambda: after(0, exporting, "_prove"),
    "result": lambda: after(0, result.SearchResult, "write"),
}
OTHERS = {
    "rows": lambda: after(5, DisplacementStore, "_keep"),
    "blocks": lambda: at_result(34),
    "named": lambda: after(0, optuna.Study, "set_user_attr"),
    "nearly": lambda: after(2, optuna.Study, "set_user_attr"),
    "begun": lambda: after(0, runner, "write_json"),
}
"""Rows are written only while the cache holds no displacements; the blocks are those after a scan of 13 masks.
A study is named before it has any attribute, and has nearly begun when it lacks the last one."""


def main(*runs):
    for run in runs:
        moment, config_file = run.split("=")
        child = os.fork()
        if child == 0:
            config = json.loads(Path(config_file).read_text())
            (MOMENTS | OTHERS)[moment]()
            # Random weights never improve reliably; the export is to be reached all the same.
            verdict.Verdict.is_reliable = True
            start(parse_config(config, "test"))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(moment, os.WTERMSIG(status) if os.WIFSIGNALED(status) else f"exit {status}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
