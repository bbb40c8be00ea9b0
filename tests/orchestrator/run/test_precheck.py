"""The precheck: a broken baseline is refused before anything is made."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from headmask.errors import ModelError
from orchestrator.demo import unpack_demo
from orchestrator.run.precheck import check_baseline
from orchestrator.search.preparing import load, prepare, ready
from orchestrator.settings.config import read_config
from tests.tiny import write_tiny_model
from workers.pool.inline import InlinePool
from workers.scoring import gelu
from workers.scoring.packing import PackedTower


@pytest.fixture(scope="module")
def demo_session(tmp_path_factory, pixel_cache):
    """A model that works: the demo's."""
    paths = unpack_demo(tmp_path_factory.mktemp("demo"))
    flags = {"model.name": f"local-dir:{paths.model}", "data.path": str(paths.data), "output.folder": "unused"}
    return prepare(read_config(None, flags))


def test_a_model_that_works_passes(demo_session):
    before = [type(module) for module in demo_session.model.clip.modules()]
    check_baseline(demo_session, InlinePool(demo_session.payload))
    assert [type(module) for module in demo_session.model.clip.modules()] == before


def test_chance_level_is_refused(tiny_session):
    with pytest.raises(ModelError, match=r"scores at chance level: text-to-image recall@10 is .* chance is 41.7 %"):
        check_baseline(tiny_session, InlinePool(tiny_session.payload))


class BluntGELU(nn.Module):
    """Stands in for QuickGELU, which hurts a model this small too little to be measured."""

    def forward(self, x):
        return x * torch.sigmoid(0.3 * x)


def test_the_wrong_gelu_is_refused(demo_session, monkeypatch):
    """Weights trained with one activation and run with another lose points; bringing the right one back shows it."""
    monkeypatch.setattr(gelu, "QuickGELU", BluntGELU)
    places = [
        (module, name)
        for module in demo_session.model.clip.modules()
        for name, child in module.named_children()
        if type(child) is nn.GELU
    ]
    try:
        for module, name in places:
            setattr(module, name, BluntGELU())
        session = load(demo_session.config)
        session = replace(session, model=demo_session.model, other=replace(session.other, model=demo_session.model))
        session = replace(session, payload=replace(session.payload, tower=PackedTower.pack(session.model.clip.visual)))
        pool = InlinePool(session.payload)
        session = ready(session, pool)
        with pytest.raises(ModelError, match=r"points more with GELU than with QuickGELU, so its weights were"):
            check_baseline(session, pool)
        assert all(type(getattr(module, name)) is BluntGELU for module, name in places)
        view = pool._replica._views["float32"]
        assert {type(each) for each in view.module.modules() if "GELU" in type(each).__name__} == {BluntGELU}
    finally:
        for module, name in places:
            setattr(module, name, nn.GELU())


def test_non_finite_weights_are_refused(tiny_config, tmp_path):
    model = write_tiny_model(tmp_path / "broken")
    weights = load_file(model / "open_clip_model.safetensors")
    save_file({**weights, "visual.proj": weights["visual.proj"] * torch.nan}, model / "open_clip_model.safetensors")
    message = r"has weights that are no numbers \(NaN or infinite\), in visual\.proj: training went wrong there"
    with pytest.raises(ModelError, match=message):
        prepare(tiny_config(**{"model__name": f"local-dir:{model}"}))
