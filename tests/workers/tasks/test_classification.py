"""Zero-shot classification agrees with CLIP_benchmark's own evaluation on the same embeddings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from clip_benchmark.metrics import zeroshot_classification
from clip_benchmark.metrics.zeroshot_classification import evaluate, zero_shot_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from headmask.errors import DataError
from workers.data.labels import Classes
from workers.data.prompts import prompts, templates_of
from workers.tasks.classification import ClassificationTargets
from workers.tasks.metrics import Mix

# N images, C classes, P prompts, E embedding


class Embedded:
    """Stands in for a model whose images are embedded already and whose texts are embedded by their characters."""

    def __init__(self, width=16):
        self.table = torch.randn(256, width, generator=torch.Generator().manual_seed(0))

    def encode_image(self, image_NE):
        return image_NE

    def encode_text(self, tokens_QT):
        return self.table[tokens_QT].cumsum(1)[:, ::3].sum(1)


def tokenize(texts):
    return torch.tensor([list(text.encode()[:40].ljust(40)) for text in texts])


class Batches(list):
    """A data loader of one batch, which knows its classes."""

    def __init__(self, image_NE, labels_N, classes):
        super().__init__([(image_NE, torch.from_numpy(labels_N))])
        self.dataset = type("", (), {"classes": classes})


def accuracy(logits_NC, target_N, topk):
    """CLIP_benchmark's own ends in a conversion that NumPy has refused since 2.4; this is its definition."""
    hits_kN = target_N == logits_NC.topk(max(topk), 1).indices.T
    return [hits_kN[:k].sum().item() / len(target_N) for k in topk]


@pytest.mark.parametrize("num_classes", [3, 5, 37])
@pytest.mark.parametrize("templates", ["simple", "imagenet"])
def test_metrics_equal_clip_benchmarks(num_classes, templates, monkeypatch):
    monkeypatch.setattr(zeroshot_classification, "accuracy", accuracy)
    rng = np.random.default_rng(num_classes)
    model, names = Embedded(), [f"thing {number}" for number in range(num_classes)]
    labels_N = rng.integers(num_classes, size=400)
    filled = prompts(names, templates_of(templates))
    targets = ClassificationTargets(labels_N, num_classes)
    class_CE = targets.pooled(F.normalize(model.encode_text(tokenize(filled)), dim=-1))
    own_P = [template.replace("{c}", "{c}") for template in templates_of(templates)]
    theirs_EC = zero_shot_classifier(model, tokenize, names, own_P, "cpu", amp=False)
    assert (class_CE.T - theirs_EC).abs().max() < 1e-6
    noise_NE = torch.from_numpy(rng.normal(size=(400, 16))).float()
    image_NE = class_CE[labels_N] + 0.7 * class_CE.std(0) * noise_NE
    theirs = evaluate(
        model, Batches(image_NE, labels_N, names), tokenize, names, own_P, "cpu", amp=False, verbose=False
    )
    ours = targets.values(targets.measure(F.normalize(image_NE, dim=-1), class_CE))
    assert 0.1 < ours["top1"] < 1
    assert ours["top1"] == pytest.approx(theirs["acc1"], abs=1e-9)
    assert ours["mean_per_class_recall"] == pytest.approx(theirs["mean_per_class_recall"], abs=1e-9)
    assert ("top5" in ours) == (num_classes >= 5)
    assert num_classes < 5 or ours["top5"] == pytest.approx(theirs["acc5"], abs=1e-9)


@given(st.integers(0, 1000), st.integers(2, 8), st.integers(1, 30), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_worst_group_is_the_smallest_accuracy_of_a_group(seed, num_classes, num_images, num_groups):
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(num_classes, size=num_images)
    groups_N = np.unique(rng.integers(num_groups, size=num_images), return_inverse=True)[1]
    image_NE, class_CE = (
        torch.from_numpy(rng.integers(3, size=(count, 3))).float() for count in (num_images, num_classes)
    )
    targets = ClassificationTargets(labels_N, num_classes, groups_N)
    ranks = targets.measure(image_NE, class_CE)
    scores_NC = (image_NE @ class_CE.T).numpy()
    expected = [
        sum(scores_NC[n, c] >= scores_NC[n, labels_N[n]] for c in range(num_classes) if c != labels_N[n])
        for n in range(num_images)
    ]
    assert ranks["class"].tolist() == expected
    values = targets.values(ranks)
    own_N = torch.softmax(100 * torch.from_numpy(scores_NC).double(), 1)[torch.arange(num_images), labels_N]
    assert values["probability"] == pytest.approx(own_N.mean().item(), rel=1e-4, abs=2**-20)
    assert values["mrr"] == pytest.approx(np.mean(1 / (1 + np.array(expected))))
    hits_N = np.array(expected) < 1
    accuracies = [hits_N[groups_N == group].mean() for group in set(groups_N.tolist())]
    assert values["worst_group"] == pytest.approx(min(accuracies))
    clusters_N = np.arange(num_images)
    for text in ("top1", "mrr", "probability", "mean_per_class_recall", "worst_group", "top1 + 3*worst_group"):
        table = targets.table(ranks, Mix.parse(text), clusters_N)
        with np.errstate(invalid="ignore"):
            ratios_1K = (table.hits_CK.sum(0) / table.queries_CK.sum(0))[None]
        assert table.value(ratios_1K)[0] == pytest.approx(Mix.parse(text).value(values))


def test_a_table_of_many_classes_is_sparse_and_gives_the_same():
    rng = np.random.default_rng(0)
    labels_N = rng.integers(1000, size=3000)
    targets = ClassificationTargets(labels_N, 1000)
    ranks = {"class": rng.integers(3, size=3000).astype(np.uint8), "class_probability": np.ones(3000, np.float32)}
    table = targets.table(ranks, Mix.parse("mean_per_class_recall"), np.arange(3000))
    assert table.hits_CK.nnz <= 3000
    with np.errstate(invalid="ignore"):
        ratios_1K = (table.hits_CK.sum(0) / table.queries_CK.sum(0))[None]
    assert table.value(ratios_1K)[0] == pytest.approx(targets.values(ranks)["mean_per_class_recall"])


def test_templates_are_open_clips():
    name = IMAGENET_CLASSNAMES[7]
    assert prompts([name], templates_of("imagenet")) == tuple(fill(name) for fill in OPENAI_IMAGENET_TEMPLATES)
    assert prompts([name], templates_of("simple")) == tuple(fill(name) for fill in SIMPLE_IMAGENET_TEMPLATES)
    assert (len(templates_of(None)), len(templates_of("simple"))) == (80, 7)
    assert templates_of(None, ["own {}"]) == ("own {c}",)


def test_own_templates_come_from_a_file(tmp_path):
    (tmp_path / "t.txt").write_text("a photo of {c}.\n\n\ufeff{} in the wild\n", encoding="utf-8")
    assert prompts(["x {} y"], templates_of(str(tmp_path / "t.txt")))[0] == "a photo of x {} y."
    (tmp_path / "t.txt").write_text("a photo\n")
    with pytest.raises(DataError, match=r"a template needs \{c\} where the class name goes; got 'a photo'"):
        templates_of(str(tmp_path / "t.txt"))
    with pytest.raises(DataError, match="or a file: there is no template file at imagnet"):
        templates_of("imagnet")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("names.txt", "cat\ndog\n", ("cat", "dog")),
        ("names.json", '["cat", "dog"]', ("cat", "dog")),
        ("index.json", '{"0": ["n01", "cat"], "1": ["n02", "dog"]}', ("cat", "dog")),
        ("by_name.json", '{"1": "dog", "0": "cat"}', ("cat", "dog")),
    ],
)
def test_class_names_come_as_lines_or_json(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert Classes(("0", "1"), ("0", "1")).named(tmp_path / name).names == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.txt", "cat\n", "has 1 class names, the data has 2 classes"),
        ("names.txt", "", "is empty"),
        ("names.json", '{"0": "cat"}', "has no name for class '1'"),
        ("names.json", "{", "is not JSON"),
        ("names.json", "[1, 2]", "a name is a text; got 1 at place 0"),
        ("names.json", "7", "must be a JSON list of names, or an object of names by label; got 7"),
        ("names.json", '{"0": "cat", "1": null}', "a name is a text; got None for label 1"),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        Classes(("0", "1"), ("0", "1")).named(tmp_path / name)
