"""Loss as log-sum-exp minus the target's logit, one backward pass for all micro-batches, a `LambdaLR`.

A checkpoint is complete in memory before a byte of it reaches the disk, and its old place is taken by `os.replace`.
"""

# mypy: disable-error-code="no-any-return, union-attr"

import io
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LEVEL = "core"
Batch = tuple[Tensor, Tensor]


def language_model_loss(
    logits: Float[Tensor, "batch position vocab"],
    targets: Int[Tensor, "batch position"],
    ignore: int = -100,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """log Σ exp − logit of the target, averaged."""
    keep = targets != ignore
    scores, ids = logits[keep], targets[keep].long()
    if len(ids) == 0:
        return logits.sum() * 0
    highest = scores.max(dim=-1, keepdim=True).values.detach()
    log_z = (scores - highest).exp().sum(-1).log() + highest[:, 0]
    right = scores[torch.arange(len(ids)), ids]
    smooth = scores.mean(-1)
    return (log_z - (1 - label_smoothing) * right - label_smoothing * smooth).mean()


def noam(step: int, d_model: int, warmup: int) -> float:
    """Two branches."""
    assert step != 0, "step counts from 1"
    if step < warmup:
        return step / (d_model**0.5 * warmup**1.5)
    return 1 / (d_model * step) ** 0.5


def warmup_cosine(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Three branches."""
    if step < warmup:
        rate = peak * step / warmup
    elif step == warmup:
        rate = peak
    elif step < total:
        done = (step - warmup) / (total - warmup)
        rate = 0.5 * ((peak + floor) + (peak - floor) * math.cos(math.pi * done))
    else:
        rate = floor
    return rate


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """A group for each parameter."""
    tables = (nn.Embedding, nn.EmbeddingBag)
    groups, seen = [], set()
    modules = sorted(model.named_modules(), key=lambda item: not isinstance(item[1], tables))  # embeddings first
    for path, module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            words = f"{path}.{name} {type(module).__name__}".lower()
            spared = isinstance(module, tables) or any(w in words for w in ("norm", "embed", "position", "tokens"))
            decay = 0.0 if spared or parameter.ndim == 1 else weight_decay
            groups.append({"params": [parameter], "weight_decay": decay})
    return groups


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """Means weighted by their share of the tokens, added up, one backward pass."""
    counts = [(targets != -100).sum().item() for _, targets in micro_batches]
    everything = sum(counts) or 1
    loss = sum(
        language_model_loss(model(inputs), targets) * (count / everything)
        for (inputs, targets), count in zip(micro_batches, counts, strict=True)
    )
    model.zero_grad()
    loss.backward()
    if max_norm is not None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (max_norm / norm.clamp(min=1e-12)).clamp(max=1.0))
    optimizer.step()
    return loss.item()


def evaluate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean of all tokens' losses."""
    mode = model.training
    model.eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for inputs, targets in batches:
            here = int((targets != -100).sum())
            total += language_model_loss(model(inputs), targets).item() * here
            tokens += here
    model.train(mode)
    return total / tokens if tokens else 0.0


@dataclass(frozen=True)
class Settings:
    """What `train` wants to know."""

    steps: int
    peak: float = 3e-4
    warmup: int = 0
    floor: float = 0.0
    weight_decay: float = 0.0
    max_norm: float | None = None
    evaluate_every: int = 10
    checkpoint: Path | str | None = None
    resume: bool = False
    seed: int = 42


class History(SimpleNamespace):
    """`steps`, `train_loss`, `validation_loss`, equally long."""


def save(path: str, content: dict[str, Any]) -> None:
    """Complete in memory first, complete on the disk second, in its place third."""
    memory = io.BytesIO()
    torch.save(content, memory)
    with open(path + ".new", "wb") as file:
        file.write(memory.getbuffer())
    os.replace(path + ".new", path)


def train(
    model: nn.Module,
    train_batches: Callable[[int], Iterable[Batch]],
    validation_batches: Iterable[Batch],
    settings: Settings,
) -> History:
    """Skips what a checkpoint has seen, then goes on with its random state."""
    s = settings
    torch.manual_seed(s.seed)
    # a base rate of 1 lets the lambda give the rate itself
    optimizer = torch.optim.AdamW(parameter_groups(model, s.weight_decay), lr=1.0)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, s.peak, s.warmup, s.steps, s.floor)
    )
    history = History(steps=[], train_loss=[], validation_loss=[])
    held_out = list(validation_batches)
    step = epoch = skip = 0
    now = None
    if s.resume and s.checkpoint and os.path.exists(s.checkpoint):
        saved = torch.load(s.checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        rates.load_state_dict(saved["rates"])
        history = History(**saved["history"])
        step, epoch, skip, now = saved["step"], saved["epoch"], saved["skip"], saved["now"]
        torch.set_rng_state(saved["before"])
    model.train()
    while step < s.steps:
        before = torch.get_rng_state()
        epoch_batches = iter(train_batches(epoch))
        index = len([None for _, _ in zip(range(skip), epoch_batches, strict=False)])
        if now is not None:
            torch.set_rng_state(now)
            now = None
        for batch in epoch_batches:
            loss = train_step(model, optimizer, [batch], s.max_norm)
            rates.step()
            step, index = step + 1, index + 1
            if step % s.evaluate_every == 0 or step == s.steps:
                history.steps.append(step)
                history.train_loss.append(loss)
                history.validation_loss.append(evaluate(model, held_out))
                if s.checkpoint:
                    content: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                    content |= {"rates": rates.state_dict(), "history": vars(history), "step": step, "epoch": epoch}
                    content |= {"skip": index, "before": before, "now": torch.get_rng_state()}
                    save(str(s.checkpoint), content)
            if step == s.steps:
                break
        if index == 0:
            raise ValueError(f"epoch {epoch} has {index} batches")
        epoch, skip = epoch + 1, 0
    return history
