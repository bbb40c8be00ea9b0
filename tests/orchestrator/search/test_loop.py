"""The loop: a study is a function of its fingerprint, whatever order results come in, stopped and resumed or not."""

import time

import numpy as np
import pytest

from headmask.errors import HeadmaskError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.search.loop import Search
from orchestrator.search.progress import Listener
from orchestrator.search.scoring import Interrupted
from orchestrator.settings.budget import Budget
from orchestrator.study.records import TrialRecord
from orchestrator.study.store import StudyStore
from strategies import MIN_WIDTH, make_sampler
from tests.strategies.landscapes import Landscape
from workers.pool.protocol import Result
from workers.scoring.messages import MaskScore, Stage

GRID = HeadGrid(4, 5)
LANDSCAPE = Landscape(GRID)
SEARCH = Stage("search")


class ShuffledPool:
    """Scores masks of a landscape, a few at a time, in random order."""

    device = "fake"
    status = "fake"

    def __init__(self, seed=0, landscape=LANDSCAPE):
        self.rng = np.random.default_rng(seed)
        self.landscape = landscape
        self.waiting = []
        self.scored, self.submitted, self.held = [], [], []
        self.most_waiting = self.looked_away = 0

    def submit(self, stage, masks):
        self.waiting += [(stage, mask) for mask in masks]
        self.submitted += [(stage, mask) for mask in masks]
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def look_away(self, seconds):
        self.looked_away += 1

    def put_back(self, results):
        self.held += results

    def collect(self, timeout_s):
        held, self.held = self.held, []
        if held:
            return held
        picked = [
            self.waiting.pop(self.rng.integers(len(self.waiting)))
            for _ in range(min(len(self.waiting), int(self.rng.integers(1, 9))))
        ]
        self.scored += [mask for _, mask in picked]
        return [Result(stage, mask, self.score(mask)) for stage, mask in picked]

    def score(self, mask):
        return MaskScore({"mean_recall": self.landscape(mask)}, 0.01)

    def close(self):
        self.waiting = []


@pytest.fixture
def make_search(tmp_path):
    opened = []

    def make(pool, *, name="study", strategy="mixture", **options):
        path = tmp_path / f"{name}.journal"
        store = StudyStore.open(str(path), name) if path.exists() else StudyStore.create(str(path), name, {})
        opened.append(store)
        sampler = make_sampler(strategy, GRID, seed=1, block_size=8, width=options.pop("width", MIN_WIDTH))
        options = {"stage": lambda mask: SEARCH, "value": lambda metrics: metrics["mean_recall"], **options}
        search = Search(sampler, store, pool, **options)
        return search, store

    yield make
    for store in opened:
        store.close()


def table(records):
    return [(record.proposal, record.mask.words, record.value, record.failure, record.strategy) for record in records]


def run(make_search, pool, masks, **options):
    return run_for(make_search, pool, Budget(masks), **options)


def run_for(make_search, pool, budget, **options):
    search, store = make_search(pool, **options)
    records = search.run(budget)
    store.close()
    return records


def test_the_order_of_results_changes_nothing(make_search):
    tables = [table(run(make_search, ShuffledPool(seed), 150, name=f"s{seed}")) for seed in range(4)]
    assert tables[0] == tables[1] == tables[2] == tables[3]
    assert [row[0] for row in tables[0]] == list(range(150))


def test_the_order_of_results_changes_nothing_in_a_wide_study_either(make_search):
    pools = [ShuffledPool(seed) for seed in range(3)]
    tables = [table(run(make_search, pool, 150, name=f"s{seed}", width=40)) for seed, pool in enumerate(pools)]
    assert tables[0] == tables[1] == tables[2]
    assert all(40 <= pool.most_waiting <= 60 for pool in pools)
    begun = table(run(make_search, ShuffledPool(4), 90, width=40))
    assert table(run(make_search, ShuffledPool(5), 150, width=40)) == tables[0]
    assert begun == tables[0][:90]


def test_replicas_are_told_that_the_driver_plans(make_search):
    pool = ShuffledPool()
    run(make_search, pool, 150)
    sampler = make_sampler("mixture", GRID, seed=1, block_size=8)
    assert pool.looked_away == sampler.blocks.of(149) + 1


@pytest.mark.parametrize("first", [1, 20, 21, 25, 60, 100])
def test_a_budget_that_grows_gives_the_study_of_the_larger_one(make_search, first):
    whole = table(run(make_search, ShuffledPool(1), 200, name="whole"))
    begun = table(run(make_search, ShuffledPool(2), first))
    pool = ShuffledPool(3)
    assert table(run(make_search, pool, 200)) == whole
    assert begun == whole[:first]
    assert len(pool.scored) == 200 - first


def test_two_blocks_are_out_at_a_time(make_search):
    pool = ShuffledPool()
    run(make_search, pool, 150)
    assert 8 < pool.most_waiting <= 21


def test_an_interrupted_search_goes_on_where_it_stopped(make_search):
    whole = table(run(make_search, ShuffledPool(1), 120, name="whole"))
    scored = 0
    for attempt in range(100):
        pool, asked = ShuffledPool(attempt), iter(range(3))
        search, store = make_search(pool, is_stopping=lambda asked=asked: next(asked, None) is None)
        try:
            records = search.run(Budget(120))
            break
        except Interrupted:
            pass
        finally:
            scored += len(pool.scored)
            store.close()
    assert attempt > 1
    assert table(records) == whole
    assert scored == 120


def test_failures_are_recorded_and_never_scored_again(make_search):
    class Failing(ShuffledPool):
        def score(self, mask):
            return MaskScore({}, 0.0, "non-finite embeddings") if len(mask) == 2 else super().score(mask)

    records = run(make_search, Failing(), 80)
    failed = [record for record in records if record.value is None]
    assert failed
    assert all(record.failure == "non-finite embeddings" and len(record.mask) == 2 for record in failed)
    pool = Failing()
    assert table(run(make_search, pool, 80)) == table(records)
    assert pool.scored == []


def test_a_search_ends_when_no_mask_is_left(make_search):
    records = run(make_search, ShuffledPool(), 500, strategy="scan")
    assert len(records) == 21


def test_a_budget_in_seconds_ends_at_a_block_boundary(make_search):
    class Slow(ShuffledPool):
        def collect(self, timeout_s):
            time.sleep(0.02)
            return super().collect(timeout_s)

    search, _ = make_search(Slow())
    records = search.run(Budget(10_000, seconds=0.3))
    assert search.progress.reason == "seconds"
    assert 21 <= len(records) < 10_000
    assert (len(records) - 21) % 8 == 0


def test_a_budget_in_image_forwards_ends_at_a_block_boundary(make_search):
    """The scan of 21 masks, then blocks of 8, for as long as something is left; a mask costs 3 here."""
    for budget, expected in ((1, 21), (63, 21), (64, 29), (87, 29), (88, 37)):
        options = {"cost": lambda masks: 3.0 * len(masks), "name": f"forwards{budget}"}
        search, _ = make_search(ShuffledPool(), **options)
        assert len(search.run(Budget(1000, image_forwards=budget))) == expected
        assert (search.progress.reason, search.progress.image_forwards) == ("image_forwards", 3 * expected)


def first_stop(records, patience):
    """Return how many masks a study has that stops by patience, from what the larger study holds."""
    values = [record.value for record in records]
    for block in range(3, 1000):
        known = values[: 21 + 8 * (block - 2)]
        best = known.index(max(known))
        if block - 2 - (0 if best < 21 else 1 + (best - 21) // 8) >= patience:
            return 21 + 8 * (block - 1)


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_patience_ends_a_search_at_what_the_block_rule_lets_it_know(make_search, patience):
    whole = run(make_search, ShuffledPool(1), 600, name="whole")
    tables = []
    for seed in range(3):
        search, _ = make_search(ShuffledPool(seed), name=f"s{seed}")
        tables.append(table(search.run(Budget(600, patience=patience))))
        assert search.progress.reason == "patience"
    assert tables[0] == tables[1] == tables[2] == table(whole)[: first_stop(whole, patience)]


def test_more_patience_later_gives_the_study_that_had_it_from_the_start(make_search):
    patient = table(run_for(make_search, ShuffledPool(1), Budget(600, patience=4), name="patient"))
    hasty = table(run_for(make_search, ShuffledPool(2), Budget(600, patience=1)))
    assert hasty == patient[: len(hasty)]
    pool = ShuffledPool(3)
    assert table(run_for(make_search, pool, Budget(600, patience=4))) == patient
    assert len(pool.scored) == len(patient) - len(hasty) > 0


@pytest.mark.parametrize("budget", [Budget(600, patience=4), Budget(600, image_forwards=150)], ids=["patience", "cost"])
def test_an_interrupted_search_stops_where_an_undisturbed_one_does(make_search, budget):
    whole = table(run_for(make_search, ShuffledPool(1), budget, name="whole"))
    for attempt in range(100):
        asked = iter(range(3))
        search, store = make_search(ShuffledPool(attempt), is_stopping=lambda asked=asked: next(asked, None) is None)
        try:
            records = search.run(budget)
            break
        except Interrupted:
            pass
        finally:
            store.close()
    assert attempt > 1
    assert table(records) == whole
    assert search.progress.reason in ("patience", "image_forwards")


def test_failures_are_no_better_masks(make_search):
    class Failing(ShuffledPool):
        def score(self, mask):
            return MaskScore({}, 0.0, "non-finite embeddings") if len(mask) > 1 else super().score(mask)

    records = run_for(make_search, Failing(), Budget(1000, patience=2))
    assert len(records) == 21 + 3 * 8


def test_a_search_says_why_it_ended(make_search):
    for strategy, budget, reason in (("mixture", Budget(30), "masks"), ("scan", Budget(30), "exhausted")):
        search, _ = make_search(ShuffledPool(), name=reason, strategy=strategy)
        search.run(budget)
        assert search.progress.reason == reason


def test_progress_says_what_was_served_and_what_is_best(make_search):
    run(make_search, ShuffledPool(), 60)
    seen = []

    class Watching(Listener):
        def on_progress(self, progress):
            seen.append(progress)

    search, _ = make_search(ShuffledPool(), listeners=[Watching()])
    records = search.run(Budget(90))
    progress = seen[-1]
    assert progress.served == 60
    assert progress.baseline.mask.is_empty
    assert progress.best.value == max(record.value for record in records)


def test_a_stored_study_that_replay_contradicts_is_refused(make_search):
    search, store = make_search(ShuffledPool())
    store.append(TrialRecord(5, HeadMask.empty(GRID), 0.5))
    store.close()
    search, _ = make_search(ShuffledPool())
    with pytest.raises(HeadmaskError, match=r"as proposal 5, replay proposes it as 0: it was made by another version"):
        search.run(Budget(30))


def test_listeners_hear_of_every_result_whether_it_was_scored_or_stored(make_search):
    class Hearing(Listener):
        def __init__(self):
            self.scored, self.known, self.planned, self.ends = [], [], [], 0

        def on_scored(self, result):
            self.scored.append(result.mask)

        def on_known(self, record):
            self.known.append(record.proposal)

        def on_planning(self, block, progress):
            assert progress.num_asked == make_sampler("mixture", GRID, block_size=8).blocks.numbers(block).start
            self.planned.append(block)

        def on_end(self, progress):
            assert progress.is_done
            self.ends += 1

    first, second = Hearing(), Hearing()
    for masks, hearing in ((45, first), (61, second)):
        search, store = make_search(ShuffledPool(), listeners=[hearing])
        search.run(Budget(masks))
        store.close()
        assert (sorted(hearing.known), hearing.ends) == (list(range(masks)), 1)
    assert (len(first.scored), first.planned) == (45, [0, 1, 2, 3])
    # The last whole block is proposed again.
    assert (len(second.scored), second.planned) == (16, [3, 4, 5])


def test_results_that_nobody_waits_for_are_not_stored_after_an_interrupt(make_search):
    pool, asked = ShuffledPool(), iter(range(2))
    search, store = make_search(pool, is_stopping=lambda: next(asked, None) is None)
    other = HeadMask(GRID, (1, 1, 1, 1))
    pool.held = [Result(SEARCH, other, MaskScore({"mean_recall": 9.0}, 0.0))]
    with pytest.raises(Interrupted):
        search.run(Budget(100))
    store.flush()
    assert sorted(record.proposal for record in store.records(GRID).values()) == list(range(21))
    assert other not in store.records(GRID)
