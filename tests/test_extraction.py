"""Features are computed once and kept; the head fitted on them is the optimum, in the model."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from conftest import TINY_VIT
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from finetune import Timm, build
from finetune.errors import TrainingError
from finetune.extraction import extract, fit_probe
from finetune.linear_head import fit_head
from finetune.targets import Classes, LabelSets, Numbers
from recipes.vit_digits import recipe as vit_digits

KEY = {"data": "digits", "split": "train"}


class Pictures:
    """A source over an array, which counts how often it is read."""

    lengths = None

    def __init__(self, images):
        self.images = torch.from_numpy(np.asarray(images, np.float32))
        self.reads = 0

    def __len__(self):
        return len(self.images)

    def read(self, indices, epoch):
        self.reads += 1
        return {"image": self.images[torch.from_numpy(np.asarray(indices))]}

    def finish(self, raw):
        pixels = torch.nn.functional.interpolate(raw["image"][:, None], size=32)
        return {"x": pixels.expand(-1, 3, -1, -1)}


def digits(count):
    return load_digits().images[:count] / 16


def network():
    torch.manual_seed(0)
    return Timm(name="test_resnet", weights="none").build(10)


def table(samples=300, width=12, seed=0):
    """Correlated features of very different sizes, and a rule behind the targets."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((width, width))
    features = random.standard_normal((samples, width)) @ mixing * np.logspace(-3, 3, width) + 5
    rule = random.standard_normal((width, 3)) / features.std(0)[:, None]
    scores = (features - features.mean(0)) @ rule / 4
    return features.astype(np.float32), scores, random


def files(folder):
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def standard(features):
    return (features - features.mean(0)) / features.std(0)


def test_features_are_what_the_head_sees(tmp_path):
    images = digits(20)
    net = network()
    source = Pictures(images)
    net.module.eval()
    with torch.inference_mode():
        wanted = net.features(source.finish(source.read(np.arange(20), 0)))
        logits = net.module(**source.finish(source.read(np.arange(20), 0)))
        head = net.module.fc(wanted)
    torch.testing.assert_close(head, logits)
    found = extract(net, source, tmp_path, KEY, batch_size=7)
    assert found.dtype == np.float32 and found.shape == (20, 96)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


def test_the_backbone_runs_once(tmp_path):
    source, net = Pictures(digits(50)), network()
    first = extract(net, source, tmp_path, KEY)
    assert source.reads == 1
    torch.nn.init.normal_(net.module.fc.weight)  # another head sees the same features
    second = extract(net, source, tmp_path, KEY)
    assert source.reads == 2, "a few samples, to see that the code is the same too"
    np.testing.assert_array_equal(first, second)
    net.module.layer3.register_forward_hook(lambda *given: -given[2])  # no weight, but code
    assert not np.allclose(extract(net, source, tmp_path, KEY), first)
    assert len(files(tmp_path)) == 1


def test_whatever_changes_the_features_changes_the_key(tmp_path):
    images = digits(10)
    net = network()
    source = Pictures(images)
    extract(net, source, tmp_path, KEY)
    extract(net, source, tmp_path, KEY | {"split": "validation"})
    extract(net, source, tmp_path, KEY | {"interpolation": "bicubic"})
    extract(net, source, tmp_path, KEY, precision="bf16")
    net.module.bn1.running_mean += 0.1
    extract(net, source, tmp_path, KEY)
    assert source.reads == 5
    assert len(files(tmp_path)) == 5


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_a_damaged_file_is_named_and_computed_again(tmp_path, capfd, damage):
    source, net = Pictures(digits(10)), network()
    wanted = extract(net, source, tmp_path, KEY)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    np.testing.assert_array_equal(extract(net, source, tmp_path, KEY), wanted)
    assert source.reads == 2
    assert "could not be read" in capfd.readouterr().err


def test_without_room_the_features_are_used_but_not_kept(tmp_path, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    source, net = Pictures(digits(10)), network()
    monkeypatch.setattr("pathlib.Path.replace", full)
    assert extract(net, source, tmp_path, KEY).shape == (10, 96)
    assert "could not be kept" in capfd.readouterr().err
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_two_at_once_compute_once(tmp_path):
    source, net = Pictures(digits(30)), network()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(extract(net, source, tmp_path, KEY)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.reads == 2
    np.testing.assert_array_equal(*found)


def test_features_that_are_not_finite_are_named(tmp_path):
    images = digits(10)
    images[3, 0, 0] = np.nan
    with pytest.raises(TrainingError, match=r"1 of 10 samples .* row 3"):
        extract(network(), Pictures(images), tmp_path, KEY)
    assert not files(tmp_path)


def test_the_fitted_head_is_in_the_model():
    recipe = vit_digits.override(
        *TINY_VIT, "data.shots=30", "method=features", "method.c=0.001,0.1"
    )
    job = build.job(recipe)
    curve = fit_probe(job, torch.device("cpu"), "no")["probe"]["tried"]
    samples = job.samples["validation"]
    module = job.network.module.eval()
    with torch.inference_mode():
        logits = module(**samples.source.finish(samples.source.read(np.arange(len(samples)), 0)))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(samples.truth))
    assert float(loss) == pytest.approx(min(c["validation_loss"] for c in curve), rel=1e-3)
    assert (logits.argmax(1).numpy() == samples.truth).mean() > 0.5


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_classes_are_fitted_as_by_scikit_learn(c):
    features, scores, random = table()
    labels = (scores + random.gumbel(size=scores.shape)).argmax(1)
    fitted = fit_head(features, labels, features, labels, Classes(("a", "b", "c")), [c])
    model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(standard(features), labels)
    outputs = features.astype(np.float64) @ fitted.weight.double().numpy().T + fitted.bias.numpy()
    ours = torch.from_numpy(outputs).softmax(1).numpy()
    np.testing.assert_allclose(ours, model.predict_proba(standard(features)), atol=5e-3)


def test_numbers_are_fitted_as_by_ridge():
    features, scores, random = table()
    values = scores[:, :1] * 3 + 40 + random.standard_normal((len(scores), 1))
    target = Numbers(mean=float(values.mean()), std=float(values.std()))
    fitted = fit_head(features, values.astype(np.float32), features, values, target, [0.01])
    model = Ridge(alpha=1 / (2 * 0.01)).fit(standard(features), (values - target.mean) / target.std)
    outputs = features.astype(np.float64) @ fitted.weight.double().numpy().T + fitted.bias.numpy()
    np.testing.assert_allclose(outputs, model.predict(standard(features)).reshape(-1, 1), atol=5e-3)


def test_label_sets_are_fitted_one_against_the_rest():
    features, scores, random = table()
    labels = (scores + random.logistic(size=scores.shape) > 0).astype(np.float32)
    fitted = fit_head(features, labels, features, labels, LabelSets(("a", "b", "c")), [0.3])
    outputs = features.astype(np.float64) @ fitted.weight.double().numpy().T + fitted.bias.numpy()
    for label in range(3):
        # The task's loss is the mean over labels, so each of the three sees a third of c.
        model = LogisticRegression(C=0.1, tol=1e-8).fit(standard(features), labels[:, label])
        theirs = model.decision_function(standard(features))
        np.testing.assert_allclose(outputs[:, label], theirs, atol=0.02)


def test_validation_chooses_the_strength_and_the_curve_is_kept():
    features, scores, random = table(samples=120, width=60)
    labels = (scores + random.gumbel(size=scores.shape)).argmax(1)
    strengths = (100.0, 1e-4, 1.0, 0.01, 0.1, 10.0)
    fitted = fit_head(
        features[:80], labels[:80], features[80:], labels[80:], Classes(("a", "b", "c")), strengths
    )
    tried = [point["c"] for point in fitted.curve]
    assert tried == sorted(strengths)[: len(tried)]
    best = min(fitted.curve, key=lambda point: point["validation_loss"])
    assert fitted.c == best["c"]
    assert 1e-4 < fitted.c < 100, "the best is inside the range, so it was a choice"
    train = [point["train_loss"] for point in fitted.curve]
    assert train == sorted(train, reverse=True)


def test_weaker_penalties_are_left_out_once_validation_only_gets_worse():
    features, _, random = table(samples=60, width=50)
    noise = random.integers(0, 3, 60)
    strengths = tuple(10.0**power for power in range(-4, 6))
    target = Classes(("a", "b", "c"))
    fitted = fit_head(features[:40], noise[:40], features[40:], noise[40:], target, strengths)
    assert len(fitted.curve) < len(strengths)


def test_constant_and_more_features_than_samples_do_no_harm():
    features, scores, _ = table(samples=30, width=40)
    features[:, 5] = 3.25
    labels = scores.argmax(1)
    fitted = fit_head(features, labels, features, labels, Classes(("a", "b", "c")), [1.0])
    assert torch.isfinite(fitted.weight).all() and torch.isfinite(fitted.bias).all()
    assert not fitted.weight[:, 5].any()
    outputs = features @ fitted.weight.numpy().T + fitted.bias.numpy()
    assert (outputs.argmax(1) == labels).mean() > 0.9


def test_the_fit_does_not_depend_on_how_much_is_held_at_once(monkeypatch):
    from finetune import linear_head

    features, scores, _ = table()
    labels = scores.argmax(1)
    arguments = (features, labels, features, labels, Classes(("a", "b", "c")), [0.1])
    whole = fit_head(*arguments)
    monkeypatch.setattr(linear_head, "CHUNK", 100)
    parts = fit_head(*arguments)
    torch.testing.assert_close(whole.weight, parts.weight, rtol=1e-2, atol=1e-3)


def test_a_fit_that_is_not_finite_is_an_error():
    features, scores, _ = table()
    labels = scores.argmax(1)
    validation = np.full_like(features, np.inf)
    with pytest.raises(TrainingError, match=r"not finite at any of method\.c=0\.1, 1"):
        fit_head(features, labels, validation, labels, Classes(("a", "b", "c")), [0.1, 1])
