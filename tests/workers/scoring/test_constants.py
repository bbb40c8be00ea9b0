"""Constants of a study: precision by hardware, the chunk by measurement, means by calibration."""

import pytest
import torch

from headmask.errors import ConfigError
from workers.scoring import constants
from workers.scoring.constants import chosen_chunk, resolved_precision
from workers.scoring.replica import Replica, Wanted

CPU = torch.device("cpu")


@pytest.mark.parametrize(("capabilities", "expected"), [({"avx512_bf16": True}, "bfloat16"), ({}, "float32")])
def test_auto_is_bfloat16_where_the_hardware_computes_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(constants, "cpu_capabilities", lambda: capabilities)
    assert resolved_precision("auto", CPU) == expected


def test_what_is_asked_for_is_taken_as_it_is():
    assert [resolved_precision(wanted, CPU) for wanted in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert resolved_precision("float16", torch.device("cuda")) == "float16"


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="float16 needs a CUDA device"):
        resolved_precision("float16", CPU)


def test_a_replica_settles_what_is_left_open(tiny_session, monkeypatch):
    monkeypatch.setitem(constants.CHUNKS, "cpu", (4, 8))
    replica = Replica(tiny_session.payload)
    settled = replica.settle(Wanted("bfloat16"))
    assert settled.precision == "bfloat16"
    assert settled.chunk == 8
    assert settled.means_LHd is None
    assert replica.settle(Wanted("float32", 5)).chunk == 5
    assert replica.settle(Wanted("float32", "measure")).chunk in (4, 8)


def test_the_chunk_follows_from_device_and_tower_alone(tiny_session, monkeypatch):
    engine = Replica(tiny_session.payload).engine("search", "float32", chunk=1)
    monkeypatch.setattr(constants, "_seconds_per_input", lambda *_: pytest.fail("nothing is timed"))
    # 17 tokens of width 32, 24 images.
    for full, expected in ((1 << 20, 16), (17 * 32 * 11, 8), (17 * 32 * 12, 16), (1, 8)):
        monkeypatch.setitem(constants.FULL, "cpu", full)
        assert chosen_chunk(engine) == expected
    monkeypatch.setitem(constants.CHUNKS, "cpu", (64, 128))
    assert chosen_chunk(engine) == 24


def test_a_replica_without_constants_scores_nothing(tiny_session):
    from workers.scoring.messages import Stage

    with pytest.raises(RuntimeError, match="settles or adopts the constants"):
        Replica(tiny_session.payload).score(Stage("search"), tiny_session.grid, [(0, 0, 0)])
