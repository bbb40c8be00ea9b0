"""When a search stops: rules alone, without a search."""

import pytest

from orchestrator.settings.budget import Budget
from orchestrator.settings.sections import BudgetSection

NOTHING = {"num_masks": 0, "image_forwards": 0.0, "blocks_without_gain": 0, "seconds": 0.0}


@pytest.mark.parametrize(
    ("budget", "state", "reason"),
    [
        (Budget(10), {"num_masks": 10}, "masks"),
        (Budget(10, patience=2), {"blocks_without_gain": 2}, "patience"),
        (Budget(10, image_forwards=50), {"image_forwards": 50.0}, "image_forwards"),
        (Budget(10, seconds=3), {"seconds": 3.0}, "seconds"),
        (Budget(10, seconds=3, image_forwards=50, patience=2), {"num_masks": 9, "image_forwards": 49.9}, None),
        (Budget(10), {"image_forwards": 1e9, "blocks_without_gain": 99, "seconds": 1e9}, None),
        (Budget(10, seconds=3, patience=2), {"blocks_without_gain": 2, "seconds": 3.0}, "patience"),
    ],
)
def test_a_budget_is_spent_when_one_of_its_limits_is_reached(budget, state, reason):
    assert budget.spent(**NOTHING | state) == reason


def test_a_zero_lifts_a_limit():
    lifted = BudgetSection(masks=5, seconds=0, image_forwards=0, patience=0)
    assert lifted.budget() == Budget(5)


def test_a_budget_says_itself():
    assert str(Budget(1000)) == "1,000 masks"
    assert str(Budget(1000, 60.5, 20_000, 3)) == (
        "1,000 masks or 60.5 s or 20,000 image forwards or 3 blocks without a better mask, whichever comes first"
    )
