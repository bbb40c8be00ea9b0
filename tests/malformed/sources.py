"""Data sets and what they are built from: labels, captions, names, links, archives and Parquet that do not fit."""

import io
import json
import os
import tarfile
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.malformed.case import Case
from workers.data.dataset import Row, write_dataset

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@cache
def picture(seed=0):
    """Return a small PNG."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files(**contents):
    """Return what writes files: names with `__` for `/` and `_dot_` for `.`; text, bytes or JSON values."""

    def make(folder):
        for name, content in contents.items():
            path = folder / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")

    return make


def photos(**contents):
    """Return what writes a folder `photos` with `a.png` and `b.png`, and other files."""
    return files(photos__a_dot_png=picture(0), photos__b_dot_png=picture(1), **contents)


def cells(count=1):
    return pa.array([{"bytes": picture(seed), "path": f"{seed}.png"} for seed in range(count)], IMAGE)


def table(metadata=None, **columns):
    """Return what writes `d.parquet`."""

    def make(folder):
        count = max((len(column) for column in columns.values()), default=0)
        content = pa.table({"image": cells(count), **columns})
        if metadata:
            content = content.replace_schema_metadata(metadata)
        pq.write_table(content, folder / "d.parquet")

    return make


def broken_text(*values):
    """Return a column of text that is not UTF-8."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values).buffers())


def twice(folder):
    names = ["image", "caption", "caption"]
    pq.write_table(pa.Table.from_arrays([cells(), pa.array(["a"]), pa.array(["b"])], names), folder / "d.parquet")


def cut(folder):
    table(caption=["a"])(folder)
    content = (folder / "d.parquet").read_bytes()
    (folder / "d.parquet").write_bytes(content[: len(content) // 2] + content[-8:])


def tar(*members):
    """Return what writes `d.tar` of names and contents; a text as content is where a link leads."""

    def make(folder):
        with tarfile.open(folder / "d.tar", "w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                    archive.addfile(info)
                else:
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))

    return make


def shards(classes=None, templates=None, kind=None, cls=b"0"):
    """Return what writes `wds/test/0.tar` of one labelled sample, with files beside it."""

    def make(folder):
        (folder / "wds/test").mkdir(parents=True)
        tar(("a.png", picture()), ("a.cls", cls))(folder / "wds/test")
        (folder / "wds/test/d.tar").rename(folder / "wds/test/0.tar")
        beside = {
            "classnames.txt": classes,
            "zeroshot_classification_templates.txt": templates,
            "dataset_type.txt": kind,
        }
        for name, content in beside.items():
            if content is not None:
                (folder / "wds" / name).write_bytes(content)

    return make


def both(*makers):
    def make(folder):
        for each in makers:
            each(folder)

    return make


def own_output(folder):
    row = Row("a.png", picture(), ("a",))
    write_dataset(folder / "o.parquet", [row])
    (folder / "link").mkdir()
    (folder / "link/there").symlink_to(folder)


def pipe(name):
    return lambda folder: os.mkfifo(folder / name)


def circle(folder):
    (folder / "photos").mkdir()
    (folder / "photos/a.png").symlink_to("b.png")
    (folder / "photos/b.png").symlink_to("a.png")
    (folder / "c.csv").write_text("image,caption\na.png,round\n")


BUILD = ["data", "build", "--out", "o.parquet"]
FOLDER = [*BUILD, "--images", "photos", "--captions"]
PARQUET = [*BUILD, "--from", "parquet", "--files"]
TAR = [*BUILD, "--from", "webdataset", "--files"]
CLASSES = [*BUILD, "--from", "imagefolder", "--images", "root"]
SHOW = ["data", "show", "d.parquet", "--no-sheet"]
EVAL = ["eval", "--mask", "{mask}", "--data", "d.parquet", "--json"]
SEARCH = ["search", "--model", "local-dir:{model}", "--data", "d.parquet", "--out", "x", "--pool", "inline", "--json"]


def of(source, file):
    return [*BUILD, "--from", source, "--images", "photos", "--captions", file]


DEEP = "[" * 100_000
HUB = b"huggingface"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 5\n"


def described(feature):
    return {HUB: json.dumps({"info": {"features": {"label": feature}}}).encode()}


CASES = [
    # Tables
    Case(
        "more fields than the header",
        [*FOLDER, "c.csv"],
        r"line 3: the row has 3 fields, the header has 2; put a field with commas in it between quotation marks",
        make=photos(c_dot_csv="image,caption\nb.png,fine\na.png,a drawing, in two parts\n"),
    ),
    Case(
        "fewer fields than the header",
        [*FOLDER, "c.csv"],
        r"line 4: the row has 1 field, the header has 2",
        make=photos(c_dot_csv='image,caption\nb.png,"two\nlines"\na.png\n'),
    ),
    Case(
        "two columns of one name",
        [*FOLDER, "c.csv"],
        r"has 2 columns called 'caption'; rename all but one",
        make=photos(c_dot_csv="image,Caption,caption\na.png,one,two\n"),
    ),
    Case(
        "a quotation mark that is not closed",
        [*FOLDER, "c.csv"],
        r"line 2 to 3: a quotation mark is opened and not closed",
        make=photos(c_dot_csv='image,caption\na.png,"a dog\nb.png,a cat\n'),
    ),
    Case(
        "a quotation mark that is closed within a field",
        [*FOLDER, "c.csv"],
        r"line 2: a quotation mark is closed within a field",
        make=photos(c_dot_csv='image,caption\na.png,"a" dog\n'),
    ),
    Case(
        "tabs and too many fields",
        [*FOLDER, "c.tsv"],
        r"line 2: the row has 3 fields, the header has 2; put a field with tabs",
        make=photos(c_dot_tsv="image\tcaption\na.png\ta dog\tx\n"),
    ),
    Case(
        "semicolons and too few fields",
        [*FOLDER, "c.csv"],
        r"line 2: the row has 1 field, the header has 2",
        make=photos(c_dot_csv="image;caption\na.png\n"),
    ),
    Case("an empty table", [*FOLDER, "c.csv"], r"needs an image column.*got nothing", make=photos(c_dot_csv="")),
    Case("a table that is a pipe", [*FOLDER, "c.csv"], "is a named pipe", make=both(photos(), pipe("c.csv"))),
    Case("a table that is a folder", [*FOLDER, "photos"], "must be .csv, .tsv, .json, .jsonl", make=photos()),
    Case("a table without a name", [*FOLDER, ""], "a path cannot be empty", make=photos()),
    Case(
        "a table in Latin-1", [*FOLDER, "c.csv"], "is not UTF-8 text", make=photos(c_dot_csv=b"image,caption\na,\xe9\n")
    ),
    Case(
        "a table with a null byte",
        [*FOLDER, "c.csv"],
        "null byte in line 2",
        make=photos(c_dot_csv="image,caption\na,\0"),
    ),
    Case(
        "a path that leads out",
        [*FOLDER, "c.csv"],
        r"line 2 \(\.\./x\.png\): path '\.\./x\.png' leads out of photos",
        make=photos(c_dot_csv="image,caption\n../x.png,a thief\n"),
    ),
    Case(
        "a path with backslashes that leads out",
        [*FOLDER, "c.csv"],
        "leads out of photos",
        make=photos(c_dot_csv="image,caption\nsub\\..\\..\\x.png,a thief\n"),
    ),
    Case(
        "an absolute path of Windows",
        [*FOLDER, "c.csv"],
        "there is no image .* name images relative to the folder",
        make=photos(c_dot_csv="image,caption\nC:\\photos\\a.png,a dog\n"),
    ),
    Case("links in a circle", [*FOLDER, "c.csv"], r"line 2 \(a\.png\): cannot read image", make=circle),
    Case(
        "no folder of images",
        [*FOLDER, "c.csv"],
        "no folder of images at 'photos'",
        make=files(c_dot_csv="image,caption\na,b\n"),
    ),
    Case(
        "a folder of images that is a file",
        [*FOLDER, "c.csv"],
        "no folder of images at 'photos'; it is a file",
        make=files(photos="x", c_dot_csv="image,caption\na,b\n"),
    ),
    # JSON
    Case(
        "half of a surrogate pair in a caption",
        [*FOLDER, "c.json"],
        r"entry 1 \(a\.png\): the caption cannot be used: it has half of a surrogate pair, U\+D83D",
        make=photos(c_dot_json='[{"image": "a.png", "caption": "a \\ud83d dog"}]'),
    ),
    Case(
        "half of a surrogate pair in a name",
        [*FOLDER, "c.jsonl"],
        r"line 1: the name of the image cannot be used: it has half of a surrogate pair",
        make=photos(c_dot_jsonl='{"image": "\\udc00.png", "caption": "a dog"}\n'),
    ),
    Case("JSON 100,000 deep", [*FOLDER, "c.json"], "nested too deep", make=photos(c_dot_json=DEEP)),
    Case(
        "a line of JSON 100,000 deep", [*FOLDER, "c.jsonl"], "line 1: .*nested too deep", make=photos(c_dot_jsonl=DEEP)
    ),
    Case(
        "a line that is not JSON",
        [*FOLDER, "c.jsonl"],
        "line 3: the line is not JSON",
        make=photos(c_dot_jsonl='{"image": "a.png", "caption": "a\u2028b"}\n\n{"image": \n'),
    ),
    Case(
        "an integer of 5,000 digits",
        [*FOLDER, "c.json"],
        "5,000 digits",
        make=photos(c_dot_json="[" + "9" * 5000 + "]"),
    ),
    Case(
        "a number as image",
        [*FOLDER, "c.json"],
        "name of the image is a text; got 3",
        make=photos(c_dot_json=[{"image": 3, "caption": "a"}]),
    ),
    Case(
        "a number as caption",
        [*FOLDER, "c.json"],
        "a caption is a text; got 3",
        make=photos(c_dot_json=[{"image": "a.png", "caption": 3}]),
    ),
    Case(
        "an object as split",
        [*FOLDER, "c.json"],
        "name of the split is a text; got {}",
        make=photos(c_dot_json=[{"image": "a.png", "caption": "a", "split": {}}]),
    ),
    Case(
        "an object as group",
        [*FOLDER, "c.json"],
        r"name of the group is a text; got \[\{\}\]",
        make=photos(c_dot_json=[{"image": "a.png", "label": "a", "group": {}}]),
    ),
    Case(
        "keys that differ in capital letters",
        [*FOLDER, "c.json"],
        "differ in capital letters",
        make=photos(
            c_dot_json=[{"image": "a.png", "Caption": "a", "caption": "b"}, {"image": "b.png", "caption": "c"}]
        ),
    ),
    # Labels
    Case(
        "a truth value as label",
        [*FOLDER, "c.json"],
        "a label is a text or a whole number; got True",
        make=photos(c_dot_json=[{"image": "a.png", "label": True}]),
    ),
    Case(
        "a fraction as label",
        [*FOLDER, "c.json"],
        "a text or a whole number; got 1.5",
        make=photos(c_dot_json=[{"image": "a.png", "label": 1.5}]),
    ),
    Case(
        "a negative label",
        [*FOLDER, "c.csv"],
        r"line 2 \(a\.png\): label -1 is negative",
        make=photos(c_dot_csv="image,label\na.png,-1\n"),
    ),
    Case(
        "one number in two ways",
        [*FOLDER, "c.csv"],
        "labels 01 and 1 are one number",
        make=photos(c_dot_csv="image,label\na.png,1\nb.png,01\n"),
    ),
    Case(
        "names for sparse labels",
        [*FOLDER, "c.csv", "--class-names", "n.txt"],
        "has 3 class names, the data has 2 classes, numbered 88 to 203093. Name classes in a JSON object",
        make=photos(c_dot_csv="image,label\na.png,203093\nb.png,88\n", n_dot_txt="a\nb\nc\n"),
    ),
    Case(
        "names that may be counted from 0 or 1",
        [*FOLDER, "c.csv", "--class-names", "n.txt"],
        "has 4 class names, the data has 2 classes, numbered 1 to 3",
        make=photos(c_dot_csv="image,label\na.png,1\nb.png,3\n", n_dot_txt="a\nb\nc\nd\n"),
    ),
    Case(
        "a class name that is a number",
        [*FOLDER, "c.csv", "--class-names", "n.json"],
        "a name is a text; got 7 at place 1",
        make=photos(c_dot_csv="image,label\na.png,0\nb.png,1\n", n_dot_json=["a", 7]),
    ),
    Case(
        "class names that are a number",
        [*FOLDER, "c.csv", "--class-names", "n.json"],
        "must be a JSON list of names, or an object.*got 7",
        make=photos(c_dot_csv="image,label\na.png,0\n", n_dot_json=7),
    ),
    Case(
        "class names 100,000 deep",
        [*FOLDER, "c.csv", "--class-names", "n.json"],
        "nested too deep",
        make=photos(c_dot_csv="image,label\na.png,0\n", n_dot_json=DEEP),
    ),
    Case(
        "class names that are a pipe",
        [*FOLDER, "c.csv", "--class-names", "n"],
        "is a named pipe",
        make=both(photos(c_dot_csv="image,label\na.png,0\n"), pipe("n")),
    ),
    Case(
        "no class names",
        [*FOLDER, "c.csv", "--class-names", ""],
        "class names",
        make=photos(c_dot_csv="image,label\na.png,0\n"),
    ),
    # ImageFolder
    Case(
        "a class without an image",
        CLASSES,
        r"1 class without an image: dog \(it holds 1 \.txt\)",
        make=files(root__cat__a_dot_png=picture(), root__dog__a_dot_txt="x"),
    ),
    Case(
        "splits and classes side by side",
        CLASSES,
        "folders of splits, test, train, and others beside them: cat",
        make=files(
            root__train__cat__a_dot_png=picture(),
            root__test__cat__a_dot_png=picture(1),
            root__cat__a_dot_png=picture(2),
        ),
    ),
    Case("no class", CLASSES, "has no folders of classes", make=files(root__a_dot_png=picture())),
    Case(
        "a broken link in a class",
        CLASSES,
        r"cat/b\.png\): there is no image",
        make=both(
            files(root__cat__a_dot_png=picture()), lambda folder: (folder / "root/cat/b.png").symlink_to("nowhere")
        ),
    ),
    # Caption files
    Case(
        "COCO with numbers as names",
        of("coco", "c.json"),
        r"image 1: .*the image is a text; got 5",
        make=photos(
            c_dot_json={"images": [{"id": 1, "file_name": 5}], "annotations": [{"image_id": 1, "caption": "x"}]}
        ),
    ),
    Case(
        "COCO with a list as id",
        of("coco", "c.json"),
        "its id is a number or a text; got \\[\\]",
        make=photos(c_dot_json={"images": [{"id": []}], "annotations": []}),
    ),
    Case(
        "COCO with an object as image",
        of("coco", "c.json"),
        "there is no image {}",
        make=photos(c_dot_json={"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": {}}]}),
    ),
    Case(
        "COCO with a number as caption",
        of("coco", "c.json"),
        "a caption is a text; got 8",
        make=photos(
            c_dot_json={"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": 8}]}
        ),
    ),
    Case(
        "COCO named twice",
        [*of("coco", "c.json"), "--captions", "c.json"],
        "--captions names c.json twice",
        make=photos(c_dot_json={"images": [], "annotations": []}),
    ),
    Case(
        "Karpathy with a number as name",
        of("karpathy", "c.json"),
        "name of the image is a text; got 3",
        make=photos(c_dot_json={"images": [{"filename": 3, "sentences": [{"raw": "x"}], "split": "test"}]}),
    ),
    Case(
        "Karpathy with a number as split",
        of("karpathy", "c.json"),
        "name of the split is a text; got 3",
        make=photos(c_dot_json={"images": [{"filename": "a.png", "sentences": [{"raw": "x"}], "split": 3}]}),
    ),
    Case(
        "Karpathy with a number as folder",
        of("karpathy", "c.json"),
        "filepath is a text; got 3",
        make=photos(c_dot_json={"images": [{"filename": "a.png", "filepath": 3, "sentences": []}]}),
    ),
    Case(
        "Karpathy with half of a surrogate pair as folder",
        of("karpathy", "c.json"),
        "filepath is a text; got",
        make=photos(c_dot_json={"images": [{"filename": "a.png", "filepath": "\ud800", "sentences": [{"raw": "x"}]}]}),
    ),
    Case(
        "Flickr30k with a blank in its header",
        of("flickr30k", "c.txt"),
        "c.txt line 1 must be `image,caption`; got ima ge, caption",
        make=photos(c_dot_txt="ima ge,caption\na.png,x\n"),
    ),
    Case(
        "Karpathy with null sentences",
        of("karpathy", "c.json"),
        "sentences are a list of objects; got None",
        make=photos(c_dot_json={"images": [{"filename": "a.png", "sentences": None}]}),
    ),
    Case(
        "Flickr30k with a bar too many",
        of("flickr30k", "r.csv"),
        r"r\.csv line 3: a line is `NAME\.jpg\| 0\| caption`",
        make=photos(r_dot_csv="image_name| comment_number| comment\na.png| 0| a dog\nb.png| 0| a| cat\n"),
    ),
    Case(
        "Flickr30k with a bar too few",
        of("flickr30k", "r.csv"),
        r"r\.csv line 2: a line is",
        make=photos(r_dot_csv="image_name| comment_number| comment\na.png| a dog\n"),
    ),
    Case(
        "Flickr30k with a tab too many",
        of("flickr30k", "r.token"),
        r"r\.token line 3: a line is `NAME\.jpg#0<tab>caption`",
        make=photos(r_dot_token="a.png#0\ta dog\n\nb.png#0\ta cat\tand more\n"),
    ),
    Case(
        "Flickr30k with commas",
        of("flickr30k", "c.txt"),
        r"c\.txt line 3: the row has 3 fields, the header has 2",
        make=photos(c_dot_txt="image,caption\na.png,a dog\nb.png,a cat, asleep\n"),
    ),
    Case(
        "CNA without a caption",
        of("flickr30k-cna", "c.txt"),
        r"c\.txt line 3: it must be `ID<tab>caption`",
        make=photos(c_dot_txt="a.png\ta dog\n\nb.png\n"),
    ),
    Case(
        "COCO-CN in two splits",
        of("coco-cn", "cn"),
        "a is in two splits, train and test",
        make=photos(
            **{
                "cn__imageid_dot_human-written-caption_dot_txt": "a#0\tx\n",
                "cn__coco-cn_train_dot_txt": "a\n",
                "cn__coco-cn_test_dot_txt": "a\n",
            }
        ),
    ),
    Case(
        "Cola with numbers as addresses",
        of("cola", "c.json"),
        "name of the image is a text; got 1",
        make=photos(c_dot_json=[[1, "a", 2, "b"]]),
    ),
    Case("Cola 100,000 deep", of("cola", "c.json"), "nested too deep", make=photos(c_dot_json=DEEP)),
    Case(
        "Cola with numbers as captions",
        of("cola", "c.json"),
        "a caption is a text; got 2",
        make=photos(c_dot_json=[["a.png", 2, "b.png", 3]]),
    ),
    # Splits
    Case(
        "the same picture in two splits",
        [*FOLDER, "c.csv"],
        r"1 image is in several splits.*\n  a\.png \(search\) and sub/c\.png \(test\)",
        make=photos(
            photos__sub__c_dot_png=picture(0),
            c_dot_csv="image,caption,split\na.png,x,train\nb.png,y,val\nsub/c.png,z,test\n",
        ),
    ),
    Case(
        "no such choice for duplicates",
        [*FOLDER, "c.csv", "--duplicates", "burn"],
        "Invalid value for '--duplicates'",
        make=photos(),
    ),
    # webdataset
    Case(
        "a link in an archive",
        [*TAR, "d.tar"],
        "is a link to /etc/passwd",
        make=tar(("a.png", "/etc/passwd"), ("a.txt", b"x")),
    ),
    Case(
        "a name that leads out of an archive",
        [*TAR, "d.tar"],
        r"the name of \.\./a\.png leads out of the archive",
        make=tar(("../a.png", picture()), ("../a.txt", b"x")),
    ),
    Case(
        "an absolute name in an archive",
        [*TAR, "d.tar"],
        r"the name of /a\.png leads out",
        make=tar(("/a.png", picture()), ("/a.txt", b"x")),
    ),
    Case(
        "a file twice in a sample",
        [*TAR, "d.tar"],
        r"there are two \.txt",
        make=tar(("a.png", picture()), ("a.txt", b"x"), ("a.txt", b"y")),
    ),
    Case(
        "two images in a sample",
        [*TAR, "d.tar"],
        r"there are several images: \.png, \.jpg",
        make=tar(("a.png", picture()), ("a.jpg", picture()), ("a.txt", b"x")),
    ),
    Case(
        "Latin-1 in an archive's caption",
        [*TAR, "d.tar"],
        r"\.txt is not UTF-8",
        make=tar(("a.png", picture()), ("a.txt", b"\xe9")),
    ),
    Case("an archive that is none", [*TAR, "d.tar"], "d.tar cannot be read", make=files(d_dot_tar="nonsense" * 100)),
    Case("an empty archive", [*TAR, "d.tar"], r"needs \.txt or \.cls beside every image", make=tar()),
    Case(
        "a class of 5,000 digits",
        [*TAR, "wds"],
        r"\.cls must hold a number below 1",
        make=shards(b"cat\n", cls=b"9" * 5000),
    ),
    Case(
        "a class in another script",
        [*TAR, "wds"],
        r"\.cls must hold a number below 1",
        make=shards(b"cat\n", cls="\u0660".encode()),
    ),
    Case(
        "class names of an archive in Latin-1",
        [*TAR, "wds"],
        "classnames.txt .* is not UTF-8",
        make=shards(b"caf\xe9\n"),
    ),
    Case(
        "templates of an archive without a place",
        [*TAR, "wds"],
        "a template needs {c}",
        make=shards(b"cat\n", b"a photo\n"),
    ),
    Case("no archive", [*TAR, "none"], "there is no .tar file at none"),
    Case("an archive that is a pipe", [*TAR, "d.tar"], "is a named pipe", make=pipe("d.tar")),
    # Parquet
    Case(
        "garbage for Parquet",
        [*PARQUET, "d.parquet"],
        "cannot be read as Parquet",
        make=files(d_dot_parquet="garbage" * 50),
    ),
    Case("an empty file for Parquet", [*SHOW], "cannot be read as Parquet", make=files(d_dot_parquet="")),
    Case("magic bytes alone", [*SHOW], "cannot be read as Parquet", make=files(d_dot_parquet=b"PAR1PAR1")),
    Case(
        "a footer of two gigabytes",
        [*SHOW],
        "cannot be read as Parquet",
        make=files(d_dot_parquet=b"PAR1" + b"\xff\xff\xff\x7fPAR1"),
    ),
    Case("Parquet cut in the middle", [*SHOW], "cannot be read as Parquet", make=cut),
    Case("no rows", [*SHOW], "has no rows", make=table(caption=pa.array([], pa.string()))),
    Case(
        "no rows to build from",
        [*PARQUET, "d.parquet"],
        "no usable image",
        make=table(caption=pa.array([], pa.string())),
    ),
    Case("Parquet that is a pipe", [*SHOW], "is a named pipe", make=pipe("d.parquet")),
    Case("Parquet that is a folder", [*SHOW], "is a folder", make=lambda folder: (folder / "d.parquet").mkdir()),
    Case(
        "Parquet in a circle",
        [*SHOW],
        "cannot read data file d.parquet",
        make=lambda folder: (folder / "d.parquet").symlink_to("d.parquet"),
    ),
    Case("an empty name for Parquet", [*PARQUET, ""], "there is no .parquet file at an empty name"),
    Case("an over-long name", [*PARQUET, "x" * 5000], "there is no .parquet file at x"),
    Case(
        "image bytes that are integers",
        [*SHOW],
        "image column image must be struct<bytes, path>.*got struct<bytes: int64",
        make=lambda folder: pq.write_table(pa.table({"image": [{"bytes": 3}], "caption": ["a"]}), folder / "d.parquet"),
    ),
    Case(
        "a path that is a number",
        [*PARQUET, "d.parquet"],
        "image column image must be struct.*path: int64",
        make=lambda folder: pq.write_table(pa.table({"image": [{"path": 3}], "caption": ["a"]}), folder / "d.parquet"),
    ),
    Case("two columns of one name in Parquet", [*SHOW], "has 2 columns called caption", make=twice),
    Case("two columns of one name to build from", [*PARQUET, "d.parquet"], "has 2 columns called caption", make=twice),
    Case(
        "captions that are objects",
        [*SHOW],
        r"caption column caption must be string or list<string>",
        make=table(caption=[[{"raw": "x"}]]),
    ),
    Case(
        "a split that is a fraction",
        [*PARQUET, "d.parquet"],
        "split column split must be string or integer; got double",
        make=table(caption=["a"], split=[1.5]),
    ),
    Case(
        "splits that are numbers",
        [*PARQUET, "d.parquet"],
        "the source's splits are 0, 1; say which become which",
        make=table(caption=["a", "b"], split=[0, 1]),
    ),
    Case(
        "a label that is a fraction",
        [*SHOW],
        "label column label must be integer or string; got double",
        make=table(label=[1.5]),
    ),
    Case("several labels", [*PARQUET, "d.parquet"], "several labels per image", make=table(label=[[1, 2]])),
    Case("a negative label in Parquet", [*SHOW], "row 1: label -1 is negative", make=table(label=[3, -1])),
    Case(
        "a label that no class has",
        [*SHOW],
        "row 1: label must be 0 to 0; got 1",
        make=table(described({"names": ["a"], "_type": "ClassLabel"}), label=[0, 1]),
    ),
    Case(
        "class names in metadata that are numbers",
        [*SHOW],
        "metadata: column label is malformed",
        make=table(described({"names": [1, 2], "_type": "ClassLabel"}), label=[0, 1]),
    ),
    Case(
        "class names in metadata that are one text",
        [*PARQUET, "d.parquet"],
        "metadata: column label is malformed",
        make=table(described({"names": "ab", "_type": "ClassLabel"}), label=[0, 1]),
    ),
    Case("metadata 100,000 deep", [*SHOW], "metadata is nested too deep", make=table({HUB: DEEP.encode()}, label=[0])),
    Case("metadata that is a list", [*SHOW], "metadata is malformed", make=table({HUB: b"[]"}, label=[0])),
    Case(
        "metadata that is not JSON", [*PARQUET, "d.parquet"], "metadata is not JSON", make=table({HUB: b"{"}, label=[0])
    ),
    Case(
        "own metadata with numbers as templates",
        [*SHOW],
        "what headmask wrote into its metadata is malformed",
        make=table({b"headmask": b'{"templates": [3]}'}, label=[0]),
    ),
    Case(
        "own metadata that is a number",
        [*SHOW],
        "what headmask wrote into its metadata is malformed",
        make=table({b"headmask": b"3"}, caption=["a"]),
    ),
    Case(
        "a caption that is not UTF-8",
        [*SHOW],
        r"row 1: caption: the text is not UTF-8 \(byte 0xff\)",
        make=table(caption=broken_text(b"ok", b"\xff\xfe")),
    ),
    Case(
        "a caption that is not UTF-8 to build from",
        [*PARQUET, "d.parquet"],
        "row 0: the text is not UTF-8",
        make=table(caption=broken_text(b"\xed\xa0\x80")),
    ),
    Case(
        "a label that is not UTF-8",
        [*SHOW],
        "row 0: label: the text is not UTF-8",
        make=table(label=broken_text(b"\xff")),
    ),
    Case(
        "a null byte in a caption to build from",
        [*PARQUET, "d.parquet"],
        "row 0: the caption cannot be used: there is a null byte",
        make=table(caption=["a\0b"]),
    ),
    Case(
        "a null byte in a label",
        [*SHOW],
        "row 0: the label cannot be used: there is a null byte",
        make=table(label=["a\0b"]),
    ),
    Case(
        "a caption with a null byte is evaluated",
        EVAL,
        "row 0: a caption cannot be used: there is a null byte",
        make=table(caption=["a\0b"]),
    ),
    Case(
        "a file that is not UTF-8 is evaluated",
        EVAL,
        "row 0: caption: the text is not UTF-8",
        make=table(caption=broken_text(b"\xff")),
    ),
    Case(
        "numbers as splits are evaluated",
        [*EVAL, "--split", "test"],
        r"it holds 0, 1\. Rename them with `headmask data build --from parquet --splits`\n?$",
        make=table(caption=["a", "b"], split=[0, 1]),
    ),
    Case(
        "the same picture in two splits is evaluated",
        [*EVAL, "--split", "test"],
        r"row 0 \(0\.png\) is in search, row 1 \(0\.png\) in test\. Remove one, with `[^`]* --duplicates drop`\n?$",
        make=lambda folder: pq.write_table(
            pa.table(
                {
                    "image": pa.array(
                        [{"bytes": picture(0), "path": "0.png"}] * 2 + [{"bytes": picture(1), "path": "1.png"}], IMAGE
                    ),
                    "caption": ["a", "b", "c"],
                    "split": ["search", "test", "confirm"],
                }
            ),
            folder / "d.parquet",
        ),
    ),
    Case(
        "class names that do not fit are evaluated",
        [*EVAL, "--class-names", "n.txt"],
        "has 1 class names, the data has 2 classes",
        make=both(table(label=[0, 1, 0]), files(n_dot_txt="a\n")),
    ),
    Case(
        "garbage is searched",
        SEARCH,
        "cannot be read as Parquet",
        make=files(d_dot_parquet="x" * 100),
    ),
    Case(
        "a negative label is searched",
        SEARCH,
        "label -1 is negative",
        make=table(label=[1, -1]),
    ),
    # Orders that can be read in two ways
    Case(
        "a list for labels with numbers in them",
        [*CLASSES, "--class-names", "n.txt"],
        r"n\.txt is a list, and labels can be ordered in two ways: as text, with 'c10' at place 2, or by the numbers "
        r"in them, with it at place 3\. Name classes in a JSON object by label, such as \{\"c1\": \"cat\"\}",
        make=files(**{f"root__c{number}__a_dot_png": picture(number) for number in (1, 2, 10)}, n_dot_txt="a\nb\nc\n"),
    ),
    Case(
        "a list in another order",
        [*FOLDER, "c.csv", "--class-names", "n.txt"],
        "the name 'cat' in the place of class 'bird', though there is a class 'cat': is it in another order",
        make=photos(c_dot_csv="image,label\na.png,cat\nb.png,bird\n", n_dot_txt="Cat\nBird\n".lower()),
    ),
    Case(
        "what stands for a missing label",
        [*FOLDER, "c.csv"],
        "label 'NaN' is among numbers, as where a label is missing",
        make=photos(c_dot_csv="image,label\na.png,NaN\nb.png,3\n"),
    ),
    Case(
        "a key twice in a line",
        [*FOLDER, "c.jsonl"],
        "line 2: .*the key 'caption' occurs twice in one object; rename or remove one",
        make=photos(
            c_dot_jsonl='{"image": "b.png", "caption": "a"}\n{"image": "a.png", "caption": "a", "caption": "b"}\n'
        ),
    ),
    Case(
        "an image twice in a JSON object",
        [*FOLDER, "c.json"],
        "the key 'a.png' occurs twice",
        make=photos(c_dot_json='{"a.png": "a", "a.png": "b"}'),
    ),
    # Splits
    Case(
        "one file without a split",
        [*PARQUET, "in"],
        "trainval.parquet row 0: it has no split, though others are of split test",
        make=lambda folder: [
            (folder / "in").mkdir(exist_ok=True)
            or pq.write_table(pa.table({"image": cells(), "caption": ["a"]}), folder / "in" / name)
            for name in ("trainval.parquet", "test.parquet")
        ],
    ),
    Case(
        "a folder of a split without classes",
        CLASSES,
        "root has splits that hold no folders of classes: test",
        make=files(root__train__cat__a_dot_png=picture(), root__test__b_dot_png=picture(1)),
    ),
    Case(
        "a split without a name",
        [*PARQUET, "d.parquet", "--splits", "search=train+,test=test"],
        "names a split without a name for search",
        make=table(caption=["a", "b"], split=["train", "test"]),
    ),
    Case(
        "a split twice",
        [*PARQUET, "d.parquet", "--splits", "search=train,search=train"],
        "has split 'train' twice for search",
        make=table(caption=["a", "b"], split=["train", "test"]),
    ),
    Case(
        "a class that is a link to nowhere",
        CLASSES,
        "root/dog is a link that leads nowhere",
        make=lambda folder: [
            files(root__cat__a_dot_png=picture())(folder),
            (folder / "root/dog").symlink_to("/mnt/unmounted"),
        ],
    ),
    # Pairs that a search would refuse
    Case(
        "an image without its partner",
        [*PARQUET, "d.parquet"],
        "2.png: its pair 2 has 1 image that can be used; a pair has two",
        make=table(caption=list("abc"), pair=[1, 1, 2]),
    ),
    Case(
        "pairs that are mixed",
        [*PARQUET, "d.parquet"],
        "2.png: the two images of its pair 1 must follow each other",
        make=table(caption=list("abcd"), pair=[1, 2, 1, 2]),
    ),
    Case(
        "a pair in two splits",
        [*PARQUET, "d.parquet"],
        "0.png: its pair 1 is in two splits, search and test",
        make=table(caption=list("ab"), pair=[1, 1], split=["train", "test"]),
    ),
    Case(
        "an image of a pair with two captions",
        [*PARQUET, "d.parquet"],
        "row 0: an image of a pair has one caption; got 2",
        make=table(caption=[["a", "b"], ["c"]], pair=[1, 1]),
    ),
    Case(
        "a pair beyond 64 bits",
        [*PARQUET, "d.parquet"],
        "row 1: a pair is a number of 64 bits; got 18446744073709551615",
        make=table(caption=list("ab"), pair=pa.array([2**64 - 1] * 2, pa.uint64())),
    ),
    # Options that would be ignored
    Case(
        "captions for folders of classes",
        [*CLASSES, "--captions", "c.csv", "--label-column", "y"],
        "--from imagefolder takes --images, --class-names; got --captions, --label-column",
        make=files(root__cat__a_dot_png=picture()),
    ),
    Case(
        "class names for captions",
        [*FOLDER, "c.csv", "--class-names", "n.txt"],
        "--class-names is for labels, and these images are for retrieval",
        make=photos(c_dot_csv="image,caption\na.png,a\n", n_dot_txt="a\n"),
    ),
    *(
        Case(
            f"the output is an input, by {name}",
            [*PARQUET, pattern, "--overwrite"],
            "o.parquet is read by the same command",
            make=own_output,
        )
        for name, pattern in (("name", "o.parquet"), ("a folder", "."), ("a linked folder", "link"))
    ),
    Case(
        "a pointer of Git LFS for Parquet",
        SHOW,
        "d.parquet cannot be read as Parquet: a pointer of Git LFS, not the file itself: run `git lfs pull`",
        make=files(d_dot_parquet=POINTER),
    ),
    Case(
        "a pointer of Git LFS for an image",
        [*FOLDER, "c.csv"],
        r"line 2 \(p\.png\): it is a pointer of Git LFS",
        make=photos(photos__p_dot_png=POINTER, c_dot_csv="image,caption\np.png,a\n"),
    ),
]
