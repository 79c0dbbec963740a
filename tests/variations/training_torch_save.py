"""nanoGPT's style: `F.cross_entropy`, groups by module type, summed losses over all counted tokens, torch's clipping.

A checkpoint is `torch.save` to a temporary file, then `os.replace`; it is read with `weights_only=True`.
"""

# mypy: disable-error-code="arg-type, no-any-return, no-untyped-call"

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"
Batch = tuple[Tensor, Tensor]


def summed_loss(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """In float32 at least: half precision cannot hold the sum of many tokens."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    flat, ids = wide.reshape(-1, wide.shape[-1]), targets.reshape(-1)
    counted = ids != ignore
    return F.cross_entropy(flat[counted], ids[counted].long(), label_smoothing=label_smoothing, reduction="sum")


def language_model_loss(
    logits: Float[Tensor, "batch position vocab"],
    targets: Int[Tensor, "batch position"],
    ignore: int = -100,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """The sum over the tokens that count, divided by their number."""
    count = (targets != ignore).sum().clamp(min=1)
    return (summed_loss(logits, targets, ignore, label_smoothing) / count).to(logits.dtype)


def noam(step: int, d_model: int, warmup: int) -> float:
    """The paper's closed form."""
    if step < 1:
        raise ValueError(f"steps count from 1, not from {step}")
    return d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def warmup_cosine(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Up in a line, down in half a cosine."""
    if step < warmup:
        return peak * step / warmup
    if step >= total:
        return peak if step == warmup else floor
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """By the type of the module that owns a parameter; one that an embedding shares is the embedding's."""
    kept: dict[int, Tensor] = {}
    for module in model.modules():
        kind = type(module).__name__.lower()
        spared = isinstance(module, nn.Embedding) or any(word in kind for word in ("embed", "position", "norm"))
        for name, parameter in module.named_parameters(recurse=False):
            if spared or parameter.ndim < 2 or any(word in name for word in ("embed", "table", "pos")):
                kept[id(parameter)] = parameter
    decayed = [parameter for parameter in model.parameters() if id(parameter) not in kept]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [parameter for parameter in model.parameters() if id(parameter) in kept], "weight_decay": 0.0},
    ]


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """Each summed loss is divided by the whole batch's count before it goes backward."""
    total = max(1, sum(int((targets != -100).sum()) for _, targets in micro_batches))
    optimizer.zero_grad(set_to_none=True)
    model.zero_grad(set_to_none=True)
    loss = 0.0
    for inputs, targets in micro_batches:
        part = summed_loss(model(inputs), targets) / total
        part.backward()
        loss += part.item()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss


def evaluate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Summed losses over all counted tokens; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss, count = 0.0, 0
    try:
        with torch.no_grad():
            for inputs, targets in batches:
                loss += summed_loss(model(inputs), targets).item()
                count += int((targets != -100).sum())
    finally:
        for module, mode in modes:
            module.training = mode
    return loss / max(1, count)


@dataclass
class Settings:
    """What `train` wants to know."""

    steps: int = 1000
    peak: float = 3e-3
    warmup: int = 100
    floor: float = 0.0
    weight_decay: float = 0.1
    max_norm: float | None = 1.0
    evaluate_every: int = 100
    checkpoint: str | Path | None = None
    resume: bool = False
    seed: int = 0


@dataclass
class History:
    """One entry an evaluation; `train_loss` is the mean since the one before."""

    steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)


def random_state() -> dict[str, Any]:
    """torch's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """The way back."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def write(content: dict[str, Any], path: Path) -> None:
    """The old file stays until the new one is complete on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(unfinished, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class Run:
    """Where a training stands: all that a checkpoint holds."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        self.model, self.settings, self.history = model, settings, History()
        self.optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.peak)
        self.step, self.epoch, self.consumed = 0, 0, 0
        self.losses: list[float] = []
        torch.manual_seed(settings.seed)
        self.epoch_state = random_state()

    def save(self) -> None:
        """To `settings.checkpoint`."""
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": asdict(self.history),
            "place": [self.step, self.epoch, self.consumed],
            "epoch_state": self.epoch_state,
            "state": random_state(),
        }
        write(content, Path(self.settings.checkpoint))

    def load(self) -> dict[str, Any]:
        """The random state to continue from is returned, since skipping batches may draw numbers."""
        content = torch.load(self.settings.checkpoint, map_location="cpu", weights_only=True)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.history = History(**content["history"])
        self.step, self.epoch, self.consumed = content["place"]
        self.epoch_state = content["epoch_state"]
        return content["state"]


def train(
    model: nn.Module,
    train_batches: Callable[[int], Iterable[Batch]],
    validation_batches: Iterable[Batch],
    settings: Settings,
) -> History:
    """Epoch after epoch until `settings.steps` updates are done."""
    run = Run(model, settings)
    resumed = None
    if settings.resume and settings.checkpoint is not None and Path(settings.checkpoint).exists():
        resumed = run.load()
    validation_batches = list(validation_batches)
    model.train()
    while run.step < settings.steps:
        if resumed is not None:
            set_random_state(run.epoch_state)
        else:
            run.epoch_state, run.consumed = random_state(), 0
        epoch = iter(train_batches(run.epoch))
        for _ in islice(epoch, run.consumed):
            pass
        if resumed is not None:
            set_random_state(resumed)
            resumed = None
        advance(run, epoch, validation_batches)
        if run.consumed == 0:
            raise ValueError(f"epoch {run.epoch} has no batches")
        run.epoch += 1
    return run.history


def advance(run: Run, epoch: Iterable[Batch], validation_batches: list[Batch]) -> None:
    """The rest of an epoch, as far as the steps go."""
    settings = run.settings
    for batch in epoch:
        for group in run.optimizer.param_groups:
            group["lr"] = warmup_cosine(run.step, settings.peak, settings.warmup, settings.steps, settings.floor)
        run.losses.append(train_step(run.model, run.optimizer, [batch], settings.max_norm))
        run.step += 1
        run.consumed += 1
        if run.step % settings.evaluate_every == 0 or run.step == settings.steps:
            run.history.steps.append(run.step)
            run.history.train_loss.append(sum(run.losses) / len(run.losses))
            run.history.validation_loss.append(evaluate(run.model, validation_batches))
            run.losses.clear()
            if settings.checkpoint is not None:
                run.save()
        if run.step == settings.steps:
            return
