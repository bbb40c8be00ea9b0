"""What training and its wrappers put into the names of weights, and the names without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

PREFIXES = ("module.", "_orig_mod.", "model.", "clip_model.", "clip.")
"""Prefixes that training adds to names; they are stripped if all names begin with one."""
INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What wrappers around parts of a model insert into names: torch.compile, FSDP and activation checkpointing."""
NUM_AVERAGED = "n_averaged"
"""The counter that torch's AveragedModel keeps beside its weights."""


def unwrapped(state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return weights without the prefixes that all their names share, and the prefixes."""
    taken = ""
    while True:
        first = next(iter(state))
        prefix = next((each for each in PREFIXES if first.startswith(each)), None) or _prefix_of_scale(state)
        if prefix is None or not all(name.startswith(prefix) for name in state):
            return dict(state), taken
        state, taken = {name.removeprefix(prefix): value for name, value in state.items()}, taken + prefix


def without_counter(state: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """Return weights without the counter of torch's AveragedModel, and a note if there was one."""
    if NUM_AVERAGED not in state or not isinstance(state[NUM_AVERAGED], torch.Tensor):
        return dict(state), []
    rest = {key: value for key, value in state.items() if key != NUM_AVERAGED}
    if not rest:
        return dict(state), []
    return rest, [f"{name} holds weights averaged over {int(state[NUM_AVERAGED])} steps, by torch's AveragedModel"]


def without_inserted(state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return weights without what wrappers inserted into their names, and what that was."""
    found = [each for each in INSERTED if any(each in name for name in state)]
    renamed = {_taken_out(name, found): value for name, value in state.items()}
    return (renamed, found) if len(renamed) == len(state) else (state, [])


def _taken_out(name: str, inserted: list[str]) -> str:
    for each in inserted:
        name = name.replace(each, "")
    return name


def _prefix_of_scale(state: Mapping[str, Any]) -> str | None:
    """Return the prefix that training put before the name of a CLIP model's scale, of which there is only one."""
    found = [name.removesuffix("logit_scale") for name in state if name.endswith(".logit_scale")]
    return found[0] if len(found) == 1 else None
