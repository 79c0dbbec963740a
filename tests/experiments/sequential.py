"""Question 1: what has attention over recurrence? Counted and measured on the reference.

`python -m tests.experiments.sequential [FIGURE.png]` prints two tables and draws them (`pip install -e ".[plots]"`):
how many steps wait for one another, how far it is from the first position to the last, what is left of a gradient that
comes from there, and in how many passes teacher forcing reads a sequence.

Source: the Deep Learning Curriculum, chapter 1, question 1; Vaswani et al. 2017, §4, table 1.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from reference.attention import attention
from reference.language_model import DecoderLM
from reference.masks import causal_mask
from reference.recurrence import LSTMCell
from spec.kit.probe import steps_between

Word = Float[Tensor, "batch d_model"]
D_MODEL, BATCH, SEEDS = 32, 4, 3
LENGTHS = (2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Count:
    """What a layer takes to bring the first position to the last."""

    calls: int  # of the layer's matrices, one after another
    longest: int  # chain of autograd's steps: what no number of processors makes shorter
    shortest: int  # chain: how far a gradient has to go


class Layer(Protocol):
    """Reads the words of a sequence and returns what is known after the last of them."""

    @property
    def part(self) -> nn.Module:
        """The module whose calls are counted."""
        ...

    def __call__(self, words: Sequence[Word]) -> Word:
        """The last output."""
        ...


class Recurrent:
    """An LSTM cell, one word after another; `remember` is added to the bias of the forget gate."""

    def __init__(self, remember: float = 0.0) -> None:
        self.part = LSTMCell(D_MODEL, D_MODEL).double()
        with torch.no_grad():
            self.part.bias_ih.view(4, -1)[1] += remember

    def __call__(self, words: Sequence[Word]) -> Word:
        """h after the last word."""
        h = c = torch.zeros_like(words[0])
        for word in words:
            h, c = self.part(word, (h, c))
        return h


class Attentive:
    """One head of causal attention, with a matrix that makes queries, keys and values."""

    def __init__(self) -> None:
        self.part = nn.Linear(D_MODEL, 3 * D_MODEL, bias=False).double()

    def __call__(self, words: Sequence[Word]) -> Word:
        """The output at the last position."""
        x = torch.stack(list(words), 1)
        query, key, value = self.part(x).chunk(3, -1)
        return attention(query, key, value, causal_mask(len(words)))[:, -1]


def sequence(length: int) -> list[Word]:
    """Normal numbers, a leaf of the graph for each position; float64, since what is left of a gradient can be tiny."""
    return [torch.randn(BATCH, D_MODEL, dtype=torch.float64, requires_grad=True) for _ in range(length)]


def count(layer: Layer, length: int) -> Count:
    """Counts calls by a hook, and steps in the graph that they leave behind."""
    calls = []
    with layer.part.register_forward_hook(lambda *_: calls.append(1)):
        words = sequence(length)
        shortest, longest = steps_between(words[0], layer(words))
    return Count(len(calls), longest, shortest)


def arriving(layer: Callable[[Sequence[Word]], Word], length: int) -> float:
    """The size of the gradient that the last output sends to position 0, over that which it sends to its own."""
    words = sequence(length)
    out = layer(words)
    first, own = torch.autograd.grad((out * torch.randn_like(out)).sum(), (words[0], words[-1]))
    return float(first.norm() / own.norm())


def forced(model: nn.Module, tokens: Int[Tensor, "batch position"]) -> float:
    """The largest difference between one pass over a whole sequence and the last logits of each of its prefixes."""
    with torch.no_grad():
        one_by_one = torch.stack([model(tokens[:, : end + 1])[:, -1] for end in range(tokens.shape[1])], 1)
        return float((model(tokens) - one_by_one).abs().max())


LAYERS: dict[str, Callable[[], Layer]] = {
    "LSTM": Recurrent,
    "LSTM, forget bias 1": lambda: Recurrent(1.0),
    "LSTM, forget bias 5": lambda: Recurrent(5.0),
    "attention": Attentive,
}


def gradients(lengths: Sequence[int] = LENGTHS, seeds: int = SEEDS) -> dict[str, list[float]]:
    """What arrives at position 0 by the length of the sequence, for each layer: the mean over seeds."""
    found: dict[str, list[float]] = {}
    for name, make in LAYERS.items():
        found[name] = []
        for length in lengths:
            sizes = []
            for seed in range(seeds):
                torch.manual_seed(seed)
                sizes.append(arriving(make(), length))
            found[name].append(sum(sizes) / seeds)
    return found


def counts(lengths: Sequence[int] = LENGTHS) -> dict[str, list[Count]]:
    """The counts of one cell and one attention, by the length of the sequence."""
    return {name: [count(LAYERS[name](), length) for length in lengths] for name in ("LSTM", "attention")}


def tables(counted: dict[str, list[Count]], arrived: dict[str, list[float]]) -> list[Table]:
    """Both tables of the screen."""
    steps = Table("length", title="from position 0 to the last: LSTM / attention, counted")
    for column in ("calls one after another", "longest chain of steps", "shortest chain of steps"):
        steps.add_column(column, justify="right")
    for length, cell, one in zip(LENGTHS, counted["LSTM"], counted["attention"], strict=True):
        pairs = ((cell.calls, one.calls), (cell.longest, one.longest), (cell.shortest, one.shortest))
        steps.add_row(str(length), *(f"{a:,} / {b}" for a, b in pairs))
    left = Table("length", title="gradient that arrives at position 0, as a share of that at the last one, measured")
    for name in arrived:
        left.add_column(name, justify="right")
    for number, length in enumerate(LENGTHS):
        left.add_row(str(length), *(f"{values[number]:.2g}" for values in arrived.values()))
    return [steps, left]


def draw(counted: dict[str, list[Count]], arrived: dict[str, list[float]], path: Path) -> None:
    """Three pictures side by side: steps that wait, the way between both ends, and what is left of the gradient."""
    import matplotlib as mpl  # an extra: nothing but the figure needs it

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (waiting, way, gradient) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for name, found in counted.items():
        waiting.plot(LENGTHS, [each.longest for each in found], marker="o", label=name)
        way.plot(LENGTHS, [each.shortest for each in found], marker="o", label=name)
    for name, values in arrived.items():
        gradient.plot(LENGTHS, values, marker="o", label=name)
    waiting.set(title="Steps that wait for one another", ylabel="longest chain")
    way.set(title="Way from the first position to the last", ylabel="shortest chain")
    gradient.set(title="Gradient that arrives at the first position", ylabel="share", ylim=(1e-9, 10))
    for axes in (waiting, way, gradient):
        axes.set(xscale="log", yscale="log", xlabel="length of the sequence")
        axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(path: Path) -> None:
    """Prints the tables and writes the figure."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    show = Console()
    path.parent.mkdir(parents=True, exist_ok=True)
    counted, arrived = counts(), gradients()
    for table in tables(counted, arrived):
        show.print(table)
    model = DecoderLM(vocab=13, max_length=64, d_model=D_MODEL, layers=2, heads=4).eval()
    off = forced(model, torch.randint(13, (BATCH, 64)))
    show.print(
        f"Teacher forcing over 64 positions: a causal model in 1 pass, {off:.1e} from what it gives in 64, prefix by "
        "prefix; an LSTM takes its 64 calls."
    )
    try:
        draw(counted, arrived, path)
    except ImportError:
        show.print('The figure needs matplotlib: pip install -e ".\\[plots]"')
    else:
        show.print(f"The figure is in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/sequential.png"))
