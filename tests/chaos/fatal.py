"""`headmask` with replicas that a mask makes exit, or whose embeddings it makes infinite; in one process, it fails.

python -m tests.chaos.fatal exit|infinite|fail search ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np
import torch

from headmask.mask import HeadGrid, HeadMask
from orchestrator import cli
from workers.pool import inline
from workers.pool.ray import RayPool
from workers.scoring.engine import Engine
from workers.scoring.messages import MaskScore, Stage
from workers.scoring.replica import Replica

FATAL = "L0H2"


def _is_fatal(grid: HeadGrid, word: tuple[int, ...]) -> bool:
    return str(HeadMask(grid, word)) == FATAL


class ExitingReplica(Replica):
    """Exits over the mask."""

    def score(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[MaskScore]:
        if not stage.predicted and any(_is_fatal(grid, word) for word in words):
            os._exit(1)
        return super().score(stage, grid, words)


class FailingReplica(Replica):
    """Fails over the mask."""

    def score(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[MaskScore]:
        scores = super().score(stage, grid, words)
        if stage.predicted:
            return scores
        fatal = [_is_fatal(grid, word) for word in words]
        return [
            MaskScore({}, score.seconds, "fails") if is_fatal else score
            for is_fatal, score in zip(fatal, scores, strict=True)
        ]


class InfiniteReplica(Replica):
    """Has infinite embeddings under the mask."""

    def score(self, stage: Stage, grid: HeadGrid, words: list[tuple[int, ...]]) -> list[MaskScore]:
        embed = Engine.embed

        def spoiled(engine: Engine, masks: Sequence[HeadMask]) -> object:
            embedding_MNE = embed(engine, masks)
            for index, mask in enumerate(masks):
                if str(mask) == FATAL:
                    with torch.inference_mode():
                        embedding_MNE[index][0] = np.inf
            return embedding_MNE

        Engine.embed = spoiled  # type: ignore[assignment]
        try:
            return super().score(stage, grid, words)
        finally:
            Engine.embed = embed  # type: ignore[method-assign]


REPLICAS = {"exit": ExitingReplica, "fail": FailingReplica, "infinite": InfiniteReplica}


def main() -> None:
    """Run `headmask` with such replicas."""
    replica = REPLICAS[sys.argv.pop(1)]
    RayPool.__init__.__kwdefaults__["replica_class"] = replica
    inline.Replica = replica  # type: ignore[misc]
    cli.main()


if __name__ == "__main__":
    # By its name, so that replicas find the classes.
    from tests.chaos import fatal

    fatal.main()
