"""How data parallel training goes wrong: what the ranks read, and how their gradients are joined."""

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from reference.server import distributed_step, shard
from spec.mistakes import instead_of


def _order(count: int, *key: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(hash(key) % 2**63))


@instead_of(shard)
def every_rank_reads_everything(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """Every rank reads all of the data. Each has to take its own part, or all of them compute the same."""
    return _order(count, seed, epoch)


@instead_of(shard)
def ranks_shuffle_differently(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """Each rank shuffles by its own numbers before it takes its part, so that parts overlap. All must shuffle alike."""
    return _order(count, seed, epoch, rank)[rank::world]


@instead_of(shard)
def the_rest_is_dropped(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """What does not divide by the number of ranks is dropped. Some ranks have to read one sequence more."""
    return _order(count, seed, epoch)[: count // world * world][rank::world]


@instead_of(shard)
def the_rest_is_repeated(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """Sequences are repeated until the number divides by that of the ranks, as DistributedSampler does. None may be."""
    order = _order(count, seed, epoch)
    return order.repeat(world)[: -(-count // world) * world][rank::world]


@instead_of(shard)
def the_last_rank_gets_the_rest(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """The ranks get blocks of count // world, and the last one all of the rest. Shares may differ by one at most."""
    size = count // world
    end = count if rank == world - 1 else (rank + 1) * size
    return _order(count, seed, epoch)[rank * size : end]


@instead_of(shard)
def never_shuffles(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """The sequences come in the order of the text in every epoch. They have to be shuffled, by seed and epoch."""
    return torch.arange(count)[rank::world]


@instead_of(shard)
def shuffles_by_the_global_numbers(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """The order is drawn from the global random numbers, which no two ranks share. It has to follow from the seed."""
    return torch.randperm(count)[rank::world]


@instead_of(shard)
def shuffles_by_a_strings_hash(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """The generator's seed is the hash of a string, which is another in every process: parts overlap. Hashes of whole
    numbers are the same everywhere.
    """
    mixed = torch.Generator().manual_seed(hash(f"{seed}, {epoch}") % 2**63)
    return torch.randperm(count, generator=mixed)[rank::world]


@instead_of(shard)
def the_epoch_is_ignored(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """Every epoch has the same order. The epoch belongs into the generator's seed."""
    return shard(count, rank, world, 0, seed)


@instead_of(shard)
def the_seed_is_ignored(count: int, rank: int, world: int, epoch: int, seed: int) -> Tensor:
    """Every seed has the same order. The seed belongs into the generator's seed, beside the epoch."""
    return shard(count, rank, world, epoch, 0)


Optimizer = torch.optim.Optimizer


def _joins(model: nn.Module) -> bool:
    """Whether the wrapper averages over the ranks."""
    return isinstance(model, DistributedDataParallel | FSDPModule)


def _join(model: nn.Module) -> None:
    if not _joins(model):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def _sums(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's summed loss; over all ranks the summed loss and the number of targets."""
    summed = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum")
    total = torch.stack([summed.detach(), (targets != -100).sum().to(summed)])
    dist.all_reduce(total)
    return summed, total[0], total[1]


@instead_of(distributed_step)
def averages_by_rank(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Each rank's mean loss weighs the same, however few tokens it counts. Every token has to weigh the same."""
    optimizer.zero_grad()
    summed = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum")
    loss = summed / (targets != -100).sum().clamp_min(1)
    torch.autograd.backward(loss)
    _join(model)
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    mean = loss.detach()
    dist.all_reduce(mean)
    return mean.item() / dist.get_world_size()


@instead_of(distributed_step)
def weighs_ranks_by_their_sequences(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Ranks weigh by their number of sequences. It is the counted tokens that weigh; sequences may be half padding."""
    optimizer.zero_grad()
    rows = torch.tensor(float(len(inputs)), device=inputs.device)
    dist.all_reduce(rows)
    counted = (targets != -100).sum().clamp_min(1)
    summed, total, count = _sums(model, inputs, targets)
    torch.autograd.backward(summed / counted * len(inputs) * dist.get_world_size() / rows)
    _join(model)
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return (total / count.clamp_min(1)).item()


def _usual(
    model: nn.Module,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    max_norm: float | None = None,
    *,
    factor: float = 1.0,
    zero: bool = True,
    clip: str = "after",
    least: int = 1,
) -> float:
    """The right step, with something to go wrong at each place."""
    if zero:
        optimizer.zero_grad()
    summed, total, count = _sums(model, inputs, targets)
    torch.autograd.backward(summed * factor * dist.get_world_size() / count.clamp_min(least))
    _join(model)
    if max_norm is not None and clip == "after":
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if max_norm is not None and clip == "each":
        for parameter in model.parameters():
            nn.utils.clip_grad_norm_([parameter], max_norm)
    if max_norm is not None and clip == "up":
        norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
        for parameter in model.parameters():
            parameter.grad = None if parameter.grad is None else parameter.grad * max_norm / norm
    optimizer.step()
    return (total / count.clamp_min(least)).item()


@instead_of(distributed_step)
def gradients_stay_from_before(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Gradients that were there before are added to. They have to be cleared at the start of a step."""
    return _usual(model, optimizer, inputs, targets, max_norm, zero=False)


@instead_of(distributed_step)
def ranks_are_added_twice(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """The gradient is as many times too large as there are ranks: it is scaled by their number once too often."""
    return _usual(model, optimizer, inputs, targets, max_norm, factor=dist.get_world_size())


@instead_of(distributed_step)
def the_world_is_forgotten(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """DDP divides by the number of ranks, and the count of all tokens divides once more. Multiply the loss by world."""
    return _usual(model, optimizer, inputs, targets, max_norm, factor=1 / dist.get_world_size())


@instead_of(distributed_step)
def ranks_are_not_joined(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Each rank keeps its own gradient (`no_sync`, or the module inside the wrapper). They have to be averaged."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    optimizer.zero_grad()
    summed, total, count = _sums(inner, inputs, targets)
    torch.autograd.backward(summed * dist.get_world_size() / count.clamp_min(1))
    if max_norm is not None:
        nn.utils.clip_grad_norm_(inner.parameters(), max_norm)
    optimizer.step()
    return (total / count.clamp_min(1)).item()


@instead_of(distributed_step)
def returns_the_loss_of_its_own_rank(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Each rank returns the mean loss of its own tokens. What is returned is the mean over the tokens of all."""
    optimizer.zero_grad()
    summed, _, count = _sums(model, inputs, targets)
    torch.autograd.backward(summed * dist.get_world_size() / count.clamp_min(1))
    _join(model)
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return (summed.detach() / (targets != -100).sum().clamp_min(1)).item()


@instead_of(distributed_step)
def returns_the_loss_after_the_step(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """The loss is computed again after the update. What is returned is the loss before it."""
    _usual(model, optimizer, inputs, targets, max_norm)
    with torch.no_grad():
        _, total, count = _sums(model, inputs, targets)
    return (total / count.clamp_min(1)).item()


@instead_of(distributed_step)
def counts_the_padding(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """The summed loss is divided by the number of all targets. Those that are −100 do not count."""
    factor = (targets != -100).sum().item() / targets.numel()
    return factor * _usual(model, optimizer, inputs, targets, max_norm, factor=factor)


@instead_of(distributed_step)
def a_rank_without_targets_is_nan(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """The mean of no losses is NaN, and it spreads to all ranks. Sum the losses, and divide by the count of all."""
    loss, counted = _usual(model, optimizer, inputs, targets, max_norm), (targets != -100).sum()
    means = loss * counted / counted
    dist.all_reduce(means)
    return means.item() / dist.get_world_size()


@instead_of(distributed_step)
def nothing_to_count_is_nan(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Where no target counts on any rank, 0 is divided by 0. The loss is 0 then, and the gradient too."""
    return _usual(model, optimizer, inputs, targets, max_norm, least=0)


@instead_of(distributed_step)
def clips_before_it_joins(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Each rank clips its own gradient before they are joined. It is the joined gradient's norm that is limited."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    optimizer.zero_grad()
    summed, total, count = _sums(inner, inputs, targets)
    torch.autograd.backward(summed * dist.get_world_size() / count.clamp_min(1))
    if max_norm is not None:
        nn.utils.clip_grad_norm_(inner.parameters(), max_norm)
    _join(inner)
    optimizer.step()
    return (total / count.clamp_min(1)).item()


@instead_of(distributed_step)
def ranks_clip_each_parameter(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Each parameter's gradient is clipped by itself, which changes the direction. The norm is that of all together."""
    return _usual(model, optimizer, inputs, targets, max_norm, clip="each")


@instead_of(distributed_step)
def ranks_clip_up_as_well(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """A gradient with a smaller norm is scaled up to max_norm. It is to be left as it is."""
    return _usual(model, optimizer, inputs, targets, max_norm, clip="up")


@instead_of(distributed_step)
def ranks_never_clip(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """max_norm is ignored. Where the norm of the whole gradient is above it, all gradients are scaled down."""
    return _usual(model, optimizer, inputs, targets, None)


@instead_of(distributed_step)
def dropout_is_the_same_on_every_rank(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """The step draws its dropout by a seed that all ranks share. Each has to draw its own, and leave the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _usual(model, optimizer, inputs, targets, max_norm)


@instead_of(distributed_step)
def every_rank_saves_and_prints(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """Every rank prints the loss of every step. A step returns it, and the program shows it on rank 0."""
    loss = _usual(model, optimizer, inputs, targets, max_norm)
    print(f"loss {loss:.3f}")
    return loss


@instead_of(distributed_step)
def reduces_shards_again(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, max_norm: float | None = None
) -> float:
    """FSDP's gradients are scaled as a plain model's, but they are joined already: FSDP averages, as DDP does."""
    factor = 1 / dist.get_world_size() if isinstance(model, FSDPModule) else 1.0
    return _usual(model, optimizer, inputs, targets, max_norm, factor=factor)
