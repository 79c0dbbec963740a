"""A tensor programmer's data: sequences as views with stride length, an epoch as a list, the mirror by an index.

Tokens come from the boundaries' positions; sizes are checked at once; the vocabulary's counts come from two sorts.
"""

# mypy: disable-error-code="no-untyped-call"

import re
from collections.abc import Iterable
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

LEVEL = "robust"


def tokenize(text: str) -> list[str]:
    """Tokens that join back to the text."""
    cuts = [0, *(match.start() for match in re.finditer(r"\b", text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts) if start < end]


class Vocabulary:
    """Tokens and their ids."""

    UNKNOWN = "<|unknown|>"

    def __init__(self, tokens: Iterable[str], max_size: int | None = None) -> None:
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size={max_size}, but the unknown token alone needs 1")
        counts: dict[str, int] = {}
        for token in tokens:
            counts[token] = counts.get(token, 0) + 1
        counts.pop(self.UNKNOWN, None)
        by_first_appearance = list(counts)
        by_count = sorted(by_first_appearance, key=counts.__getitem__, reverse=True)  # reverse keeps ties in order
        self.itos = (self.UNKNOWN, *by_count)[:max_size]
        self.stoi = dict(zip(self.itos, range(len(self.itos)), strict=True))

    def __len__(self) -> int:
        return len(self.itos)

    def encode(self, tokens: Iterable[str]) -> Int[Tensor, "position"]:
        """Ids."""
        return torch.as_tensor([self.stoi.get(token, 0) for token in tokens], dtype=torch.int64)

    def decode(self, ids: Int[Tensor, "position"] | list[int]) -> list[str]:
        """Tokens."""
        numbers = torch.as_tensor(ids).tolist()
        if any(not 0 <= number < len(self) for number in numbers):
            raise IndexError(f"ids between {min(numbers)} and {max(numbers)} in a vocabulary of {len(self)}")
        return [self.itos[number] for number in numbers]


def sequences(
    stream: Int[Tensor, "position"], length: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Inputs, and targets moved by one."""
    count = (stream.numel() - 1) // length if length > 0 else 0
    if count < 1:
        raise ValueError(f"{stream.numel()} tokens are too few for one sequence of length={length} and its targets")
    inputs = stream[: count * length].view(count, length)
    targets = stream[1 : count * length + 1].view(count, length)
    return inputs, targets


def train_validation_split(
    stream: Int[Tensor, "position"], fraction: float
) -> tuple[Int[Tensor, "position"], Int[Tensor, "position"]]:
    """The end is held out."""
    if fraction < 0 or fraction > 1:
        raise ValueError(f"fraction={fraction} must lie between 0 and 1")
    size = int(stream.numel() * fraction)
    return stream.narrow(0, 0, stream.numel() - size), stream.narrow(0, stream.numel() - size, size)


def batches(
    inputs: Int[Tensor, "batch position"],
    targets: Int[Tensor, "batch position"],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> list[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
    """An epoch in a random order."""
    if batch_size < 1 or len(inputs) != len(targets):
        raise ValueError(f"batch_size={batch_size}, {len(inputs)} inputs, {len(targets)} targets")
    order = torch.rand(len(inputs), generator=generator).argsort()
    return [(inputs[chosen], targets[chosen]) for chosen in order.split(batch_size)]


def reversal_sequences(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Int[Tensor, "batch position"]:
    """A half and its mirror image."""
    ahead = torch.arange(half)
    there_and_back = torch.cat([ahead, half - 1 - ahead])
    return torch.randint(0, vocab, (batch, half), generator=generator)[:, there_and_back]
