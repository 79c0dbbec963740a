"""A beginner's plain Python: loops, a dict of counts sorted by hand, `itertools.groupby`, stride length + 1.

Sequences take length + 1 tokens of their own each, so that no token is both a target and the next sequence's input.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from jaxtyping import Int
from torch import Tensor

LEVEL = "core"


def tokenize(text: str) -> list[str]:
    """Tokens that join back to the text."""
    return ["".join(run) for _, run in groupby(text, key=lambda letter: letter.isalnum() or letter == "_")]


class Vocabulary:
    """Tokens and their ids."""

    UNKNOWN = "?unk?"

    def __init__(self, tokens: Iterable[str], max_size: int | None = None) -> None:
        counts: dict[str, int] = {}
        for token in tokens:
            if token != self.UNKNOWN:
                counts[token] = counts.get(token, 0) + 1
        order = {token: place for place, token in enumerate(counts)}
        ranked = sorted(counts, key=lambda token: (-counts[token], order[token]))
        if max_size is not None:
            ranked = ranked[: max_size - 1]
        self.token_to_id = {self.UNKNOWN: 0}
        for token in ranked:
            self.token_to_id[token] = len(self.token_to_id)
        self.id_to_token = {number: token for token, number in self.token_to_id.items()}

    def __len__(self) -> int:
        return len(self.token_to_id)

    def encode(self, tokens: list[str]) -> Int[Tensor, "position"]:
        """Ids."""
        ids = torch.zeros(len(tokens), dtype=torch.int64)
        for place, token in enumerate(tokens):
            if token in self.token_to_id:
                ids[place] = self.token_to_id[token]
        return ids

    def decode(self, ids: Int[Tensor, "position"]) -> list[str]:
        """Tokens."""
        return [self.id_to_token[int(number)] for number in ids]


def sequences(
    stream: Int[Tensor, "position"], length: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Inputs, and targets moved by one."""
    inputs, targets = [], []
    start = 0
    while start + length + 1 <= len(stream):
        inputs.append(stream[start : start + length])
        targets.append(stream[start + 1 : start + length + 1])
        start += length + 1
    if not inputs:
        raise ValueError(f"the stream has {len(stream)} tokens, fewer than length + 1 = {length + 1}")
    return torch.stack(inputs), torch.stack(targets)


def train_validation_split(
    stream: Int[Tensor, "position"], fraction: float
) -> tuple[Int[Tensor, "position"], Int[Tensor, "position"]]:
    """The end is held out."""
    cut = len(stream) - int(fraction * len(stream))
    return stream[:cut], stream[cut:]


def batches(
    inputs: Int[Tensor, "batch position"],
    targets: Int[Tensor, "batch position"],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
    """An epoch in a random order."""
    order = torch.randperm(len(inputs), generator=generator).tolist()
    while order:
        chosen, order = order[:batch_size], order[batch_size:]
        yield torch.stack([inputs[i] for i in chosen]), torch.stack([targets[i] for i in chosen])


def reversal_sequences(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Int[Tensor, "batch position"]:
    """A half and its mirror image."""
    rows = torch.empty(batch, 2 * half, dtype=torch.int64)
    rows[:, :half] = torch.randint(0, vocab, (batch, half), generator=generator)
    for place in range(half):
        rows[:, 2 * half - 1 - place] = rows[:, place]
    return rows
