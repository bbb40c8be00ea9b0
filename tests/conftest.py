"""Fixtures that all tests share: tiny models and data, and one local Ray for those who need it."""

from __future__ import annotations

import io
import os

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_clip, write_tiny_dataset, write_tiny_model


@pytest.fixture(scope="session")
def clip():
    """A tiny CLIP with random weights: 3 layers x 4 heads, 28 px, 17 tokens. Tests leave it as it is."""
    return tiny_clip()


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """A tiny model folder and a tiny data set on disk."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_tiny_model(folder / "model"), write_tiny_dataset(folder / "data.parquet")


@pytest.fixture(scope="session")
def pixel_cache(tmp_path_factory):
    """The pixel cache of the whole test session."""
    folder = tmp_path_factory.mktemp("pixels")
    os.environ["HEADMASK_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(pixel_cache):
    """Keep every test out of the user's cache."""


@pytest.fixture
def png():
    """Encodes an array or an image as PNG bytes."""

    def encode(content, kind="PNG", **options):
        image = (
            Image.fromarray(np.asarray(content, dtype=np.uint8)) if not isinstance(content, Image.Image) else content
        )
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return encode
