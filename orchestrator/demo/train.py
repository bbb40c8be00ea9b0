"""Train the demo's CLIP on scenes with a spurious cue, and write the assets that the package ships.

    python -m orchestrator.demo.train --seed 1 --out orchestrator/demo/assets

The model is open_clip's own ViT and text transformer, trained with open_clip's contrastive loss. The same seed gives
the same files on the same versions and kind of CPU.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save as save_tensors
from torch import Tensor

from orchestrator.demo.scenes import CUE, IMAGE_SIZE, draw_scene, render, write_downstream

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 12, "width": 96, "layers": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3},
}
PREPROCESS_CONFIG: dict[str, Any] = {
    "size": IMAGE_SIZE,
    "mean": [0.45, 0.43, 0.41],
    "std": [0.2, 0.2, 0.2],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
NUM_SCENES = 24_000
BATCH = 256
STEPS = 1_200
WARM_UP = 100
PEAK_RATE = 1.5e-3
WEIGHT_DECAY = 0.05
MODEL_FILE = "open_clip_model.safetensors.xz"


def training_set(seed: int, cue: float = CUE) -> tuple[Tensor, Tensor]:
    """Return uint8 pixels (N, 3, 48, 48) and tokens (N, 2, 24) of the training domain."""
    rng = np.random.default_rng((seed, 100))
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=24)
    pixels: list[np.ndarray] = []
    captions: list[str] = []
    for _ in range(NUM_SCENES):
        scene = draw_scene(rng, cue=cue)
        pixels.append(np.asarray(render(scene, rng)).transpose(2, 0, 1))
        captions.extend(scene.captions)
    return torch.from_numpy(np.stack(pixels)), tokenizer(captions).view(NUM_SCENES, 2, -1)


def train(seed: int, *, steps: int = STEPS, cue: float = CUE) -> Any:
    """Return the trained model.

    Args:
        seed: seed of scenes, weights and batches.
        steps: number of steps.
        cue: how often the background goes with the first shape.
    """
    torch.manual_seed(seed)
    pixels, tokens = training_set(seed, cue)
    model = open_clip.model.CLIP(**MODEL_CONFIG)
    mean, std = (torch.tensor(PREPROCESS_CONFIG[key]).view(3, 1, 1) for key in ("mean", "std"))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    loss_of = open_clip.ClipLoss()
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        rate = PEAK_RATE * min(1, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(NUM_SCENES, (BATCH,), generator=generator)
        which = torch.randint(2, (BATCH,), generator=generator)
        image, text, scale = model((pixels[chosen].float() / 255 - mean) / std, tokens[chosen, which])
        loss = loss_of(image, text, scale)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 100 == 0 or step == steps - 1:
            hits = (F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T).argmax(1) == torch.arange(BATCH)
            print(f"step {step}: loss {loss.item():.3f}, recall@1 in the batch {hits.float().mean():.3f}", flush=True)
    with torch.no_grad():
        used = torch.zeros(MODEL_CONFIG["text_cfg"]["vocab_size"], dtype=torch.bool)
        used[torch.bincount(tokens.flatten()).nonzero().squeeze(1)] = True
        model.token_embedding.weight[~used] = 0
    return model.eval()


def write_model(model: torch.nn.Module, folder: Path) -> None:
    """Write the configuration and the float16 weights, compressed: rows of unused tokens are zero and vanish."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {key: tensor.half().contiguous() for key, tensor in model.state_dict().items()}
    (folder / MODEL_FILE).write_bytes(lzma.compress(save_tensors(state), preset=9 | lzma.PRESET_EXTREME))


def main() -> None:
    """Write the model and the downstream data of a seed."""
    parser = argparse.ArgumentParser(description="Make the demo's model and data.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model-only", action="store_true", help="leave the data set out")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"{STEPS} for the demo's")
    parser.add_argument("--cue", type=float, default=CUE, help=f"how often the background gives the shape away ({CUE})")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU; they decide the last bits")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    write_model(train(arguments.seed, steps=arguments.steps, cue=arguments.cue), arguments.out)
    if not arguments.model_only:
        write_downstream(arguments.out / "scenes.parquet", arguments.seed)


if __name__ == "__main__":
    main()
