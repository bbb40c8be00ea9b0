"""Preprocessing to uint8, and its cache on disk."""

import pickle
import shutil

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from headmask.errors import DataError, ModelError, PixelsChangedError, PixelsGoneError
from headmask.pixels.images import by_rule
from tests.tiny import write_tiny_dataset
from workers.data import pixels
from workers.data.dataset import Dataset, Row, write_dataset
from workers.data.pixels import check_all, load_pixels
from workers.data.preprocess import UInt8Preprocess
from workers.scoring.inputs import Normalisation


def transform(**changes):
    return image_transform_v2(PreprocessCfg(**{"size": 28, **changes}), is_train=False)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(28, 28), (60, 33), (20, 90)])
def test_the_uint8_crop_normalised_is_open_clips_own_preprocessing_bit_for_bit(mode, interpolation, size):
    stock = transform(resize_mode=mode, interpolation=interpolation)
    preprocess = UInt8Preprocess(stock)
    image = Image.effect_noise(size, 80).convert("RGB")
    crop = preprocess(image)
    normalised = Normalisation(preprocess.mean, preprocess.std)(crop[None], torch.device("cpu"))[0]
    assert torch.equal(normalised, stock(image))


def test_the_description_is_the_same_for_the_same_transform():
    assert UInt8Preprocess(transform()).description == UInt8Preprocess(transform()).description
    assert UInt8Preprocess(transform()).description != UInt8Preprocess(transform(interpolation="bilinear")).description


def test_a_transform_that_ends_otherwise_is_refused():
    training = open_clip.image_transform(28, is_train=True)
    UInt8Preprocess(training)
    with pytest.raises(ModelError, match="must end in ToTensor and Normalize; this model's ends in"):
        UInt8Preprocess(lambda image: image)


def change(path):
    """Change the last byte of a file in place, as another process or a failing disk would."""
    with path.open("r+b") as file:
        file.seek(-1, 2)
        (last,) = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))


@pytest.fixture
def cached(tmp_path):
    dataset = Dataset(write_tiny_dataset(tmp_path / "d.parquet", search=5))
    preprocess = UInt8Preprocess(transform())
    folder = tmp_path / "cache"

    def load():
        calls = []
        cache = load_pixels(dataset, preprocess, folder=folder, on_progress=lambda done, total: calls.append(done))
        return cache, bool(calls)

    return load, folder


def test_images_are_decoded_once_and_then_memory_mapped(cached):
    load, folder = cached
    first, built = load()
    second, built_again = load()
    assert (built, built_again) == (True, False)
    assert (first.pixels_NCYX == second.pixels_NCYX).all()
    assert second.pixels_NCYX.shape == (5, 3, 28, 28)
    assert not second.pixels_NCYX.flags.writeable
    assert first.digests == second.digests
    assert len(set(first.digests)) == 5
    assert len(list(folder.glob("*.npy"))) == 1


@pytest.mark.parametrize("damage", ["flip a byte", "truncate", "empty", "half-written"])
@pytest.mark.parametrize("kind", ["*.npy", "*.json"])
def test_a_damaged_cache_is_made_again(cached, damage, kind):
    load, folder = cached
    before, _ = load()
    expected = before.pixels_NCYX.copy()
    del before
    (path,) = folder.glob(kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(
        {"flip a byte": bytes(content), "truncate": bytes(content[:-100]), "empty": b""}.get(damage, b"\x93NUMPY")
    )
    after, built = load()
    assert built
    assert (after.pixels_NCYX == expected).all()


def test_an_unreadable_image_is_named_by_its_row(tmp_path):
    write_dataset(tmp_path / "d.parquet", [Row("a", b"junk", ("c",))])
    with pytest.raises(DataError, match=r"d.parquet row 0: cannot be read as an image"):
        load_pixels(Dataset(tmp_path / "d.parquet"), UInt8Preprocess(transform()), folder=tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_pixels_travel_by_the_place_of_their_file_and_are_mapped_there(cached):
    load, _ = cached
    cache, _ = load()
    packed = cache.rows([3, 1]).packed()
    assert len(pickle.dumps(packed)) < 2000
    assert (pickle.loads(pickle.dumps(packed)).unpack()[:] == cache.pixels_NCYX[[3, 1]]).all()


def test_another_host_gets_the_file_in_pieces_once(cached, tmp_path, monkeypatch):
    load, folder = cached
    cache, _ = load()
    expected = cache.pixels_NCYX.copy()
    monkeypatch.setattr(pixels, "PIECE_BYTES", 1000)
    store = []
    file = cache.file.in_pieces(lambda piece: store.append(piece.copy()) or len(store) - 1)
    assert len(store) == 12
    shutil.rmtree(folder)
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "other host"))
    fetched = []

    def fetch(number):
        fetched.append(number)
        return store[number]

    for _ in range(2):
        assert (file.array(fetch) == expected).all()
    assert fetched == list(range(12))
    assert len(list((tmp_path / "other host").glob("*.npy"))) == 1


def test_a_host_without_file_or_pieces_says_so(cached, tmp_path, monkeypatch):
    load, folder = cached
    file = load()[0].file
    shutil.rmtree(folder)
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "other host"))
    with pytest.raises(PixelsGoneError, match="is not on this host: it was removed, or the search began without"):
        file.array()


def test_who_maps_a_file_that_has_changed_is_told(cached):
    load, _ = cached
    cache, _ = load()
    assert (cache.file.array() == cache.pixels_NCYX).all()
    change(cache.file.path)
    with pytest.raises(PixelsChangedError, match="changed after it was made: its checksum is another"):
        cache.file.array()


def test_pixels_that_change_while_they_are_mapped_are_found(cached):
    load, _ = cached
    cache, _ = load()
    chosen = cache.rows([3, 1])
    chosen.check()
    change(cache.file.path)
    with pytest.raises(PixelsChangedError, match="search again with another --out"):
        chosen.check()
    with cache.file.path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(PixelsChangedError, match="changed after it was made"):
        check_all([chosen, "tokens"])


def test_another_host_repairs_its_copy_from_the_pieces(cached, tmp_path, monkeypatch):
    load, folder = cached
    cache, _ = load()
    expected, store = cache.pixels_NCYX.copy(), []
    file = cache.file.in_pieces(lambda piece: store.append(piece.copy()) or len(store) - 1)
    shutil.rmtree(folder)
    monkeypatch.setenv("HEADMASK_CACHE", str(tmp_path / "other host"))
    file.array(store.__getitem__)
    change(tmp_path / "other host" / file.path.name)
    assert (file.array(store.__getitem__) == expected).all()


def test_the_cache_is_another_under_another_pixel_rule(cached):
    load, folder = cached
    composited = UInt8Preprocess(by_rule(transform(), "composited"))
    first, _ = load()
    second = load_pixels(Dataset(folder.parent / "d.parquet"), composited, folder=folder)
    assert first.file.path != second.file.path
    assert first.digests == second.digests
    assert not first.remarks.differing
