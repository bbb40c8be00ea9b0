"""Running searches in tests, and comparing what they leave behind."""

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from orchestrator.run import begin
from orchestrator.run.display import Quiet
from orchestrator.study.integrity import with_sums
from orchestrator.study.storage import open_storage
from workers.data.dataset import Dataset
from workers.tasks.retrieval import RetrievalTargets

CLOCKS = ("seconds",)
NAMES = ("checksum", "seconds", "study", "storage", "mlflow_run_id", "mask_file", "test_looks")


def start(config):
    return begin.start(config, Quiet())


def resume(config):
    return begin.resume(config, Quiet())


@contextlib.contextmanager
def undrawn():
    """Let searches write no pictures and no report, which take most of a tiny one's time."""
    with pytest.MonkeyPatch.context() as patch:
        for part in ("_draw", "_report"):
            patch.setattr(f"orchestrator.run.conclude.{part}", lambda *_: None)
        yield


def trials(folder):
    """Return the trial table of a run folder: proposal, words, values, state, everything but clocks."""
    table = pq.read_table(folder / "trials.parquet")
    return table.drop_columns([*CLOCKS]).to_pylist()


def outcome(folder):
    """Return what result.json says, but for clocks, names and how much this run of the driver had to predict."""
    result = json.loads((folder / "result.json").read_text())
    if result["surrogate"]:
        del result["surrogate"]["num_screened"]
    return {key: value for key, value in result.items() if key not in NAMES}


def recall_of(model, preprocess, tokenizer, data):
    """Return the mean recall of a model on the test split of a data set, by its own preprocessing and tokenizer."""
    dataset = Dataset(data)
    rows = [row for row, split in enumerate(dataset.splits()) if split == "test"]
    encoded, captions = list(dataset.images()), dataset.captions()
    images = torch.stack([preprocess(Image.open(io.BytesIO(encoded[row]))) for row in rows])
    texts = [caption for row in rows for caption in captions[row]]
    with torch.no_grad():
        image_NE = F.normalize(model.encode_image(images), dim=-1)
        text_QE = F.normalize(model.encode_text(tokenizer(texts)), dim=-1)
    targets = RetrievalTargets(np.repeat(np.arange(len(rows)), [len(captions[row]) for row in rows]))
    return targets.values(targets.measure(image_NE, text_QE))["mean_recall"]


def move_folder(journal, name, folder):
    """Let a study name another run folder, as one that was searched there does."""
    change_attr(journal, name, "config", lambda config: config["output"].update(folder=str(folder)))


def change_attr(journal, name, attr, change):
    """Change an attribute of a study in place, as if it had been written so."""
    with open_storage(str(journal)) as storage:
        study = optuna.load_study(study_name=name, storage=storage)
        content = study.user_attrs[attr]
        change(content)
        for key, value in with_sums(study.user_attrs, attr, content).items():
            study.set_user_attr(key, value)


def killed(runs):
    """Start searches, pairs of a moment and a configuration, in child processes that are killed at that moment."""
    arguments = []
    for moment, config in runs:
        config_file = config.folder.parent / f"{config.folder.name}.json"
        config_file.write_text(json.dumps(config.model_dump(mode="json")))
        arguments.append(f"{moment}={config_file}")
    command = [sys.executable, "-m", "tests.orchestrator.run.killed", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout.split("\n")[:-1] == [f"{moment} 9" for moment, _ in runs], done.stderr
