"""Training: the loss, the learning rate, the groups, a step, an evaluation, and a run that survives its interruption.

What must hold: spec/training.py.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Batch = tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]  # inputs, targets
IGNORE = -100  # a target that does not count, as in torch


def language_model_loss(
    logits: Float[Tensor, "batch position vocab"],
    targets: Int[Tensor, "batch position"],
    ignore: int = IGNORE,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """The mean of −log softmax(logits)[target] over the targets that are not `ignore`, in nats.

    Shapes: logits (batch, position, vocab), targets (batch, position); the result is a single number of the logits'
    dtype, 0 where no target counts. `label_smoothing` ε takes ε of a target's share and spreads it over all classes.
    """
    # TODO: cross-entropy, averaged over the targets that count
    raise NotImplementedError


def noam(step: int, d_model: int, warmup: int) -> float:
    """The learning rate of the original Transformer: a line up to `warmup`, then falling with 1/√step.

    Raises: ValueError where step is less than 1; steps count from 1.
    """
    # TODO: the smaller of a line and an inverse root
    raise NotImplementedError


def warmup_cosine(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """A line from 0 at step 0 to `peak` at `warmup`, then half a cosine down to `floor` at `total`, and `floor` on.

    `warmup` may be 0: then step 0 has the peak.
    """
    # TODO: up, down, stay
    raise NotImplementedError


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The model's parameters for an optimizer: matrices with weight decay; norms, biases and embeddings without.

    Each parameter is in one group, once, also where two modules share it; a matrix that is also an embedding is one.
    """
    # TODO: two groups, {"params": [...], "weight_decay": ...} each
    raise NotImplementedError


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[Batch],
    max_norm: float | None = None,
) -> float:
    """One update from the micro-batches' gradient, which is that of the one batch that they make up together.

    Gradients that were there before are dropped. Where their global norm exceeds `max_norm`, all are scaled down to it.
    Returns the loss before the update, a mean over all counted tokens.
    """
    # TODO: clear, forward and backward for each micro-batch by its share, clip, step
    raise NotImplementedError


def evaluate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean loss over all counted tokens of all batches, in eval mode and without gradients.

    Every part of the model is in its own mode again afterwards.
    """
    # TODO: sum the losses, divide by the number of counted tokens
    raise NotImplementedError


@dataclass
class Settings:
    """What `train` does: `steps` updates by AdamW, their learning rate by warmup_cosine(…, peak, warmup, steps, floor).

    Every `evaluate_every` steps, and after the last one, the validation loss is measured and, where `checkpoint` names
    a file, the run is saved there. `resume` goes on from that file, if it is there. A fresh run starts with the random
    numbers of `seed`.
    """

    steps: int
    peak: float = 3e-3
    warmup: int = 100
    floor: float = 0.0
    weight_decay: float = 0.1
    max_norm: float | None = 1.0
    evaluate_every: int = 100
    checkpoint: str | os.PathLike[str] | None = None
    resume: bool = False
    seed: int = 0


@dataclass
class History:
    """An entry an evaluation: the step, the mean training loss since the entry before, the validation loss."""

    steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)


def train(
    model: nn.Module,
    train_batches: Callable[[int], Iterable[Batch]],
    validation_batches: Iterable[Batch],
    settings: Settings,
) -> History:
    """Trains the model in place, epoch after epoch; `train_batches(epoch)` gives the batches of an epoch, from 0 on.

    A resumed run goes on as if it had never been interrupted, bit for bit on the CPU.
    Raises: ValueError where an epoch has no batches, or where the checkpoint is not one; no code in it is ever run.
    """
    # TODO: seed, AdamW, the loop over epochs and batches, evaluation; then checkpoint and resume
    raise NotImplementedError
