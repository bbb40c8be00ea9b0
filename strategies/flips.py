"""The best mask with heads flipped: one, or several that gained there one by one."""

from __future__ import annotations

import numpy as np

from headmask.mask import BoolArray
from strategies.history import FloatArray, History, distances
from strategies.learning import Indices
from strategies.model import Functions

# F free heads, S shortlisted heads, N good masks, P pairs of these, G heads that gained, R candidates

GOOD = 400
"""Number of the best masks among which flips of one head are looked for."""
CLOSE = 12
"""Most heads in which a mask may differ from the best one for a flip there to tell of a flip here."""
NUM_SIZES = 0.25
"""Part of the masks with heads flipped together that hold the best so many; the others hold random ones."""
LEAST, MOST = 0.3, 0.9
"""Probabilities with which a random choice holds a head."""


def flipped(history: History, functions: Functions, heads_S: Indices, hopes_S: FloatArray) -> BoolArray:
    """Return the best mask with one head flipped (S, F), the most promising first.

    Args:
        history: the results.
        functions: of a model, whose mean predicts what flips gain.
        heads_S: the heads that are flipped.
        hopes_S: what their scales promise besides, if they are ablated.
    """
    best_F = history.bits_TF[history.ranked[0]]
    flipped_SS = best_F[heads_S] ^ np.eye(len(heads_S), dtype=np.bool_)
    values_S = functions.values(flipped_SS, flipped_SS.sum(1))[0]
    order = np.argsort(-(values_S + np.where(best_F[heads_S], -hopes_S, hopes_S)), kind="stable")
    rows_SF = np.repeat(best_F[None], len(order), axis=0)
    rows_SF[np.arange(len(order)), heads_S[order]] ^= True
    return rows_SF


def flipped_together(history: History, count: int, rng: np.random.Generator) -> BoolArray:
    """Return the best mask with several heads flipped (R, F), each of which gained alone at that mask or close to it.

    Those that gained most come first, two to all of them, then random choices, about `count` of both. Of many masks
    that are scored at a time, each may find a head to flip, but none knows of the others: this puts together what they
    found.
    """
    best_F = history.bits_TF[history.ranked[0]]
    gains_F = flip_gains(history)
    heads_G = np.argsort(-gains_F, kind="stable")[: np.count_nonzero(gains_F > 0)]
    if len(heads_G) < 2:
        return np.zeros((0, len(best_F)), dtype=np.bool_)
    sizes = np.unique(np.linspace(len(heads_G), 2, max(1, int(NUM_SIZES * count))).astype(np.int64))[::-1]
    first_RG = np.arange(len(heads_G)) < sizes[:, None]
    random_RG = rng.random((count, len(heads_G))) < rng.uniform(LEAST, MOST, size=(count, 1))
    together_RF: BoolArray = best_F ^ history.widened(np.vstack([first_RG, random_RG]), heads_G)
    return together_RF


def flip_gains(history: History) -> FloatArray:
    """Return what it gained to flip each head (F) to the state that it does not have in the best mask.

    Taken from two good masks that differ in this head alone, the closest to the best one that there are; minus infinity
    without any.
    """
    good = history.ranked[:GOOD]
    bits_NF, values_N = history.bits_TF[good], history.values_T[good]
    floats_NF = bits_NF.astype(np.float32)
    distances_NN = distances(floats_NF, floats_NF)
    better_P, worse_P = np.nonzero(np.triu(distances_NN == 1))
    far_P = np.minimum(distances_NN[0, better_P], distances_NN[0, worse_P])
    # The closest pair of a head is the last one, whose gain stays.
    order = np.argsort(-far_P, kind="stable")[np.count_nonzero(far_P > CLOSE) :]
    better_P, worse_P = better_P[order], worse_P[order]
    head_P = (bits_NF[better_P] ^ bits_NF[worse_P]).argmax(1)
    gain_P = values_N[better_P] - values_N[worse_P]
    gains_F = np.full(bits_NF.shape[1], -np.inf)
    gains_F[head_P] = np.where(bits_NF[better_P, head_P] != bits_NF[0, head_P], gain_P, -gain_P)
    return gains_F
