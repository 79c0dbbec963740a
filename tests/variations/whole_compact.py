"""A whole small project in one file: tanh GELU, keys and values from one matrix, a cache that is a list of pairs.

Sampling draws a rank and maps it back; a checkpoint is JSON and safetensors in one file; data is views and indices.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call"

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"
UNSUPPORTED = {"positions=sinusoidal", "positions=rotary", "norm=post"}
Batch = tuple[Tensor, Tensor]


class KVCache(list[tuple[Tensor, Tensor]]):
    """One (keys, values) for each layer, in order."""

    @property
    def length(self) -> int:
        """Positions seen."""
        return self[0][0].shape[1] if self else 0


class Layer(nn.Module):
    """Batch, position, head, channel: heads stay where `unflatten` puts them."""

    def __init__(self, d_model: int, heads: int, d_ff: int, p: float) -> None:
        super().__init__()
        self.kv, self.q = nn.Linear(d_model, 2 * d_model), nn.Linear(d_model, d_model)
        self.proj, self.fc, self.fc_out = (
            nn.Linear(d_model, d_model),
            nn.Linear(d_model, d_ff),
            nn.Linear(d_ff, d_model),
        )
        self.ln_a, self.ln_b, self.heads, self.p = nn.LayerNorm(d_model), nn.LayerNorm(d_model), heads, p

    def forward(
        self, x: Tensor, bias: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The new stream, and keys and values to keep."""
        n = self.ln_a(x)
        q = self.q(n).unflatten(-1, (self.heads, -1))
        k, v = self.kv(n).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
        weights = F.dropout(weights, self.p, self.training)
        x = x + self.proj(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(-2))
        x = x + F.dropout(self.fc_out(F.gelu(self.fc(self.ln_b(x)), approximate="tanh")), self.p, self.training)
        return x, (k.detach(), v.detach())


class DecoderLM(nn.Module):
    """Learned positions, ALiBi or none."""

    def __init__(
        self,
        vocab: int,
        max_length: int,
        d_model: int,
        layers: int,
        heads: int,
        d_ff: int | None = None,
        dropout: float = 0.0,
        positions: str = "learned",
        norm: str = "pre",
        tie: bool = True,
    ) -> None:
        super().__init__()
        if positions not in ("learned", "alibi", "none") or norm != "pre":
            raise ValueError(f"positions={positions!r} with norm={norm!r} is not offered")
        if d_model % heads != 0:
            raise ValueError(f"d_model={d_model}, heads={heads}: the remainder is {d_model % heads}")
        self.max_length, self.heads, self.positions = max_length, heads, positions
        self.wte = nn.Embedding(vocab, d_model)
        if positions == "learned":
            self.wpe = nn.Embedding(max_length, d_model)
        self.h = nn.ModuleList(Layer(d_model, heads, d_ff or 4 * d_model, dropout) for _ in range(layers))
        self.ln = nn.LayerNorm(d_model)
        self.unembed = nn.Parameter(torch.empty(vocab, d_model)) if not tie else self.wte.weight
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(
        self, tokens: Int[Tensor, "batch position"], cache: KVCache | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        start = cache.length if cache is not None else 0
        end = start + tokens.shape[1]
        if end > self.max_length:
            raise ValueError(f"{end} positions were asked for, max_length={self.max_length}")
        x = self.wte(tokens)
        if self.positions == "learned":
            x = x + self.wpe.weight[start:end]
        place = torch.arange(end, device=tokens.device)
        ahead = place - place[start:, None]
        bias = torch.zeros(1, 1, device=x.device)
        if self.positions == "alibi":
            head = torch.arange(1, self.heads + 1, device=x.device)
            bias = torch.exp2(-8.0 * head / self.heads)[:, None, None] * ahead
        bias = torch.where(ahead > 0, -math.inf, bias).to(x.dtype)
        kept = []
        for index, layer in enumerate(self.h):
            x, pair = layer(x, bias, cache[index] if cache else None)
            kept.append(pair)
        if cache is not None:
            cache[:] = kept
        return self.ln(x) @ self.unembed.T


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: Int[Tensor, "batch position"],
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    cache: bool = False,
) -> Int[Tensor, "batch position"]:
    """`fresh` is what the model has not seen yet; None asks for the whole window."""
    if temperature < 0:
        raise ValueError(f"temperature={temperature} cannot be negative")
    tokens, limit, fresh, memory = prompt, getattr(model, "max_length", None) or 2**62, None, {}
    for _ in range(steps):
        if fresh is None or not cache or tokens.shape[1] > limit:
            fresh = tokens[:, max(0, tokens.shape[1] - limit) :]
            memory = {"cache": KVCache()} if cache else {}
        ranked, order = model(fresh, **memory)[:, -1].double().sort(dim=-1, descending=True, stable=True)
        rank = torch.zeros_like(order[:, :1])
        if temperature > 0:
            p = (ranked[:, :top_k] / temperature).softmax(-1)
            if top_p is not None:
                total = p.float().cumsum(-1)
                kept = torch.cat([torch.ones_like(total[:, :1]), (total[:, :-1] < top_p).float()], -1)
                p = p * kept
            rank = torch.multinomial(p, 1, generator=generator)
        fresh = order.gather(-1, rank)
        tokens = torch.cat([tokens, fresh], -1)
    return tokens.clone() if steps == 0 else tokens


def tokenize(text: str) -> list[str]:
    """Words and what is between them."""
    return [match.group() for match in re.finditer(r"\w+|[^\w]+", text)]


class Vocabulary:
    """The unknown token is the empty string, which no text is cut into."""

    UNKNOWN = ""

    def __init__(self, tokens: list[str], max_size: int | None = None) -> None:
        room = None if max_size is None else max(0, max_size - 1)
        self.types = [self.UNKNOWN] + [t for t, _ in Counter(t for t in tokens if t).most_common(room)]
        self.index = {token: place for place, token in enumerate(self.types)}

    def __len__(self) -> int:
        return len(self.types)

    def encode(self, tokens: list[str]) -> Int[Tensor, "position"]:
        """Ids."""
        return torch.LongTensor([self.index.get(token, 0) for token in tokens])

    def decode(self, ids: Int[Tensor, "position"]) -> list[str]:
        """Tokens."""
        numbers = torch.as_tensor(ids).tolist()
        if any(number not in range(len(self)) for number in numbers):
            raise IndexError(f"ids {min(numbers)} to {max(numbers)} do not fit a vocabulary of {len(self)}")
        return [self.types[number] for number in numbers]


def sequences(
    stream: Int[Tensor, "position"], length: int
) -> tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]:
    """Rows of length + 1, cut once at each end."""
    if len(stream) <= length or length < 1:
        raise ValueError(f"length={length} needs {length + 1} tokens, the stream has {len(stream)}")
    rows = stream[: len(stream) // (length + 1) * (length + 1)].view(-1, length + 1)
    return rows[:, :-1], rows[:, 1:]


def train_validation_split(
    stream: Int[Tensor, "position"], fraction: float
) -> tuple[Int[Tensor, "position"], Int[Tensor, "position"]]:
    """The end is held out."""
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction={fraction} is no share")
    train, validation = stream.tensor_split([len(stream) - math.floor(len(stream) * fraction)])
    return train, validation


def batches(
    inputs: Int[Tensor, "batch position"],
    targets: Int[Tensor, "batch position"],
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Iterable[Batch]:
    """Both shuffled alike, then cut."""
    order = torch.randperm(len(inputs), generator=generator)
    return zip(inputs[order].split(batch_size), targets[order].split(batch_size), strict=True)


def reversal_sequences(
    batch: int, half: int, vocab: int, generator: torch.Generator | None = None
) -> Int[Tensor, "batch position"]:
    """Drawn, then stacked with its mirror image."""
    first = torch.randint(high=vocab, size=(batch, half), generator=generator)
    return torch.hstack((first, first.fliplr()))


def language_model_loss(
    logits: Float[Tensor, "batch position vocab"],
    targets: Int[Tensor, "batch position"],
    ignore: int = -100,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Classes on axis 1, as `F.cross_entropy` likes them."""
    counted = targets != ignore
    if not counted.any():
        return torch.where(counted[..., None], logits, 0.0).sum()
    scores = torch.where(counted[..., None], logits, 0.0).movedim(-1, 1)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    loss = F.cross_entropy(wide, targets.long(), ignore_index=ignore, label_smoothing=label_smoothing)
    return loss.to(logits.dtype)


def noam(step: int, d_model: int, warmup: int) -> float:
    """The smaller of two powers."""
    if not step >= 1:
        raise ValueError(f"noam begins with step 1, not {step}")
    return (d_model * max(step, warmup**3 / step**2)) ** -0.5


def warmup_cosine(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The smaller of the line and the cosine."""
    line = step / warmup if warmup else math.inf
    down = min(max(step - warmup, 0) / max(total - warmup, 1), 1.0)
    return peak * line if line < 1 else floor + (peak - floor) * (1 + math.cos(math.pi * down)) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Small and looked-up ones first, and what is left decays."""
    spared: dict[Tensor, None] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            words = f"{path}.{name}.{type(module).__name__}"
            if parameter.ndim < 2 or re.search(r"embed|token|position|norm|wte|wpe", words, re.IGNORECASE):
                spared[parameter] = None
    rest = [parameter for parameter in model.parameters() if parameter not in spared]
    return [dict(params=list(spared), weight_decay=0.0), dict(params=rest, weight_decay=weight_decay)]  # noqa: C408


def counted(targets: Tensor) -> int:
    """Tokens that have a target."""
    return int(torch.count_nonzero(targets != -100))


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """A mean times its share, backward at once."""
    model.zero_grad(set_to_none=True)
    whole, loss = sum(counted(targets) for _, targets in micro_batches), 0.0
    for inputs, targets in micro_batches:
        part = language_model_loss(model(inputs), targets) * (counted(targets) / max(whole, 1))
        part.backward()
        loss += float(part.detach())
    if max_norm is not None:
        found = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(found)
        nn.utils.clip_grads_with_norm_(list(model.parameters()), max_norm, norm)
    optimizer.step()
    return loss


def evaluate(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Puts only those modules into eval mode that are not in it, and those back."""
    awake, total, tokens = [module for module in model.modules() if module.training], 0.0, 0
    for module in awake:
        module.training = False
    try:
        for inputs, targets in batches:
            with torch.no_grad():
                total += counted(targets) * float(language_model_loss(model(inputs), targets))
            tokens += counted(targets)
    finally:
        for module in awake:
            module.training = True
    return total / tokens if tokens else 0.0


@dataclass
class Settings:
    """What `train` wants to know."""

    steps: int = 100
    peak: float = 3e-3
    warmup: int = 10
    floor: float = 0.0
    weight_decay: float = 0.1
    max_norm: float | None = 1.0
    evaluate_every: int = 20
    checkpoint: str | os.PathLike[str] | None = None
    resume: bool = False
    seed: int = 0


@dataclass
class History:
    """Three columns."""

    steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)


def freeze(tree: object, tensors: list[Tensor]) -> object:
    """JSON with numbers in place of tensors; a dictionary becomes pairs, as its keys may be int."""
    if isinstance(tree, Tensor):
        tensors.append(tree.detach().clone().contiguous())
        return {"tensor": len(tensors) - 1}
    if isinstance(tree, dict):
        return {"dict": [[freeze(k, tensors), freeze(v, tensors)] for k, v in tree.items()]}
    if isinstance(tree, list | tuple):
        return [freeze(item, tensors) for item in tree]
    return tree


def thaw(tree: object, tensors: dict[str, Tensor]) -> object:
    """The way back."""
    if isinstance(tree, list):
        return [thaw(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[str(tree["tensor"])]
    return {thaw(key, tensors): thaw(value, tensors) for key, value in tree["dict"]}


def write(path: str, state: dict[str, Any]) -> None:
    """Length of the JSON, the JSON, the tensors; renamed when complete."""
    tensors: list[Tensor] = []
    facts = json.dumps(freeze(state, tensors)).encode()
    with open(f"{path}~", "wb") as file:
        file.write(len(facts).to_bytes(8, "little") + facts)
        file.write(save({str(i): tensor for i, tensor in enumerate(tensors)}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}~", path)


def read(path: str) -> Any:
    """Numbers, words and tensors."""
    with open(path, "rb") as file:
        facts = file.read(int.from_bytes(file.read(8), "little"))
        return thaw(json.loads(facts), load(file.read()))


def train(
    model: nn.Module,
    train_batches: Callable[[int], Iterable[Batch]],
    validation_batches: Iterable[Batch],
    settings: Settings,
) -> History:
    """One loop over steps; an epoch that ends is followed by the next."""
    torch.manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.peak)
    place: dict[str, Any] = {"step": 0, "epoch": 0, "batch": 0, "epoch_random": torch.get_rng_state()}
    history, validation_batches = History(), list(validation_batches)
    resumed = settings.resume and settings.checkpoint is not None and os.path.exists(settings.checkpoint)
    if resumed and settings.checkpoint is not None:
        state = read(os.fspath(settings.checkpoint))
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history, place = History(**state["history"]), state["place"]
        torch.set_rng_state(place["epoch_random"])
    model.train()
    stream = iter(train_batches(place["epoch"]))
    for _ in islice(stream, place["batch"]):
        pass
    if resumed:
        torch.set_rng_state(state["random"])
    while place["step"] < settings.steps:
        following = next(stream, None)
        if following is None:
            if place["batch"] == 0:
                raise ValueError(f"epoch {place['epoch']} has no batch")
            place |= {"epoch": place["epoch"] + 1, "batch": 0, "epoch_random": torch.get_rng_state()}
            stream = iter(train_batches(place["epoch"]))
            continue
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(place["step"], settings.peak, settings.warmup, settings.steps, settings.floor)
        loss = train_step(model, optimizer, [following], settings.max_norm)
        place["step"], place["batch"] = place["step"] + 1, place["batch"] + 1
        if place["step"] % settings.evaluate_every == 0 or place["step"] == settings.steps:
            history.steps.append(place["step"])
            history.train_loss.append(loss)
            history.validation_loss.append(evaluate(model, validation_batches))
            if settings.checkpoint is not None:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "place": place}
                state |= {"history": vars(history), "random": torch.get_rng_state()}
                write(os.fspath(settings.checkpoint), state)
    return history
