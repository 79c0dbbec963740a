"""The Shakespeare experiment: the implementation's own data, model and training, against what counting alone can do."""

import contextlib
import functools
import io
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit import corpus, draw, kneser_ney

VOCAB, CONTEXT, BATCH, STEPS = 4096, 64, 8, 4000
EVALUATE_EVERY = 500
SIZES = {"d_model": 128, "layers": 2, "heads": 4}
RATES = {"peak": 3e-3, "warmup": 200, "floor": 1e-4, "weight_decay": 0.1, "max_norm": 1.0}
SAMPLED = 100  # tokens


@dataclass(frozen=True)
class Result:
    """Mean nats per token on the last tenth: the model's, and what it is to be held against."""

    loss: float
    unigram: float
    bigram: float
    trigram: float


def learned(impl: Any, text: str, decoder: Callable[..., nn.Module], train: Callable[..., Any]) -> Result:
    """Trains the implementation's model on the text, shows how it goes and a sample, and returns the losses."""
    return _once(impl, text, decoder, train)


@functools.cache  # two requirements ask for the same training
def _once(impl: Any, text: str, decoder: Callable[..., nn.Module], train: Callable[..., Any]) -> Result:
    vocabulary, seen, unseen = numbered(impl, text, VOCAB)
    counted = [model(seen, unseen, len(vocabulary)) for model in (_unigram, _bigram, _trigram)]
    lines = {
        "ln(vocab)": math.log(len(vocabulary)),
        **dict(zip(("unigram", "Kneser-Ney bigram", "trigram"), counted, strict=True)),
    }
    model = decoder(vocab=len(vocabulary), max_length=CONTEXT, **SIZES)
    show = _Show(model, lines, corpus.title(text))
    with show:
        train(model, *_batches(impl, seen, unseen, show))
    with impl.log.unwatched():  # all logits of a validation set are gigabytes
        loss = _loss(model, *impl.sequences(unseen, CONTEXT))
        sample = "".join(vocabulary.decode(written(model, unseen[:16], CONTEXT, SAMPLED)))
    show.end(loss, sample)
    return Result(loss, *counted)


def numbered(impl: Any, text: str, size: int) -> tuple[Any, Tensor, Tensor]:
    """The vocabulary, and the text in numbers: what is learned from, and the last tenth."""
    words = impl.tokenize(text)
    # the vocabulary must not know the last tenth, so the words are cut before they are numbers
    vocabulary = impl.Vocabulary(words[: len(words) - len(words) // 10], max_size=size)
    seen, unseen = impl.train_validation_split(vocabulary.encode(words), 0.1)
    return vocabulary, seen, unseen


def halves(stream: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """The stream in two, for sequences of `context` tokens; the second part begins one token later.

    Words and what stands between them take turns. If all sequences began with a word, a model with learned positions
    would rely on it and be lost in a text that begins with a space.
    """
    middle = len(stream) // 2 // context * context
    return stream[:middle], stream[middle + 1 :]


def training_part(impl: Any, seen: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets to learn from."""
    cut = [impl.sequences(half, context) for half in halves(seen, context)]
    return torch.cat([inputs for inputs, _ in cut]), torch.cat([targets for _, targets in cut])


def validation_part(impl: Any, unseen: Tensor, context: int) -> list[tuple[Tensor, Tensor]]:
    """Batches from all over the last tenth, which holds several works."""
    part = [list(torch.split(each[::24], 32)) for each in impl.sequences(unseen, context)]
    return list(zip(*part, strict=True))


_unigram, _bigram, _trigram = kneser_ney.unigram, kneser_ney.bigram, kneser_ney.trigram


def _batches(impl: Any, seen: Tensor, unseen: Tensor, show: "_Show") -> tuple[Any, Any, Any]:
    """What `train` is given besides the model."""
    inputs, targets = training_part(impl, seen, CONTEXT)

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        for each in impl.batches(inputs, targets, BATCH, draw.generator("shakespeare", number)):
            yield show.about_to_train(each)

    settings = impl.Settings(steps=STEPS, evaluate_every=EVALUATE_EVERY, checkpoint=None, resume=False, seed=0, **RATES)
    return epoch, show.about_to_evaluate(validation_part(impl, unseen, CONTEXT)), settings


@torch.no_grad()
def _loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Over all of the validation part."""
    model.eval()
    pairs = zip(torch.split(inputs, 32), torch.split(targets, 32), strict=True)
    summed = sum(F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").double() for x, y in pairs)
    return float(summed) / targets.numel()


@torch.no_grad()
def written(model: nn.Module, prompt: Tensor, context: int, count: int) -> Tensor:
    """What the model would write after the prompt, a little less bold than it is, without unknown words."""
    model.eval()
    ids, source = prompt, draw.generator("sample")
    for _ in range(count):
        logits = model(ids[None, -context:])[0, -1].float().cpu() / 0.8
        logits[0] = -math.inf
        ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1, generator=source).to(ids.device)])
    return ids


class _Show:
    """The live loss against the lines, on a terminal as a bar, elsewhere as a line an evaluation."""

    def __init__(self, model: nn.Module, lines: dict[str, float], title: str) -> None:
        self.console = Console(file=sys.stdout, highlight=False)
        self.model, self.lines, self.title = model, lines, title
        self.given: deque[tuple[Tensor, Tensor]] = deque(maxlen=4)
        self.held_out: list[tuple[Tensor, Tensor]] = []
        self.steps, self.now, self.validation = 0, math.nan, math.nan
        self.round: list[float] = []
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"), console=self.console, disable=not self.console.is_terminal,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def about_to_train(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Remembers the targets, to know the loss when the inputs come by."""
        self.given.append(batch)
        return batch

    def about_to_evaluate(self, batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """The same for the validation part."""
        self.held_out = batches
        return batches

    def __enter__(self) -> None:
        self.console.print(f"\nTraining on {self.title}; nats per token, to be beaten: {self._lines(math.inf)}")
        self.hook = self.model.register_forward_hook(self._look)
        self.task = self.bar.add_task("Shakespeare", total=STEPS, state="")
        self.bar.start()
        self.quiet = contextlib.ExitStack()  # what the implementation prints would tear the bar apart
        self.quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
        self.quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))

    def __exit__(self, *_: object) -> None:
        self.quiet.close()
        self.hook.remove()
        self.bar.stop()

    @torch.no_grad()
    def _look(self, model: nn.Module, arguments: tuple[Any, ...], logits: Tensor) -> None:
        """Called after every forward pass of the model."""
        if not arguments:
            return
        if model.training:
            self.steps += 1
            if self.steps % 20 == 0:
                self.now = self._loss(self.given, arguments[0], logits)
                self.bar.update(self.task, completed=self.steps, state=self._state())
            return
        self.round.append(self._loss(self.held_out, arguments[0], logits))
        if len(self.round) == len(self.held_out):
            self.validation, self.round = sum(self.round) / len(self.round), []
            if not self.console.is_terminal:
                self.console.print(f"  step {self.steps:5}  {self._state()}", soft_wrap=True)

    @staticmethod
    def _loss(known: Any, inputs: Tensor, logits: Tensor) -> float:
        targets = next((y for x, y in reversed(known) if x.shape == inputs.shape and torch.equal(x, inputs)), None)
        return math.nan if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()

    def _state(self) -> str:
        best = self.now if math.isnan(self.validation) else self.validation
        ahead = [f"next: {name} {line:.2f}" for name, line in self.lines.items() if not best < line]
        seen = "" if math.isnan(self.validation) else f", validation {self.validation:.2f}"
        return f"loss {self.now:.2f}{seen}, {ahead[0] if ahead else 'below all lines'}"

    def _lines(self, loss: float) -> str:
        return ", ".join(f"{name} {line:.2f}{' ✓' if loss < line else ''}" for name, line in self.lines.items())

    def end(self, loss: float, sample: str) -> None:
        """The verdict, and something to read."""
        self.console.print(f"On the whole last tenth: {loss:.3f} nats per token · {self._lines(loss)}\n")
        self.console.print(sample, markup=False)
        self.console.print()
