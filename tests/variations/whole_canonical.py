"""Plain torch, canonical names: every position scheme, both norm orders, attention spelled out, a dict as cache.

Post-norm keeps its final norm; sampling scatters the sorted mask back; `generate` evaluates and restores the mode.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call, operator"

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"


def sinusoid(start: int, length: int, d_model: int) -> Float[Tensor, "position d_model"]:
    """Rows start … start + length − 1 of the table, computed in float64."""
    place = torch.arange(start, start + length, dtype=torch.float64)[:, None]
    angle = place * torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def rotate(x: Float[Tensor, "batch head position d_k"], start: int) -> Float[Tensor, "batch head position d_k"]:
    """Neighbouring channels are the plane that turns."""
    length, d_k = x.shape[-2:]
    place = torch.arange(start, start + length, device=x.device, dtype=torch.float32)[:, None]
    angle = place * 10000.0 ** (-torch.arange(0, d_k, 2, device=x.device, dtype=torch.float32) / d_k)
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def slopes(heads: int) -> Float[Tensor, "head"]:
    """One slope a head, 2^(−8h/n)."""
    return 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)


class KVCache:
    """Keys and values by layer; made empty, filled by the model."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """How many positions it holds."""
        return self.layers[0][0].shape[-2] if self.layers else 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Everything so far, and the new at its end."""
        if layer in self.layers:
            old_key, old_value = self.layers[layer]
            key, value = torch.cat([old_key, key], dim=-2), torch.cat([old_value, value], dim=-2)
        self.layers[layer] = (key.detach(), value.detach())
        return key, value


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, d_model: int, heads: int, dropout: float, rotary: bool) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        if rotary and (d_model // heads) % 2:
            raise ValueError(f"rotary turns pairs of channels, but d_k={d_model // heads} is odd")
        self.query, self.key, self.value, self.output = (nn.Linear(d_model, d_model) for _ in range(4))
        self.heads, self.rotary, self.dropout = heads, rotary, nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, start: int, layer: int, cache: KVCache | None) -> Tensor:
        """`bias` is −inf where a query may not look."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.rotary:
            q, k = rotate(q, start), rotate(k, start)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2) + bias
        return self.output((self.dropout(scores.softmax(dim=-1)) @ v).transpose(1, 2).flatten(-2))


class Network(nn.Module):
    """Up, GELU, down."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Each position alone."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention and feed-forward, each with its norm and its skip."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float, norm: str, rotary: bool) -> None:
        super().__init__()
        self.attention = Attention(d_model, heads, dropout, rotary)
        self.feed_forward = Network(d_model, d_ff)
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.pre, self.dropout = norm == "pre", nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, start: int, layer: int, cache: KVCache | None) -> Tensor:
        """Pre or post."""
        if self.pre:
            x = x + self.dropout(self.attention(self.norm_1(x), bias, start, layer, cache))
            return x + self.dropout(self.feed_forward(self.norm_2(x)))
        x = self.norm_1(x + self.dropout(self.attention(x, bias, start, layer, cache)))
        return self.norm_2(x + self.dropout(self.feed_forward(x)))


class DecoderLM(nn.Module):
    """A decoder-only language model; a tied head is the embedding itself, without a name of its own."""

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
        if positions not in {"learned", "sinusoidal", "rotary", "alibi", "none"} or norm not in {"pre", "post"}:
            raise ValueError(f"positions={positions!r}, norm={norm!r}: one of them is unknown")
        if positions == "sinusoidal" and d_model % 2:
            raise ValueError(f"sine and cosine come in pairs, but d_model={d_model} is odd")
        self.max_length, self.heads, self.scheme = max_length, heads, positions
        self.tokens = nn.Embedding(vocab, d_model)
        self.positions = nn.Embedding(max_length, d_model) if positions == "learned" else None
        width = d_ff or 4 * d_model
        self.blocks = nn.ModuleList(
            Block(d_model, heads, width, dropout, norm, positions == "rotary") for _ in range(layers)
        )
        self.norm, self.dropout = nn.LayerNorm(d_model), nn.Dropout(dropout)
        self.head = None if tie else nn.Linear(d_model, vocab, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        self.register_load_state_dict_pre_hook(drop_tied_head)

    def attention_bias(self, start: int, length: int, like: Tensor) -> Float[Tensor, "head query key"]:
        """Zero or ALiBi's slope where a query may look, −inf where it may not."""
        query = torch.arange(start, start + length, device=like.device)[:, None]
        distance = query - torch.arange(start + length, device=like.device)
        bias = torch.zeros(1, *distance.shape, device=like.device)
        if self.scheme == "alibi":
            bias = -slopes(self.heads).to(like.device)[:, None, None] * distance
        return bias.to(like.dtype).masked_fill(distance < 0, float("-inf"))

    def forward(
        self, tokens: Int[Tensor, "batch position"], cache: KVCache | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """Logits of the next token at every position."""
        start, length = 0 if cache is None else cache.length, tokens.shape[1]
        if start + length > self.max_length:
            raise ValueError(f"{start + length} tokens do not fit into max_length={self.max_length}")
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(start, start + length, device=x.device))
        elif self.scheme == "sinusoidal":
            x = x + sinusoid(start, length, x.shape[-1]).to(x)
        x, bias = self.dropout(x), self.attention_bias(start, length, x)
        for layer, block in enumerate(self.blocks):
            x = block(x, bias, start, layer, cache)
        x = self.norm(x)
        return x @ self.tokens.weight.T if self.head is None else self.head(x)


def drop_tied_head(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A tied model has no head.weight; a dict from one that has it loads all the same."""
    if module.head is None:
        head = state_dict.pop(prefix + "head.weight", None)
        if head is not None:
            state_dict.setdefault(prefix + "tokens.weight", head)


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Exactly k are left."""
    values, places = logits.topk(min(k, logits.shape[-1]))
    return torch.full_like(logits, float("-inf")).scatter(-1, places, values)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """The fewest tokens whose probabilities reach p."""
    ordered, places = logits.sort(descending=True, stable=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    hidden = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, places, before >= p)
    hidden.scatter_(-1, places[..., :1], False)
    return logits.masked_fill(hidden, float("-inf"))


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Dropout off; each module's mode as it was afterwards."""
    modes = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


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
    """The prompt and `steps` tokens after it."""
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is negative")
    tokens, context, store = prompt.clone(), getattr(model, "max_length", None), None
    with evaluating(model):
        for _ in range(steps):
            outgrown = context is not None and tokens.shape[1] > context
            window = tokens[:, -context:] if outgrown else tokens
            if not cache:
                logits = model(window)
            elif store is None or outgrown:
                store = KVCache()
                logits = model(window, cache=store)
            else:
                logits = model(tokens[:, -1:], cache=store)
            tokens = torch.cat([tokens, choose(logits[:, -1], temperature, top_k, top_p, generator)], dim=1)
    return tokens


def choose(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Int[Tensor, "batch position"]:
    """One token for each row."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits.float() / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)
