"""No password is shown, however an address is written and whoever quotes it."""

import pytest

from headmask.border.foreign import reason_of
from headmask.border.passwords import hidden, redacted


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:s3cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:s3cret@host:port/db", "postgresql://me:***@host:port/db"),
        ("postgresql+psycopg://me:s3%40cr%2Fet@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me:s3@c/r?et@host/db?sslmode=require", "postgresql://me:***@host/db?sslmode=require"),
        ("postgresql://host/db?user=me&password=s3cret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql:me:s3cret@host/db", "postgresql:me:***@host/db"),
        ("http://me:s3cret@host:5000/x@y", "http://me:***@host:5000/x@y"),
        ("https://s3crettoken@host", "https://***@host"),
        ("https://host/x?api_key=s3cret#y", "https://host/x?api_key=***#y"),
        ("http://host:5000/x@y", "http://host:5000/x@y"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:////srv/a:b@c/x.db", "sqlite:////srv/a:b@c/x.db"),
        ("runs/x/study.journal", "runs/x/study.journal"),
        ("://", "://"),
        ("", ""),
    ],
)
def test_addresses_are_shown_without_passwords(address, shown):
    assert redacted(address) == shown
    assert redacted(shown) == shown


def test_texts_of_others_are_shown_without_passwords():
    address = "postgresql://me:s3%40cret@host/db"
    text = f"cannot connect to {address} (password s3@cret, that is s3%40cret) or http://a:b@c/d"
    assert hidden(text, address) == (
        "cannot connect to postgresql://me:***@host/db (password ***, that is ***) or http://a:***@c/d"
    )
    assert reason_of(ValueError("no way to http://me:s3cret@host/x")) == "no way to http://me:***@host/x"
