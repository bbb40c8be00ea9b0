"""Devices: which one is chosen, and what is said of one that is not there or lacks an operator.

There is no Apple GPU here: what a search does on one beyond this is untested.
"""

import pytest
import torch

from headmask.errors import ConfigError
from orchestrator.settings.config import read_config
from workers.pool.inline import InlinePool
from workers.scoring.constants import resolved_precision
from workers.scoring.devices import chosen_device, default_device, device_kind, naming_operators, ranking_device
from workers.scoring.scorer import proven_view

MPS = torch.device("mps")
MISSING = (
    "The operator 'aten::_linalg_eigh.eigenvalues' is not currently implemented for the MPS device. If you want this "
    "op to be considered for addition please comment on an issue."
)


def test_the_device_is_a_gpu_of_nvidia_if_there_is_one_and_mps_only_on_request(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (default_device(), chosen_device("auto"), chosen_device("mps")) == ("cpu", "cpu", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (chosen_device("auto"), chosen_device("cpu")) == ("cuda", "cpu")


@pytest.mark.parametrize(("device", "what"), [("mps", "an Apple GPU"), ("cuda", "a GPU of NVIDIA or AMD")])
def test_a_device_that_is_not_there_is_refused(monkeypatch, device, what):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=rf"device {device} needs {what}, and torch .* finds none .*leave out --device"
    ):
        chosen_device(device)


def test_an_apple_gpu_computes_in_float32_and_ranks_on_the_cpu():
    assert resolved_precision("auto", MPS) == resolved_precision("float32", MPS) == "float32"
    with pytest.raises(ConfigError, match="device mps computes in float32; got precision bfloat16"):
        resolved_precision("bfloat16", MPS)
    assert ranking_device(MPS) == torch.device("cpu")
    assert ranking_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert device_kind("mps").startswith("mps ")


def test_a_missing_operator_is_named_with_the_way_out():
    with (
        pytest.raises(
            ConfigError, match=r"no operator aten::_linalg_eigh.eigenvalues, .*PYTORCH_ENABLE_MPS_FALLBACK=1"
        ),
        naming_operators("mps"),
    ):
        raise NotImplementedError(MISSING)
    with (
        pytest.raises(ConfigError, match="device mps has no float64, which this search needs"),
        naming_operators("mps"),
    ):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")


@pytest.mark.parametrize(
    ("device", "error"), [("mps", RuntimeError("shapes differ")), ("cpu", TypeError("MPS float64"))]
)
def test_other_errors_stay_what_they_are(device, error):
    with pytest.raises(type(error), match=str(error)), naming_operators(device):
        raise error


class Lacking:
    """A replica whose device lacks an operator."""

    def settle(self, wanted):
        raise NotImplementedError(MISSING)


def test_a_pool_on_an_apple_gpu_names_what_it_lacks(tiny_session):
    pool = InlinePool(tiny_session.payload)
    pool._device, pool._replica = "mps", Lacking()
    with pytest.raises(ConfigError, match="device mps has no operator aten::_linalg_eigh"):
        pool.settle(None)


def test_a_view_is_proven_on_the_device_that_it_scores_on(tiny_session, monkeypatch):
    seen = []
    monkeypatch.setattr("workers.scoring.scorer.prove", lambda view, inputs, **_: seen.append(inputs.device.type))
    split = tiny_session.payload.splits["search"][""]
    proven_view(tiny_session.model.clip.visual, split, tiny_session.payload.normalisation, device="cpu")
    assert seen == ["cpu"]


def test_the_device_is_for_the_inline_pool(tmp_path):
    flags = {"model.name": "ViT-B-32", "data.path": "d.parquet", "output.folder": str(tmp_path), "pool.device": "mps"}
    with pytest.raises(ConfigError, match=r"device is for the inline pool, .*got mps with Ray, .*pass --pool inline"):
        read_config(None, flags)
    assert read_config(None, flags | {"pool.kind": "inline"}).pool.device == "mps"
