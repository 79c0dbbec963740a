"""What counting alone can do: n-gram models of a stream of ids, in mean nats per token, for a Transformer to beat.

Interpolated Kneser-Ney: every count gives up a discount, and what was given up goes to a shorter context, which asks
how many different words a word follows, not how often it occurs.

Source: Kneser & Ney 1995; Chen & Goodman 1999, §2.7 and §4.1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def unigram(train: Int[Tensor, "position"], validation: Int[Tensor, "position"], vocab: int) -> float:
    """Each token by how often it occurs in the training part, with one count more for each."""
    counts = torch.bincount(train, minlength=vocab).double() + 1
    return float(-(counts / counts.sum()).log()[validation].mean())


def bigram(train: Int[Tensor, "position"], validation: Int[Tensor, "position"], vocab: int) -> float:
    """Interpolated Kneser-Ney, one token of context."""
    return _loss(_grams(train, 2), _grams(validation, 2), vocab)


def trigram(train: Int[Tensor, "position"], validation: Int[Tensor, "position"], vocab: int) -> float:
    """Interpolated Kneser-Ney, two tokens of context."""
    return _loss(_grams(train, 3), _grams(validation, 3), vocab)


def _grams(stream: Int[Tensor, "position"], order: int) -> Int[Tensor, "position order"]:
    """All runs of `order` tokens; a stream's first tokens have no whole context and are left out."""
    return stream.unfold(0, order, 1)


def _loss(train: Int[Tensor, "position order"], asked: Int[Tensor, "position order"], vocab: int) -> float:
    return float(-_probability(train, asked, vocab).log().mean())


def _probability(
    seen: Int[Tensor, "gram order"], asked: Int[Tensor, "position order"], vocab: int
) -> Float[Tensor, "position"]:
    """P(last token | those before it): the discounted share, and the rest shared out by the next shorter context."""
    if seen.shape[1] == 0:
        return torch.full((len(asked),), 1 / vocab, dtype=torch.float64)
    kinds, counts = _count(seen, vocab)
    discount = _discount(counts)
    contexts = _Table.of(_key(kinds[:, :-1], vocab), counts.double())
    variety = _Table.of(_key(kinds[:, :-1], vocab), torch.ones(len(kinds), dtype=torch.float64))
    here = _Table.of(_key(kinds, vocab), (counts.double() - discount).clamp_min(0))
    context = _key(asked[:, :-1], vocab)
    total = contexts.at(context)
    left = torch.where(total > 0, discount * variety.at(context) / total.clamp_min(1), 1.0)
    share = here.at(_key(asked, vocab)) / total.clamp_min(1)
    # the shorter context counts each kind of run once: how many different tokens stand before it
    return share + left * _probability(kinds[:, 1:], asked[:, 1:], vocab)


def _discount(counts: Int[Tensor, "gram"]) -> float:
    """What every count gives up: n1 / (n1 + 2 n2), from how many runs occur once and twice."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once else 0.5


def _key(grams: Int[Tensor, "gram order"], vocab: int) -> Int[Tensor, "gram"]:
    """A run of ids as one number, in the numbers' order."""
    key = torch.zeros(len(grams), dtype=torch.long)
    for column in grams.T:
        key = key * vocab + column
    return key


def _count(grams: Int[Tensor, "gram order"], vocab: int) -> tuple[Int[Tensor, "kind order"], Int[Tensor, "kind"]]:
    """The different runs, and how often each occurs."""
    keys, counts = torch.unique(_key(grams, vocab), return_counts=True)
    columns = [keys // vocab**power % vocab for power in reversed(range(grams.shape[1]))]
    return torch.stack(columns, 1), counts


@dataclass(frozen=True)
class _Table:
    """Sums by key, looked up by binary search; what is not there is 0."""

    keys: Int[Tensor, "key"]
    values: Float[Tensor, "key"]

    @classmethod
    def of(cls, keys: Int[Tensor, "gram"], values: Float[Tensor, "gram"]) -> "_Table":
        different, place = torch.unique(keys, return_inverse=True)
        return cls(different, torch.zeros(len(different), dtype=torch.float64).index_add_(0, place, values))

    def at(self, keys: Int[Tensor, "position"]) -> Float[Tensor, "position"]:
        place = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[place] == keys, self.values[place], 0.0)
