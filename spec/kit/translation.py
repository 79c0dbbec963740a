"""The training of 2017, on a toy language: pairs of sentences, batches by tokens, teacher forcing, Adam and noam.

What a learner needs to train a Transformer on real pairs is all here, and is short: `by_tokens`, `forced`, `Recipe`.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from spec.kit import draw
from spec.kit.record import guarded

PAD, START, END = 0, 1, 2
WORDS = 10  # in each of the two toy languages
VOCAB = 3 + 2 * WORDS  # one vocabulary for both, as in the paper
SMOOTHING = 0.1
LONGEST = 6

Pair = tuple[list[int], list[int]]  # a sentence and its translation, without start, end and padding


@dataclass(frozen=True)
class Forced:
    """A batch for teacher forcing: what the encoder reads, what the decoder reads, what the decoder is to say."""

    source: Int[Tensor, "batch key"]
    inputs: Int[Tensor, "batch position"]
    targets: Int[Tensor, "batch position"]


def padded(rows: Sequence[list[int]]) -> Int[Tensor, "batch position"]:
    """Rows of one length, filled with padding."""
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def forced(pairs: Sequence[Pair]) -> Forced:
    """At every position the decoder is given the right sentence so far, and is asked for the next token.

    So what it reads begins with `start` and lacks the last token, and what it is to say ends with `end`.
    """
    sources, targets = zip(*pairs, strict=True)
    return Forced(padded(sources), padded([[START, *row] for row in targets]), padded([[*row, END] for row in targets]))


def by_tokens(pairs: Sequence[Pair], budget: int, source: torch.Generator) -> Iterator[Forced]:
    """An epoch: pairs of about one length side by side, as many as `budget` tokens hold on either side.

    Padding counts: it costs as much as tokens do. A long sentence so comes with few others, and a batch's gradient is
    always the mean over about as many tokens. About one length: with exactly one, the batches would differ too much
    from each other. Source: Vaswani et al. 2017, §5.1.
    """
    about = (4 * torch.rand(len(pairs), generator=source)).tolist()
    order = sorted(range(len(pairs)), key=lambda number: _size(pairs[number]) + about[number])
    groups: list[list[Pair]] = [[]]
    for number in order:
        grown = [*groups[-1], pairs[number]]
        if groups[-1] and len(grown) * max(map(_size, grown)) > budget:
            groups.append([])
        groups[-1].append(pairs[number])
    for number in torch.randperm(len(groups), generator=source).tolist():
        yield forced(groups[number])


def _size(pair: Pair) -> int:
    """Tokens of the longer side, the end included."""
    return max(len(pair[0]), len(pair[1]) + 1)


class Recipe:
    """Adam(0.9, 0.98, 1e-9) with the noam rate, label smoothing 0.1, and a mean of the last weights for the exam.

    Source: Vaswani et al. 2017, §5.3, §5.4 and §6.1.
    """

    def __init__(self, impl: Any, model: nn.Module, d_model: int, warmup: int) -> None:
        self.impl, self.model, self.d_model, self.warmup, self.number = impl, model, d_model, warmup, 0
        self.optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)
        self.last: list[Tensor] = []

    def step(self, batch: Forced) -> float:
        """One update; the loss before it."""
        self.number += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.impl.noam(self.number, self.d_model, self.warmup)
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        torch.autograd.backward(loss)
        self.optimizer.step()
        if self.number % 10 == 0:
            self.last = [*self.last, parameters_to_vector(self.model.parameters()).detach()][-10:]
        return loss.item()

    def loss(self, batch: Forced) -> Tensor:
        """The smoothed loss, a mean over the tokens that are no padding."""
        logits = self.model(batch.source, batch.inputs)
        loss: Tensor = self.impl.language_model_loss(logits, batch.targets, ignore=PAD, label_smoothing=SMOOTHING)
        return loss

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the mean of its last weights, which are steadier than any of them, and evaluates."""
        now = parameters_to_vector(self.model.parameters()).detach().clone()
        vector_to_parameters(torch.stack(self.last).mean(0), self.model.parameters())
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            vector_to_parameters(now, self.model.parameters())
            self.model.train()


def toy_pairs(count: int, *key: object) -> list[Pair]:
    """Sentences of 3 to 6 words; their translation takes each word from a dictionary, and the last word comes first."""
    source = draw.generator("toy language", *key)
    lengths = torch.randint(3, LONGEST + 1, (count,), generator=source).tolist()
    sentences = [torch.randint(WORDS, (length,), generator=source).tolist() for length in lengths]
    return [([3 + w for w in words], [3 + WORDS + DICTIONARY[w] for w in reversed(words)]) for words in sentences]


DICTIONARY = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]  # word w of the one language means word DICTIONARY[w] of the other


def held_out(count: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and `count` others, whose sentences are not among the first."""
    exam = toy_pairs(count, "exam")
    asked = {tuple(sentence) for sentence, _ in exam}
    return [pair for pair in toy_pairs(8000, "practice") if tuple(pair[0]) not in asked], exam


def unwatched(impl: Any) -> contextlib.AbstractContextManager[None]:
    """Calls in here are not recorded: thousands of steps would be, and a diagnosis would train every mistake too."""
    quiet: contextlib.AbstractContextManager[None] = impl.log.unwatched()
    return quiet


def rows(sentences: Tensor) -> list[list[int]]:
    """What a search says, row by row: behind the start, up to the end or the padding."""
    return [up_to_the_end(row[1:] if row[:1] == [START] else row) for row in sentences.tolist()]


def up_to_the_end(words: list[int]) -> list[int]:
    """The words before the end, or before the padding."""
    return list(itertools.takewhile(lambda token: token not in (END, PAD), words))


def learned(
    impl: Any, build: Callable[..., nn.Module], d_model: int = 32, most: int = 2400, **searches: Callable[..., Tensor]
) -> dict[str, float]:
    """Trains a small Transformer until every token of the exam's right translations is the most likely one.

    Returns how many of the exam's tokens are then right with teacher forcing, and how many sentences each search
    translates without a mistake, as shares.
    """
    practice, exam = held_out(200)
    with unwatched(impl):
        model = build(
            source_vocab=VOCAB, target_vocab=VOCAB, d_model=d_model, layers=2, heads=4, d_ff=2 * d_model, dropout=0.0
        )
        recipe, whole, right = Recipe(impl, model, d_model, warmup=200), forced(exam), 0.0
        counted = whole.targets != PAD
        while recipe.number < most and right < 1:
            for batch in by_tokens(practice, 240, draw.generator("epoch", recipe.number)):
                recipe.step(batch)
                if recipe.number % 100 == 0:
                    with recipe.averaged():
                        best = model(whole.source, whole.inputs).argmax(-1)
                    right = (best == whole.targets)[counted].double().mean().item()
                if recipe.number == most or right == 1:
                    break
        shares = {"teacher forcing": right}
        with recipe.averaged():
            for name, search in searches.items():
                shares[name] = _translated(impl, name, search, model, exam)
    return shares


def _translated(impl: Any, name: str, search: Callable[..., Tensor], model: nn.Module, exam: list[Pair]) -> float:
    """The share of the exam's sentences that a search translates without a mistake."""
    source = padded([sentence for sentence, _ in exam])
    said = guarded(name, impl.home.inside, impl.log, lambda: search(model, source, START, END, LONGEST + 4))
    return sum(mine == right for mine, (_, right) in zip(rows(said), exam, strict=True)) / len(exam)
