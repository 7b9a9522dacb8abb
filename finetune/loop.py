"""The loop: `Fit` and `predict`. It knows the protocols and Accelerate, nothing else.

The order of samples, their augmentation and the learning rate are pure functions of the seed and
the position, so a position is all that a checkpoint must say of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast, set_seed
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from finetune import optim, room
from finetune.console import Bar
from finetune.errors import Interrupted, TrainingError
from finetune.freezing import set_train_mode
from finetune.protocols import Array, Batch, Network, Target
from finetune.samples import Samples, ahead, together
from finetune.state import Position, State, learned, random_numbers, set_random_numbers

if TYPE_CHECKING:
    from accelerate import Accelerator

    from finetune.folder import Folder
    from finetune.job import Job

LOGGED = 100
"""How many lines of training loss a run logs, about."""
LOOK = 10
"""Every how many updates several accelerators ask each other whether to stop or to save."""


class Fit:
    """Training of one job in one run folder."""

    def __init__(
        self,
        job: Job,
        folder: Folder,
        accelerator: Accelerator,
        watch: Callable[[int, float], None] | None = None,
    ) -> None:
        self.job, self.folder, self.accelerator = job, folder, accelerator
        self.watch = watch
        self.train, self.module, self.samples = job.train, job.module, job.samples["train"]
        average = None
        if self.train.ema:  # a copy, made before Accelerate replaces the module's forward
            decay = get_ema_multi_avg_fn(self.train.ema)  # type: ignore[no-untyped-call]
            average = AveragedModel(
                self.module, accelerator.device, multi_avg_fn=decay, use_buffers=True
            )
        optimizer = optim.build(self.module, self.train, job.method.lr_scales(job.network))
        self.model, self.optimizer = accelerator.prepare(self.module, optimizer)
        self.learning = [p for p in self.module.parameters() if p.requires_grad]
        self.state = State(self.module, optimizer, average, accelerator)
        self.starts = job.method.start_epochs(job.network)
        self.per_epoch = math.ceil(len(self.samples) / self.train.batch_size)
        self.updates = self.per_epoch * self.train.epochs
        self.every = max(1, self.updates // LOGGED)
        self.loss = torch.zeros((), device=accelerator.device, dtype=torch.float64)
        self.not_finite = torch.full((), -1, device=accelerator.device)
        self.saved = 0
        self.began = self.last_saved = time.monotonic()
        set_seed(self.train.seed + accelerator.process_index)

    @property
    def at(self) -> Position:
        """Where training stands."""
        return self.state.at

    @property
    def done(self) -> int:
        """Updates done since the start of the run."""
        return self.at.epoch * self.per_epoch + self.at.update

    @property
    def micro_batch_size(self) -> int:
        """Samples per forward pass of one process."""
        share = math.ceil(self.train.batch_size / self.accelerator.num_processes)
        return self.at.micro_batch_size or min(self.train.micro_batch_size or share, share)

    @property
    def out_of_patience(self) -> bool:
        """Whether early stopping ends the run here."""
        waited = self.at.epoch - self.at.best_epoch
        return bool(self.train.patience) and waited >= self.train.patience

    def run(self) -> dict[str, Any]:
        """Train from where the folder stands to the end, and leave the best weights in the module.

        Returns the facts of the training for the result. Raises TrainingError on a loss that is
        not finite, and Interrupted, with the state saved, when the process was asked to stop.
        """
        self.resume()
        earlier = self.at.seconds
        room.make(self)
        with (
            self.folder.stops_between_updates(),
            Bar("training", self.samples_of(self.updates)) as bar,
        ):
            bar.advance(self.samples_of(self.done))
            while self.at.epoch < self.train.epochs and not self.out_of_patience:
                self.epoch(bar)
            self.save()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False, keep_torch_compile=False)
        self.module.load_state_dict(self.state.best, strict=False)
        return {
            "epochs": self.at.epoch,
            "updates": self.done,
            "best_epoch": self.at.best_epoch,
            "seconds": round(self.at.seconds, 3),
            "earlier_seconds": earlier,
            "samples_per_second": round(self.samples_of(self.done) / max(self.at.seconds, 1e-9), 1),
            "micro_batch_size": self.micro_batch_size,
        }

    def samples_of(self, updates: int) -> int:
        """Return how many samples so many updates see; the last of an epoch may see fewer."""
        epochs, rest = divmod(updates, self.per_epoch)
        return epochs * len(self.samples) + rest * self.train.batch_size

    def epoch(self, bar: Bar) -> None:
        """Train the rest of one epoch and validate."""
        set_train_mode(self.module)
        for batch in self.batches():
            weight, stop, save = self.agree(batch)
            if stop or save:
                self.save()
            if stop:
                raise Interrupted(
                    f"Stopped after {self.done} of {self.updates} updates; the state is saved. "
                    "Run the same command again to go on."
                )
            loss = self.update(batch, weight)
            self.at.update += 1
            self.account(loss)
            bar.advance(self.train.batch_size, epoch=self.at.epoch + 1)
        self.validate(bar)

    def batches(self) -> Iterator[Batch]:
        """Yield this process's share of each batch of the epoch from the position on."""
        epoch, size, own = self.at.epoch, self.train.batch_size, self.accelerator
        indices = self.samples.order(self.train.sampling, self.train.seed, epoch, size)

        def read(start: int) -> Batch:
            whole = indices[start : start + size]
            share = whole[own.process_index :: own.num_processes]
            # A process without samples joins the exchange of gradients with one that counts 0.
            batch = self.samples.read(share if len(share) else whole[:1], epoch)
            batch.share = float(bool(len(share)))
            return batch

        starts = range(self.at.update * size, len(indices), size)
        return ahead(read, starts, depth=0 if own.device.type == "cpu" else 2)

    def agree(self, batch: Batch) -> tuple[float | Tensor, bool, bool]:
        """Return the weight of this update, and whether to stop and to save, for all processes."""
        weight = self.job.target.weights(batch.targets).sum() * batch.share
        stop = self.folder.stop_asked
        save = time.monotonic() - self.last_saved >= self.train.save_seconds
        if self.accelerator.num_processes == 1:
            return float(weight) or 1.0, stop, save
        device = self.accelerator.device
        own = torch.stack([weight, weight.new_tensor(stop), weight.new_tensor(save)])
        whole, *wishes = self.accelerator.reduce(own.to(device))
        # Reading a value off an accelerator makes it wait.
        looks = device.type == "cpu" or self.at.update % LOOK == 0
        stop, save = (bool(wish) for wish in wishes) if looks else (False, False)
        # Where no label counts, losses and gradients are 0, whatever they are divided by.
        return whole + (whole == 0), stop, save

    def update(self, batch: Batch, weight: float | Tensor) -> Tensor:
        """Make one update, the same however the batch is cut; return this process's loss, ().

        When memory runs out the micro-batch is halved and the update redone.
        """
        loss, random = None, random_numbers(self.accelerator.device)
        while loss is None:
            try:
                loss = self.gradients(batch, weight)
            except RuntimeError as error:
                self.shrink(error)
                set_random_numbers(random)
        reached = self.at.epoch + self.at.update / self.per_epoch
        for name, parameter in self.module.named_parameters() if any(self.starts.values()) else ():
            if self.starts.get(name, 0.0) > reached:
                parameter.grad = None
        if self.train.clip_norm:
            self.accelerator.clip_grad_norm_(self.learning, self.train.clip_norm)
        optim.set_lr(self.optimizer, self.lr(self.done))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.state.average is not None:
            self.state.average.update_parameters(self.module)
        return loss

    def gradients(self, batch: Batch, weight: float | Tensor) -> Tensor:
        """Add up the gradients of one update, micro-batch by micro-batch; return the loss, ()."""
        size, device = self.micro_batch_size, self.accelerator.device
        total = torch.zeros((), device=device)
        for start in range(0, len(batch), size):
            micro = self.samples.finish(batch.part(start, start + size), device)
            last = start + size >= len(batch)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                outputs = self.job.network.outputs(self.model(**micro.inputs))
                loss = self.job.target.losses(outputs, micro.targets).sum() * batch.share / weight
                # DDP takes the mean over processes where the sum is wanted.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
        return total

    def shrink(self, error: RuntimeError) -> None:
        """Halve the micro-batch after running out of memory; raise where that cannot help."""
        if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
            raise error
        size = self.micro_batch_size
        # Other processes already wait for this one's gradients, so it cannot start over alone.
        if size == 1 or self.accelerator.num_processes > 1:
            smaller = f"train.micro_batch_size={size // 2} (the update stays the same), "
            raise TrainingError(
                f"Memory ran out with {size} samples per forward pass. Try "
                f"{smaller if size > 1 else ''}train.gradient_checkpointing=true, or a smaller "
                "backbone."
            ) from error
        self.at.micro_batch_size = size // 2
        self.folder.say(
            f"Memory ran out: {size // 2} instead of {size} samples per forward pass from here "
            f"on; the batch of {self.train.batch_size} per update stays."
        )
        self.optimizer.zero_grad()

    def lr(self, update: int) -> float:
        """Return the learning rate of an update, from 0, of a parameter without a factor."""
        return self.train.lr * optim.rate(self.train, update, self.updates)

    def account(self, loss: Tensor) -> None:
        """Add up the loss, look for values that are not finite, and log now and then."""
        self.loss += loss
        self.at.losses += 1
        bad = ~torch.isfinite(loss) & (self.not_finite < 0)
        self.not_finite = torch.where(bad, self.done, self.not_finite)
        due = self.done % self.every == 0 or self.at.update == self.per_epoch
        if due or self.accelerator.device.type == "cpu":
            self.check_finite()
        if due:
            self.folder.log(
                epoch=self.at.epoch + 1,
                update=self.done,
                loss=float(self.accelerator.reduce(self.loss)) / self.at.losses,
                lr=self.lr(self.done - 1),
                seconds=self.seconds,
            )
            self.loss, self.at.losses = torch.zeros_like(self.loss), 0

    def check_finite(self) -> None:
        """Raise TrainingError naming the update and its learning rate if a loss was not finite."""
        update = int(self.not_finite)
        if update >= 0:
            kept = f"The checkpoint after update {self.saved} is kept. " if self.saved else ""
            raise TrainingError(
                f"The loss was not finite at update {update} of {self.updates} (epoch "
                f"{(update - 1) // self.per_epoch + 1}, learning rate {self.lr(update - 1):.3g}). "
                f"{kept}Try a smaller train.lr, a longer train.warmup, or train.precision=no."
            )

    def validate(self, bar: Bar) -> None:
        """Score the validation split, keep the weights if they are the best, end the epoch."""
        module = self.state.average.module if self.state.average else self.module
        for buffer in module.buffers():  # each process has its own BatchNorm statistics
            broadcast(buffer)
        samples, target = self.job.samples["validation"], self.job.target
        how = samples, target, self.accelerator, self.train.eval_batch_size
        predictions = predict(self.job.network, module, *how)
        scores = target.scores(predictions, samples.truth, intervals=False)
        values = {name: score["value"] for name, score in scores.items() if "value" in score}
        self.at.epoch, self.at.update = self.at.epoch + 1, 0
        self.folder.log(epoch=self.at.epoch, validation=values, seconds=self.seconds)
        name = target.metric.lstrip("-")
        value = math.nan if values[name] is None else values[name]
        bar.advance(0, **{name: value})
        value = -value if target.metric.startswith("-") else value
        if self.at.best is None or value > self.at.best or math.isnan(self.at.best):
            self.at.best, self.at.best_epoch = value, self.at.epoch
            self.state.best = {k: v.cpu().clone() for k, v in learned(module).items()}
        if self.watch is not None:
            self.watch(self.at.epoch, value)

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption counted in."""
        return time.monotonic() - self.began

    def save(self) -> None:
        """Write a checkpoint, unless there is one of this position."""
        if self.done > self.saved:
            self.check_finite()
            self.at.loss = float(self.accelerator.reduce(self.loss))
            self.at.seconds = self.seconds
            self.state.save(self.folder, self.done)
            self.saved = self.done
        self.last_saved = time.monotonic()

    def resume(self) -> None:
        """Take up the newest complete checkpoint of the run folder, if there is one."""
        found, skipped = self.folder.checkpoints.latest()
        for sentence in skipped:
            self.folder.say(sentence)
        self.folder.cut_log(found.state["log_bytes"] if found else 0)
        if found is not None:
            self.state.load(found)
            self.saved = self.done
            self.began -= self.at.seconds
            if self.accelerator.is_main_process:
                self.loss += self.at.loss
            self.folder.say(f"Resuming after {self.done} of {self.updates} updates.")


@torch.inference_mode()
def predict(
    network: Network,
    module: nn.Module,
    samples: Samples,
    target: Target,
    accelerator: Accelerator,
    batch_size: int,
    *,
    full_precision: bool = False,
) -> Any:
    """Return the predictions of all rows in order, each sample counted once, on every process.

    What is kept of a sample is small, such as probabilities (samples, outputs), float32.
    """
    module.eval()
    rank, processes = accelerator.process_index, accelerator.num_processes
    device = accelerator.device
    # Every process takes equally many; the repeated ones are cut off below.
    each = math.ceil(len(samples) / processes)
    ranked = samples.longest_first()
    own = ranked[np.minimum(np.arange(each) * processes + rank, len(samples) - 1)]

    def read(start: int) -> Batch:
        return samples.read(own[start : start + batch_size], 0)

    parts = []
    batches = ahead(read, range(0, each, batch_size), depth=0 if device.type == "cpu" else 2)
    for batch in batches:
        with nullcontext() if full_precision else accelerator.autocast():
            done = samples.finish(batch, device)
            parts.append(target.infer(network, module, done.inputs, done.targets))
    whole = accelerator.pad_across_processes(together(parts), dim=1, pad_index=-1)
    gathered: Array = accelerator.gather(whole).cpu().numpy()
    in_order = gathered.reshape(processes, each, *gathered.shape[1:]).swapaxes(0, 1)
    kept = in_order.reshape(each * processes, *gathered.shape[1:])[: len(samples)]
    return target.decode(kept[np.argsort(ranked)], samples.source)
