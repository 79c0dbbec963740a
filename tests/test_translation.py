"""The toy translation's own parts: batches by tokens, teacher forcing, the exam, the mean of the last weights."""

import math

import pytest
import torch
from torch import Tensor, nn

from spec.kit import draw, translation
from spec.kit.translation import DICTIONARY, END, PAD, START, VOCAB, WORDS


class Kit:
    """An implementation's share of the recipe, done by hand."""

    @staticmethod
    def noam(step: int, d_model: int, warmup: int) -> float:
        """A constant rate."""
        return 0.01 + 0 * (step + d_model + warmup)

    @staticmethod
    def language_model_loss(logits: Tensor, targets: Tensor, ignore: int, label_smoothing: float) -> Tensor:
        """torch's."""
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=ignore, label_smoothing=label_smoothing
        )


class Bigram(nn.Module):
    """What follows a token, whatever the source is."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(VOCAB, VOCAB))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits."""
        return self.table[target] + 0 * source.sum()


def test_teacher_forcing_moves_the_targets_by_one() -> None:
    """The decoder reads start and the sentence, and is to say the sentence and end."""
    batch = translation.forced([([5, 6, 7], [8, 9]), ([5], [10, 11, 12])])
    assert batch.source.tolist() == [[5, 6, 7], [5, PAD, PAD]]
    assert batch.inputs.tolist() == [[START, 8, 9, PAD], [START, 10, 11, 12]]
    assert batch.targets.tolist() == [[8, 9, END, PAD], [10, 11, 12, END]]


@pytest.mark.parametrize("budget", [7, 40, 240])
def test_batches_hold_as_many_tokens_as_fit(budget: int) -> None:
    """Each pair once; no batch beyond the budget with its padding; little room is left."""
    pairs = translation.toy_pairs(300, "batches")
    batches = list(translation.by_tokens(pairs, budget, draw.generator("a")))
    said = [tuple(row) for batch in batches for row in batch.targets.tolist()]
    known = sorted((*target, END) for _, target in pairs)
    assert sorted(tuple(token for token in row if token != PAD) for row in said) == known
    assert all(batch.targets.numel() <= budget and batch.source.numel() <= budget for batch in batches)
    assert sum(batch.targets.shape[0] for batch in batches) == 300
    widest = translation.LONGEST + 1
    assert sum((len(batch.targets) + 1) * widest > budget for batch in batches) >= len(batches) - 1


def test_batches_are_mixed_anew() -> None:
    """Other random numbers give other batches in another order; equal ones the same."""
    pairs = translation.toy_pairs(100, "mixed")
    one, again, other = (
        [batch.targets.tolist() for batch in translation.by_tokens(pairs, 60, draw.generator(key))] for key in "aab"
    )
    assert one == again
    assert one != other
    lengths = [len(batch[0]) for batch in one]
    assert lengths != sorted(lengths)


def test_padding_is_rarer_than_by_chance() -> None:
    """Pairs of about one length stand side by side."""
    pairs = translation.toy_pairs(600, "padding")
    batches = list(translation.by_tokens(pairs, 240, draw.generator("a")))
    wasted = sum(int((batch.targets == PAD).sum()) for batch in batches)
    by_chance = [translation.forced(pairs[at : at + 40]) for at in range(0, 600, 40)]
    assert wasted < 0.7 * sum(int((batch.targets == PAD).sum()) for batch in by_chance)


def test_the_toy_language_is_a_dictionary_and_a_mirror() -> None:
    """Each word of the one language is one of the other, and the last comes first."""
    assert sorted(DICTIONARY) == list(range(WORDS))
    for sentence, meaning in translation.toy_pairs(50, "mirror"):
        assert [DICTIONARY[word - 3] for word in reversed(sentence)] == [word - 3 - WORDS for word in meaning]
        assert 3 <= len(sentence) <= translation.LONGEST


def test_the_exam_is_not_practised() -> None:
    """No sentence of the exam is trained on."""
    practice, exam = translation.held_out(200)
    assert not {tuple(sentence) for sentence, _ in practice} & {tuple(sentence) for sentence, _ in exam}
    assert len(exam) == 200
    assert len(practice) > 5000


def test_rows_are_read_to_their_end() -> None:
    """With start or without, with end or padding or neither."""
    assert translation.rows(torch.tensor([[1, 5, 6, 2, 9], [5, 6, 2, 2, 2], [1, 5, 0, 0, 0], [1, 5, 6, 7, 8]])) == [
        [5, 6], [5, 6], [5], [5, 6, 7, 8],
    ]  # fmt: skip


def test_the_recipe_is_that_of_2017() -> None:
    """Adam(0.9, 0.98, 1e-9), the noam rate in every group, smoothing 0.1, no loss from padding."""
    model = Bigram()
    recipe = translation.Recipe(Kit, model, 32, 100)
    batch = translation.forced([([5], [6]), ([5, 6, 7], [8, 9, 10])])
    loss = recipe.step(batch)
    assert loss == pytest.approx(math.log(VOCAB))
    group = recipe.optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.98), 1e-9, 0.01)
    assert not model.table[PAD].any()  # what is read behind the end costs nothing


def test_the_mean_of_the_last_weights_is_lent() -> None:
    """Inside, the model has the mean of the last ten that were kept; afterwards its own again."""
    model = Bigram()
    recipe = translation.Recipe(Kit, model, 32, 100)
    batch = translation.forced([([5], [6])])
    kept = []
    for number in range(1, 141):
        recipe.step(batch)
        if number % 10 == 0:
            kept.append(model.table.detach().clone())
    own = model.table.detach().clone()
    with recipe.averaged():
        assert not model.training
        assert not torch.is_grad_enabled()
        torch.testing.assert_close(model.table.detach(), torch.stack(kept[-10:]).mean(0))
    assert torch.equal(model.table, own)
    assert model.training
