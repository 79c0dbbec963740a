"""The redesign experiment: four kinds of block in one encoder, trained in turns on the same masked Shakespeare."""

import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit import corpus, draw, kneser_ney
from spec.kit import shakespeare as experiment
from spec.kit.catalogue import ROOT
from spec.kit.encoder import Encoder

FIGURE = ROOT / "runs" / "redesign.png"
SHARE = 0.3  # of the tokens are masked: twice as many as usual, since a small model sees few
SMOOTH = 50  # steps that a point of the curve is the mean of


@dataclass(frozen=True)
class Scale:
    """How large everything is; a test of the experiment itself takes less."""

    vocab: int = 4096
    context: int = 32
    d_model: int = 128
    layers: int = 4
    heads: int = 4
    batch: int = 16
    steps: int = 1000
    evaluate_every: int = 250
    held_out: int = 1024  # sequences, at the end; a quarter of them on the way
    peak: float = 2e-3
    warmup: int = 100
    floor: float = 1e-4


@dataclass
class Result:
    """What became of one kind of block; losses are nats per masked token."""

    name: str
    parameters: int
    weights: int  # of the blocks alone
    unigram: float
    train_loss: list[float] = field(default_factory=list)
    validation_loss: dict[int, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """On the validation part, at the end."""
        return self.validation_loss[max(self.validation_loss)]


@dataclass(frozen=True)
class Masked:
    """Sequences, and which of their tokens are to be guessed."""

    tokens: Int[Tensor, "batch position"]
    at: Bool[Tensor, "batch position"]
    mask: int

    @property
    def seen(self) -> Int[Tensor, "batch position"]:
        """What an encoder is shown."""
        return self.tokens.masked_fill(self.at, self.mask)

    @property
    def targets(self) -> Int[Tensor, "masked"]:
        """What it has to say."""
        return self.tokens[self.at]


@dataclass(frozen=True)
class Blocks:
    """The constructors of the blocks that are compared."""

    standard: Callable[..., nn.Module]
    parallel: Callable[..., nn.Module]
    simplified: Callable[..., nn.Module]
    adaptive: Callable[..., nn.Module]


def makers(blocks: Blocks, scale: Scale) -> dict[str, Callable[[int], nn.Module]]:
    """The one argument in which the encoders differ."""
    sizes = {"d_model": scale.d_model, "heads": scale.heads, "d_ff": 4 * scale.d_model}
    return {
        "pre-norm": lambda _: blocks.standard(**sizes),
        "parallel": lambda _: blocks.parallel(**sizes),
        "simplified": lambda layer: blocks.simplified(**sizes, first_layer=layer == 0),
        "PA-Former": lambda layer: blocks.adaptive(**sizes, first_layer=layer == 0),
    }


def side_by_side(
    impl: Any, text: str, blocks: Blocks, scale: Scale | None = None, figure: Path = FIGURE
) -> list[Result]:
    """Trains one encoder a kind of block, each step each on the same batch, and shows and draws what came of it."""
    scale = scale or Scale()
    vocabulary, seen, unseen = experiment.numbered(impl, text, scale.vocab)
    unseen = _cut(unseen, scale.context)
    held_out = _masked(unseen[:: max(1, len(unseen) // scale.held_out)], len(vocabulary), "held out")
    unigram = kneser_ney.unigram(seen, held_out.targets, len(vocabulary))
    with impl.log.unwatched():  # the watch must cost none of the blocks any time
        models = {name: _encoder(make, len(vocabulary), scale) for name, make in makers(blocks, scale).items()}
        results = [Result(name, _count(model), _count(model.blocks), unigram) for name, model in models.items()]
        show = Console(file=sys.stdout, highlight=False)
        show.print(
            f"\nFour encoders on {corpus.title(text)}; to be beaten: unigram {unigram:.2f} nats per masked token"
        )
        rate = lambda step: impl.warmup_cosine(step, scale.peak, scale.warmup, scale.steps, scale.floor)  # noqa: E731
        _train(list(models.values()), results, _cut(seen, scale.context), held_out, scale, rate, show)
    show.print(table(results))
    show.print(_draw(results, figure), soft_wrap=True)
    return results


def _cut(stream: Int[Tensor, "position"], context: int) -> Int[Tensor, "batch position"]:
    """Sequences end to end, nothing to be said next: a masked token is guessed from both sides."""
    return torch.cat([part.unfold(0, context, context) for part in experiment.halves(stream, context)])


def _encoder(make: Callable[[int], nn.Module], vocab: int, scale: Scale) -> Encoder:
    with torch.random.fork_rng():  # the same embeddings for all
        torch.manual_seed(0)
        return Encoder(vocab + 1, scale.context, scale.d_model, scale.layers, make)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _masked(rows: Int[Tensor, "batch position"], mask: int, *key: object) -> Masked:
    chance = torch.rand(rows.shape, generator=draw.generator("masked", *key))
    return Masked(rows, chance < SHARE, mask)


def _train(
    models: list[Encoder],
    results: list[Result],
    rows: Int[Tensor, "batch position"],
    held_out: Masked,
    scale: Scale,
    rate: Callable[[int], float],
    show: Console,
) -> None:
    optimizers = [_optimizer(model) for model in models]
    order = torch.randperm(len(rows), generator=draw.generator("order")).repeat(
        1 + scale.steps * scale.batch // len(rows)
    )
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"), console=show, disable=not show.is_terminal,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    with bar:
        task = bar.add_task("redesign", total=scale.steps, state="")
        for step in range(1, scale.steps + 1):
            batch = _masked(rows[order[(step - 1) * scale.batch : step * scale.batch]], held_out.mask, step)
            turns = list(zip(models, optimizers, results, strict=True))
            for model, optimizer, result in turns[step % 4 :] + turns[: step % 4]:  # nobody is always the first
                begin = time.perf_counter()
                result.train_loss.append(_step(model, optimizer, batch, rate(step)))
                result.seconds.append(time.perf_counter() - begin)
            if step % scale.evaluate_every == 0 or step == scale.steps:
                every = 1 if step == scale.steps else 4  # all of it at the end alone
                part = Masked(held_out.tokens[::every], held_out.at[::every], held_out.mask)
                for model, _, result in turns:
                    result.validation_loss[step] = _evaluate(model, part)
                if not show.is_terminal:
                    show.print(f"  step {step:5}  validation {_state(results, validation=True)}", soft_wrap=True)
            bar.update(
                task, completed=step, state=_state(results) if step % 10 == 0 else bar.tasks[task].fields["state"]
            )


def _state(results: list[Result], validation: bool = False) -> str:
    losses = (r.loss if validation else statistics.fmean(r.train_loss[-SMOOTH:]) for r in results)
    return ", ".join(f"{r.name} {loss:.2f}" for r, loss in zip(results, losses, strict=True))


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; matrices of the blocks decay, and nothing else."""
    decay = [p for name, p in model.named_parameters() if p.ndim > 1 and name.startswith("blocks.")]
    plain = [p for p in model.parameters() if all(p is not one for one in decay)]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, fused=True)


def _step(model: Encoder, optimizer: torch.optim.Optimizer, batch: Masked, rate: float) -> float:
    """One update; the head speaks at the masked positions alone, so the blocks are most of the work."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = F.cross_entropy(model.logits(model.hidden(batch.seen)[batch.at]), batch.targets)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def _evaluate(model: Encoder, held_out: Masked) -> float:
    model.eval()
    summed = 0.0
    for seen, at, tokens in zip(
        *(torch.split(each, 32) for each in (held_out.seen, held_out.at, held_out.tokens)), strict=True
    ):
        logits = model.logits(model.hidden(seen)[at])
        summed += F.cross_entropy(logits, tokens[at], reduction="sum").item()
    return summed / int(held_out.at.sum())


def speed(result: Result, standard: Result) -> float:
    """Tokens per second as a multiple of the standard block's: the median over pairs of neighbouring steps."""
    return statistics.median(a / b for a, b in zip(standard.seconds, result.seconds, strict=True))


def table(results: list[Result]) -> Table:
    """Loss, size and speed; the first result is what the others are held against."""
    standard, shown = results[0], Table(title="Side by side", title_justify="left")
    for column in ("block", "train", "validation", "parameters", "in blocks", "ratio", "tokens/s, ratio"):
        shown.add_column(column, justify="left" if column == "block" else "right")
    for each in results:
        shown.add_row(
            each.name,
            f"{statistics.fmean(each.train_loss[-SMOOTH:]):.3f}",
            f"{each.loss:.3f}",
            f"{each.parameters:,}",
            f"{each.weights:,}",
            f"{each.weights / standard.weights:.3f}",
            f"{speed(each, standard):.2f}",
        )
    shown.caption = f"nats per masked token; unigram {standard.unigram:.3f}"
    return shown


def _draw(results: list[Result], path: Path) -> str:
    """The curves as a PNG; says where it is, or how to get it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of matplotlib's own parts
            from matplotlib.figure import Figure
    except ImportError:
        return "No figure was drawn: pip install -e '.[plots]'"
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    for number, each in enumerate(results):
        smooth = torch.tensor(each.train_loss).unfold(0, min(SMOOTH, len(each.train_loss)), 1).mean(-1)
        offset = len(each.train_loss) - len(smooth) + 1
        left.plot(range(offset, offset + len(smooth)), smooth, color=f"C{number}", label=each.name)
        left.plot(
            list(each.validation_loss), list(each.validation_loss.values()), "o", color=f"C{number}", markersize=4
        )
        ratio = speed(each, results[0])
        right.bar(number, ratio, color=f"C{number}")
        right.text(number, ratio, f"{ratio:.2f}", ha="center", va="bottom")
    left.axhline(results[0].unigram, color="grey", linestyle=":", label="unigram")
    low = min(min(each.validation_loss.values()) for each in results)
    left.set(
        xlabel="step", ylabel="nats per masked token", title="Loss (line: training, dots: validation)",
        ylim=(math.floor(10 * low - 1) / 10, results[0].unigram + 0.3),
    )  # fmt: skip
    left.legend()
    right.set(title="Tokens per second, ratio", xticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return f"The curves are in {path}"
