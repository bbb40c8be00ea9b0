"""The other side is embedded with the same bits whatever is embedded with it, and texts are cut only if that holds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.families import TEXT_FAMILIES
from tests.tiny import TEXT, VISION, tiny_clip, write_chinese_model
from workers.data.pixels import Pixels
from workers.scoring.embedding import KeptChunks, embedded, kept
from workers.scoring.inputs import Normalisation
from workers.scoring.stock import Encoder, EncodingHere, TextCutter

NORMALISATION = Normalisation(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32))
LONG = {**TEXT, "context_length": 40, "vocab_size": 64}
CAUSAL = ("causal, end of text", "worldwide", "text layer scale", "text inner norm")


def long_tokens(count, longest=10, seed=0, end=63):
    """Return texts of 40 tokens of which at most the first few are read."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.zeros(count, 40, dtype=torch.int64)
    for row in range(count):
        length = int(torch.randint(2, longest, (1,), generator=generator))
        texts[row, :length] = torch.randint(1, end, (length,), generator=generator)
        texts[row, length] = end
    return texts


def long_family(name):
    from open_clip.model import CustomTextCLIP
    from open_clip.transformer import TextTransformer

    if not TEXT_FAMILIES[name]:
        return tiny_clip(text=LONG)
    torch.manual_seed(0)
    model = CustomTextCLIP(24, vision_cfg=VISION, text_cfg=LONG)
    model.text = TextTransformer(**LONG, output_dim=24, **TEXT_FAMILIES[name])
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("name", TEXT_FAMILIES)
def test_texts_have_the_bits_of_uncut_ones_in_every_family(name):
    model = long_family(name)
    cutter = TextCutter(model)
    with torch.inference_mode():
        for seed in range(3):
            tokens_BT = long_tokens(8, seed=seed)
            assert torch.equal(cutter.encode(tokens_BT), model.encode_text(tokens_BT))
    # Whether a length keeps the bits is for the machine to say; where later tokens are read, none is tried.
    assert set(cutter._short) == ({16} if name in CAUSAL else set())


def test_a_cut_that_changes_bits_is_not_made():
    model, lengths = tiny_clip(text=LONG), []

    class Sensitive(type(model)):
        def encode_text(self, tokens_BT):
            lengths.append(tokens_BT.shape[1])
            return super().encode_text(tokens_BT) + tokens_BT.shape[1]

    model.__class__ = Sensitive
    cutter = TextCutter(model)
    tokens_BT = long_tokens(8)
    with torch.inference_mode():
        found = [cutter.encode(tokens_BT) for _ in range(2)]
    assert cutter.cut == []
    assert lengths == [40, 16, 40]
    assert torch.equal(*found)


def test_padding_that_a_tower_masks_itself_is_cut(tmp_path):
    from open_clip import create_model, get_tokenizer

    folder = write_chinese_model(tmp_path / "model")
    model, tokenizer = create_model(f"local-dir:{folder}").eval(), get_tokenizer(f"local-dir:{folder}")
    tokens_BT = F.pad(tokenizer(["一只猫", "两个人骑马"]), (0, 3), value=1)
    cutter = TextCutter(model)
    with torch.inference_mode():
        assert torch.equal(cutter.encode(tokens_BT), model.encode_text(tokens_BT))
    assert set(cutter._short) == {16}


@pytest.mark.parametrize("side", ["text", "image"])
def test_embeddings_are_stock_open_clips_whatever_else_is_embedded(side):
    model = tiny_clip(text=LONG)
    pixels_NCYX = np.random.default_rng(0).integers(256, size=(37, 3, 28, 28), dtype=np.uint8)
    inputs = long_tokens(70).numpy() if side == "text" else Pixels(pixels_NCYX, np.arange(37))
    part = inputs[:5] if side == "text" else inputs.part(slice(5))
    encoder = Encoder.of(model, side, NORMALISATION, 1)
    whole, few = (embedded(EncodingHere("cpu"), encoder, each) for each in (inputs, part))
    assert whole.shape == (len(inputs), 24)
    assert (whole[:5] == few).all()
    with torch.no_grad():
        stock = (
            model.encode_text(torch.from_numpy(inputs))
            if side == "text"
            else model.encode_image(NORMALISATION(inputs[:]))
        )
    assert np.abs(whole - F.normalize(stock, dim=-1).numpy()).max() < 1e-6


def test_nothing_has_a_width():
    encoder = Encoder.of(tiny_clip(), "text", NORMALISATION, 1)
    assert embedded(EncodingHere("cpu"), encoder, np.zeros((0, 12), np.int64)).shape == (0, 24)


class Stopping(EncodingHere):
    """Embeds two rounds of chunks, then stops."""

    rounds = 0

    def collect_chunks(self, timeout_s):
        self.rounds += 1
        if self.rounds == 3:
            raise KeyboardInterrupt
        return super().collect_chunks(timeout_s)


def test_chunks_are_kept_as_they_come_and_a_damaged_one_is_made_again(tmp_path):
    encoder, tokens = Encoder.of(tiny_clip(text=LONG), "text", NORMALISATION, 1), long_tokens(300).numpy()

    def make(pool):
        return lambda chunks: embedded(pool, encoder, tokens, chunks=chunks)

    with pytest.raises(KeyboardInterrupt):
        kept(("some",), make(Stopping("cpu")), folder=tmp_path)
    (file,) = tmp_path.glob("*.chunks")
    known = KeptChunks(file).found
    assert 2 <= len(known) < 10
    file.write_bytes(file.read_bytes()[:-5])
    asked = []

    class Counting(EncodingHere):
        def submit_chunks(self, encoder, take, places):
            asked.extend(places)
            super().submit_chunks(encoder, take, places)

    found = kept(("some",), make(Counting("cpu")), folder=tmp_path)
    assert len(asked) == 10 - len(known) + 1
    assert (found == embedded(EncodingHere("cpu"), encoder, tokens)).all()
    assert not list(tmp_path.glob("*.chunks"))
    assert (kept(("some",), None, folder=tmp_path) == found).all()


def test_embeddings_of_another_kind_of_device_are_others(tmp_path):
    one = kept(("some",), lambda chunks: np.zeros((1, 2), np.float32), folder=tmp_path, kind="NVIDIA X, torch 9")
    other = kept(("some",), lambda chunks: np.ones((1, 2), np.float32), folder=tmp_path)
    assert (one != other).all()
