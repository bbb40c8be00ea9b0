"""Data as it should not be: each has one clear message, or a documented behaviour, and nothing is lost."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from headmask.errors import DataError, OutputError
from headmask.pixels.images import decode_image
from orchestrator.commands.show import look_at
from tests.workers.data.test_sources import built, picture, write_pictures, write_shard
from workers.data import build as build_module
from workers.data.build import build
from workers.data.dataset import Dataset, Row, write_dataset
from workers.data.loading import Reading, load_data
from workers.data.sources.captions import karpathy
from workers.data.sources.parquet import ParquetSource
from workers.data.sources.shards import ShardSource
from workers.data.sources.tables import folder

ROOT = Path(__file__).parents[3]
ODD = [
    "x" * 10_000,
    "two dogs 🐕🐕‍🦺 run 🏃🏽‍♀️",
    "كلب يركض على الشاطئ",
    "ילד רץ \u202eבחוף\u202c",  # noqa: RUF001
    "一只猫坐在沙发上",
    'quotes "and", commas; tabs\tand | bars',
    "Zoë naïve café \u0301",
    "line\nbreak",
]


def table(tmp_path, captions):
    """Write a CSV of one caption per image, and the images."""
    import csv

    names = [f"{number}.jpg" for number in range(len(captions))]
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *zip(names, captions, strict=True)])
    return folder(write_pictures(tmp_path / "images", *names), tmp_path / "captions.csv")


def test_odd_captions_survive_and_can_be_tokenized(tmp_path):
    dataset = built(table(tmp_path, ODD), tmp_path)
    assert [captions[0] for captions in dataset.captions()] == ODD
    tokens_QT = open_clip.get_tokenizer("ViT-B-32")([caption for (caption,) in dataset.captions()])
    assert tokens_QT.shape == (len(ODD), 77)


@given(
    st.lists(
        st.tuples(
            npst.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).filter(str.strip),
        ),
        min_size=3,
        max_size=6,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_captions_and_images_round_trip_through_parquet(tmp_path, tiny_preprocess, pairs):
    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    path = tmp_path / "any.parquet"
    write_dataset(path, [Row("a.png", png(pixels), (caption,)) for pixels, caption in pairs])
    source = ParquetSource([str(path)])
    again = build(source, tmp_path / "again.parquet", overwrite=True).path
    dataset = Dataset(again)
    assert dataset.captions() == [(caption.strip(),) for _, caption in pairs]
    for (pixels, _), content in zip(pairs, dataset.images(), strict=True):
        assert (np.asarray(decode_image(content, "image")) == pixels).all()
    crops = load_data(again, tiny_preprocess, whole=True, cache=tmp_path / "cache")["all"].pixels[:]
    for (pixels, _), crop in zip(pairs, crops, strict=True):
        assert (tiny_preprocess(Image.fromarray(pixels)) == crop).all()


def test_a_null_byte_in_a_caption_or_a_path_is_a_bad_row(tmp_path):
    images = write_pictures(tmp_path / "images", "a.jpg")
    rows = [{"image": "a.jpg", "caption": "a\0b"}, {"image": "a\0.jpg", "caption": "fine"}]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    with pytest.raises(DataError) as caught:
        built(folder(images, tmp_path / "c.json"), tmp_path)
    assert "entry 1 (a.jpg): the caption cannot be used: there is a null byte in it" in str(caught.value)
    assert "entry 2: the name of the image cannot be used: there is a null byte in it" in str(caught.value)


def test_empty_images_and_bombs_are_bad_rows_with_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    images = write_pictures(tmp_path / "images", "bomb.jpg")
    (images / "empty.jpg").write_bytes(b"")
    (tmp_path / "c.csv").write_text("image,caption\nbomb.jpg,boom\nempty.jpg,nothing\n")
    with pytest.raises(DataError) as caught:
        built(folder(images, tmp_path / "c.csv"), tmp_path)
    assert "line 2 (bomb.jpg): more than 300 pixels; shrink the image" in str(caught.value)
    assert "line 3 (empty.jpg): the image is empty" in str(caught.value)


def test_a_bomb_in_a_finished_file_is_an_error_with_its_row(tmp_path, tiny_preprocess, monkeypatch):
    write_dataset(tmp_path / "d.parquet", [Row(f"{n}.jpg", picture(n), (str(n),)) for n in range(3)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(DataError, match=r"d.parquet row 0: more than 300 pixels"):
        load_data(tmp_path / "d.parquet", tiny_preprocess, cache=tmp_path / "cache")


def test_images_of_100000_pixels_width_are_read(tmp_path, tiny_preprocess):
    buffer = io.BytesIO()
    Image.new("RGB", (100_000, 20), "red").save(buffer, "PNG")
    write_dataset(tmp_path / "d.parquet", [Row("wide.png", buffer.getvalue(), ("wide",))])
    split = load_data(tmp_path / "d.parquet", tiny_preprocess, whole=True, cache=tmp_path / "cache")["all"]
    assert split.pixels[:].shape == (1, 3, 28, 28)


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "sub/../../secret.jpg"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, path):
    images = write_pictures(tmp_path / "images", "a.jpg")
    (tmp_path / "secret.jpg").write_bytes(picture(9))
    (tmp_path / "c.csv").write_text(f"image,caption\n{path},a thief\n")
    with pytest.raises(DataError, match="leads out of"):
        built(folder(images, tmp_path / "c.csv"), tmp_path)
    parquet = {"image": pa.array([{"bytes": None, "path": path}]), "caption": ["a thief"]}
    pq.write_table(pa.table(parquet), images / "d.parquet")
    with pytest.raises(DataError, match="leads out of"):
        list(Dataset(images / "d.parquet").images())


def test_truncated_parquet_is_one_message(tmp_path):
    path = tmp_path / "d.parquet"
    write_dataset(path, [Row(f"{n}.jpg", picture(n), (str(n),)) for n in range(40)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"d.parquet cannot be read as Parquet: Parquet magic bytes not found"):
        ParquetSource([str(path)])
    path.write_bytes(whole[:2000] + b"\0" * 3000 + whole[5000:])
    with pytest.raises(DataError, match=r"d.parquet is damaged|the source has"):
        built(ParquetSource([str(path)]), tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [3], "caption": ["a"]}, "image column image must be struct<bytes, path> of an .* got int64"),
        ({"image": [b"x"], "caption": [3.5]}, r"caption column caption must be string or list<string>; got double"),
        ({"image": [b"x"], "label": [1.5]}, "label column label must be integer or string; got double"),
        ({"image": [b"x"], "caption": ["a"], "pair": ["x"]}, "pair column pair must be integer; got string"),
    ],
)
def test_columns_of_wrong_types_are_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=message):
        Dataset(tmp_path / "d.parquet")


def test_an_image_that_karpathys_file_names_twice_is_a_bad_row(tmp_path):
    image = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a dog"}]}
    (tmp_path / "dataset.json").write_text(json.dumps({"images": [image, image]}))
    with pytest.raises(DataError, match=r"dataset.json image 2 \(a.jpg\): the image is there twice"):
        built(karpathy(write_pictures(tmp_path / "images", "a.jpg"), [tmp_path / "dataset.json"]), tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"images": 3}', '{"images": [3]}', "[" * 100_000, "nonsense"])
def test_files_of_another_layout_are_one_message(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"must hold an object with a list 'images'|is not JSON|is nested too deep"):
        karpathy(tmp_path, [tmp_path / "dataset.json"])


def many(tmp_path, count=120):
    samples = [(f"{n:05d}.{kind}", content) for n in range(count) for kind, content in
               (("jpg", picture(n)), ("txt", f"picture {n}".encode()))]  # fmt: skip
    write_shard(tmp_path / "0.tar", samples)
    return tmp_path / "0.tar"


def test_a_killed_build_goes_on_and_ends_as_if_nothing_had_happened(tmp_path):
    """SIGKILL after a part or more; never is there a file that is not whole."""
    shard, out = many(tmp_path, 3000), tmp_path / "out.parquet"
    command = [sys.executable, "-m", "tests.workers.data.killed_build", str(shard), str(out)]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    work = tmp_path / ".out.parquet.build"
    deadline = time.monotonic() + 60
    while len(list(work.glob("*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert not out.exists()
    assert list(work.glob("*.parquet"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    num_images, num_resumed = map(int, done.stdout.split())
    assert num_images == 3000
    assert num_resumed >= 30
    assert Dataset(out).captions() == [(f"picture {n}",) for n in range(3000)]
    assert list(Dataset(out).images())[::100] == [picture(n) for n in range(0, 3000, 100)]
    assert not work.exists()


def test_parts_of_other_data_are_not_taken(tmp_path):
    work = tmp_path / ".out.parquet.build"
    shard = many(tmp_path)

    class Stopped(Exception):
        pass

    def stop(done, total):
        if done == 115:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.data.build.PART_ROWS", 10)
        with pytest.raises(Stopped):
            build(ShardSource([str(shard)]), tmp_path / "out.parquet", on_progress=stop)
        assert len(list(work.glob("*.parquet"))) == 11
        write_shard(shard, [("other.jpg", picture(5)), ("other.txt", b"another")])
        report = build(ShardSource([str(shard)]), tmp_path / "out.parquet")
    assert (report.num_images, report.num_resumed) == (1, 0)
    assert Dataset(report.path).captions() == [("another",)]


def test_two_builds_of_one_file_do_not_meet(tmp_path):
    shard = many(tmp_path)

    def second(done, total):
        with pytest.raises(DataError, match="another build is writing"):
            build(ShardSource([str(shard)]), tmp_path / "out.parquet")

    assert build(ShardSource([str(shard)]), tmp_path / "out.parquet", on_progress=second).num_images == 120


# What `headmask data show` warns of


def test_show_counts_and_warns(tmp_path):
    rows = [
        Row("a.jpg", picture(0), ("a dog", "a brown dog"), "search"),
        Row("b.jpg", picture(1), ("word " * 100,), "confirm"),
        Row("c.jpg", picture(0), ("the same picture",), "test"),
        Row("d.jpg", picture(2), ("fine", " "), "test"),
        Row("e.jpg", picture(2), ("fine",), "test"),
        Row("f.jpg", b"junk", ("broken",), "test"),
    ]
    write_dataset(tmp_path / "d.parquet", rows)
    found = look_at(tmp_path / "d.parquet", Reading())
    assert found.splits == {"search": 1, "confirm": 1, "test": 4}
    assert found.captions_per_image == [2, 1, 1, 2, 1, 1]
    text = "\n".join(found.warnings)
    assert "1 image has no caption or an empty one: row 3" in text
    assert "1 caption is longer than the 77 tokens of the tokenizer and is cut: row 1" in text
    assert "1 image is in several splits, which a search refuses: row 0 (search) and row 2 (test)" in text
    assert "1 image is there more than once: row 3 and row 4" in text
    assert "1 image cannot be read: row 5: cannot be read as an image" in text


def test_independent_groups_are_shown_and_a_large_one_is_warned_of(tmp_path):
    rows = [Row(f"{n}.jpg", picture(n), ("a drawing", str(n)), "test") for n in range(40)]
    rows += [Row(f"{n}.jpg", picture(40), (str(n),), "test") for n in range(40, 45)]
    write_dataset(tmp_path / "d.parquet", rows)
    found = look_at(tmp_path / "d.parquet", Reading())
    assert found.as_json()["clusters"]["test"] == {
        "number": 41, "largest": 5, "num_images": 45, "effective": pytest.approx(45**2 / 65)
    }  # fmt: skip
    assert "one independent group holds 5 of the 45 images of test" in found.warnings[-1]


def test_a_caption_of_exactly_the_context_is_not_cut(tmp_path):
    rows = [Row(f"{n}.jpg", picture(n), ("dog " * n,)) for n in (74, 75, 76)]
    write_dataset(tmp_path / "d.parquet", rows)
    warning, few = look_at(tmp_path / "d.parquet", Reading()).warnings
    assert few == (
        "the smallest of the drawn splits has 0.2 of the 3 independent groups of images: fewer than 20, below which no "
        "interval is given and no improvement claimed"
    )
    assert "1 caption is longer than the 77 tokens" in warning
    assert "row 2" in warning


def test_the_flickr30k_trap_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.commands.show.FLICKR30K", 5)
    write_dataset(tmp_path / "d.parquet", [Row(f"{n}.jpg", picture(n), (str(n),), "test") for n in range(5)])
    warning, few = look_at(tmp_path / "d.parquet", Reading()).warnings
    assert few.startswith("test has 5 independent groups of images: fewer than 20")
    assert "which some mirrors call its test split; results are reported on 1,000 of them with 5,000" in warning


def test_places_that_cannot_be_written_are_one_message(tmp_path, tiny_preprocess, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot write .*file/out.parquet: a part of it is a file"):
        build(ShardSource([str(many(tmp_path, 2))]), tmp_path / "file" / "out.parquet")
    write_dataset(tmp_path / "d.parquet", [Row("a.jpg", picture(0), ("a",))])
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot write the pixel cache in .* \(Not a directory\).*HEADMASK_CACHE"):
        load_data(tmp_path / "d.parquet", tiny_preprocess, whole=True)


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    """The third part cannot be written; the build after that goes on with two."""
    shard, written = many(tmp_path, 40), []
    monkeypatch.setattr("workers.data.build.PART_ROWS", 10)
    write = build_module._write

    def filling(path, *rest):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("workers.data.build._write", filling)
        with pytest.raises(OutputError, match=r"the disk is full: .*What is done is kept in .*\.out\.parquet\.build"):
            build(ShardSource([str(shard)]), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    report = build(ShardSource([str(shard)]), tmp_path / "out.parquet")
    assert (report.num_images, report.num_resumed) == (40, 20)
