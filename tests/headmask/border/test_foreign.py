"""What other libraries' exceptions say, in one line."""

import errno

import pytest
import torch

from headmask.border.foreign import MAX_REASON, reason_of


def test_a_heading_is_followed_by_what_it_announces():
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(2, 2), "other": torch.zeros(1)})
    assert reason_of(caught.value) == (
        'Error(s) in loading state_dict for Linear: Missing key(s) in state_dict: "bias". '
        'Unexpected key(s) in state_dict: "other"'
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "No space left on device: /a/b"),
        (OSError("no number"), "no number"),
        (KeyError("embed_dim"), "KeyError: 'embed_dim'"),
        (RuntimeError(""), "RuntimeError"),
        (AssertionError(), "AssertionError"),
        (ValueError("one\n\n  two\r\nthree"), "one; two; three"),
        (
            RuntimeError(
                "(psycopg.OperationalError) failed\n(Background on this error at: https://sqlalche.me/e/20/e3q8)"
            ),
            "(psycopg.OperationalError) failed",
        ),
    ],
)
def test_reasons_are_one_line(error, reason):
    assert reason_of(error) == reason


def test_a_reason_is_cut_and_says_so():
    assert len(reason_of(ValueError("x" * 9000))) == MAX_REASON
    assert reason_of(ValueError("x" * 9000)).endswith(" ...")


def test_an_error_without_words_is_told_by_its_cause():
    error = RuntimeError()
    error.__cause__ = ValueError("the real reason")
    assert reason_of(error) == "the real reason"
