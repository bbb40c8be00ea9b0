"""What a study holds is what was written: a wrong byte anywhere is found, and named with the way out."""

import json
import re
import zlib

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from headmask.errors import StudyError
from headmask.mask import HeadGrid, HeadMask
from orchestrator.study.integrity import SUMS, checked_attrs, checksum, with_sums
from orchestrator.study.records import TrialRecord, read_records
from orchestrator.study.storage import open_storage
from orchestrator.study.store import StudyStore
from orchestrator.study.stored import read_stored
from tests.orchestrator.study.test_store import GRID, record


@pytest.fixture
def journal(tmp_path):
    """A journal with a study of a few trials."""
    path = tmp_path / "study.journal"
    with StudyStore.create(str(path), "s", {"fingerprint": {"grid": "3x4"}, "config": {"seed": 3}}) as store:
        for number in range(5):
            store.append(record(number))
        store.append(record(7, value=None, metrics={}, failure="non-finite embeddings"))
    return path


def read(path):
    with StudyStore.open(str(path), "s") as store:
        return store.records(GRID), store.attr("config")


def unchecked(line, **changes):
    """Return a journal's line without its checksum, as other writers write it, with changes."""
    content = json.loads(line)
    del content["crc"]
    return (json.dumps({**content, **changes}) + "\n").encode()


def test_any_wrong_byte_of_a_journal_is_found(journal):
    whole = journal.read_bytes()
    records, config = read(journal)
    for place in range(0, len(whole) - 1, 37):
        changed = bytes([whole[place] ^ 1])
        journal.write_bytes(whole[:place] + changed + whole[place + 1 :])
        try:
            found = read(journal)
        except StudyError:
            continue
        # What comes back all the same is what was written.
        assert found == (records, config), whole[place - 20 : place + 20]


def test_a_changed_digit_is_named_by_its_line(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if b'"value":0.04' in line)
    lines[number] = lines[number].replace(b'"value":0.04', b'"value":0.94')
    journal.write_bytes(b"".join(lines))
    with pytest.raises(
        StudyError, match=rf"line {number + 1} of .*is not what headmask wrote, .*sed -i.bak {number + 1}d"
    ):
        read(journal)
    del lines[number]
    journal.write_bytes(b"".join(lines))
    records, _ = read(journal)
    assert sorted(each.proposal for each in records.values()) == [0, 1, 2, 3, 7]


def test_garbage_in_the_middle_is_named_by_its_line(journal):
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for garbage in (b"garbage\n", b"\x00\x00\n", b"[" * 100_000 + b"\n", b"{}\n", b"17\n", b"\xff\xfe\n"):
        journal.write_bytes(b"".join([*lines[:8], garbage, *lines[8:]]))
        with pytest.raises(StudyError, match=r"line 9 of .*delete that line"):
            read(journal)
        with pytest.raises(StudyError, match=r"line 9 of "):
            read_stored(str(journal), "s")
    journal.write_bytes(b"".join([*lines, b"garbage"]))
    assert len(read(journal)[0]) == 6
    assert journal.read_bytes() == whole


def test_a_line_that_optuna_cannot_replay_is_one_message(journal):
    line = {"op_code": 99, "worker_id": "x"}
    journal.write_bytes(journal.read_bytes() + json.dumps(line).encode() + b"\n")
    with pytest.raises(StudyError, match="is not a journal of studies, or is damaged: AssertionError"):
        read(journal)


def test_a_trial_that_another_writer_changed_is_refused(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    place = next(place for place, line in enumerate(lines) if b'"value":0.04' in line)
    for changes in (
        {"value": 0.94},
        {"params": {**json.loads(lines[place])["params"], "L01": 5}},
        {"user_attrs": {**json.loads(lines[place])["user_attrs"], "strategy": "genetic"}},
        {"user_attrs": {**json.loads(lines[place])["user_attrs"], "metrics": {"mean_recall": 0.04, "t2i_r1": 0.6}}},
        {"user_attrs": {**json.loads(lines[place])["user_attrs"], "proposal": "4"}},
        {"user_attrs": {**json.loads(lines[place])["user_attrs"], "failure": "none"}},
    ):
        journal.write_bytes(b"".join([*lines[:place], unchecked(lines[place], **changes), *lines[place + 1 :]]))
        with pytest.raises(StudyError, match="trial 4 of the study is damaged: it is not what headmask wrote"):
            read(journal)
    journal.write_bytes(b"".join([*lines[:place], unchecked(lines[place]), *lines[place + 1 :]]))
    assert len(read(journal)[0]) == 6


def test_a_configuration_that_another_writer_changed_is_refused(journal):
    with open_storage(str(journal)) as storage:
        optuna.load_study(study_name="s", storage=storage).set_user_attr("config", {"seed": 4})
    for reading in (read, lambda path: read_stored(str(path), "s")):
        with pytest.raises(StudyError, match=r"study 's'.* is damaged: config not as headmask wrote it"):
            reading(journal)


def test_optuna_reads_and_writes_a_checked_journal(journal):
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name="s", storage=storage)
    assert study.best_value == 0.04
    study.set_user_attr("note", "of a dashboard")
    assert read(journal)[1] == {"seed": 3}


def test_a_study_without_checksums_goes_on_and_its_values_are_compared_with_their_metrics(tmp_path):
    about = {"grid": "3x4", "guide": "0.5*mean_recall + 0.5*t2i_r1", "task": "retrieval"}
    trial = record(4, value=0.27, metrics={"mean_recall": 0.04, "t2i_r1": 0.5}).to_trial()
    del trial.user_attrs["checksum"]
    (found,) = read_records({"fingerprint": about}, [trial])
    assert found.value == 0.27
    changed = record(4, value=0.28, metrics={"mean_recall": 0.04, "t2i_r1": 0.5}).to_trial()
    del changed.user_attrs["checksum"]
    with pytest.raises(StudyError, match=r"trial -1 of the study is damaged: its value is 0.28, its metrics give 0.27"):
        read_records({"fingerprint": about}, [changed])
    # Losses against a baseline are not known from a trial alone.
    limited = {**about, "guide": ["a/top1", "b/top1"], "task": {"combine": "mean", "max_loss": {"b": 0.01}}}
    assert len(read_records({"fingerprint": limited}, [changed])) == 1


def test_trials_of_others_and_unfinished_ones_are_left_out():
    other = optuna.trial.create_trial(value=1.0)
    assert read_records({"fingerprint": {"grid": "3x4"}}, [other, record(2).to_trial()]) == [record(2)]


def test_a_checksum_is_of_all_that_a_record_holds():
    masks = HeadMask(GRID, (1, 2, 3)), HeadMask(HeadGrid(3, 5), (1, 2, 3))
    changes = [
        {},
        {"proposal": 2},
        {"mask": masks[0]},
        {"value": 0.010000000000000002},
        {"value": None, "failure": "why"},
        {"metrics": {"mean_recall": 0.01}},
        {"strategy": "genetic"},
        {"seconds": 0.5},
        {"device": "cuda"},
    ]
    assert len({record(1, **each).checksum for each in changes}) == len(changes)
    back = TrialRecord.from_trial(record(1).to_trial(), GRID)
    assert (back, back.checksum) == (record(1), record(1).checksum)


def test_a_driver_killed_between_checksum_and_value_leaves_a_good_study():
    first = with_sums({}, "config", {"seed": 1})
    assert list(first) == [SUMS, "config"]
    second = with_sums(first, "config", {"seed": 2})
    between = {**first, SUMS: second[SUMS]}
    for attrs in (first, between, second):
        assert checked_attrs(attrs, "it") == attrs
    with pytest.raises(StudyError, match="it is damaged: config not as headmask wrote it"):
        checked_attrs({**second, "config": {"seed": 3}}, "it")
    with pytest.raises(StudyError, match="its checksums are none"):
        checked_attrs({SUMS: 7}, "it")


def test_the_checksum_of_a_line_is_of_its_text():
    content = b'{"op_code":2'
    assert re.fullmatch("[0-9a-f]{8}", f"{zlib.crc32(content):08x}")
    assert checksum({"b": 1.0, "a": (1, 2)}) == checksum({"a": [1, 2], "b": 1.0})
