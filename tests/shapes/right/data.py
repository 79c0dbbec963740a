"""Chapter 7, and a training loop."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def sequences(
    stream: Int[Tensor, "stream"], length: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Inputs, and targets moved by one."""
    count = (len(stream) - 1) // length
    if count == 0:
        raise ValueError(f"{len(stream)} tokens, but length={length}")
    inputs = stream[: count * length].view(count, length)
    targets = stream[1 : count * length + 1].view(count, length)
    return inputs, targets


def batches(
    inputs: Int[Tensor, "count position"],
    targets: Int[Tensor, "count position"],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
    """An epoch."""
    order = torch.randperm(len(inputs), generator=generator)
    for start in range(0, len(inputs), batch_size):
        chosen = order[start : start + batch_size]
        yield inputs[chosen], targets[chosen]


def reversal_sequences(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Int[Tensor, "{batch} 2*{half}"]:
    """A random half, then its mirror image."""
    first = torch.randint(0, vocab, (batch, half), generator=generator)
    return torch.cat([first, first.flip(1)], dim=1)


def accuracy(logits: Float[Tensor, "batch position vocab"], targets: Int[Tensor, "batch position"]) -> float:
    """The share of right answers in the second half."""
    half = targets.shape[1] // 2
    right = logits.argmax(-1)[:, half:] == targets[:, half:]
    return right.float().mean().item()


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]],
) -> float:
    """Accumulate, then step."""
    optimizer.zero_grad()
    total = sum(targets.numel() for _, targets in micro_batches)
    lost = 0.0
    for inputs, targets in micro_batches:
        logits = model(inputs)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / total
        loss.backward()
        lost += loss.item()
    optimizer.step()
    return lost


def demo() -> None:
    """Run all."""
    inputs, targets = sequences(torch.arange(23), 4)
    model = nn.Sequential(nn.Embedding(23, 6), nn.Linear(6, 23))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for pair in batches(inputs, targets, 2):
        train_step(model, optimizer, [pair])
    tokens = reversal_sequences(3, 4, 9)
    accuracy(torch.randn(3, 8, 9), tokens)
