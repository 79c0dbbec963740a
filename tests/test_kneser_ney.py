"""The counting models against the same formulas written as loops, and against what must hold for any of them."""

import itertools
import math
from collections import Counter, defaultdict

import pytest
import torch

from spec.kit import kneser_ney

VOCAB = 6


def stream(length: int, seed: int) -> torch.Tensor:
    """Tokens that depend on the one before, so that context helps; the last id never occurs."""
    source = torch.Generator().manual_seed(seed)
    moves = torch.randint(0, 2, (length,), generator=source) + torch.randint(0, 2, (length,), generator=source)
    return moves.cumsum(0) % (VOCAB - 1)


def by_loops(seen: list[tuple[int, ...]], context: tuple[int, ...], token: int) -> float:
    """Interpolated Kneser-Ney for one token, from all runs of the highest order (with repetitions)."""
    if len(context) == 0 and not seen[0]:
        return 1 / VOCAB
    counts = Counter(seen)
    once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
    discount = once / (once + 2 * twice) if once else 0.5
    following: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for gram, count in counts.items():
        following[gram[:-1]][gram[-1]] += count
    shorter = [gram[1:] for gram in counts]
    below = 1 / VOCAB if not context else by_loops(shorter, context[1:], token)
    here = following[context]
    if not here:
        return below
    total = sum(here.values())
    return max(here[token] - discount, 0) / total + discount * len(here) / total * below


@pytest.mark.parametrize(("order", "model"), [(2, kneser_ney.bigram), (3, kneser_ney.trigram)])
def test_vectorised_counting_equals_loops(order: int, model: object) -> None:
    """Every token's probability is that of the formula, token by token."""
    train, validation = stream(60, 1), stream(25, 2)
    seen = [tuple(gram) for gram in train.unfold(0, order, 1).tolist()]
    asked = [tuple(gram) for gram in validation.unfold(0, order, 1).tolist()]
    expected = -sum(math.log(by_loops(seen, gram[:-1], gram[-1])) for gram in asked) / len(asked)
    assert model(train, validation, VOCAB) == pytest.approx(expected)  # type: ignore[operator]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one(order: int) -> None:
    """After any context, one never seen as well, the shares of all tokens make a whole."""
    seen = stream(80, 3).unfold(0, order, 1)
    for context in itertools.product(range(VOCAB), repeat=order - 1):
        before = torch.tensor([context], dtype=torch.long).expand(VOCAB, -1)
        asked = torch.cat([before, torch.arange(VOCAB)[:, None]], 1)
        assert kneser_ney._probability(seen, asked, VOCAB).sum().item() == pytest.approx(1.0)


def test_context_helps_where_tokens_depend_on_it() -> None:
    """The bigram is better than the unigram, and both are better than knowing nothing."""
    train, validation = stream(4000, 4), stream(1000, 5)
    unigram, bigram = kneser_ney.unigram(train, validation, VOCAB), kneser_ney.bigram(train, validation, VOCAB)
    assert bigram < unigram - 0.3
    assert unigram < math.log(VOCAB)


def test_unseen_tokens_cost_something_finite() -> None:
    """A token that the training part never had still has a probability in every model."""
    train, validation = stream(200, 6), torch.full((10,), VOCAB - 1)
    models = (kneser_ney.unigram, kneser_ney.bigram, kneser_ney.trigram)
    assert all(math.isfinite(model(train, validation, VOCAB)) for model in models)
