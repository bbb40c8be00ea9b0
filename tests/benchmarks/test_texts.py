"""`python -m benchmarks.texts`: what it draws, what it refuses, and its headline."""

import numpy as np
import pytest

from benchmarks.texts import END, START, check_equal, drawn_tokens, ratios


def test_drawn_texts_are_as_long_as_captions():
    tokens_QT = drawn_tokens(50, 77)
    lengths_Q = (tokens_QT == END).argmax(1) + 1
    assert tokens_QT.shape == (50, 77)
    assert (tokens_QT[:, 0] == START).all()
    assert (lengths_Q.min() >= 9, lengths_Q.max() <= 22) == (True, True)
    assert all((row_T[length:] == 0).all() for row_T, length in zip(tokens_QT, lengths_Q, strict=True))


def test_pools_that_differ_in_a_bit_are_refused():
    embeddings = np.ones((4, 8), np.float32)
    check_equal({"stock": embeddings + 1e-6, "1": embeddings, "2": embeddings.copy()})
    with pytest.raises(RuntimeError, match="pools of any size must give the same bits"):
        check_equal({"stock": embeddings, "1": embeddings, "2": np.nextafter(embeddings, 2)})
    with pytest.raises(RuntimeError, match=r"embeddings differ from the stock tower's by 1\.0e-02"):
        check_equal({"stock": embeddings + np.float32(0.01), "1": embeddings})


def test_the_headline_is_what_more_replicas_bring():
    found = ratios({"stock": [10.0, 12.0, 11.0], "1": [22.0, 20.0, 24.0], "2": [44.0, 40.0, 41.0]})
    assert found == {
        "replicas_1_over_stock": 2.0,
        "replicas_2_over_stock": pytest.approx(41 / 11),
        "replicas_2_over_1": pytest.approx(41 / 22),
    }
