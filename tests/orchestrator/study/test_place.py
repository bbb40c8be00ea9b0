"""A run folder that is moved while its search runs is noticed, and named where it is now."""

import pytest

from headmask.errors import StudyError
from orchestrator.study.place import held
from orchestrator.study.store import StudyStore
from tests.orchestrator.studies import resume, start
from tests.orchestrator.study.test_store import GRID, record
from tests.tiny import make_tiny_config


def test_a_folder_that_stays_is_fine_and_one_that_was_moved_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    with held(folder) as place:
        place.check()
        folder.rename(tmp_path / "runs" / "b [x]")
        with pytest.raises(StudyError, match=r"was moved to runs/b \[x\] .*headmask resume 'runs/b \[x\]'$"):
            place.check()
        folder.mkdir()
        with pytest.raises(StudyError, match="was moved to "):
            place.check()
        (tmp_path / "runs" / "b [x]").rmdir()
        with pytest.raises(StudyError, match=r"was removed while its search ran"):
            place.check()


def test_a_study_goes_on_in_a_folder_that_is_moved(tmp_path):
    folder = tmp_path / "a"
    with StudyStore.create(str(folder / "study.journal"), "s", {}) as store:
        store.append(record(0))
        assert store.flush()
        folder.rename(tmp_path / "b")
        store.append(record(1))
        assert store.flush(10)
    assert not folder.exists()
    with StudyStore.open(str(tmp_path / "b" / "study.journal"), "s") as store:
        assert len(store.records(GRID)) == 2


def test_a_search_whose_folder_is_moved_looks_at_no_test_split(tiny_files, tmp_path, empty_mlflow, monkeypatch):
    from orchestrator.run import runner

    config = make_tiny_config(tiny_files, tmp_path / "runs" / "a", budget__masks=24, search__strategy="scan")
    looked = []
    monkeypatch.setattr(runner, "look_at_test", lambda *_: looked.append(1))
    decide = runner.decide

    def moved(*arguments, **options):
        config.folder.rename(tmp_path / "runs" / "b")
        return decide(*arguments, **options)

    monkeypatch.setattr(runner, "decide", moved)
    with pytest.raises(StudyError, match=r"was moved to .*/runs/b while its search ran.*headmask resume .*/runs/b$"):
        start(config)
    assert not looked
    assert not config.folder.exists()
    monkeypatch.undo()
    from orchestrator.study.reopening import stored_config

    outcome = resume(stored_config(str(tmp_path / "runs" / "b"), None))
    assert outcome.result.test_looks == 1
