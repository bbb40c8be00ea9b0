"""The model card: what a reader needs, and nothing that a name can break."""

import yaml
from markdown_it import MarkdownIt

from headmask.apply.card import model_card
from headmask.apply.footprint import Footprint, Footprints, Timing
from headmask.apply.proof import ExportProof
from headmask.maskfile import DataReference, Grid, MaskFile, ModelReference, SplitReference, SplitScores

FOOTPRINTS = Footprints(
    "image",
    Footprint(87_849_216, 8_818_000_000, 103.25, (101.0, 105.0)),
    Footprint(86_000_000, 8_600_000_000, 99.5, (98.0, 101.0)),
    Timing("NVIDIA H100", 32, 20),
)
PROOF = ExportProof(2e-7, 1e-5, 4, "", FOOTPRINTS)
SPLITS = {name: SplitReference(digest=name[0] * 64, num_images=1000, num_captions=5000) for name in ("search", "test")}
HOSTILE = (
    'a"\n---\nlicense: mit\n# Pwned <script>alert(1)</script> [x](http://evil.example) | ![](b) `c` **d** '
    "www.evil.example"
)


def card(prune=False, **changes):
    content = {
        "model": ModelReference(name="ViT-B-32", pretrained="openai", weights_sha256="a" * 64),
        "grid": Grid(layers=12, heads=12),
        "heads": ("L3H7", "L5H0"),
        "objective": "mean_recall",
        "verdict": "reliable improvement",
        "scores": {
            "test": SplitScores(
                baseline={"mean_recall": 0.5, "t2i_r1": 0.3},
                selected={"mean_recall": 0.52, "t2i_r1": 0.33},
                interval=(0.011, 0.029),
                p_value=0.0001,
            )
        },
        "data": (DataReference(name="coco", splits=SPLITS),),
        "study": "first",
    }
    return model_card(MaskFile(**{**content, **changes}), PROOF, prune=prune)


def parts(text):
    """Return the front matter, and the rest as HTML."""
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), MarkdownIt("gfm-like", {"linkify": False}).enable("table").render(body)


def test_the_card_says_verdict_data_and_figures():
    front, page = parts(card())
    assert front["library_name"] == "open_clip"
    assert set(front["tags"]) >= {"clip", "headmask"}
    assert (
        "<strong>Reliable improvement</strong>: ablating these heads changes mean_recall by +2.00 points on the test "
        "split, 95 % interval +1.10 to +2.90, p = 0.0001." in page
    )
    assert "<td>L3H7, L5H0</td>" in page
    for cell in ("coco", "1,000", "5,000", "t" * 16, "87,849,216", "86,000,000", "8.818", "103.2 (101 to 105)"):
        assert f"<td>{cell}</td>" in page, cell
    assert "ms for 32 images on NVIDIA H100, median and quartiles of 20 alternating rounds" in page
    assert "at most 2.0e-07 (allowed 1e-05)" in page


def test_the_card_of_a_pruned_model_says_how_to_load_it():
    front, page = parts(card(prune=True))
    assert front["library_name"] == "headmask"
    assert "headmask.load_pruned" in page
    assert "open_clip.create_model</code> fails on this" in page
    assert "open_clip.create_model_and_transforms" in parts(card(pixels="stock"))[1]


def test_the_card_of_a_mask_that_was_searched_on_composited_pixels_loads_them():
    page = parts(card(pixels="composited"))[1]
    assert "headmask.load_model" in page
    assert "open_clip.create_model_and_transforms" not in page
    assert "<td>composited</td>" in page


def test_the_card_claims_nothing_that_was_not_measured():
    assert "whether it helps is not known" in card(scores={}, verdict=None, data=())
    assert "found no reliable improvement, so nothing is ablated" in card(heads=(), verdict="no reliable improvement")
    assert "**No reliable improvement**: ablating these" in card(verdict="no reliable improvement")
    few = SplitScores(baseline={"mean_recall": 0.5}, selected={"mean_recall": 0.52})
    assert "on the test split, without a 95 % interval: too few independent groups of images." in card(
        verdict="no reliable improvement", scores={"test": few}
    )


def test_a_model_of_the_hub_is_named_as_the_base():
    front, _ = parts(card(model=ModelReference(name="hf-hub:org/repo", weights_sha256="a" * 64)))
    assert front["base_model"] == "org/repo"


def test_names_break_neither_the_front_matter_nor_the_page():
    clean, page = parts(card())
    model = ModelReference(name=HOSTILE, pretrained=HOSTILE, weights_sha256="a" * 64)
    data = (DataReference(name=HOSTILE, splits=SPLITS),)
    front, attacked = parts(
        card(model=model, data=data, study=HOSTILE, objective="mean_recall", versions={HOSTILE: "1"})
    )
    assert front == clean
    for tag in ("<script", "<a ", "<img", "<h1", "<h2", "<hr", "<strong", "<code"):
        assert attacked.count(tag) == page.count(tag), tag
    assert attacked.count("<tr>") == page.count("<tr>") + 1  # Versions.
    assert "# Pwned &lt;script&gt;alert(1)&lt;/script&gt; [x](http://evil.example) | ![](b) `c` **d**" in attacked


def test_a_hub_name_cannot_break_the_front_matter():
    model = ModelReference(name=f"hf-hub:{HOSTILE}", weights_sha256="a" * 64)
    front = yaml.safe_load(card(model=model).split("---\n", 1)[1].rsplit("\n---\n\n# ", 1)[0])
    assert front["base_model"] == HOSTILE
    assert "license" not in front
