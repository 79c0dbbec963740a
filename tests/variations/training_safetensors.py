"""Loss as log-softmax and gather, gradients summed and then divided, clipping by hand, groups by axes and names.

A checkpoint is one safetensors file: all tensors by name, and JSON in its header; the first update already has a rate.
"""

# mypy: disable-error-code="attr-defined, no-untyped-call"

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

LEVEL = "robust"
Batch = tuple[Tensor, Tensor]


def token_losses(logits: Tensor, targets: Tensor, ignore: int, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """A loss for each token, zero where it does not count, and which count."""
    counted = targets != ignore
    # zeros in place of what is not counted: an infinite logit there must not reach the gradient as 0 · inf
    wide = logits if logits.dtype == torch.float64 else logits.to(torch.float32)
    log_p = wide.masked_fill(~counted[..., None], 0.0).log_softmax(dim=-1)
    chosen = torch.where(counted, targets, 0).long()
    losses = -log_p.gather(-1, chosen[..., None])[..., 0]
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * log_p.mean(dim=-1)
    return torch.where(counted, losses, 0.0), counted


def language_model_loss(
    logits: Float[Tensor, "batch position vocab"],
    targets: Int[Tensor, "batch position"],
    ignore: int = -100,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """The mean over the tokens that count."""
    losses, counted = token_losses(logits, targets, ignore, label_smoothing)
    return (losses.sum() / counted.sum().clamp_min(1)).to(logits.dtype)


def noam(step: int, d_model: int, warmup: int) -> float:
    """A line until warmup, an inverse root after it."""
    if step <= 0:
        raise ValueError(f"step={step}, but the first step is 1")
    ramp = 1.0 if step >= warmup else (step / warmup) ** 1.5
    return ramp / math.sqrt(d_model * step)


def warmup_cosine(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Progress is clamped, so nothing has to be asked about the end."""
    if step < warmup:
        return peak * (step / warmup)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (peak - floor) * math.cos(progress * math.pi / 2) ** 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two axes and more decay, unless a name or a module says embedding, positions or norm; three groups."""
    looked_up = ("embed", "emb.", "tokens", "positions", "wte", "wpe", "table", "shared")
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    norms = {id(p) for m in model.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}
    groups: dict[str, list[Tensor]] = {"matrix": [], "table": [], "small": []}
    for name, parameter in model.named_parameters(remove_duplicate=True):
        if parameter.ndim < 2 or id(parameter) in norms:
            groups["small"].append(parameter)
        elif id(parameter) in tables or any(word in name.lower() for word in looked_up):
            groups["table"].append(parameter)
        else:
            groups["matrix"].append(parameter)
    decay = {"matrix": weight_decay, "table": 0.0, "small": 0.0}
    return [{"params": some, "weight_decay": decay[kind]} for kind, some in groups.items() if some]


def clip(parameters: Iterable[Tensor], max_norm: float) -> None:
    """All gradients shrink by one factor; none grows."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """Sums go backward; then loss and gradients are divided by the number of counted tokens."""
    for parameter in model.parameters():
        parameter.grad = None
    loss, count = 0.0, 0
    for inputs, targets in micro_batches:
        losses, counted = token_losses(model(inputs), targets, -100, 0.0)
        losses.sum().backward()
        loss += losses.detach().sum().item()
        count += int(counted.sum())
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(max(count, 1))
    if max_norm is not None:
        clip(model.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss / max(count, 1)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Per counted token, without dropout."""
    before = {name: module.training for name, module in model.named_modules()}
    try:
        model.eval()
        loss, count = 0.0, 0
        for inputs, targets in batches:
            losses, counted = token_losses(model(inputs), targets, -100, 0.0)
            loss, count = loss + losses.double().sum().item(), count + int(counted.sum())
    finally:
        for name, module in model.named_modules():
            module.training = before[name]
    return loss / count if count else 0.0


@dataclass(kw_only=True)
class Settings:
    """What `train` wants to know."""

    steps: int = 500
    peak: float = 1e-3
    warmup: int = 50
    floor: float = 1e-4
    weight_decay: float = 0.01
    max_norm: float | None = None
    evaluate_every: int = 50
    checkpoint: str | os.PathLike[str] | None = None
    resume: bool = False
    seed: int = 1337


class History(NamedTuple):
    """At each evaluation: the step, the loss of that step, the validation loss."""

    steps: list[int]
    train_loss: list[float]
    validation_loss: list[float]


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Written beside, then moved over."""
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        save_file(tensors, beside, metadata={"facts": json.dumps(facts)})
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON: nothing in it can run."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118


def pack(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor under a name."""
    named = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        named |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return named


def unpack(named: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The way back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in named.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state.setdefault(int(index), {})[field] = tensor
    model.load_state_dict({n.removeprefix("model."): tensor for n, tensor in named.items() if n.startswith("model.")})
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def endless(train_batches: Callable[[int], Iterable[Batch]], epoch: int) -> Iterator[tuple[int, int, Tensor, Batch]]:
    """The epoch, the place in it, the random state before it, the batch."""
    while True:
        before, place = torch.get_rng_state(), -1
        for place, batch in enumerate(train_batches(epoch)):
            yield epoch, place, before, batch
        if place < 0:
            raise ValueError(f"epoch {epoch} is empty")
        epoch += 1


def train(
    model: nn.Module,
    train_batches: Callable[[int], Iterable[Batch]],
    validation_batches: Iterable[Batch],
    settings: Settings,
) -> History:
    """One endless stream of batches, entered anew at its old place when resumed."""
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.peak, betas=(0.9, 0.95))
    path = None if settings.checkpoint is None else Path(settings.checkpoint)
    history, done = History([], [], []), 0
    validation = list(validation_batches)
    torch.manual_seed(settings.seed)
    if settings.resume and path is not None and path.is_file():
        named, facts = load_checkpoint(path)
        unpack(named, model, optimizer)
        history, done = History(*facts["history"]), facts["done"]
        torch.set_rng_state(named["random.epoch"])
        stream = endless(train_batches, facts["epoch"])
        for _ in range(facts["place"] + 1):
            next(stream)
        torch.set_rng_state(named["random.now"])
    else:
        stream = endless(train_batches, 0)
    model.train()
    while done < settings.steps:
        epoch, place, before, batch = next(stream)
        done += 1
        rate = warmup_cosine(done, settings.peak, settings.warmup, settings.steps + 1, settings.floor)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = train_step(model, optimizer, [batch], settings.max_norm)
        if done % settings.evaluate_every and done < settings.steps:
            continue
        for column, value in zip(history, (done, loss, evaluate(model, validation)), strict=True):
            column.append(value)
        if path is not None:
            tensors = pack(model, optimizer) | {"random.epoch": before, "random.now": torch.get_rng_state()}
            save_checkpoint(path, tensors, {"done": done, "epoch": epoch, "place": place, "history": list(history)})
    return history
