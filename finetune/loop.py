"""The loop: `fit`, `update`, `predict`. It knows the protocols and Accelerate, nothing else.

The order of samples, their augmentation and the learning rate are pure functions of the seed and
the position, so a position is all that a checkpoint must say of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object, set_seed
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from finetune import checkpoint, optim
from finetune.console import Bar
from finetune.errors import Interrupted, TrainingError
from finetune.freezing import set_train_mode
from finetune.protocols import Array, Batch, Target
from finetune.samples import Samples, ahead, order

if TYPE_CHECKING:
    from finetune.checkpoint import Checkpoint
    from finetune.job import Job
    from finetune.folder import Folder

LOGGED = 100
"""How many lines of training loss a run logs, about."""


@dataclass
class Position:
    """Where training stands; all of it is kept in a checkpoint."""

    epoch: int = 0
    update: int = 0
    """Updates done in this epoch."""
    best: float | None = None
    best_epoch: int = 0
    loss: float = 0.0
    """Sum of the losses since the last logged line, over all processes."""
    losses: int = 0
    micro_batch_size: int = 0
    seconds: float = 0.0


class Fit:
    """Training of one job in one run folder."""

    def __init__(self, job: Job, run: Folder, accelerator: Accelerator) -> None:
        self.job, self.run, self.accelerator = job, run, accelerator
        self.train = job.train
        self.samples = job.samples["train"]
        self.module = job.module
        self.named = list(self.module.named_parameters())
        self.learned = {name for name, parameter in self.named if parameter.requires_grad}
        self.starts = job.method.start_epochs(job.network)
        # A copy must be made before Accelerate replaces the module's forward.
        self.average = (
            AveragedModel(
                self.module, multi_avg_fn=get_ema_multi_avg_fn(self.train.ema), use_buffers=True
            )
            if self.train.ema
            else None
        )
        scales = job.method.lr_scales(job.network)
        self.model, self.optimizer = accelerator.prepare(
            self.module, optim.build(self.module, self.train, scales)
        )
        self.per_epoch = math.ceil(len(self.samples) / self.train.batch_size)
        self.updates = self.per_epoch * self.train.epochs
        self.every = max(1, self.updates // LOGGED)
        share = math.ceil(self.train.batch_size / accelerator.num_processes)
        self.at = Position(micro_batch_size=min(self.train.micro_batch_size or share, share))
        self.best: dict[str, Tensor] | None = None
        self.saved: Checkpoint | None = None
        self.best_is_new = False
        self.loss = torch.zeros((), device=accelerator.device, dtype=torch.float64)
        self.not_finite = torch.full((), -1, device=accelerator.device)
        set_seed(self.train.seed + accelerator.process_index)

    def run_all(self) -> dict[str, Any]:
        """Train from where the folder stands to the end, and leave the best weights in the module.

        Returns the facts of the training for the result. Raises TrainingError on a loss that is
        not finite, and Interrupted, with the state saved, when the process was asked to stop.
        """
        self.resume()
        self.last_saved = time.monotonic()
        self.started = self.last_saved - self.at.seconds
        with Bar("training", self.updates * self.train.batch_size) as bar:
            bar.advance(self.done * self.train.batch_size)
            while self.at.epoch < self.train.epochs and not self.waited_enough:
                self.epoch(bar)
        if self.saved is None or self.saved.state["position"] != asdict(self.at):
            self.save()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False, keep_torch_compile=False)
        self.module.load_state_dict(self.best or {}, strict=False)
        rate = self.done * self.train.batch_size / max(self.at.seconds, 1e-9)
        return {
            "epochs": self.at.epoch,
            "updates": self.done,
            "best_epoch": self.at.best_epoch,
            "seconds": round(self.at.seconds, 3),
            "samples_per_second": round(rate, 1),
            "micro_batch_size": self.at.micro_batch_size,
        }

    @property
    def done(self) -> int:
        """Updates done since the start of the run."""
        return self.at.epoch * self.per_epoch + self.at.update

    @property
    def waited_enough(self) -> bool:
        """Whether early stopping ends the run here."""
        waited = self.at.epoch - self.at.best_epoch
        return bool(self.train.patience) and waited >= self.train.patience

    def epoch(self, bar: Bar) -> None:
        """Train the rest of one epoch, validate, and keep the best weights."""
        set_train_mode(self.module)
        self.asleep = [p for n, p in self.named if self.starts.get(n, 0.0) > self.at.epoch]
        for batch in self.batches():
            weight, stop = self.agree(batch)
            if stop:
                self.save()
                raise Interrupted(
                    f"Stopped after {self.done} of {self.updates} updates; the state is saved. "
                    "Run the same command again to go on."
                )
            lr = self.train.lr * optim.rate(self.train, self.done, self.updates)
            optim.set_rate(self.optimizer, lr)
            loss = self.update(batch, weight)
            self.at.update += 1
            self.account(loss, lr)
            bar.advance(self.train.batch_size, epoch=self.at.epoch + 1)
            if time.monotonic() - self.last_saved >= self.train.save_seconds:
                self.save()
        self.validate(bar)

    def batches(self) -> Iterator[Batch]:
        """Yield this process's share of each batch of the epoch from the position on."""
        epoch, size, own = self.at.epoch, self.train.batch_size, self.accelerator
        indices = order(self.samples.targets, self.train.sampling, self.train.seed, epoch)
        starts = range(self.at.update * size, len(indices), size)

        def read(start: int) -> Batch:
            whole = indices[start : start + size]
            share = whole[own.process_index :: own.num_processes]
            # A process without samples joins the exchange of gradients with one that counts 0.
            batch = self.samples.read(share if len(share) else whole[:1], epoch)
            batch.share = float(bool(len(share)))
            return batch

        return ahead(read, starts, depth=0 if own.device.type == "cpu" else 2)

    def agree(self, batch: Batch) -> tuple[float, bool]:
        """Return the global weight of this update and whether any process was asked to stop."""
        weight = self.job.target.weights(batch.targets).sum() * batch.share
        if self.accelerator.num_processes == 1:
            return float(weight), self.run.stop_asked
        own = torch.stack([weight, weight.new_tensor(float(self.run.stop_asked))])
        total, stop = self.accelerator.reduce(own.to(self.accelerator.device)).tolist()
        return total, stop > 0

    def update(self, batch: Batch, weight: float) -> Tensor:
        """Make one update, the same however the batch is cut; return this process's loss, ().

        When memory runs out the micro-batch is halved and the update redone.
        """
        random = torch.get_rng_state()
        while (loss := self.gradients(batch, weight)) is None:
            torch.set_rng_state(random)
        for parameter in self.asleep:
            parameter.grad = None
        if self.train.clip_norm:
            self.accelerator.clip_grad_norm_(self.module.parameters(), self.train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.module)
        return loss

    def gradients(self, batch: Batch, weight: float) -> Tensor | None:
        """Accumulate the gradients of one update; None if memory ran out and it must be redone."""
        size, device = self.at.micro_batch_size, self.accelerator.device
        total = torch.zeros((), device=device)
        # DDP takes the mean over processes where the sum is wanted.
        scale = self.accelerator.num_processes * batch.share / weight
        try:
            for start in range(0, len(batch), size):
                micro = self.samples.finish(batch.part(start, start + size), device)
                last = start + size >= len(batch)
                with nullcontext() if last else self.accelerator.no_sync(self.model):
                    outputs = self.model(**micro.inputs)
                    loss = self.job.target.losses(outputs, micro.targets).sum()
                    self.accelerator.backward(loss * scale)
                total += loss.detach() * (batch.share / weight)
        except RuntimeError as error:
            self.shrink(error)
            return None
        return total

    def shrink(self, error: RuntimeError) -> None:
        """Halve the micro-batch after running out of memory; raise where that cannot help."""
        if not should_reduce_batch_size(error):
            raise error
        size = self.at.micro_batch_size
        # Other processes already wait for this one's gradients, so it cannot start over alone.
        if size == 1 or self.accelerator.num_processes > 1:
            raise TrainingError(
                f"Memory ran out with {size} samples per forward pass. Try "
                f"train.micro_batch_size={max(1, size // 2)} (the update stays the same), "
                "train.gradient_checkpointing=true, or a smaller backbone."
            ) from error
        self.at.micro_batch_size = size // 2
        self.run.say(
            f"Memory ran out: {size // 2} instead of {size} samples per forward pass from here "
            f"on; the batch of {self.train.batch_size} per update stays."
        )
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def account(self, loss: Tensor, lr: float) -> None:
        """Add up the loss, look for values that are not finite, and log now and then."""
        self.loss += loss
        self.at.losses += 1
        bad = ~torch.isfinite(loss) & (self.not_finite < 0)
        self.not_finite = torch.where(bad, self.done, self.not_finite)
        due = self.done % self.every == 0 or self.at.update == self.per_epoch
        # Reading a value off an accelerator makes it wait, so that is done only when due.
        if due or self.accelerator.device.type == "cpu":
            self.check_finite(lr)
        if due:
            total = self.accelerator.reduce(self.loss)
            self.run.log(
                epoch=self.at.epoch + 1,
                update=self.done,
                loss=float(total) / self.at.losses,
                lr=lr,
                seconds=self.seconds,
            )
            self.loss, self.at.losses = torch.zeros_like(self.loss), 0

    def check_finite(self, lr: float) -> None:
        """Raise TrainingError naming the update and learning rate if a loss was not finite."""
        update = int(self.not_finite)
        if update >= 0:
            kept = self.saved.folder.name if self.saved else "none yet"
            raise TrainingError(
                f"The loss was not finite at update {update} of {self.updates} (epoch "
                f"{self.at.epoch + 1}, learning rate {lr:.3g}). The last checkpoint is kept "
                f"({kept}). Try a smaller train.lr, a longer train.warmup, or train.precision=no."
            )

    def validate(self, bar: Bar) -> None:
        """Score the validation split, keep the weights if they are the best, begin a new epoch."""
        module = self.module if self.average is None else self.average.module
        samples = self.job.samples["validation"]
        for buffer in self.module.buffers():  # each process has its own BatchNorm statistics
            broadcast(buffer)
        predictions = predict(
            module, samples, self.job.target, self.accelerator, self.train.eval_batch_size
        )
        scores = self.job.target.scores(predictions, samples.targets, intervals=False)
        self.at.epoch, self.at.update = self.at.epoch + 1, 0
        values = {name: score["value"] for name, score in scores.items() if "value" in score}
        self.run.log(epoch=self.at.epoch, validation=values, seconds=self.seconds)
        name = self.job.target.metric
        value = values[name.lstrip("-")] * (-1 if name.startswith("-") else 1)
        bar.advance(0, **{name.lstrip("-"): abs(value)})
        if self.at.best is None or value > self.at.best:
            self.at.best, self.at.best_epoch = value, self.at.epoch
            self.best = {k: v.detach().cpu().clone() for k, v in self.learned_of(module).items()}
            self.best_is_new = True

    def learned_of(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the parameters that learn and all buffers: what a checkpoint must hold."""
        state = module.state_dict(keep_vars=True)
        frozen = {n for n, _ in module.named_parameters()} - self.learned
        return {name: tensor for name, tensor in state.items() if name not in frozen}

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption counted in."""
        return time.monotonic() - self.started

    def save(self) -> None:
        """Write a checkpoint of the position and all state that is not a function of it."""
        self.check_finite(self.train.lr)
        self.at.loss = float(self.accelerator.reduce(self.loss.clone()))
        self.at.seconds = self.seconds
        optimizer, groups = checkpoint.pack(self.optimizer.state_dict())
        random = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state()
        ranks = gather_object([{k: v.tolist() for k, v in random.items()}])
        if self.accelerator.is_main_process:
            tensors: dict[str, Any] = {
                "model": self.learned_of(self.module),
                "optimizer": optimizer,
                "average": self.learned_of(self.average.module) if self.average else {},
                "best": self.best or {},
            }
            if self.saved is not None and not self.best_is_new and self.best:
                tensors["best"] = self.saved.file("best")
            state = {
                "position": asdict(self.at),
                "groups": groups,
                "averaged": int(self.average.n_averaged) if self.average else 0,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                "random": ranks,
                "log_bytes": self.run.log_bytes,
            }
            self.saved = self.run.checkpoints.save(self.done, tensors, state)
            self.best_is_new = False
        self.accelerator.wait_for_everyone()
        self.last_saved = time.monotonic()

    def resume(self) -> None:
        """Take up the newest complete checkpoint of the run folder, if there is one."""
        found, skipped = self.run.checkpoints.latest()
        for sentence in skipped:
            self.run.say(sentence)
        self.run.truncate_log(found.state["log_bytes"] if found else 0)
        if found is None:
            return
        state = found.state
        self.module.load_state_dict(found.tensors("model"), strict=False)
        packed = found.tensors("optimizer")
        self.optimizer.load_state_dict(checkpoint.unpack(packed, state["groups"]))
        if self.average is not None:
            self.average.module.load_state_dict(found.tensors("average"), strict=False)
            self.average.n_averaged.fill_(state["averaged"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        ranks = state["random"]
        if self.accelerator.process_index < len(ranks):
            random = ranks[self.accelerator.process_index]
            torch.set_rng_state(torch.tensor(random["cpu"], dtype=torch.uint8))
            if "cuda" in random and self.accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(torch.tensor(random["cuda"], dtype=torch.uint8))
        self.at = Position(**state["position"])
        if self.accelerator.is_main_process:
            self.loss += self.at.loss
        self.best = found.tensors("best") or None
        self.saved = found
        self.run.say(f"Resuming after {self.done} of {self.updates} updates.")


@torch.inference_mode()
def predict(
    module: nn.Module,
    samples: Samples,
    target: Target,
    accelerator: Accelerator,
    batch_size: int,
    *,
    full_precision: bool = False,
) -> Array:
    """Return the predictions of all samples in order, each computed once, on every process.

    What is kept is small: probabilities or values, (samples, outputs), float32.
    """
    module.eval()
    rank, processes = accelerator.process_index, accelerator.num_processes
    # Every process takes equally many; the repeated ones are cut off below.
    each = math.ceil(len(samples) / processes)
    own = np.minimum(np.arange(each) * processes + rank, len(samples) - 1)
    parts = []
    for start in range(0, each, batch_size):
        batch = samples.finish(samples.read(own[start : start + batch_size], 0), accelerator.device)
        with nullcontext() if full_precision else accelerator.autocast():
            outputs = module(**batch.inputs)
        parts.append(target.predictions(outputs))
    gathered = accelerator.gather(torch.cat(parts)).cpu().numpy()
    in_order = gathered.reshape(processes, each, *gathered.shape[1:]).swapaxes(0, 1)
    return in_order.reshape(each * processes, *gathered.shape[1:])[: len(samples)]
