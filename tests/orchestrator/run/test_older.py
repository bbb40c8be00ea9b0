"""Studies made by earlier versions go on.

`older/VERSION.journal` holds the first 40 masks of the search below, as that version left them. Its model and data are
the same bytes on every machine, unlike those that PyTorch's generator and compression draw. A genetic search without a
surrogate breeds from orders of values alone, which the last bits of other processors do not change.
"""

import io
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from orchestrator.study.storage import open_storage
from tests.orchestrator.studies import move_folder, resume
from tests.tiny import make_tiny_config, write_tiny_model
from workers.data.dataset import Row, write_dataset

JOURNALS = sorted((Path(__file__).parent / "older").glob("*.journal"))


def write_fixed_files(folder):
    """Write a model and a data set whose digests no machine changes, and return their paths."""
    rng = np.random.default_rng(0)
    model = write_tiny_model(folder / "model")
    weights = load_file(model / "open_clip_model.safetensors")
    drawn = {name: rng.random(weights[name].numel(), dtype=np.float32) - np.float32(0.5) for name in sorted(weights)}
    fixed = {name: torch.from_numpy(values).reshape(weights[name].shape) for name, values in drawn.items()}
    save_file(fixed, model / "open_clip_model.safetensors")
    rows = []
    for split, count in {"search": 24, "confirm": 20, "test": 30}.items():
        for number in range(count):
            image = io.BytesIO()
            pixels = rng.integers(256, size=(28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image, "PNG", compress_level=0)
            rows.append(Row(f"{split}{number}.png", image.getvalue(), (f"picture {number} of {split}",), split))
    write_dataset(folder / "data.parquet", rows)
    return model, folder / "data.parquet"


def search_config(folder, **changes):
    settings = {"search__strategy": "genetic", "search__surrogate": False, "budget__masks": 40}
    return make_tiny_config(write_fixed_files(folder), folder / "tiny", **settings | changes)


def stored_trials(journal):
    with open_storage(str(journal)) as storage:
        study = optuna.load_study(study_name="tiny", storage=storage)
        return [(each.number, each.values, each.user_attrs, each.system_attrs) for each in study.trials]


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda path: path.stem)
def test_a_study_of_an_earlier_version_goes_on(journal, tmp_path):
    config = search_config(tmp_path, budget__masks=60, pool__mixed_devices=True)
    config.folder.mkdir()
    copy = shutil.copy(journal, config.folder / "study.journal")
    move_folder(copy, "tiny", config.folder)
    before = stored_trials(copy)
    assert resume(config).result.num_masks == 60
    after = stored_trials(copy)
    assert (len(before), len(after)) == (40, 60)
    assert after[:40] == before
