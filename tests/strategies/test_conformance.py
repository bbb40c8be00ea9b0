"""What every strategy promises, checked on every strategy. A new one is added by its entry in STRATEGIES alone."""

from functools import lru_cache

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from headmask.errors import ConfigError, StudyError
from headmask.mask import Head, HeadGrid, HeadMask
from strategies import (
    STRATEGIES,
    Exhausted,
    GeneticSampler,
    Limits,
    PairwiseSampler,
    Scales,
    ScalesSampler,
    ScanSampler,
    distributions,
    make_sampler,
    mask_of,
    params_of,
)
from strategies.mixture import SCAN_SHARE
from tests.strategies.landscapes import Constant, Failing, Landscape, Slopes, best_value, masks_of, run

GRID = HeadGrid(4, 5)
LANDSCAPE = Landscape(GRID)

SCREENED, BLIND = "+screen", "-gradients"
"""Variants: all are given gradients, except the blind ones; only strategies that train use them."""
VARIANTS = ["genetic+screen", "mixture+screen", "mixture-gradients", "mixture+screen-gradients"]
OPEN = ["scales", "mixture", "mixture+screen"]
"""Strategies that open with trained scales."""
SCANNING = [name for name in [*STRATEGIES, *VARIANTS] if name not in OPEN]
everywhere = pytest.mark.parametrize("name", [*STRATEGIES, *VARIANTS])
SHORTLISTED = {"tpe": 10, "nsga2": 10}
"""Optuna's samplers take a time that grows with the heads that they may choose from."""
landscape_of = lru_cache(Landscape)


def sampler(name, grid=GRID, **options):
    options = {"seed": 3, "block_size": 12, "gradients": gradients(grid, options.get("limits") or Limits()), **options}
    if name.endswith(BLIND):
        options["gradients"] = None
    if SCREENED in name:
        options["screen"] = rough
    if name in SHORTLISTED:
        options["shortlist"] = SHORTLISTED[name]
    return make_sampler(name.removesuffix(BLIND).removesuffix(SCREENED), grid, **options)


def gradients(grid, limits):
    """Return the gradients of the landscape by the heads that may be ablated."""
    slopes = Slopes(Landscape(grid))
    free_F = [head.layer * grid.heads + head.head for head in limits.free_heads(grid)]
    landscape = slopes.landscape
    landscape.gains, landscape.pair_gains = landscape.gains[free_F], landscape.pair_gains[np.ix_(free_F, free_F)]
    slopes.slopes_BF = slopes.slopes_BF[:, free_F]
    return slopes


def rough(masks):
    """Predict values roughly, and nothing for one mask of seven."""
    landscape = landscape_of(masks[0].grid)
    values = [landscape(mask) + 0.002 * np.sin(sum(mask.words)) for mask in masks]
    return np.array([np.nan if sum(mask.words) % 7 == 6 else value for mask, value in zip(masks, values, strict=True)])


@lru_cache
def proposed(name):
    """Return the first 120 masks, with results told as late as allowed: several tests compare with them."""
    return masks_of(run(sampler(name), LANDSCAPE, 120), GRID)


@pytest.mark.parametrize("name", SCANNING)
def test_the_scan_comes_first(name):
    masks = masks_of(run(sampler(name), LANDSCAPE, 21), GRID)
    assert masks == [HeadMask.empty(GRID), *(HeadMask.from_heads(GRID, [head]) for head in GRID)]


@pytest.mark.parametrize("name", OPEN)
def test_the_empty_mask_comes_first_then_the_heads_of_the_lowest_scales(name):
    strategy = sampler(name)
    masks = masks_of(run(strategy, LANDSCAPE, num_first := strategy.blocks.num_first), GRID)
    assert num_first == (1 if name == "scales" else 8)
    scales = Scales(gradients(GRID, Limits()), 20)
    scales.advance(1)
    lowest = np.argsort(scales.averaged(1), kind="stable")[: num_first - 1]
    assert masks == [HeadMask.empty(GRID), *(HeadMask.from_heads(GRID, [list(GRID)[place]]) for place in lowest)]


@pytest.mark.parametrize("name", OPEN)
def test_block_1_needs_no_results_and_has_masks_of_several_heads(name):
    strategy = sampler(name)
    assert strategy.blocks.num_known(1) == 0
    books = strategy.new_books()
    books.add(strategy.block_masks(0, books))
    masks = strategy.block_masks(1, books)
    assert len(masks) == len(strategy.blocks.numbers(1)) == 8
    assert sum(len(mask) > 1 for mask in masks) >= 4
    assert max(map(LANDSCAPE, masks)) > max(LANDSCAPE(mask) for mask in HeadMask.singles(GRID))


@pytest.mark.parametrize("name", ["scales", "mixture"])
def test_a_budget_smaller_than_the_scan_has_masks_better_than_any_single_head(name):
    """16 masks on 48 heads; without gradients they would all be of single heads."""
    grid = HeadGrid(6, 8)
    for seed in range(3):
        landscape = Landscape(grid, seed)
        masks = masks_of(run(make_sampler(name, grid, gradients=Slopes(landscape)), landscape, 16), grid)
        assert sum(len(mask) > 1 for mask in masks) >= 6
        assert max(map(landscape, masks)) > max(map(landscape, HeadMask.singles(grid)))


@pytest.mark.parametrize("name", ["mixture", "mixture+screen"])
def test_a_mixture_that_opens_with_scales_scans_in_each_block_until_all_heads_are_scanned(name):
    strategy = sampler(name)
    masks = proposed(name)
    assert {mask for mask in masks if len(mask) <= 1} == set(HeadMask.singles(GRID))
    for block in range(2, 5):
        numbers = strategy.blocks.numbers(block)
        single = sum(len(masks[number]) == 1 for number in numbers)
        assert single >= int(SCAN_SHARE * len(numbers)), block


def test_the_screen_is_asked_only_once_all_heads_are_scanned():
    asked, known = [], []

    def screen(masks):
        asked.append(set(known))
        return rough(masks)

    class Noting(Landscape):
        def __call__(self, mask):
            known.append(mask)
            return super().__call__(mask)

    run(sampler("mixture", screen=screen), Noting(GRID), 150)
    assert asked
    assert all(set(HeadMask.singles(GRID)) <= before for before in asked)


@everywhere
def test_no_mask_is_proposed_twice(name):
    masks = proposed(name)
    assert len(set(masks)) == len(masks)
    assert name == "scan" or len(masks) == 120


@everywhere
def test_proposals_depend_on_nothing_but_the_blocks_named(name):
    """Telling results at once or as late as allowed, shuffled or in order, gives the same masks."""
    early = masks_of(run(sampler(name), LANDSCAPE, 100, ahead=False), GRID)
    assert early == proposed(name)[:100]


@everywhere
def test_blocks_hold_the_masks_that_trials_ask_for(name):
    """As a search asks for them, and as one does that begins with blocks that were proposed before."""
    asked = proposed(name)[:80]
    for first in (0, 3):
        strategy = sampler(name)
        books = strategy.new_books()
        books.add(asked[: strategy.blocks.numbers(first).start])
        for block in range(first, 20):
            if books.is_exhausted or len(books) >= 80:
                break
            for number in range(books.num_known, strategy.blocks.num_known(block)):
                books.tell(number, LANDSCAPE(books.masks[number]))
            books.add(strategy.block_masks(block, books))
        assert books.masks[:80] == asked


@everywhere
def test_a_block_is_not_proposed_before_the_results_it_needs(name):
    if name == "scan":
        return
    strategy = sampler(name)
    study = optuna.create_study(direction="maximize", sampler=strategy)
    block = 2 if name in OPEN else 1
    trials = [study.ask(dict(distributions(GRID))) for _ in range(strategy.blocks.numbers(block).start)]
    last = {"scales": 0, "mixture": 7, "mixture+screen": 7}.get(name, 20)
    for trial in trials[:last]:
        study.tell(trial, 0.5)
    with pytest.raises(
        StudyError, match=f"block {block} is proposed from the results of trials 0 to {last}; tell trial {last} first"
    ):
        study.ask(dict(distributions(GRID)))


@everywhere
def test_two_blocks_can_be_out_at_a_time(name):
    for block in range(1, 6):
        strategy = sampler(name)
        known = strategy.blocks.num_known(block)
        if block == 1 and name in OPEN:
            assert known == 0
            continue
        assert known == strategy.blocks.numbers(max(0, block - 2)).stop
        assert block == 1 or known == strategy.blocks.numbers(block - 1).start


@everywhere
def test_blocks_grow_with_the_masks_before_them_until_they_are_of_full_size(name):
    strategy = sampler(name, block_size=20)
    ranges = [strategy.blocks.numbers(block) for block in range(30)]
    assert [rows.start for rows in ranges[1:]] == [rows.stop for rows in ranges[:-1]]
    assert [len(rows) for rows in ranges[1:]] == sorted(len(rows) for rows in ranges[1:])
    num_first = {"scales": 1, "mixture": 8, "mixture+screen": 8}.get(name, 21)
    assert (len(ranges[0]), len(ranges[1]), len(ranges[-1])) == (num_first, 8, 20)
    assert all(sampler(name, block_size=20).blocks.of(rows[-1]) == block for block, rows in enumerate(ranges))
    assert {len(sampler(name, block_size=5).blocks.numbers(block)) for block in range(1, 30)} == {5}


@everywhere
def test_a_new_sampler_on_a_half_done_study_goes_on_as_the_old_one_would(name):
    half = run(sampler(name), LANDSCAPE, 67)
    half.sampler = sampler(name)
    assert masks_of(run(half.sampler, LANDSCAPE, 90, study=half), GRID) == proposed(name)[:90]


@everywhere
def test_seeds_decide(name):
    same, other = (masks_of(run(sampler(name, seed=seed), LANDSCAPE, 60), GRID) for seed in (3, 4))
    assert same == proposed(name)[:60]
    assert name == "scan" or same != other


@everywhere
@pytest.mark.parametrize(
    "limits",
    [
        Limits(layers=frozenset({1, 3})),
        Limits(protect=frozenset({"L0H0", "L3H4"})),
        Limits(max_heads=2),
        Limits(layers=frozenset({2}), protect=frozenset({"L2H1"}), max_heads=3),
    ],
)
def test_limits_hold(name, limits):
    masks = masks_of(run(sampler(name, limits=limits), LANDSCAPE, 70), GRID)
    free = set(limits.free_heads(GRID))
    assert all(set(mask.heads) <= free and len(mask) <= limits.largest_size(GRID) for mask in masks)


@everywhere
def test_a_strategy_ends_when_all_masks_are_proposed(name):
    grid = HeadGrid(2, 2)
    strategy = sampler(name, grid, block_size=4)
    study = run(strategy, Landscape(grid), 100)
    assert len(masks_of(study, grid)) == (5 if name == "scan" else 16)
    assert strategy.exhausted
    with pytest.raises(Exhausted, match="masks that this strategy can propose have been proposed"):
        study.ask(dict(distributions(grid)))


@everywhere
@pytest.mark.parametrize("kind", ["singles", "all but the baseline", "all", "some"])
def test_failures_are_lived_with(name, kind):
    fails = {
        "singles": lambda mask: len(mask) == 1,
        "all but the baseline": lambda mask: len(mask) > 0,
        "all": lambda mask: True,
        "some": lambda mask: sum(mask.words) % 3 == 0,
    }[kind]
    study = run(sampler(name), Failing(LANDSCAPE, fails), 80)
    masks = masks_of(study, GRID)
    assert len(set(masks)) == len(masks) == (21 if name == "scan" else 80)


@everywhere
def test_constant_values_are_lived_with(name):
    masks = masks_of(run(sampler(name), Constant(GRID), 80), GRID)
    assert len(masks) == (21 if name == "scan" else 80)


@everywhere
def test_optuna_alone_can_use_it(name):
    """No orchestrator: `study.optimize` with an objective that reads the params, and it stops by itself."""
    grid = HeadGrid(2, 2)
    study = optuna.create_study(direction="maximize", sampler=sampler(name, grid, block_size=4))

    def objective(trial):
        params = {key: trial.suggest_int(key, 0, 3) for key in distributions(grid)}
        return Landscape(grid)(mask_of(params, grid))

    study.optimize(objective, n_trials=100)
    assert len(study.trials) == (5 if name == "scan" else 16)
    assert all(trial.state is TrialState.COMPLETE for trial in study.trials)
    assert mask_of(study.best_params, grid) in masks_of(study, grid)


@everywhere
def test_parameters_of_another_space_are_refused(name):
    study = optuna.create_study(sampler=sampler(name))
    with pytest.raises(StudyError, match=r"samples whole masks, parameters L00, ...; got 'x'"):
        study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})


@pytest.mark.parametrize(
    "name",
    [
        # Optuna's samplers take longer than all others together.
        pytest.param(name, marks=pytest.mark.slow if name in ("tpe", "nsga2") else ())
        for name in [*STRATEGIES, "mixture" + BLIND]
        if name != "scan"
    ],
)
def test_searching_beats_random_masks_on_landscapes_with_interactions(name):
    """Median over seeds, against as many random masks of 1 to 8 heads as are left after a scan."""
    grid, ours, random = HeadGrid(6, 8), [], []
    for seed in range(3):
        landscape = Landscape(grid, seed)
        slopes = None if name.endswith(BLIND) else Slopes(landscape)
        strategy = make_sampler(name.removesuffix(BLIND), grid, seed=seed, gradients=slopes)
        ours.append(best_value(run(strategy, landscape, 400)))
        rng = np.random.default_rng(seed)
        heads = list(grid)
        drawn = [rng.choice(len(heads), size=rng.integers(1, 9), replace=False) for _ in range(351)]
        random.append(max(landscape(HeadMask.from_heads(grid, [heads[i] for i in picked])) for picked in drawn))
    baseline = Landscape(grid)(HeadMask.empty(grid))
    assert np.median(ours) - baseline > 1.3 * (np.median(random) - baseline)
    assert all(mine > other for mine, other in zip(ours, random, strict=True))


@pytest.mark.parametrize("name", ["mixture", "mixture-gradients"])
def test_a_mixture_says_who_proposed_a_mask(name, monkeypatch):
    by = {}
    for strategy in (GeneticSampler, PairwiseSampler, ScalesSampler, ScanSampler):

        def noting(member, count, history, rng, propose=strategy.propose):
            masks = propose(member, count, history, rng)
            by.update(dict.fromkeys(masks, member.label))
            return masks

        monkeypatch.setattr(strategy, "propose", noting)
    mixture = sampler(name)
    masks = masks_of(run(mixture, LANDSCAPE, 120), GRID)
    first = mixture.blocks.num_first
    assert [mixture.strategy_of(number, masks[number]) for number in range(first)] == ["scan"] * first
    # Where all members run out, others fill a block.
    by_members = [number for number in range(first, 90) if masks[number] in by]
    assert len(by_members) > 50
    assert [mixture.strategy_of(number, masks[number]) for number in by_members] == [
        by[masks[number]] for number in by_members
    ]


def test_equal_mixtures_propose_the_same_whatever_their_gradients_were_asked_before():
    fresh, used = sampler("mixture"), sampler("mixture")
    used.scales.advance(used.num_steps_at(1))
    assert masks_of(run(used, LANDSCAPE, 90), GRID) == masks_of(run(fresh, LANDSCAPE, 90), GRID)


def test_only_what_may_propose_other_masks_than_before_has_a_revision_that_rose():
    """Another revision is another fingerprint: earlier studies of that strategy cannot be resumed."""
    plain = {name: strategy.revision_with(is_screened=False) for name, strategy in STRATEGIES.items()}
    screened = {name: strategy.revision_with(is_screened=True) for name, strategy in STRATEGIES.items()}
    assert plain == {"scan": 3, "genetic": 3, "pairwise": 8, "scales": 3, "mixture": 8, "tpe": 3, "nsga2": 3}
    assert screened == {**plain, "genetic": 6}


def test_a_strategy_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"must be one of scan, genetic, .*; got 'genetics', did you mean"):
        make_sampler("genetics", GRID)


def test_an_option_that_no_strategy_has_is_refused():
    with pytest.raises(ConfigError, match="no strategy has an option temperature"):
        make_sampler("genetic", GRID, temperature=0.5)


def test_limits_that_do_not_fit_are_refused_all_at_once():
    limits = Limits(layers=frozenset({1, 9}), protect=frozenset({"L7H0"}), max_heads=0)
    with pytest.raises(ConfigError) as caught:
        limits.check(GRID)
    for part in (
        "layer 9 is not on grid 4x5: layers are 0..3",
        "protected head L7H0 is not on grid 4x5",
        "max_heads must be at least 1, got 0",
    ):
        assert part in str(caught.value)


def test_limits_that_leave_nothing_are_refused():
    limits = Limits(layers=frozenset({0}), protect=frozenset(f"L0H{head}" for head in range(5)))
    with pytest.raises(ConfigError, match="no head may be ablated: layers and protect leave none"):
        limits.check(GRID)


def test_params_are_the_mask_on_any_grid():
    for grid in (HeadGrid(12, 12), HeadGrid(24, 16), HeadGrid(32, 53)):
        mask = HeadMask.from_heads(grid, [Head(0, grid.heads - 1), Head(grid.layers - 1, 0)])
        study = optuna.create_study()
        study.enqueue_trial(params_of(mask))
        trial = study.ask(dict(distributions(grid)))
        assert mask_of(trial.params, grid) == mask
