"""The experiments count and measure what they say: on computations whose answer is known."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reference.language_model import DecoderLM
from spec.kit.probe import steps_between
from tests.experiments import sequential


def test_steps_are_counted_on_the_shortest_and_the_longest_way() -> None:
    """exp, then sin and a product with itself: two steps at least, three at most."""
    x = torch.ones(3, requires_grad=True)
    once = x.exp()
    assert steps_between(x, once) == (1, 1)
    assert steps_between(x, once + once.sin()) == (2, 3)
    assert steps_between(x, x.detach() * 2) == (0, 0)
    assert steps_between(x, torch.ones(3, requires_grad=True) * x.detach()) == (0, 0)


def test_a_long_chain_is_counted_to_its_end() -> None:
    """Longer than Python's stack is deep."""
    x = torch.ones((), requires_grad=True)
    y = x
    for _ in range(5000):
        y = y * 0.5 + y
    assert steps_between(x, y) == (5000, 10000)


def test_a_cell_is_called_once_a_word_and_attention_once() -> None:
    """The cell's counts grow by the same number with each word, the attention's do not grow."""
    cell, one = (
        [sequential.count(make(), n) for n in (3, 5, 7)] for make in (sequential.Recurrent, sequential.Attentive)
    )
    assert [each.calls for each in cell] == [3, 5, 7]
    for key in ("longest", "shortest"):
        a, b, c = (getattr(each, key) for each in cell)
        assert c - b == b - a >= 4  # two words, of which each multiplies and adds
    assert one[0] == one[1] == one[2]
    assert one[0].calls == 1


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_what_arrives_is_a_share_of_what_was_sent(factor: float) -> None:
    """A layer that multiplies by a half at each word lets a half arrive from one word before, a quarter from two."""

    def layer(words: Sequence[Tensor]) -> Tensor:
        state = torch.zeros_like(words[0])
        for word in words:
            state = factor * state + word
        return state

    for length in (1, 3, 6):
        assert sequential.arriving(layer, length) == pytest.approx(factor ** (length - 1))


def test_gradients_vanish_in_a_cell_and_not_in_attention() -> None:
    """What the figure shows, at two lengths."""
    arrived = sequential.gradients(lengths=(2, 32), seeds=1)
    assert arrived["LSTM"][1] < 1e-4 * arrived["LSTM"][0]
    assert arrived["LSTM, forget bias 1"][1] < 0.1 * arrived["LSTM, forget bias 1"][0]
    for name in ("LSTM, forget bias 5", "attention"):
        assert arrived[name][1] > 0.1 * arrived[name][0]


def test_teacher_forcing_is_compared_with_prefixes() -> None:
    """A causal model agrees with itself, one that averages over the whole sequence does not."""

    class Averages(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens.double().mean(1, keepdim=True)[..., None].expand(*tokens.shape, 3)

    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    model = DecoderLM(vocab=10, max_length=8, d_model=8, layers=2, heads=2).eval()
    assert sequential.forced(model, tokens) < 1e-5
    assert sequential.forced(Averages(), tokens) > 0.5


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    """Three pictures in one file."""
    pytest.importorskip("matplotlib", reason='pip install -e ".[plots]"')
    counted = {name: [sequential.Count(1, 2, 3)] * len(sequential.LENGTHS) for name in ("LSTM", "attention")}
    sequential.draw(counted, {"attention": [1.0] * len(sequential.LENGTHS)}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len(sequential.tables(counted, {"attention": [1.0] * len(sequential.LENGTHS)})) == 2
