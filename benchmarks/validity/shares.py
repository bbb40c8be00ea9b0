"""Shares of trials that went one way, with what chance allows."""

from __future__ import annotations

from typing import Any

from scipy.stats import binom, binomtest

NOMINAL = 0.025
"""How often the lower end of a two-sided 95 % interval lies above zero when nothing has changed."""
CERTAINTY = 0.99


def share(count: int, total: int) -> dict[str, Any]:
    """Return a share with its exact two-sided 95 % interval (Clopper and Pearson 1934)."""
    interval = binomtest(count, total).proportion_ci(0.95, method="exact")
    return {"count": count, "of": total, "share": count / total, "interval": [interval.low, interval.high]}


def most_by_chance(total: int) -> int:
    """Return how many of some trials may claim what is not there: the 99 % point of the binomial distribution."""
    return int(binom.ppf(CERTAINTY, total, NOMINAL))
