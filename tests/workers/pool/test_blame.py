"""Whose fault a lost replica is: a mask's that was alone with three of them, unless something else kills them, too."""

import random

from workers.pool.blame import STRIKES, Blame


def test_work_that_costs_three_replicas_alone_is_given_up():
    blame = Blame()
    assert [blame.lost_over(["bad"]) for _ in range(STRIKES)] == [0, 0, 3]


def test_a_batch_of_several_is_never_given_up():
    blame = Blame()
    assert not any(blame.lost_over(["a", "b"]) for _ in range(20))


def test_where_replicas_are_lost_over_what_is_done_later_work_gets_another_chance():
    blame = Blame()
    blame.lost_over(["unlucky"])
    blame.lost_over(["a", "b"])
    blame.done(["a"])
    assert blame.lost_over(["unlucky"]) == 0
    blame.done(["b"])
    assert [blame.lost_over(["unlucky"]) for _ in range(2)] == [0, 4]


def test_several_bad_pieces_do_not_excuse_each_other():
    blame = Blame()
    found = [blame.lost_over([name]) for _ in range(STRIKES) for name in ("bad", "worse")]
    assert found == [0, 0, 0, 0, 3, 3]


def test_what_is_lost_before_the_first_strike_excuses_nothing():
    blame = Blame()
    for number in range(10):
        blame.lost_over([number])
        blame.done([number])
    assert [blame.lost_over(["bad"]) for _ in range(STRIKES)] == [0, 0, 3]


def test_what_was_done_in_the_end_starts_anew_when_it_is_done_again():
    blame = Blame()
    blame.lost_over(["bad"])
    blame.done(["bad"])
    assert [blame.lost_over(["bad"]) for _ in range(STRIKES)] == [0, 0, 3]


def test_random_kills_hardly_ever_give_up_innocent_work():
    """Replicas that each do a piece at a time, of which a third is killed before it is done."""
    given_up = 0
    for seed in range(200):
        blame, rng, waiting = Blame(), random.Random(seed), list(range(40))
        while waiting:
            piece = waiting.pop(0)
            if rng.random() > 1 / 3:
                blame.done([piece])
            elif blame.lost_over([piece]):
                given_up += 1
            else:
                waiting.append(piece)
    assert given_up < 200 * 40 / 1000
