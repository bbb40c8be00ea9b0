"""Every source, from files as the originals have them: names, columns, encodings, and their quirks."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from headmask.errors import DataError
from workers.data.build import build
from workers.data.columns import Columns
from workers.data.dataset import Dataset
from workers.data.loading import Reading, load_data
from workers.data.sources.captions import coco, coco_cn, flickr30k, flickr30k_cna, karpathy
from workers.data.sources.imagefolder import imagefolder
from workers.data.sources.pairs import cola
from workers.data.sources.parquet import ParquetSource
from workers.data.sources.shards import ShardSource
from workers.data.sources.tables import folder
from workers.data.splits import SplitMap


def picture(seed):
    """Return a small JPEG, another one for every seed."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_pictures(folder, *names):
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed))
    return folder


def built(source, tmp_path, **options):
    return Dataset(build(source, tmp_path / "out.parquet", **options).path)


# COCO


def write_coco(path, split, ids, year=2014):
    """Write `captions_val2014.json` and its kin as COCO has them; the annotations are in no order."""
    name = (lambda i: f"COCO_{split}2014_{i:012d}.jpg") if year == 2014 else (lambda i: f"{i:012d}.jpg")
    images = [
        {
            "license": 3,
            "file_name": name(i),
            "coco_url": f"http://images.cocodataset.org/{split}{year}/{name(i)}",
            "height": 480,
            "width": 640,
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": "http://farm1.staticflickr.com/1.jpg",
            "id": i,
        }
        for i in ids
    ]
    annotations = [
        {"image_id": i, "id": 100 * i + k, "caption": f"Caption {k} of {i}.\n"} for k in range(5) for i in reversed(ids)
    ]
    content = {"info": {}, "images": images, "licenses": [], "annotations": annotations}
    path.write_text(json.dumps(content))
    return [name(i) for i in ids]


@pytest.mark.parametrize("inside", ["", "val2014/"])
def test_coco_captions(tmp_path, inside):
    names = write_coco(tmp_path / "captions_val2014.json", "val", [391895, 522418, 184613])
    images = write_pictures(tmp_path / "images", *(f"{inside}{name}" for name in names))
    dataset = built(coco(images, [tmp_path / "captions_val2014.json"]), tmp_path)
    assert dataset.captions()[0] == tuple(f"Caption {k} of 391895." for k in range(5))
    assert list(dataset.images()) == [picture(0), picture(1), picture(2)]
    assert dataset.splits() is None


def test_coco_train_and_val_of_2017_are_splits(tmp_path):
    train = write_coco(tmp_path / "captions_train2017.json", "train", [1, 2], 2017)
    val = write_coco(tmp_path / "captions_val2017.json", "val", [3], 2017)
    images = write_pictures(tmp_path, *(f"train2017/{name}" for name in train), *(f"val2017/{name}" for name in val))
    source = coco(images, [tmp_path / "captions_train2017.json", tmp_path / "captions_val2017.json"])
    assert built(source, tmp_path).splits() == ["search", "search", "confirm"]


def test_coco_ids_that_are_there_twice_or_nowhere_are_bad_rows(tmp_path):
    (name, *_) = write_coco(tmp_path / "captions_val2014.json", "val", [1, 2])
    content = json.loads((tmp_path / "captions_val2014.json").read_text())
    content["images"].append(content["images"][0])
    content["annotations"].append({"image_id": 99, "id": 1, "caption": "nothing"})
    (tmp_path / "captions_val2014.json").write_text(json.dumps(content))
    images = write_pictures(tmp_path / "images", name)
    with pytest.raises(DataError) as caught:
        built(coco(images, [tmp_path / "captions_val2014.json"]), tmp_path)
    assert "captions_val2014.json image 3: id 1 is there twice" in str(caught.value)
    assert "captions_val2014.json annotation 11: there is no image 99" in str(caught.value)
    assert "COCO_val2014_000000000002.jpg" in str(caught.value)


# Karpathy


def write_karpathy(path, splits, *, is_coco):
    images = []
    for number, split in enumerate(splits):
        filename = f"COCO_val2014_{number:012d}.jpg" if is_coco else f"{1000092795 + number}.jpg"
        sentences = [
            {"tokens": ["two", "dogs"], "raw": f"Two dogs {number} {k}.", "imgid": number, "sentid": 5 * number + k}
            for k in range(5)
        ]
        image = {"sentids": [5 * number + k for k in range(5)], "imgid": number, "sentences": sentences}
        image |= {"split": split, "filename": filename}
        images.append(image | ({"filepath": "val2014", "cocoid": number} if is_coco else {}))
    path.write_text(json.dumps({"images": images, "dataset": "coco" if is_coco else "flickr30k"}))
    return [(f"{image['filepath']}/" if is_coco else "") + image["filename"] for image in images]


@pytest.mark.parametrize("is_coco", [True, False])
def test_karpathys_splits(tmp_path, is_coco):
    path = tmp_path / ("dataset_coco.json" if is_coco else "dataset_flickr30k.json")
    names = write_karpathy(path, ["train", "restval" if is_coco else "train", "val", "test"], is_coco=is_coco)
    source = karpathy(write_pictures(tmp_path / "images", *names), [path])
    dataset = built(source, tmp_path)
    assert dataset.splits() == ["search", "search", "confirm", "test"]
    assert dataset.captions()[2] == tuple(f"Two dogs 2 {k}." for k in range(5))
    assert list(dataset.images())[3] == picture(3)


def test_splits_can_be_chosen_and_the_others_need_no_images(tmp_path):
    names = write_karpathy(tmp_path / "dataset_coco.json", ["train", *["val"] * 40, "test"], is_coco=True)
    images = write_pictures(tmp_path / "images", *names)
    (images / names[0]).unlink()
    source = karpathy(images, [tmp_path / "dataset_coco.json"])
    splits = built(source, tmp_path, splits=SplitMap.parse("search=val,confirm=val,test=test")).splits()
    assert len(splits) == 41
    assert splits[-1] == "test"
    assert 20 <= splits.count("search") <= 35
    assert splits.count("search") + splits.count("confirm") == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=search", "--splits must be like search=train"),
        ("search=", "--splits must be like"),
        ("search=trian,test=test", "--splits names trian; the source's splits are test, train"),
    ],
)
def test_splits_that_do_not_fit_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        SplitMap.parse(text).fitted({"train", "test"})


def test_splits_without_usual_names_must_be_said():
    with pytest.raises(DataError, match=r"the source's splits are fold0, test; say which become which with --splits"):
        SplitMap().fitted({"fold0", "test"})


# Flickr30k

TOKEN = (
    "1000092795.jpg#0\tTwo young guys with shaggy hair look at their hands .\n"
    "1000092795.jpg#1\tTwo young , White males are outside near many bushes .\n"
    "10002456.jpg#0\tSeveral men in hard hats are operating a giant pulley system .\n"
)
# The published file lacks a bar in one line, and the mirror spells its header like this.
RESULTS = (
    "image_name| comment_number| comment\n"
    "1000092795.jpg| 0| Two young guys with shaggy hair look at their hands .\n"
    "1000092795.jpg| 1| Two young , White males are outside near many bushes .\n"
    "10002456.jpg| 0   Several men in hard hats are operating a giant pulley system .\n"
)
COMMAS = (
    "image,caption\n"
    "1000092795.jpg,Two young guys with shaggy hair look at their hands .\n"
    '1000092795.jpg,"Two young , White males are outside near many bushes ."\n'
    "10002456.jpg,Several men in hard hats are operating a giant pulley system .\n"
)


@pytest.mark.parametrize(
    ("name", "text"), [("results_20130124.token", TOKEN), ("results.csv", RESULTS), ("captions.txt", COMMAS)]
)
def test_flickr30k_captions(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    images = write_pictures(tmp_path / "flickr30k-images", "1000092795.jpg", "10002456.jpg")
    dataset = built(flickr30k(images, [tmp_path / name]), tmp_path)
    assert dataset.captions() == [
        (
            "Two young guys with shaggy hair look at their hands .",
            "Two young , White males are outside near many bushes .",
        ),
        ("Several men in hard hats are operating a giant pulley system .",),
    ]


def test_flickr30k_files_of_another_layout_are_refused(tmp_path):
    (tmp_path / "results.csv").write_text("a dog\n")
    with pytest.raises(DataError, match=r"results.csv line 1 must be `NAME.jpg#0<tab>caption`"):
        flickr30k(tmp_path, [tmp_path / "results.csv"])


# Chinese


def write_coco_cn(folder):
    folder.mkdir()
    (folder / "coco-cn_train.txt").write_text("COCO_train2014_000000000101\nCOCO_val2014_000000000102\n")
    (folder / "coco-cn_val.txt").write_text("COCO_train2014_000000000103\n")
    (folder / "coco-cn_test.txt").write_text("COCO_val2014_000000000104\n")
    (folder / "imageid.human-written-caption.txt").write_text(
        "COCO_train2014_000000000101#0\t一只猫坐在沙发上\n"
        "COCO_val2014_000000000102#0\t两个人在骑马\n"
        "COCO_train2014_000000000103#0\t城市夜景\n"
        "COCO_val2014_000000000104#0\t一张 桌子\n"
        "COCO_val2014_000000000104#1\t夜晚的街道\n",
        encoding="utf-8",
    )
    (folder / "imageid.manually-translated-caption.txt").write_text(
        "COCO_val2014_000000000104#0\t翻译\n", encoding="utf-8"
    )
    return folder


def test_coco_cn(tmp_path):
    captions = write_coco_cn(tmp_path / "coco-cn-version1805v1.1")
    images = write_pictures(
        tmp_path / "coco",
        "train2014/COCO_train2014_000000000101.jpg",
        "val2014/COCO_val2014_000000000102.jpg",
        "train2014/COCO_train2014_000000000103.jpg",
        "val2014/COCO_val2014_000000000104.jpg",
    )
    dataset = built(coco_cn(images, [captions]), tmp_path)
    assert dataset.splits() == ["search", "search", "confirm", "test"]
    assert dataset.captions()[0] == ("一只猫坐在沙发上",)
    assert dataset.captions()[3] == ("一张 桌子", "夜晚的街道")
    translated = captions / "imageid.manually-translated-caption.txt"
    dataset = built(coco_cn(images, [translated]), tmp_path, overwrite=True)
    assert dataset.captions() == [("翻译",)]


def test_flickr30k_cna(tmp_path):
    lines = {
        "train/flickr30k_cna_train.txt": "1000092795#0\t两个年轻人看着他们的手。\n1000092795#1\t两个男人在户外。\n",
        "val/flickr30k_cna_val.txt": "1018148011\t一群人。\n",
        "test/flickr30k_cn_test.txt": "1007129816#zhm#0 戴着橙色帽子的男人\n1007129816#zhm#1 一个男人\n",
    }
    for name, text in lines.items():
        (tmp_path / "cna" / name).parent.mkdir(parents=True)
        (tmp_path / "cna" / name).write_text(text, encoding="utf-8")
    images = write_pictures(tmp_path / "images", "1000092795.jpg", "1018148011.jpg", "1007129816.jpg")
    dataset = built(flickr30k_cna(images, [tmp_path / "cna"]), tmp_path)
    assert dataset.splits() == ["search", "confirm", "test"]
    assert dataset.captions() == [
        ("两个年轻人看着他们的手。", "两个男人在户外。"),
        ("一群人。",),
        ("戴着橙色帽子的男人", "一个男人"),
    ]
    single = flickr30k_cna(images, [tmp_path / "cna/test/flickr30k_cn_test.txt"])
    assert len(built(single, tmp_path, overwrite=True)) == 1


# Hugging Face Parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(path, metadata=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path)


def image_cells(*seeds):
    return pa.array([{"bytes": picture(seed), "path": f"{seed}.jpg"} for seed in seeds], IMAGE)


def test_image_caption_parquet_of_several_files(tmp_path):
    captions = pa.array([["a dog", "a brown dog"]], pa.list_(pa.string()))
    for number, split in enumerate(("train", "validation", "test")):
        write_parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet", image=image_cells(number), caption=captions
        )
    dataset = built(ParquetSource([str(tmp_path / "data" / "*.parquet")]), tmp_path)
    assert sorted(dataset.splits()) == ["confirm", "search", "test"]
    assert dataset.captions()[0] == ("a dog", "a brown dog")
    assert {*dataset.images()} == {picture(0), picture(1), picture(2)}
    assert len(ParquetSource([str(tmp_path / "data")])._files) == 3
    assert len(ParquetSource([f"file://{tmp_path}/d*/t*.parquet"])._files) == 2
    assert len(ParquetSource([f"file://{tmp_path}/da**/*.parquet"])._files) == 3


def test_parquet_columns_can_be_named(tmp_path):
    columns = {"photo": image_cells(0, 1), "alt": ["a dog", "a cat"], "fold": ["train", "test"]}
    write_parquet(tmp_path / "d.parquet", **columns)
    with pytest.raises(DataError, match=r"has no image column image or .*; it has photo, alt, fold"):
        ParquetSource([str(tmp_path / "d.parquet")])
    source = ParquetSource([str(tmp_path / "d.parquet")], Columns(image="photo", caption="alt", split="fold"))
    assert built(source, tmp_path).splits() == ["search", "test"]
    with pytest.raises(
        DataError, match=r"has no image column foto; it has photo, alt, fold. Name one with --image-column"
    ):
        ParquetSource([str(tmp_path / "d.parquet")], Columns(image="foto"))


def test_image_label_parquet_has_its_class_names_in_the_description(tmp_path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    write_parquet(tmp_path / "d.parquet", metadata, image=image_cells(0, 1, 2), label=[1, 0, 1])
    dataset = built(ParquetSource([str(tmp_path / "d.parquet")]), tmp_path)
    assert dataset.task == "classification"
    assert dataset.labels() == ([1, 0, 1], ("cat", "dog"))


@pytest.mark.parametrize(
    ("labels", "expected"), [(["dog", "cat"], ([1, 0], ("cat", "dog"))), ([2, 0], ([1, 0], ("0", "2")))]
)
def test_image_label_parquet_without_a_description(tmp_path, labels, expected):
    write_parquet(tmp_path / "d.parquet", image=image_cells(0, 1), label=labels)
    assert built(ParquetSource([str(tmp_path / "d.parquet")]), tmp_path).labels() == expected


def test_multi_label_parquet_is_refused(tmp_path):
    write_parquet(tmp_path / "d.parquet", image=image_cells(0), labels=[[1, 2]])
    with pytest.raises(DataError, match=r"holds several labels per image .* multi-label data is not supported"):
        ParquetSource([str(tmp_path / "d.parquet")])


def test_addresses_that_cannot_be_reached_are_one_message(tmp_path):
    with pytest.raises(DataError, match=r"there is no .parquet file at .*none\*"):
        ParquetSource([str(tmp_path / "none*")])
    with pytest.raises(DataError, match=r"nowhere://a/b.parquet cannot be read: Unrecognized filesystem type"):
        ParquetSource(["nowhere://a/b.parquet"])


# webdataset


def write_shard(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_webdataset_retrieval(tmp_path):
    root = tmp_path / "wds_mscoco"
    for split, base in (("train", 0), ("val", 12), ("test", 13)):
        for shard in range(11 if split == "train" else 1):
            number = base + shard
            samples = [(f"s{number:06d}.jpg", picture(number)), (f"s{number:06d}.txt", f"one {number}\ntwo\n".encode())]
            write_shard(root / split / f"{shard}.tar", samples)
        (root / split / "nshards.txt").write_text("1\n")
    (root / "dataset_type.txt").write_text("retrieval\n")
    dataset = built(ShardSource([str(root)]), tmp_path)
    assert dataset.splits().count("search") == 11
    train = [
        captions[0] for captions, split in zip(dataset.captions(), dataset.splits(), strict=True) if split == "search"
    ]
    assert train == [f"one {number}" for number in range(11)]


def test_webdataset_classification(tmp_path):
    root = tmp_path / "wds_cars"
    samples = [(f"s{number:07d}.{kind}", content) for number in range(4) for kind, content in
               (("cls", str(number % 2).encode()), ("webp", picture(number)))]  # fmt: skip
    write_shard(root / "test" / "0.tar", samples)
    (root / "classnames.txt").write_text("car\ntruck\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n")
    dataset = built(ShardSource([str(root)]), tmp_path)
    assert dataset.labels() == ([0, 1, 0, 1], ("car", "truck"))
    assert dataset.templates() == ("a photo of a {c}.",)
    assert dataset.splits() is None


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([("a.jpg", b"x"), ("a.npy", b"x")], "several labels per image; multi-label data is not supported"),
        ([("a.jpg", b"x"), ("a.cls", b"0")], "has no classnames.txt; name a file with --class-names"),
        ([("a.jpg", b"x")], "needs .txt or .cls beside every image; its first sample has .jpg"),
    ],
)
def test_shards_of_other_layouts_are_refused(tmp_path, samples, message):
    write_shard(tmp_path / "wds" / "test" / "0.tar", samples)
    with pytest.raises(DataError, match=message):
        ShardSource([str(tmp_path / "wds")])


def test_samples_without_image_or_text_are_bad_rows_and_cut_shards_are_refused(tmp_path):
    samples = [
        ("a.jpg", picture(0)),
        ("a.txt", b"fine"),
        ("b.txt", b"alone"),
        ("c.jpg", picture(1)),
        ("d.jpg", b""),
        ("d.txt", b"x"),
    ]
    write_shard(tmp_path / "0.tar", samples)
    report = build(ShardSource([str(tmp_path / "0.tar")]), tmp_path / "out.parquet", on_bad_row="skip")
    assert [str(row) for row in report.bad_rows] == [
        "0.tar, sample b: there is no image",
        "0.tar, sample c: the caption is missing or empty",
        "0.tar, sample d: the image is empty",
    ]
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) // 4])
    with pytest.raises(DataError, match=r"0.tar cannot be read: unexpected end of data"):
        list(ShardSource([str(tmp_path / "0.tar")]).items())


# ImageFolder, tables of labels, Cola


def test_imagefolder(tmp_path):
    names = [
        f"{split}/{name}/{number}.JPEG"
        for split in ("train", "val", "test")
        for name in ("n02", "n01")
        for number in (0, 1)
    ]
    root = write_pictures(tmp_path / "root", *names)
    (tmp_path / "names.json").write_text('{"n01": "tench", "n02": "goldfish"}')
    dataset = built(imagefolder(root, tmp_path / "names.json"), tmp_path)
    labels, class_names = dataset.labels()
    assert class_names == ("tench", "goldfish")
    assert labels == [0, 0, 1, 1] * 3
    assert dataset.splits() == ["test"] * 4 + ["search"] * 4 + ["confirm"] * 4
    assert built(imagefolder(root / "test"), tmp_path, overwrite=True).labels()[1] == ("n01", "n02")


def test_imagenets_folders_have_the_names_of_clips_evaluation(tmp_path):
    from open_clip import IMAGENET_CLASSNAMES

    for number in range(1000):
        (tmp_path / "val" / f"n{number:08d}").mkdir(parents=True)
        (tmp_path / "val" / f"n{number:08d}" / "a.JPEG").write_bytes(b"")
    assert imagefolder(tmp_path / "val").kind.class_names[7] == IMAGENET_CLASSNAMES[7]


def test_waterbirds_table_has_labels_and_groups_of_several_columns(tmp_path):
    (tmp_path / "metadata.csv").write_text(
        "img_id,img_filename,y,split,place,place_filename\n"
        "1,001.Albatross/a.jpg,0,0,1,/b/bamboo\n"
        "2,001.Albatross/b.jpg,1,1,0,/o/ocean\n"
        "3,001.Albatross/c.jpg,1,2,1,/o/ocean\n"
    )
    images = write_pictures(tmp_path / "images", *(f"001.Albatross/{name}.jpg" for name in "abc"))
    (tmp_path / "names.txt").write_text("landbird\nwaterbird\n")
    source = folder(images, tmp_path / "metadata.csv", Columns(group="y,place"), tmp_path / "names.txt")
    dataset = built(source, tmp_path, splits=SplitMap.parse("search=0,confirm=1,test=2"))
    assert dataset.labels() == ([0, 1, 1], ("landbird", "waterbird"))
    assert dataset.groups() == ["0, 1", "1, 0", "1, 1"]
    assert dataset.splits() == ["search", "confirm", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image": "a.jpg", "label": [1, 2]}]', "several labels for one image; multi-label"),
        ('[{"image": "a.jpg", "label": 1}, {"image": "a.jpg", "label": 2}]', "label 2 contradicts label 1 before"),
        ('[{"image": "a.jpg", "label": ""}, {"image": "b.jpg", "label": 1}]', "the label is missing"),
    ],
)
def test_tables_with_more_or_less_than_one_label_per_image_are_refused(tmp_path, text, message):
    (tmp_path / "labels.json").write_text(text)
    images = write_pictures(tmp_path / "images", "a.jpg", "b.jpg")
    with pytest.raises(DataError, match=message):
        built(folder(images, tmp_path / "labels.json"), tmp_path)


PAIR = "https://cs-people.bu.edu/array/data/vg_gqa_images/{}.jpg"


def write_cola(tmp_path, *pairs):
    content = [
        [PAIR.format(a), "large white towel and small dog", PAIR.format(b), "small white towel and large dog"]
        for a, b in pairs
    ]
    (tmp_path / "COLA_multiobjects_matching_benchmark.json").write_text(json.dumps(content))
    return tmp_path / "COLA_multiobjects_matching_benchmark.json"


def test_cola(tmp_path, tiny_preprocess):
    path = write_cola(tmp_path, (2414605, 2414606), (11, 12), (21, 22))
    images = write_pictures(tmp_path / "images", *(f"{n}.jpg" for n in (2414605, 2414606, 11, 12, 21)))
    with pytest.raises(DataError, match=r"pair 3 \(22.jpg\): there is no image '22.jpg'"):
        built(cola(images, path), tmp_path)
    dataset = built(cola(images, path), tmp_path, on_bad_row="skip")
    assert dataset.task == "matching"
    assert dataset.pairs() == [1, 1, 2, 2]
    split = load_data(dataset.path, tiny_preprocess, whole=True)["all"]
    assert split.texts[:2] == ("large white towel and small dog", "small white towel and large dog")
    assert split.clusters_N.tolist() == [0, 0, 0, 0]  # Both pairs have the same captions.


def test_colas_single_objects_are_multi_label_and_refused(tmp_path):
    (tmp_path / "COLA_singleobjects_benchmark_GQA.json").write_text(json.dumps([["square white plate"], [["a.jpg"]]]))
    with pytest.raises(DataError, match="single-object setting, with several labels per image, which is not supported"):
        cola(tmp_path, tmp_path / "COLA_singleobjects_benchmark_GQA.json")


def test_drawn_splits_keep_pairs_together(tmp_path, tiny_preprocess):
    path = write_cola(tmp_path, *((2 * n, 2 * n + 1) for n in range(20)))
    images = write_pictures(tmp_path / "images", *(f"{n}.jpg" for n in range(40)))
    out = build(cola(images, path), tmp_path / "out.parquet").path
    splits = load_data(out, tiny_preprocess, Reading(split_seed=3))
    assert sum(split.targets.num_pairs for split in splits.values()) == 20
    assert all(len(split.pixels) == 2 * split.targets.num_pairs for split in splits.values())
