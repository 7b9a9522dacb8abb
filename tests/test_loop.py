"""The loop: what is chosen, averaged, stopped, redone and refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import RANDOM, VIT, Net, difference, fit, log, stripes

from finetune import Full, TrainingError, build, finetune
from finetune.errors import RecipeError
from finetune.loop import Fit, predict
from finetune.samples import ahead, order


def losses(path: Path) -> list[float]:
    return [line["loss"] for line in log(path) if "loss" in line]


def scores(path: Path, name: str = "accuracy") -> list[float]:
    return [line["validation"][name] for line in log(path) if "validation" in line]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A run of six epochs that nothing disturbs."""
    return fit(stripes(epochs=6), tmp_path_factory.mktemp("plain"))


def test_it_learns_and_logs(plain: Fit) -> None:
    path = plain.folder.path
    assert plain.updates == 6 * 8  # 61 rows in batches of 8
    assert [line["update"] for line in log(path) if "loss" in line] == list(range(1, 49))
    assert np.mean(losses(path)[-8:]) < np.mean(losses(path)[:8]) - 0.1
    assert len(scores(path)) == 6
    assert plain.facts["updates"] == 48
    assert plain.facts["best_epoch"] == 1 + int(np.argmax(scores(path)))
    assert plain.facts["micro_batch_size"] == 8


def test_the_rate_that_is_logged_is_the_schedules(plain: Fit) -> None:
    lines = [line for line in log(plain.folder.path) if "lr" in line]
    assert [line["lr"] for line in lines] == [plain.lr(update) for update in range(48)]
    assert max(line["lr"] for line in lines) == pytest.approx(5e-3)


def test_the_best_epoch_is_what_remains(plain: Fit) -> None:
    job = plain.job
    samples = job.samples["validation"]
    predictions = predict(job.network, plain.module, samples, job.target, plain.accelerator, 64)
    found = job.target.scores(predictions, samples.truth, intervals=False)
    assert found["accuracy"]["value"] == max(scores(plain.folder.path))


def test_predictions_come_once_for_each_sample_in_order(plain: Fit) -> None:
    job, samples = plain.job, plain.job.samples["validation"]
    rows = np.arange(len(samples))
    plain.module.eval()
    with torch.inference_mode():
        batch = samples.finish(samples.read(rows, 0), plain.accelerator.device)
        whole = job.target.predictions(plain.module(**batch.inputs)).numpy()
    for size in (1, 4, 23, 64):
        found = predict(job.network, plain.module, samples, job.target, plain.accelerator, size)
        assert np.abs(found - whole).max() < 1e-6


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_micro_batches_make_the_same_update(tmp_path: Path, weights: str) -> None:
    # Mixed targets, and weights that differ between samples: no mean of means.
    whole, cut = (
        fit(
            stripes(class_weights=weights, micro_batch_size=size, optimizer="sgd", lr=0.1),
            tmp_path / f"{size}",
        )
        for size in (None, 3)
    )
    assert difference(whole.module.state_dict(), cut.module.state_dict()) < 1e-6
    assert losses(tmp_path / "3") == pytest.approx(losses(tmp_path / "None"), abs=1e-6)
    assert scores(tmp_path / "3") == scores(tmp_path / "None")
    assert cut.facts["micro_batch_size"] == 3


def test_running_out_of_memory_halves_the_micro_batch(tmp_path: Path) -> None:
    # With dropout: the update is redone with the same random numbers.
    small = fit(stripes(RANDOM, micro_batch_size=2), tmp_path / "small")
    tight = fit(stripes(partial(RANDOM, most=3)), tmp_path / "tight")
    assert difference(small.module.state_dict(), tight.module.state_dict()) == 0
    assert log(tmp_path / "small") == log(tmp_path / "tight")
    assert tight.facts["micro_batch_size"] == 2
    said = [s for s in tight.folder.sentences if s.startswith("Memory ran out")]
    assert [s.split()[3] for s in said] == ["4", "2"]
    assert "the batch of 8 per update stays" in said[0]


def test_a_halved_micro_batch_is_remembered(tmp_path: Path) -> None:
    recipe = stripes(partial(RANDOM, most=3), epochs=1)
    fit(recipe, tmp_path)
    again = fit(recipe, tmp_path)
    assert again.micro_batch_size == 2
    assert not any("Memory" in sentence for sentence in again.folder.sentences)


def test_no_memory_for_one_sample_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Memory ran out with 1 samples") as caught:
        fit(stripes(partial(Net, most=0)), tmp_path)
    assert "train.gradient_checkpointing=true, or a smaller backbone" in str(caught.value)
    assert "micro_batch_size" not in str(caught.value)


class Broken(Net):
    """Gives no finite number from its eleventh training batch on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = getattr(self, "seen", 0) + self.training
        return super().forward(x) * (torch.nan if self.seen > 10 else 1)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite at update 11 of 16 \(epoch 2") as caught:
        fit(stripes(Broken, save_seconds=0), tmp_path)
    lr = 5e-3 * 0.5 * (1 + np.cos(np.pi * 8 / 14))  # update 11 is the ninth after the warm-up
    assert f"learning rate {lr:.3g}" in str(caught.value)
    assert "The checkpoint after update 10 is kept" in str(caught.value)
    assert (tmp_path / "state" / "step-000000010" / "manifest.json").is_file()
    assert not (tmp_path / "state" / "step-000000011").exists()


def test_a_module_that_fails_fails_with_its_own_words(tmp_path: Path) -> None:
    class Wrong(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("size mismatch in my layer")

    with pytest.raises(RuntimeError, match="size mismatch in my layer"):
        fit(stripes(Wrong), tmp_path)


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    class Watched(Fit):
        def update(self, batch: Any, weight: Any) -> torch.Tensor:
            loss = super().update(batch, weight)
            self.seen = [*getattr(self, "seen", []), self.module.head.weight.detach().clone()]
            return loss

    recipe = stripes(epochs=1, ema=0.5)
    watched = fit(recipe, tmp_path, Watched)
    average = watched.seen[0]
    for value in watched.seen[1:]:
        average = 0.5 * average + 0.5 * value
    # What is validated and kept is the average.
    assert torch.allclose(watched.module.head.weight, average, atol=1e-6)
    assert not torch.allclose(watched.module.head.weight, watched.seen[-1], atol=1e-4)


def test_training_stops_when_patience_is_out(tmp_path: Path) -> None:
    # At this rate nothing moves, so that the first epoch is never beaten.
    stopped = fit(stripes(epochs=9, lr=1e-30, patience=2), tmp_path)
    assert stopped.facts["epochs"] == 3
    assert stopped.facts["best_epoch"] == 1
    assert len(scores(tmp_path)) == 3


def test_a_part_starts_to_learn_at_its_epoch(tmp_path: Path) -> None:
    moved: dict[str, int] = {}

    class Watched(Fit):
        def update(self, batch: Any, weight: Any) -> torch.Tensor:
            before = {n: p.detach().clone() for n, p in self.module.named_parameters()}
            loss = super().update(batch, weight)
            for name, parameter in self.module.named_parameters():
                if name not in moved and not torch.equal(before[name], parameter):
                    moved[name] = self.done
            return loss

    recipe = stripes(method=Full(unfreeze_epochs=0.5), lr=0.1, weight_decay=0.5, epochs=2)
    fit(recipe, tmp_path, Watched)
    assert moved["head.weight"] == moved["head.bias"] == 0
    assert moved["branch.0.weight"] == 4  # half of the 8 updates of an epoch
    assert moved["stem.1.weight"] == 8


@pytest.mark.parametrize(("clip", "moves"), [(0.0, True), (1e-12, False)])
def test_gradients_are_clipped(tmp_path: Path, clip: float, moves: bool) -> None:
    recipe = stripes(
        epochs=1, clip_norm=clip, optimizer="sgd", lr=0.1, weight_decay=0.0, warmup=0.0
    )
    start = build.job(recipe).module.state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}
    trained = fit(recipe, tmp_path)
    assert (difference(start, trained.module.state_dict()) > 1e-3) is moves


def test_recomputed_activations_give_the_same_losses(tmp_path: Path) -> None:
    # With dropout and drop path, whose random numbers must be drawn again alike.
    kept, computed = (
        fit(stripes(VIT, epochs=1, gradient_checkpointing=on), tmp_path / str(on))
        for on in (False, True)
    )
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), abs=1e-6)
    assert difference(kept.module.state_dict(), computed.module.state_dict()) < 1e-5


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(tmp_path: Path) -> None:
    plain, compiled = (
        fit(stripes(epochs=1, compile=on, optimizer="sgd", lr=0.1), tmp_path / str(on))
        for on in (False, True)
    )
    assert difference(plain.module.state_dict(), compiled.module.state_dict()) < 1e-5
    assert difference(plain.state.best, compiled.state.best) < 1e-5


def test_no_epoch_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    recipe = stripes(epochs=0)
    start = build.job(recipe).module.state_dict()
    still = fit(recipe, tmp_path)
    assert difference(start, still.module.state_dict()) == 0
    assert still.facts["updates"] == 0
    assert log(tmp_path) == [] if (tmp_path / "metrics.jsonl").exists() else True


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train\.batch_size=62 .* 61 rows .* 1 to 61"):
        finetune(stripes(batch_size=62), tmp_path)


def test_half_precision_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"fp16 needs a GPU.* Allowed on this machine: auto, no"):
        finetune(stripes(precision="fp16"), tmp_path)


def test_runs_of_one_script_may_differ_in_precision(tmp_path: Path) -> None:
    for precision in ("bf16", "no", "bf16"):
        trained = fit(stripes(epochs=1, precision=precision), tmp_path / precision)
        assert trained.accelerator.mixed_precision == precision


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    targets = np.array([0] * 90 + [1] * 10)
    first = order(targets, "shuffled", 0, 0)
    assert sorted(first) == list(range(100))
    assert first.tolist() == order(targets, "shuffled", 0, 0).tolist()
    assert first.tolist() != order(targets, "shuffled", 0, 1).tolist()
    assert first.tolist() != order(targets, "shuffled", 1, 0).tolist()


def test_balanced_sampling_draws_classes_equally_often() -> None:
    targets = np.array([0] * 900 + [1] * 90 + [5] * 10)
    drawn = targets[np.concatenate([order(targets, "balanced", 0, e) for e in range(10)])]
    assert len(drawn) == 10_000
    shares = [float((drawn == label).mean()) for label in (0, 1, 5)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


def test_balanced_sampling_needs_classes() -> None:
    with pytest.raises(RecipeError, match="exactly one class each.*Allowed here: shuffled"):
        order(np.zeros((4, 2)), "balanced", 0, 0)


def test_balanced_sampling_trains(tmp_path: Path) -> None:
    assert fit(stripes(sampling="balanced", epochs=1), tmp_path).done == 8


@pytest.mark.parametrize("depth", [0, 2, 9])
def test_reading_ahead_keeps_the_order(depth: int) -> None:
    assert list(ahead(lambda n: n * n, range(5), depth)) == [0, 1, 4, 9, 16]


def test_reading_ahead_passes_errors_on() -> None:
    batches = ahead(lambda n: 1 // n, [1, 0], 2)
    assert next(batches) == 1
    with pytest.raises(ZeroDivisionError):
        next(batches)
