"""From text to batches of token ids."""

import re
from collections import Counter
from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor


def tokenize(text: str) -> list[str]:
    r"""The text, cut at its word boundaries: words, and what stands between them.

    Returns: the pieces of `re.split(r"\b", text)` without the empty ones; joined they are the text again.
    Source: the Deep Learning Curriculum, chapter 1.
    """
    return [token for token in re.split(r"\b", text) if token]


class Vocabulary:
    """The tokens that are known, by falling count; ties stand in the order of their first appearance.

    Id 0 is the unknown token, which counts into max_size: a vocabulary of 100 knows 99 tokens.
    Raises: ValueError where max_size has no room for the unknown token.
    """

    UNKNOWN = "<unknown>"

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size={max_size} has no room for the unknown token")
        counts = Counter(token for token in tokens if token != self.UNKNOWN)
        # most_common keeps equal counts in the order in which they came, so ids are the same in every process.
        known = [token for token, _ in counts.most_common(None if max_size is None else max_size - 1)]
        self._tokens = [self.UNKNOWN, *known]
        self._ids = {token: id for id, token in enumerate(self._tokens)}

    def __len__(self) -> int:
        return len(self._tokens)

    def encode(self, tokens: list[str]) -> Int[Tensor, "position"]:
        """The ids of the tokens; 0 for those that are unknown."""
        return torch.tensor([self._ids.get(token, 0) for token in tokens], dtype=torch.long)

    def decode(self, ids: Int[Tensor, "position"]) -> list[str]:
        """The tokens of the ids; UNKNOWN for 0.

        Raises: IndexError where an id is outside the vocabulary.
        """
        numbers = ids.tolist()
        if outside := [id for id in numbers if not 0 <= id < len(self)]:
            raise IndexError(f"ids {outside} are outside a vocabulary of {len(self)}")
        return [self._tokens[id] for id in numbers]


def sequences(
    stream: Int[Tensor, "stream"], length: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """The stream, cut into sequences that do not overlap, and their targets: the same, moved by one.

    Shapes: inputs and targets (batch, length). The tail that does not fill a sequence is dropped.
    Raises: ValueError where the stream is shorter than length + 1.
    """
    count = (len(stream) - 1) // length
    if count < 1:
        raise ValueError(f"a stream of {len(stream)} tokens is too short for length={length}: {length + 1} are needed")
    inputs = rearrange(stream[: count * length], "(batch position) -> batch position", position=length)
    targets = rearrange(stream[1 : count * length + 1], "(batch position) -> batch position", position=length)
    return inputs, targets


def train_validation_split(
    stream: Int[Tensor, "stream"], fraction: float
) -> tuple[Int[Tensor, "train"], Int[Tensor, "validation"]]:
    """The stream in two pieces; validation is its end, `fraction` of it, rounded down.

    Raises: ValueError where the fraction is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction} is not between 0 and 1")
    cut = len(stream) - int(len(stream) * fraction)
    return stream[:cut], stream[cut:]


def batches(
    inputs: Int[Tensor, "sequence position"],
    targets: Int[Tensor, "sequence position"],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]]:
    """An epoch: each sequence with its targets once, in random order; the last batch may be smaller."""
    order = torch.randperm(len(inputs), generator=generator)
    for chosen in torch.split(order, batch_size):
        yield inputs[chosen], targets[chosen]


def reversal_sequences(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Int[Tensor, "batch position"]:
    """A random half, then its mirror image: the task that attention solves and a bigram model cannot.

    Shapes: (batch, 2 · half), ids below vocab.
    Source: the Deep Learning Curriculum, chapter 1.
    """
    first = torch.randint(vocab, (batch, half), generator=generator)
    return torch.cat([first, first.flip(-1)], dim=-1)
