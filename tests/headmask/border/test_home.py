"""Where caches lie when there is no home."""

import os
import pwd
import stat
import tempfile
from pathlib import Path

import pytest

from headmask.border.home import HUB, cache_folder, give_home, hub_cache
from headmask.errors import HeadmaskError


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A process as a container runs it: a number without a name, no HOME."""

    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "HEADMASK_CACHE", *HUB):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_caches_lie_in_a_private_temporary_folder(homeless):
    folder = cache_folder()
    private = homeless / f"headmask-{os.getuid()}"
    assert folder == private / ".cache" / "headmask" == cache_folder()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert hub_cache() == str(private / ".cache" / "huggingface" / "hub")


@pytest.mark.parametrize("home", [None, "/nonexistent", "relative"])
def test_libraries_are_given_the_home_in_which_caches_lie(homeless, monkeypatch, home):
    # Remembered either way, so that it is taken back.
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.delenv("HOME")
    caches, hub = cache_folder(), hub_cache()
    give_home()
    assert Path.home() == homeless / f"headmask-{os.getuid()}"
    assert (cache_folder(), hub_cache()) == (caches, None)
    assert hub == str(Path.home() / ".cache" / "huggingface" / "hub")


def test_a_home_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    give_home()
    assert Path.home() == tmp_path


def test_what_is_named_comes_first(homeless, monkeypatch):
    monkeypatch.setenv("HEADMASK_CACHE", "/elsewhere")
    assert str(cache_folder()) == "/elsewhere"
    monkeypatch.setenv("HF_HOME", "/hub")
    assert hub_cache() is None


def test_a_folder_that_others_may_have_prepared_is_refused(homeless):
    (homeless / f"headmask-{os.getuid()}").mkdir(mode=0o777)
    (homeless / f"headmask-{os.getuid()}").chmod(0o777)
    with pytest.raises(HeadmaskError, match="is not a folder that is yours alone: remove it, or name another in"):
        cache_folder()


def test_with_a_home_caches_lie_there(tmp_path, monkeypatch):
    monkeypatch.delenv("HEADMASK_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "headmask"
    assert hub_cache() is None
