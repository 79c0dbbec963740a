"""From text to batches of token ids. What must hold: spec/data.py."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor


def tokenize(text: str) -> list[str]:
    r"""The text, cut at its word boundaries: words, and what stands between them.

    Returns: the pieces of `re.split(r"\b", text)` without the empty ones; joined they are the text again.
    """
    # TODO: split at word boundaries, drop empty strings
    raise NotImplementedError


class Vocabulary:
    """The tokens that are known, by falling count; ties stand in the order of their first appearance.

    Id 0 is the unknown token, which counts into max_size: a vocabulary of 100 knows 99 tokens.
    Raises: ValueError where max_size has no room for the unknown token.
    """

    UNKNOWN = "<unknown>"

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        # TODO: count the tokens, rank them, give them ids; then encode, decode and the length
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def encode(self, tokens: list[str]) -> Int[Tensor, "position"]:
        """The ids of the tokens; 0 for those that are unknown."""
        raise NotImplementedError

    def decode(self, ids: Int[Tensor, "position"]) -> list[str]:
        """The tokens of the ids; UNKNOWN for 0.

        Raises: IndexError where an id is outside the vocabulary.
        """
        raise NotImplementedError


def sequences(
    stream: Int[Tensor, "stream"], length: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """The stream, cut into sequences that do not overlap, and their targets: the same, moved by one.

    Shapes: inputs and targets (batch, length). The tail that does not fill a sequence is dropped.
    Raises: ValueError where the stream is shorter than length + 1.
    """
    # TODO: cut the stream into rows, once for the inputs and once for the targets
    raise NotImplementedError


def train_validation_split(
    stream: Int[Tensor, "stream"], fraction: float
) -> tuple[Int[Tensor, "train"], Int[Tensor, "validation"]]:
    """The stream in two pieces; validation is its end, `fraction` of it, rounded down.

    Raises: ValueError where the fraction is not between 0 and 1.
    """
    # TODO: one cut
    raise NotImplementedError


def batches(
    inputs: Int[Tensor, "sequence position"],
    targets: Int[Tensor, "sequence position"],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
    """An epoch: each sequence with its targets once, in random order; the last batch may be smaller."""
    # TODO: a random order, cut into batches
    raise NotImplementedError


def reversal_sequences(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Int[Tensor, "batch position"]:
    """A random half, then its mirror image: the task that attention solves and a bigram model cannot.

    Shapes: (batch, 2 · half), ids below vocab.
    """
    # TODO: draw the first half, append its mirror image
    raise NotImplementedError
