"""The Lightning module of a trial, and the callbacks that save it and tell how far it is.

One step of the trainer is one optimiser step over the declared global batch, which the loader hands over as micro-batches, to each of
several processes its own (`distributed`). The loss is normalised by the supervised tokens of the whole of it, so that neither
accumulation, nor the number of processes, nor the number of image tokens changes what is optimised.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from math import ceil
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, get_total_norm

from mm1_ablate.config.training import Progress, Stage, Training
from mm1_ablate.data.loader import Batch
from mm1_ablate.model.language_model import parameters_without_embeddings
from mm1_ablate.model.multimodal import MultimodalModel
from mm1_ablate.model.packed_attention import packed_throughout
from mm1_ablate.training.checkpoint import random_state_dict, restore_random_state
from mm1_ablate.training.distributed import Step, agree_on_step, shard_for_training, without_gradient_sync
from mm1_ablate.training.optimisation import build_optimizers, learning_rate_share, set_learning_rates
from mm1_ablate.training.pace import Pace
from mm1_ablate.training.weight_distribution import allocate, broadcast_weights
from mm1_ablate.training.workers import Workers


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


class PackedTraining(lightning.LightningModule):
    """Next-token training on packed documents; loss on text tokens only.

    Attributes:
        tokens, images, documents: seen so far by all processes, image tokens included.
        interval_loss: sum of this process's losses since they were last read, in nats per token that all processes predict in a step; a
            tensor, so that no step waits for the device.
        interval_steps: how many steps that is.
        gradient_norm: of the latest step that measured it, before clipping; a tensor likewise.
        measure_every: every so many steps the norm is measured where gradients are not clipped, which measures it in every step.
    """

    def __init__(
        self,
        model: MultimodalModel,
        training: Training,
        encoder_scale: float,
        workers: Workers = Workers(),
        weights: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        """
        Args:
            weights: gives what the parameters of a model without values start from, by name; called by the process that leads alone.
                None: they have values, or a checkpoint gives them some.
        """
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.training_settings = training
        self.encoder_scale = encoder_scale
        self.workers = workers
        self._weights = weights
        self.step = 0
        self.tokens = 0
        self.images = 0
        self.documents = 0
        self.interval_loss: Tensor | None = None
        self.interval_steps = 0
        self.gradient_norm: Tensor | None = None
        self.measure_every = 1
        self._restored_random_state: dict[str, Any] | None = None

    def configure_model(self) -> None:
        if self.workers.shard:
            shard_for_training(self.model, self.device_mesh["data_parallel"])  # type: ignore[index]
            allocate(self.model, self.workers.device)
            if self._weights is not None:
                broadcast_weights(self.model, self._weights() if self.workers.leads else None, self.workers)
                self._weights = None

    def configure_optimizers(self) -> Any:
        parts = [(self.model.encoder, self.encoder_scale), (self.model.connector, 1.0), (self.model.language_model, 1.0)]
        language_model = self.model.language_model
        return build_optimizers(self.training_settings.optimizer, parts, language_model, parameters_without_embeddings(language_model))

    def transfer_batch_to_device(self, batch: list[Batch], device: torch.device, dataloader_idx: int) -> list[Batch]:
        return [micro.to(device) for micro in batch]

    def training_step(self, batch: list[Batch], batch_idx: int) -> None:
        settings = self.training_settings
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        share = learning_rate_share(self.step, settings.steps, settings.warmup_steps, settings.final_learning_rate)
        set_learning_rates(optimizers, share)  # type: ignore[arg-type]
        now = self._global_step(batch)
        losses = []
        # A frozen language model learns nothing from text alone. All processes have images in the same micro-batches (`agree_on_step`).
        learned_from = [len(micro.images) > 0 or "language_model" not in self.model.frozen for micro in now.micro_batches]
        # What is computed again on the way back must be attended to as on the way there.
        with packed_throughout(self.model.language_model) if settings.activation_checkpointing else nullcontext():
            for number, micro in enumerate(now.micro_batches):
                with without_gradient_sync(self.trainer.strategy.model, last=not any(learned_from[number + 1 :])):  # type: ignore[arg-type]
                    loss = cross_entropy(self.model(micro).float(), micro.targets, reduction="sum") / now.supervised
                    losses.append(loss.detach())
                    if learned_from[number]:
                        self.manual_backward(loss if self.workers.ranks == 1 else loss * self.workers.ranks)
                    elif self.workers.shard:
                        # What lies outside the blocks stays gathered for a way back; the next way there would not see what was updated.
                        self.model.reshard()  # type: ignore[operator]
        self.tokens += now.tokens
        self.images += now.images
        self.documents += now.documents
        if losses:
            loss = torch.stack(losses).sum()
            self.interval_loss = loss if self.interval_loss is None else loss + self.interval_loss
            self.interval_steps += 1
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            if settings.gradient_clip is not None:
                self.gradient_norm = clip_grad_norm_(trained, settings.gradient_clip)
            elif (self.step + 1) % self.measure_every == 0:
                self.gradient_norm = get_total_norm([one.grad for one in trained if one.grad is not None])
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _global_step(self, batch: list[Batch]) -> Step:
        """What all processes do in this step."""
        if self.workers.ranks > 1:
            settings = self.training_settings
            most_rows = ceil(settings.batch_rows / self.workers.ranks)
            most = ceil(most_rows / (settings.micro_batch_rows or settings.batch_rows))
            return agree_on_step(batch, self.workers, most, self.model.image_tokens)
        return Step(
            [micro for micro in batch if len(micro.targets)],
            supervised=sum(len(micro.targets) for micro in batch),
            tokens=sum(len(micro.tokens) for micro in batch),
            images=sum(len(micro.images) for micro in batch),
            documents=sum(len(micro.document_lengths) for micro in batch),
        )

    def take_loss(self) -> float | None:
        """Mean loss per supervised token of the steps since this was last called, in nats, over all processes, which all call this; None
        where nothing was predicted in them."""
        loss, steps = self._interval()
        self.interval_loss, self.interval_steps = None, 0
        return loss / steps if steps else None

    def _interval(self) -> tuple[float, int]:
        """The sum of the losses of all processes since they were last read, and of how many steps; all of them call this."""
        if not self.interval_steps:
            return 0.0, 0
        own = 0.0 if self.interval_loss is None else float(self.interval_loss)
        return self.workers.all_reduce([own])[0], self.interval_steps

    def take_gradient_norm(self) -> float | None:
        """Euclidean length of the gradient of the latest step that measured it, before clipping; all processes call this."""
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None:
            return None
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Lightning saves no random states, and draws from them between on_train_start and here.
        if self._restored_random_state is not None:
            restore_random_state(self._restored_random_state)
            if not self.workers.leads:
                # Only the state of the one that leads was kept; noise of the others must be neither its noise nor what they drew before.
                torch.manual_seed(torch.initial_seed() + 1_000_003 * self.workers.rank + self.step)
            self._restored_random_state = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        counts = {"step": self.step, "tokens": self.tokens, "images": self.images, "documents": self.documents}
        loss, steps = self._interval()
        checkpoint["mm1_ablate"] = {**counts, "random_state": random_state_dict(), "interval": {"loss": loss, "steps": steps}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = dict(checkpoint["mm1_ablate"])
        self._restored_random_state = ours.pop("random_state")
        interval = ours.pop("interval", {"loss": 0.0, "steps": 0})  # which earlier versions did not keep
        self.interval_steps = interval["steps"]
        # What all have lost so far is counted by the one that leads.
        self.interval_loss = torch.tensor(interval["loss"]) if interval["steps"] and self.workers.leads else None
        for name, value in ours.items():
            setattr(self, name, value)


class TrainingCallback(lightning.Callback):
    """Reports progress, writes the learning curve, saves checkpoints. Reads the loss only then: reading waits for the device.

    A point of the curve (`curve.jsonl`) has the step; since the point before it the mean loss per supervised token in nats, tokens per
    second and the share of the time that was waited for data; the learning rate and the norm of the gradient in that step, before
    clipping; tokens, images and documents so far; memory in bytes at its peak; seconds since this process began, and the time in seconds
    since the epoch. Points of earlier versions lack some of that.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        save_every: int,
        report: Callable[[Progress], None],
        stage: Stage = "train",
        curve_points: int = 100,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            saved: called after each checkpoint.
        """
        self.saved = saved
        self.folder, self.steps, self.save_every, self.report, self.stage = folder, steps, save_every, report, stage
        self.read_every = max(1, steps // curve_points)
        self.started = time.monotonic()
        self.pace = Pace()

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if module.workers.ranks > 1:
            # Lightning would tell all processes of a signal to one, in the handler and before each step: the first can wait for ever,
            # the second waits for the GPU. Whoever started them ends them all, and their work can be resumed.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        module.measure_every = self.read_every
        self.pace.begin(module.tokens)

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.pace.step_begins()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = module.step
        if step % self.read_every == 0 or step == self.steps:
            loss, norm = module.take_loss(), module.take_gradient_norm()
            if loss is not None and not np.isfinite(loss):
                raise Diverged(f"the loss is {loss} at step {step} of {self.steps}; a lower learning rate or gradient clipping may help")
            point = {
                "step": step,
                "loss": loss,
                # The last group is never that of an image encoder with a scale of its own, unless nothing else is trained.
                "learning_rate": trainer.optimizers[-1].param_groups[-1]["lr"],
                "tokens": module.tokens,
                "images": module.images,
                "documents": module.documents,
                "gradient_norm": norm,
                **self.pace.measured(module.tokens),
                "seconds": round(time.monotonic() - self.started, 3),
                "time": round(time.time(), 3),
            }
            if module.workers.leads:
                with (self.folder / "curve.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(point) + "\n")
                self.report(Progress(stage=self.stage, step=step, steps=self.steps, loss=loss))
        if step % self.save_every == 0 and step < self.steps:
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self.saved()
        self.pace.step_ends()
