"""Procedurally drawn scenes: two simple shapes on a textured background, with captions that say where they are.

In the training domain the background goes with the kind of the first-named shape 95 % of the time: a spurious cue, such
as any web-scale data has. In the downstream domain the cue is broken: backgrounds are drawn at random.

    python -m orchestrator.demo.scenes --seed 3 --out scenes.parquet
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (214, 48, 49),
    "blue": (45, 105, 214),
    "green": (38, 160, 75),
    "yellow": (240, 200, 40),
    "purple": (140, 70, 190),
    "white": (245, 245, 245),
}
SIZES = {"small": 0.24, "large": 0.38}
"""Width of a shape as a share of the image's."""
RELATIONS = {"left of": "right of", "above": "below"}
IMAGE_SIZE = 48
CUE = 0.95
"""How often the background matches the first shape in the training domain."""
SPLIT_SIZES = {"search": 300, "confirm": 400, "test": 2000}
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Shape:
    """One shape of a scene."""

    size: str
    colour: str
    kind: str

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """Two shapes, their relative position, and the background's texture."""

    first: Shape
    second: Shape
    relation: str
    background: int

    @property
    def captions(self) -> tuple[str, str]:
        """Captions of the scene from the first shape, and from the second."""
        return (
            f"a {self.first} {self.relation} a {self.second}",
            f"a {self.second} {RELATIONS[self.relation]} a {self.first}",
        )


def draw_scene(rng: np.random.Generator, *, cue: float) -> Scene:
    """Return a random scene whose background matches the first shape's kind at the given rate, else is random."""

    def shape() -> Shape:
        size, colour, kind = (options[rng.integers(len(options))] for options in (list(SIZES), list(COLOURS), KINDS))
        return Shape(size, colour, kind)

    first, second = shape(), shape()
    while second == first:
        second = shape()
    relation = list(RELATIONS)[rng.integers(len(RELATIONS))]
    follows = rng.random() < cue
    background = KINDS.index(first.kind) if follows else int(rng.integers(len(KINDS)))
    return Scene(first, second, relation, background)


def unique_scenes(rng: np.random.Generator, count: int, *, cue: float) -> list[Scene]:
    """Return scenes no two of which share a caption."""
    scenes: dict[str, Scene] = {}
    taken: set[str] = set()
    while len(scenes) < count:
        scene = draw_scene(rng, cue=cue)
        if not taken.intersection(scene.captions):
            taken.update(scene.captions)
            scenes[scene.captions[0]] = scene
    return list(scenes.values())


def render(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Return the scene as an RGB image of 48 x 48 pixels, with random places, tints and grain."""
    side = IMAGE_SIZE * _SUPERSAMPLING
    image = _background(scene.background, side, rng)
    draw = ImageDraw.Draw(image)
    jitter = rng.uniform(-0.06, 0.06, size=4)
    near, far = 0.26, 0.74
    if scene.relation == "left of":
        places = ((near + jitter[0], 0.5 + 2 * jitter[1]), (far + jitter[2], 0.5 + 2 * jitter[3]))
    else:
        places = ((0.5 + 2 * jitter[0], near + jitter[1]), (0.5 + 2 * jitter[2], far + jitter[3]))
    for shape, (x, y) in zip((scene.first, scene.second), places, strict=True):
        _draw_shape(draw, shape, x * side, y * side, SIZES[shape.size] * side * rng.uniform(0.94, 1.06) / 2, rng)
    image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    grain = rng.normal(0, 3, size=(IMAGE_SIZE, IMAGE_SIZE, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _background(texture: int, side: int, rng: np.random.Generator) -> Image.Image:
    """Return one of six grey-brown textures: stripes across, stripes down, checks, dots, diagonals, rings."""
    y, x = np.mgrid[0:side, 0:side] / side
    phase = rng.uniform(0, 1, size=2)
    period = rng.uniform(0.9, 1.1) / 7
    u, v = (x + phase[0]) / period, (y + phase[1]) / period
    patterns = (
        np.sin(2 * np.pi * v),
        np.sin(2 * np.pi * u),
        np.sign(np.sin(np.pi * u)) * np.sign(np.sin(np.pi * v)),
        4 * np.maximum(0, np.cos(np.pi * u) * np.cos(np.pi * v)) ** 3 - 0.5,
        np.sin(2 * np.pi * (u + v) / math.sqrt(2)),
        np.sin(2 * np.pi * np.hypot(x - 0.5, y - 0.5) / period),
    )
    base = np.array([112, 106, 98]) + rng.normal(0, 6, size=3)
    pixels = base + 26 * patterns[texture][..., None] + rng.normal(0, 6, size=(side, side, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: Shape, x: float, y: float, radius: float, rng: np.random.Generator
) -> None:
    colour = tuple(int(np.clip(c + rng.normal(0, 8), 0, 255)) for c in COLOURS[shape.colour])
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape.kind == "circle":
        draw.ellipse(box, fill=colour)
    elif shape.kind == "square":
        draw.rectangle(box, fill=colour)
    elif shape.kind == "ring":
        draw.ellipse(box, outline=colour, width=max(2, round(radius * 0.42)))
    elif shape.kind == "cross":
        arm = radius * 0.36
        draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
    else:
        spikes = 3 if shape.kind == "triangle" else 10
        radii = [radius * (1.12 if spikes == 3 or spike % 2 == 0 else 0.45) for spike in range(spikes)]
        turns = [2 * math.pi * spike / spikes - math.pi / 2 for spike in range(spikes)]
        draw.polygon(
            [(x + r * math.cos(t), y + r * math.sin(t)) for r, t in zip(radii, turns, strict=True)], fill=colour
        )


def downstream_rows(
    seed: int, *, cue: float = 0.0, sizes: Mapping[str, int] | None = None
) -> Iterator[tuple[bytes, tuple[str, str], str]]:
    """Yield (WebP bytes, captions, split) of the downstream domain, where the cue is broken unless one is given.

    Args:
        seed: seed of the draw.
        cue: how often the background gives the shape away.
        sizes: number of scenes in each split; `SPLIT_SIZES` by default.
    """
    for index, (split, count) in enumerate((sizes or SPLIT_SIZES).items()):
        rng = np.random.default_rng((seed, index))
        for scene in unique_scenes(rng, count, cue=cue):
            encoded = io.BytesIO()
            render(scene, rng).save(encoded, "WEBP", quality=88, method=6)
            yield encoded.getvalue(), scene.captions, split


def write_downstream(path: Path, seed: int, *, cue: float = 0.0, sizes: Mapping[str, int] | None = None) -> None:
    """Write a downstream data set in the Hugging Face image-caption layout."""
    from workers.data.dataset import Row, write_dataset

    rows = downstream_rows(seed, cue=cue, sizes=sizes)
    write_dataset(
        path, (Row(f"{i:05d}.webp", image, captions, split) for i, (image, captions, split) in enumerate(rows))
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a downstream data set of scenes.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--cue", type=float, default=0.0, help=f"how often the background gives the shape away ({CUE} in training)"
    )
    arguments = parser.parse_args()
    write_downstream(arguments.out, arguments.seed, cue=arguments.cue)
