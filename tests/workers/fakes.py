"""A replica without a model, whose masks can hang it, kill it or make it fail."""

import os
import time
from pathlib import Path

from headmask.errors import DataError, DeviceMemoryError
from workers.scoring.messages import MaskScore

DEADLY, FAILING, REFUSED, HUNGRY = (15, 0, 0), (0, 15, 0), (0, 0, 15), (0, 0, 14)
FATAL = -1
"""First token of a text that kills whoever embeds it."""


class FakePayload:
    """Travels in place of a payload."""

    def __init__(self, folder=None):
        self.folder = folder

    def packed(self, put):
        return self


class FakeReplica:
    """Scores a mask with its number of heads, 50 ms each."""

    def __init__(self, payload, device, constants=None):
        self.payload, self.device = payload, device

    def device_kind(self):
        return "fake"

    def pid(self):
        return os.getpid()

    def adopt_displacements(self, displacements):
        self.displacements = displacements

    def encode(self, key, held, chunks):
        time.sleep(0.05)
        for chunk in chunks:
            if chunk[0, 0] == FATAL:
                os._exit(1)
        return [chunk.astype("float32") / 2 for chunk in chunks]

    def forget_encoder(self):
        pass

    def score(self, stage, grid, words):
        if stage.predicted:
            return [MaskScore({"predicted": self.displacements}, 0.01) for _ in words]
        for word in words:
            time.sleep(0.05)
            if word == DEADLY:
                os._exit(1)
            if word == FAILING:
                raise RuntimeError("CUDA out of memory")
            if word == REFUSED:
                raise DataError("the data are not as they must be")
            if word == HUNGRY:
                raise DeviceMemoryError("32 images at a time do not fit; 16 would")
        return [MaskScore({"mean_recall": sum(w.bit_count() for w in word)}, 0.05) for word in words]


class BreakingReplica(FakeReplica):
    """Scores a few masks, then nothing any more, on whatever process; a file remembers that."""

    def score(self, stage, grid, words):
        broken = Path(self.payload.folder) / "broken"
        if broken.exists():
            raise RuntimeError("CUDA error: the GPU has fallen off the bus")
        return super().score(stage, grid, words)


class UnbornReplica(FakeReplica):
    """Dies while it is made."""

    def __init__(self, payload, device, constants=None):
        raise RuntimeError("no such device")


class TrainingReplica(FakeReplica):
    """Returns the place of the first unit, and does as told by the others."""

    def do(self, tasks):
        (task,) = tasks
        first, *others = task.units_u.tolist()
        if others == [1]:
            os._exit(1)
        if others == [2]:
            raise RuntimeError("CUDA out of memory")
        if others == [3]:
            raise DataError("the data are not as they must be")
        return [first]
