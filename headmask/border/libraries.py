"""What differs between the versions of the libraries that headmask runs on.

Everything else uses the newest ones as they are. `constraints-lowest.txt` has the oldest that the tests ran on.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "transformers",
    "pillow",
    "numpy",
    "scipy",
    "threadpoolctl",
    "optuna",
    "ray",
)
"""Those that may decide a score or a study."""


def version_of(package: str) -> str | None:
    """Return the installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the versions of headmask, of Python, and of the libraries that may decide a score or a study."""
    found = {package: version_of(package) for package in LIBRARIES}
    return {
        "headmask": version_of("headmask") or "unknown",
        "python": platform.python_version(),
        **{package: version for package, version in found.items() if version is not None},
    }


def joined(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that were used one after the other, such as `2.9.1, 2.14.1`; of some, only the last is known.

    Args:
        before: those used so far, in this form.
        now: those installed.
    """
    found = {**now, **before}
    changed = {name: version for name, version in now.items() if found[name].split(", ")[-1] != version}
    return found | {name: f"{found[name]}, {version}" for name, version in changed.items()}


def cpu_capabilities() -> dict[str, Any]:
    """Return the name of the CPU and which instructions it has, in the words of `torch.cpu.get_capabilities`.

    Before 2.13, torch tells of the two that compute in bfloat16 only.
    """
    import torch

    if (known := getattr(torch.cpu, "get_capabilities", None)) is not None:
        capabilities: dict[str, Any] = known()
        return capabilities
    asked = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return {name: bool(getattr(torch.cpu, question)()) for name, question in asked.items()}


def described(steps: Sequence[Any]) -> str:
    """Return the steps of an image transform as text: the same for equal transforms, whatever the versions.

    It is part of fingerprints, so its words are those that open_clip 3.3 and torchvision 0.29 print.
    """
    return "; ".join(map(_described, steps))


def _described(step: Any) -> str:
    name = getattr(step, "__name__", type(step).__name__)
    match name:
        case "Resize":
            size = f"size={step.size}, interpolation={step.interpolation.value}, max_size={step.max_size}"
            return f"Resize({size}, antialias={step.antialias})"
        case "ResizeKeepRatio":
            mode = f"InterpolationMode.{step.interpolation.name}"
            return f"ResizeKeepRatio(size={step.size}, interpolation={mode}), longest={step.longest:.3f})"
        case "CenterCropOrPad" if step.fill:
            return f"CenterCropOrPad(size={step.size}, fill={step.fill})"
        case "CenterCrop" | "CenterCropOrPad":
            return f"{name}(size={step.size})"
        case "_convert_to_rgb" | "MaybeConvertMode":
            return "MaybeConvertMode()"
        case "ToTensor" | "MaybeToTensor":
            return "MaybeToTensor()"
        case "Normalize":
            return f"Normalize(mean={step.mean}, std={step.std})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(step))


def same_transform(one: str, other: str) -> bool:
    """Return whether two descriptions are of the same transform; either may be from an older study.

    Older studies kept what open_clip printed: other words before 3.3, brackets for numbers read from JSON, and nothing
    of what images are filled with.
    """
    ones, others = _reworded(one), _reworded(other)
    return ones == others or _FILL.sub("", ones) == others or ones == _FILL.sub("", others)


_FILL = re.compile(r", fill=\d+")


def _reworded(description: str) -> str:
    words = {
        "[": "(",
        "]": ")",
        "<function _convert_to_rgb>": "MaybeConvertMode()",
        "; ToTensor()": "; MaybeToTensor()",
    }
    for old, new in words.items():
        description = description.replace(old, new)
    return description


def check_sizes(config: Any) -> None:
    """Check that the whole numbers of a configuration of transformers are such, as its newer versions do themselves.

    Raises:
        TypeError: one is not, with its name.
    """
    for part in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        for name, usual in vars(type(part)()).items() if part is not None else ():
            if type(usual) is not int or name.endswith("_id"):  # Of tokens, which may have none.
                continue
            # Sizes of images may be two.
            if not isinstance(value := getattr(part, name, usual), int | list | tuple):
                raise TypeError(f"{name} must be a whole number; got {value!r}")


@contextlib.contextmanager
def importable(folder: str) -> Iterator[None]:
    """Make a folder's modules importable in a block: older versions of MLflow do not, while they save a model."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def usage_message(message: str) -> str:
    """Return what typer says about a command line; older versions name an environment variable that there is not."""
    return message.replace(" (env var: 'None')", "")


def has_attention_pooling(config: Any) -> bool:
    """Return whether the image tower of a SigLIP pools by attention; before 5.0, transformers says only if it does not.

    Args:
        config: transformers' configuration of the tower.
    """
    return bool(getattr(config, "vision_use_head", True))


def with_driver(url: str) -> str:
    """Return a database URL with the driver that SQLAlchemy takes by default since 2.1: before, it was psycopg2."""
    return re.sub(r"^postgresql://", "postgresql+psycopg://", url)


@contextlib.contextmanager
def calm_optuna() -> Iterator[None]:
    """Silence Optuna's warnings about what it called experimental before 5.0."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def reread_settings(ray: Any) -> None:
    """Let Ray read its settings again, which it does when it is imported; older versions know no tokens."""
    ray._raylet.Config.initialize("")
    if loader := getattr(ray._raylet, "AuthenticationTokenLoader", None):
        loader.instance().reset_cache()


def calm_alembic() -> None:
    """Silence what alembic tells of migrations: older versions of MLflow raise its level while they open a database."""
    logging.getLogger("alembic.runtime.migration").disabled = True
