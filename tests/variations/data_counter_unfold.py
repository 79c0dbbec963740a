"""Standard-library style: `Counter.most_common`, `re.findall`, `unfold` with stride length, a `DataLoader` inside.

The DataLoader draws its permutation in its own way, so an epoch's order differs from `torch.randperm`'s.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

LEVEL = "robust"


def tokenize(text: str) -> list[str]:
    """Tokens that join back to the text."""
    return re.findall(r"\w+|\W+", text)


class Vocabulary:
    """Tokens and their ids."""

    UNKNOWN = "<unknown>"

    def __init__(self, tokens: Iterable[str], max_size: int | None = None) -> None:
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size={max_size} leaves no room for the unknown token")
        counts = Counter(tokens)
        counts.pop(self.UNKNOWN, None)
        # most_common is stable: among equal counts the first to appear comes first
        known = [token for token, _ in counts.most_common(None if max_size is None else max_size - 1)]
        self.words = [self.UNKNOWN, *known]
        self.ids = {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Iterable[str]) -> Int[Tensor, "position"]:
        """Ids."""
        return torch.tensor([self.ids.get(token, 0) for token in tokens], dtype=torch.long)

    def decode(self, ids: Int[Tensor, "position"] | Iterable[int]) -> list[str]:
        """Tokens."""
        numbers = [int(index) for index in ids]
        for index in numbers:
            if not 0 <= index < len(self):
                raise IndexError(f"id {index} is outside a vocabulary of {len(self)}")
        return [self.words[index] for index in numbers]


def sequences(
    stream: Int[Tensor, "position"], length: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Inputs, and targets moved by one."""
    if length < 1 or len(stream) < length + 1:
        raise ValueError(f"a stream of {len(stream)} tokens holds no sequence of length={length} and its next token")
    windows = stream.unfold(0, length + 1, length)
    return windows[:, :-1].clone(), windows[:, 1:].clone()


def train_validation_split(
    stream: Int[Tensor, "position"], fraction: float
) -> tuple[Int[Tensor, "position"], Int[Tensor, "position"]]:
    """The end is held out."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction} is not between 0 and 1")
    held_out = int(len(stream) * fraction)
    train, validation = torch.split(stream, [len(stream) - held_out, held_out])
    return train, validation


def batches(
    inputs: Int[Tensor, "batch position"],
    targets: Int[Tensor, "batch position"],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
    """An epoch in a random order."""
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=batch_size, shuffle=True, generator=generator)
    return ((x, y) for x, y in loader)


def reversal_sequences(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Int[Tensor, "batch position"]:
    """A half and its mirror image."""
    first = torch.randint(vocab, (batch, half), generator=generator)
    return torch.cat([first, torch.flip(first, dims=[1])], dim=1)
