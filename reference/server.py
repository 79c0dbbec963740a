"""The server: which process reads which sequences, and a step that all of them take together."""

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from .training import IGNORE, _summed_loss


def shard(count: int, rank: int, world: int, epoch: int, seed: int) -> Int[Tensor, "position"]:
    """The numbers of the sequences, of `count`, that process `rank` of `world` reads in this epoch, in their order.

    All processes shuffle alike, from seed and epoch, and each takes every world-th: so no sequence is read by two of
    them and none is lost, and the shares differ in length by at most one.
    Source: PyTorch's DistributedSampler, which pads or drops the rest instead.
    """
    mixed = torch.Generator().manual_seed(hash((seed, epoch)) % 2**63)  # a hash of whole numbers is the same everywhere
    return torch.randperm(count, generator=mixed)[rank::world]


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

    The model is wrapped in DistributedDataParallel or fully_shard, which average the gradients over the processes; a
    plain model's are added up here.
    """
    averaged, world = isinstance(model, DistributedDataParallel | FSDPModule), dist.get_world_size()
    optimizer.zero_grad()
    model.zero_grad()  # the optimizer may know only some of the parameters
    summed = _summed_loss(model(inputs), targets)
    total = torch.stack([summed.detach().double(), (targets != IGNORE).sum().double()])
    dist.all_reduce(total)
    count = total[1].clamp_min(1)
    torch.autograd.backward(summed * ((world if averaged else 1) / count).to(summed))
    if not averaged:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad)
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return (total[0] / count).item()
