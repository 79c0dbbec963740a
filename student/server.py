"""The server: which process reads which sequences, and a step that all of them take together."""

import torch
from jaxtyping import Int
from torch import Tensor, nn


def shard(count: int, rank: int, world: int, epoch: int, seed: int) -> Int[Tensor, "position"]:
    """The numbers of the sequences, of `count`, that process `rank` of `world` reads in this epoch, in their order.

    All processes together read each sequence once; their shares differ in length by at most one. Another epoch, or
    another seed, is another order.
    """
    # TODO: every process shuffles alike and takes its own part.
    raise NotImplementedError


def distributed_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Int[Tensor, "batch position"],
    targets: Int[Tensor, "batch position"],
    max_norm: float | None = None,
) -> float:
    """One update from the batches of all processes, which is that of the one batch that they make up together.

    Each process gives its own inputs and targets; a target of −100 does not count, and every counted one of all
    processes weighs the same. Returns the mean loss over all of them, before the update, the same in every process.
    Where no target counts anywhere, the loss is 0 and so is the gradient.
    `max_norm` limits the norm of the gradient of all.

    The model is wrapped in DistributedDataParallel, which averages the gradients over the processes (or in
    fully_shard, which does the same); a step that reduces the gradients of a plain model itself is as right.
    """
    # TODO: count the tokens of all processes (`dist.all_reduce`), then take the step of `train_step`.
    raise NotImplementedError
