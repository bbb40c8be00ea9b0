"""The engine: the masked model's embeddings, a function of the mask alone, nothing computed twice, in any memory."""

import os
import subprocess
import sys
import weakref
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from headmask.ablation.rules import ABLATIONS
from headmask.apply.live import ablate, calibrate_means
from headmask.errors import DeviceMemoryError
from headmask.mask import HeadGrid, HeadMask
from headmask.tower.towers import view_of
from tests.families import FAMILIES, TEXT_FAMILIES, family, text_family, tokens
from tests.headmask.test_mask import masks
from tests.tiny import random_masks, tiny_clip
from workers.data.pixels import Pixels
from workers.scoring.constants import measured_chunk
from workers.scoring.engine import Engine
from workers.scoring.inputs import Normalisation, make_inputs

GRID = HeadGrid(3, 4)
ROOT = Path(__file__).parents[3]
NORMALISATION = Normalisation(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
# Realistic shapes: matrix kernels choose other paths for small ones.
WIDE = {"image_size": 64, "patch_size": 8, "width": 256, "layers": 3, "head_width": 64}
WIDE_TEXT = {"context_length": 12, "vocab_size": 64, "width": 256, "heads": 4, "layers": 3}


def pixels_for(model, count):
    size = model.visual.image_size[0]
    pixels = np.random.default_rng(0).integers(256, size=(count, 3, size, size), dtype=np.uint8)
    return Pixels(pixels, np.arange(count))


def engine_of(model, count=7, *, tower="image", dtype=torch.float32, chunk=3, ablation="zero", **options):
    view = view_of(model.to(dtype), tower)
    inputs = pixels_for(model, count) if tower == "image" else tokens(count).numpy()
    made = make_inputs(inputs, view, NORMALISATION)
    return Engine(view, made, chunk=chunk, ablation=ABLATIONS[ablation], **options)


@pytest.mark.parametrize("name", FAMILIES)
@given(
    chosen=st.lists(masks(GRID), min_size=1, max_size=6), ablation=st.sampled_from(["zero", "mean", "uniform", "cls"])
)
@settings(max_examples=6, deadline=None)
def test_embeddings_are_the_masked_models(name, chosen, ablation):
    model = family(name)
    view = view_of(model)
    if ablation == "cls" and not view.has_class_token:
        ablation = "uniform"
    images = NORMALISATION(pixels_for(model, 7)[:])
    means = calibrate_means(model, lambda: model.encode_image(images))
    engine = engine_of(model, ablation=ablation, means_LHd=means)
    for mask, found in zip(chosen, engine.embed(chosen), strict=True):
        with torch.no_grad(), ablate(model, mask, ablation=ablation, means_LHd=means):
            live = model.encode_image(images)
        assert (F.normalize(found, dim=-1) - F.normalize(live, dim=-1)).abs().max() <= 1e-6


@pytest.mark.parametrize("name", TEXT_FAMILIES)
@given(chosen=st.lists(masks(HeadGrid(2, 2)), min_size=1, max_size=6), ablation=st.sampled_from(["zero", "uniform"]))
@settings(max_examples=6, deadline=None)
def test_text_embeddings_are_the_masked_models_in_the_order_of_the_texts(name, chosen, ablation):
    model, texts = text_family(name), tokens(20)
    engine = engine_of(model, 20, tower="text", chunk=6, ablation=ablation)
    for mask, found in zip(chosen, engine.embed(chosen), strict=True):
        with torch.no_grad(), ablate(model, mask, ablation=ablation, tower="text"):
            live = model.encode_text(texts)
        assert (F.normalize(found, dim=-1) - F.normalize(live, dim=-1)).abs().max() <= 1e-6


@pytest.mark.parametrize("name", ["multihead attention", "SigLIP", "EVA02", "PE", "CoCa"])
def test_calibrated_means_are_the_live_models(name):
    model = family(name)
    images = NORMALISATION(pixels_for(model, 7)[:])
    means = calibrate_means(model, lambda: model.encode_image(images))
    assert (engine_of(model).means() - means).abs().max() <= 1e-6


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_calibrated_means_of_texts_are_the_live_models(name):
    model, texts = text_family(name), tokens(20)
    means = calibrate_means(model, lambda: model.encode_text(texts), tower="text")
    assert (engine_of(model, 20, tower="text", chunk=6).means() - means).abs().max() <= 1e-6


@pytest.mark.parametrize("ablation", ["zero", pytest.param("uniform", marks=pytest.mark.slow)])
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_bit_equal_alone_in_any_batch_and_short_of_memory(dtype, tower, ablation):
    engine = engine_of(tiny_clip(text=WIDE_TEXT, **WIDE), 6, tower=tower, dtype=dtype, chunk=4, ablation=ablation)
    chosen = random_masks(engine.view.grid, 16)
    alone = {mask: engine.embed([mask])[0] for mask in chosen[::2]}
    rng = np.random.default_rng(1)
    for size, max_nodes in ((1, 1), (7, 3), (16, 3), (16, 2), (16, 1)):
        engine.max_nodes = max_nodes
        order = [chosen[index] for index in rng.permutation(len(chosen))]
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            for mask, embedding_NE in zip(batch, engine.embed(batch), strict=True):
                if mask in alone:
                    assert torch.equal(embedding_NE, alone[mask])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_cuda_embeddings_are_bit_equal_in_any_batch_and_those_of_the_cpu(dtype):
    model = tiny_clip(std=0.15, **WIDE)
    cpu = engine_of(deepcopy(model), 20, chunk=8)
    cuda = engine_of(model.cuda(), 20, dtype=dtype, chunk=8)
    chosen = random_masks(cpu.view.grid, 64)
    together = cuda.embed(chosen)
    for row in range(0, 64, 8):
        assert torch.equal(cuda.embed([chosen[row]])[0], together[row])
    difference = F.normalize(together.cpu(), dim=-1) - F.normalize(cpu.embed(chosen), dim=-1)
    assert difference.abs().max() < {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}[dtype]


def test_every_prefix_is_computed_once_in_every_chunk():
    engine = engine_of(tiny_clip(), 7, chunk=3)
    entered, left = [], []
    enter, leave = engine.view.enter, engine.view.leave
    engine.view.enter = lambda layer, *rest: (entered.append(layer), enter(layer, *rest))[1]
    engine.view.leave = lambda layer, *rest: (left.append(layer), leave(layer, *rest))[1]
    engine.embed([HeadMask(GRID, words) for words in [(0, 0, 1), (5, 0, 0), (0, 0, 2), (0, 3, 0), (0, 0, 2)]])
    assert [entered.count(layer) for layer in range(3)] == [3 * 1, 3 * 2, 3 * 3]
    assert [left.count(layer) for layer in range(3)] == [3 * 2, 3 * 3, 3 * 4]


class Allocator:
    """Fails like a device out of memory once more nodes are alive than it has room for."""

    def __init__(self, engine, room):
        self.alive, self.room, self.failures = 0, room, 0
        enter, leave = engine.view.enter, engine.view.leave
        engine.view.enter = lambda *arguments: self.made(enter(*arguments))
        engine.view.leave = leave

    def made(self, entered):
        if self.alive >= self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("out of memory")
        self.alive += 1
        weakref.finalize(entered.attended.z_BHQd, self.gone)
        return entered

    def gone(self):
        self.alive -= 1


@pytest.mark.parametrize("room", [2, 3, 4])
def test_short_of_memory_fewer_nodes_are_kept_and_no_bit_changes(room):
    roomy, tight = (engine_of(tiny_clip(layers=5), 6, chunk=6) for _ in range(2))
    chosen = HeadMask.singles(roomy.view.grid)
    expected = roomy.embed(chosen)
    allocator = Allocator(tight, room)
    assert torch.equal(tight.embed(chosen), expected)
    assert allocator.failures > 0
    assert 1 <= tight.max_nodes < 5


def test_a_node_that_does_not_fit_alone_is_an_error_that_says_which_chunk_does():
    engine = engine_of(tiny_clip(), 8, chunk=8)
    embed = engine.view.embed

    def embedded(inputs):
        if len(inputs) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return embed(inputs)

    engine.view.embed = embedded
    with pytest.raises(DeviceMemoryError, match="does not fit in the memory of cpu; --image-chunk 2 does"):
        engine.embed([HeadMask.empty(GRID)])
    engine.view.embed = lambda inputs: embedded(inputs.repeat(8, 1, 1, 1))
    with pytest.raises(DeviceMemoryError, match="not even one input does: use a larger device"):
        engine.embed([HeadMask.empty(GRID)])


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    engine = engine_of(tiny_clip())
    engine.view.leave = lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose"))
    with pytest.raises(RuntimeError, match="on purpose"):
        engine.embed([HeadMask.empty(GRID)])


def test_a_memory_limit_of_the_process_is_survived(tmp_path):
    """A real allocation failure: the address space is limited to less than the path of a scan takes."""
    script = tmp_path / "squeezed.py"
    script.write_text(SQUEEZED)
    limits = {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=os.environ | limits)
    assert done.stdout.splitlines()[-1:] == ["equal, with fewer nodes"], done.stderr


SQUEEZED = """
import resource, torch
from pathlib import Path
from headmask.mask import HeadMask
from tests.tiny import tiny_clip
from tests.workers.scoring.test_engine import engine_of

torch.set_num_threads(1)
engine = engine_of(tiny_clip(layers=12, width=64, image_size=56, patch_size=4), 64, chunk=64)
masks = HeadMask.singles(engine.view.grid)[::16]
expected = engine.embed(masks)
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 100 * 2**20, -1))
assert torch.equal(engine.embed(masks), expected)
print("equal, with fewer nodes" if engine.max_nodes < 12 else "never squeezed")
"""


def test_the_measured_chunk_is_one_of_the_candidates_that_fit():
    engine = engine_of(tiny_clip(), 7)
    assert measured_chunk(engine, (1, 2, 4, 8)) in (1, 2, 4)
    assert measured_chunk(engine, (8, 16)) == 7


def test_a_chunk_that_does_not_fit_is_not_chosen():
    engine = engine_of(tiny_clip(), 8)
    embed = engine.view.embed

    def embedded(inputs):
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return embed(inputs)

    engine.view.embed = embedded
    assert measured_chunk(engine, (1, 2, 4, 8)) in (1, 2)
