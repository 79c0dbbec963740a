"""Training: the loss, the rate, the groups, a step, an evaluation, and a run that survives its interruption."""

import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm  # type: ignore[import-untyped]

Batch = tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]  # inputs, targets
IGNORE = -100  # a target that does not count, as in torch


def language_model_loss(
    logits: Float[Tensor, "batch position vocab"],
    targets: Int[Tensor, "batch position"],
    ignore: int = IGNORE,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """The mean of −log softmax(logits)[target] over the targets that are not `ignore`, in nats.

    Shapes: logits (batch, position, vocab), targets (batch, position); the result is a single number of the logits'
    dtype, 0 where no target counts. `label_smoothing` ε takes ε of a target's share and spreads it over all classes.
    Source: Szegedy et al. 2016, §7 (smoothing); Vaswani et al. 2017, §5.4.
    """
    count = (targets != ignore).sum().clamp_min(1)
    return (_summed_loss(logits, targets, ignore, label_smoothing) / count).to(logits.dtype)


def _summed_loss(logits: Tensor, targets: Tensor, ignore: int = IGNORE, label_smoothing: float = 0.0) -> Tensor:
    """The sum over the tokens, in float32 at least: half precision cannot hold the sum of many."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(
        rearrange(wide, "... vocab -> (...) vocab"),
        targets.flatten().long(),
        ignore_index=ignore,
        label_smoothing=label_smoothing,
        reduction="sum",
    )


def noam(step: int, d_model: int, warmup: int) -> float:
    """The learning rate of the original Transformer: a line up to `warmup`, then falling with 1/√step.

    Raises: ValueError where step is less than 1; steps count from 1.
    Source: Vaswani et al. 2017, §5.3, equation 3.
    """
    if step < 1:
        raise ValueError(f"step={step}: steps count from 1")
    rate: float = d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
    return rate


def warmup_cosine(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """A line from 0 at step 0 to `peak` at `warmup`, then half a cosine down to `floor` at `total`, and `floor` on.

    `warmup` may be 0: then step 0 has the peak.
    Source: Loshchilov & Hutter 2017, §3; GPT-3 (Brown et al. 2020), appendix B.
    """
    if step < warmup:
        return peak * step / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The model's parameters for an optimizer: matrices with weight decay; norms, biases and embeddings without.

    Each parameter is in one group, once, also where two modules share it; a matrix that is also an embedding is one.
    """
    tables = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    tables |= {p for name, p in model.named_parameters() if {"tokens", "positions"} & set(name.split("."))}
    matrices = {p for p in model.parameters() if p.ndim >= 2} - tables
    decayed = [p for p in model.parameters() if p in matrices]
    others = [p for p in model.parameters() if p not in matrices]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[Batch],
    max_norm: float | None = None,
) -> float:
    """One update from the micro-batches' gradient, which is that of the one batch that they make up together.

    Gradients that were there before are dropped. Where their global norm exceeds `max_norm`, all are scaled down to it.
    Returns the loss before the update, a mean over all counted tokens.
    """
    count = max(1, _counted(micro_batches))
    optimizer.zero_grad()
    model.zero_grad()  # the optimizer may know only some of the parameters
    loss = 0.0
    for inputs, targets in micro_batches:
        share = _summed_loss(model(inputs), targets) / count
        torch.autograd.backward(share)
        loss += share.item()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss


def _counted(batches: list[Batch]) -> int:
    return sum(int((targets != IGNORE).sum()) for _, targets in batches)


def evaluate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean loss over all counted tokens of all batches, in eval mode and without gradients.

    Every part of the model is in its own mode again afterwards.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    loss, count = 0.0, 0
    try:
        with torch.no_grad():
            for inputs, targets in batches:
                loss += _summed_loss(model(inputs), targets).item()
                count += _counted([(inputs, targets)])
    finally:
        for module, mode in modes.items():
            module.training = mode
    return loss / max(1, count)


@dataclass
class Settings:
    """What `train` does: `steps` updates by AdamW, their learning rate by warmup_cosine(…, peak, warmup, steps, floor).

    Every `evaluate_every` steps, and after the last one, the validation loss is measured and, where `checkpoint` names
    a file, the run is saved there. `resume` goes on from that file, if it is there. A fresh run starts with the random
    numbers of `seed`.
    """

    steps: int
    peak: float = 3e-3
    warmup: int = 100
    floor: float = 0.0
    weight_decay: float = 0.1
    max_norm: float | None = 1.0
    evaluate_every: int = 100
    checkpoint: str | os.PathLike[str] | None = None
    resume: bool = False
    seed: int = 0


@dataclass
class History:
    """An entry an evaluation: the step, the mean training loss since the entry before, the validation loss."""

    steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)


def train(
    model: nn.Module,
    train_batches: Callable[[int], Iterable[Batch]],
    validation_batches: Iterable[Batch],
    settings: Settings,
) -> History:
    """Trains the model in place, epoch after epoch; `train_batches(epoch)` gives the batches of an epoch, from 0 on.

    A resumed run goes on as if it had never been interrupted, bit for bit on the CPU.
    Raises: ValueError where an epoch has no batches, or where the checkpoint is not one; no code in it is ever run.
    """
    torch.manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.peak, fused=True)
    run = _Run(model, optimizer)
    if settings.resume and settings.checkpoint is not None and Path(settings.checkpoint).exists():
        run.restore(_read(Path(settings.checkpoint)))
    validation_batches = list(validation_batches)
    stream, losses = _stream(train_batches, run), []
    model.train()
    for step in tqdm(range(run.step + 1, settings.steps + 1), "train", disable=None, leave=False, delay=1):
        batch = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, settings.peak, settings.warmup, settings.steps, settings.floor)
        losses.append(train_step(model, optimizer, [batch], settings.max_norm))
        run.step = step
        if step % settings.evaluate_every == 0 or step == settings.steps:
            run.history.steps.append(step)
            run.history.train_loss.append(sum(losses) / len(losses))
            run.history.validation_loss.append(evaluate(model, validation_batches))
            losses.clear()
            if settings.checkpoint is not None:
                _write(Path(settings.checkpoint), run.state())
    return run.history


@dataclass
class _Run:
    """Where a run stands: all that a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    history: History = field(default_factory=History)
    step: int = 0
    epoch: int = 0
    position: int = 0  # batches of this epoch that are done
    epoch_random: dict[str, Any] = field(default_factory=dict)  # before the epoch's first batch
    random: dict[str, Any] = field(default_factory=dict)  # when the checkpoint was written

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and names in dictionaries and lists: nothing that needs code to be loaded."""
        place = {"step": self.step, "epoch": self.epoch, "position": self.position, "epoch_random": self.epoch_random}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": vars(self.history),
            "place": place | {"random": _random_state()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        for name, value in state["place"].items():
            setattr(self, name, value)


def _stream(train_batches: Callable[[int], Iterable[Batch]], run: _Run) -> Iterator[Batch]:
    """Batch after batch and epoch after epoch, from where the run stands, which moves along."""
    while True:
        done = run.position
        if done:  # an epoch that was interrupted: it is drawn again as it was drawn then
            _set_random_state(run.epoch_random)
        else:
            run.epoch_random = _random_state()
        batches = iter(train_batches(run.epoch))
        for _ in islice(batches, done):
            pass
        if done:
            _set_random_state(run.random)
        for batch in batches:
            run.position += 1
            yield batch
        if run.position == 0:
            raise ValueError(f"train_batches({run.epoch}) gave no batch")
        run.epoch, run.position = run.epoch + 1, 0


def _random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def _write(path: Path, state: dict[str, Any]) -> None:
    """The file at `path` is the old one until the new one is complete on the disk; then it is the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(
        f"{path.name}.{os.getpid()}.unfinished"
    )  # in the same folder, so that it can be renamed
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:  # weights_only: a pickle can hold any code, and this reads tensors, numbers and names alone
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint that can be resumed from: nothing in it was run") from error
    return state
