"""The style of a functional programmer: functions that return functions; the modules only hold parameters.

Chapters 1 to 5, under canonical names.
"""

import math
from collections.abc import Callable
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"

Map = Callable[[Tensor], Tensor]


def compose(*functions: Map) -> Map:
    """compose(f, g)(x) is g(f(x))."""
    return lambda x: reduce(lambda value, function: function(value), functions, x)


def adding(other: Tensor | None) -> Map:
    """Add what is there."""
    return (lambda x: x) if other is None else (lambda x: x + other.to(x.dtype))


def masked_softmax(mask: Tensor | None) -> Map:
    """A softmax over visible keys, zero elsewhere."""
    if mask is None:
        return partial(torch.softmax, dim=-1)
    hidden = ~mask
    return compose(
        lambda scores: scores.masked_fill(hidden, -math.inf),
        lambda scores: torch.softmax(scores, dim=-1),
        lambda weights: weights.masked_fill(hidden, 0.0),
    )


def in_float32(function: Map) -> Map:
    """Widen, compute, narrow."""

    def widened(x: Tensor) -> Tensor:
        return function(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    return widened


def even(name: str, size: int) -> int:
    """The size, if it is even."""
    if size % 2:
        raise ValueError(f"{name}={size} is not even")
    return size


def share(name: str, size: int, heads: int) -> int:
    """The size of one head."""
    if size % heads:
        raise ValueError(f"{name}={size} is not divisible by heads={heads}")
    return size // heads


def _angles(size: int, base: float, device: torch.device | None = None) -> Callable[[Tensor], Tensor]:
    rates = torch.tensor([base ** (-2 * i / size) for i in range(size // 2)], dtype=torch.float64, device=device)
    return lambda positions: positions.to(torch.float64)[:, None] * rates


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Column c is sin(angle + c·π/2 for odd c), since cos is sin, a quarter turn ahead."""
    angle = _angles(even("d_model", d_model), 10000.0)(torch.arange(length)).repeat_interleave(2, dim=1)
    quarter = torch.tensor([0.0, math.pi / 2], dtype=torch.float64).repeat(d_model // 2)
    return torch.sin(angle + quarter).to(device=device, dtype=dtype or torch.float32)


class LearnedPositions(nn.Module):
    """A table behind a function."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(max_length, d_model).normal_(0.0, 0.02))

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """`F.embedding` of a range."""
        if not 0 <= offset <= offset + length <= self.weight.size(0):
            raise ValueError(f"{offset} + {length} positions asked for, max_length={self.weight.size(0)}")
        return F.embedding(torch.arange(offset, offset + length, device=self.weight.device), self.weight)


def rotary(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Half-split; the rotation is a closure over its angles."""
    positions = torch.arange(offset, offset + x.size(-2), device=x.device)
    angle = _angles(even("d_k", x.size(-1)), base, x.device)(positions)

    def turn(y: Tensor) -> Tensor:
        cos, sin = angle.cos().to(y.dtype), angle.sin().to(y.dtype)
        a, b = y.tensor_split(2, dim=-1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)

    return in_float32(turn)(x)


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """A map over heads."""
    p = torch.arange(length)
    distance = torch.maximum(p[:, None], p) - torch.minimum(p[:, None], p)
    biases = [distance * -(2 ** (-8 * h / heads)) for h in range(1, heads + 1)]
    return torch.stack(biases).to(device=device, dtype=dtype or torch.float32)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """score, then bias, then softmax."""
    if q.size(-1) != k.size(-1):
        raise ValueError(f"d_k is {q.size(-1)} for queries and {k.size(-1)} for keys")
    return compose(lambda y: F.linear(y, k) if k.ndim == 2 else y @ k.mT, adding(bias), masked_softmax(mask))(
        q / math.sqrt(q.size(-1))
    )


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The weights, applied."""
    if k.size(-2) != v.size(-2):
        raise ValueError(f"keys: {k.size(-2)}, values: {v.size(-2)}")
    return attention_weights(q, k, mask, bias) @ v


def causal_mask(queries: int, keys: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """A comparison of two ranges that end together."""
    end = queries if keys is None else keys
    return torch.arange(end - queries, end, device=device)[:, None] >= torch.arange(end, device=device)


def padding_mask(tokens: Tensor, pad: int) -> Tensor:
    """A comparison with the padding."""
    return (tokens != pad).unsqueeze(-2)


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Tensor:
    """Causal, and not too old."""
    p = torch.arange(length, device=device)
    return causal_mask(length, device=device) & (p[:, None] - p < window)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """reshape and move an axis."""
    return x.reshape(*x.shape[:-1], heads, share("channels", x.size(-1), heads)).movedim(-2, -3)


def merge_heads(x: Tensor) -> Tensor:
    """Move an axis and flatten."""
    return x.movedim(-3, -2).flatten(-2)


def multi_head(project: Callable[[str], Map], heads: int, drop: Map, turn: Map) -> Callable[..., Tensor]:
    """Attention as a function of x, context, mask and bias."""

    def run(x: Tensor, context: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        into_heads = partial(split_heads, heads=heads)
        q = compose(project("query"), into_heads, turn)(x)
        k = compose(project("key"), into_heads, turn)(context)
        v = compose(project("value"), into_heads)(context)
        return compose(drop, lambda w: w @ v, merge_heads, project("output"))(attention_weights(q, k, mask, bias))

    return run


class MultiHeadAttention(nn.Module):
    """Holds four layers; the work is done by `multi_head`."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_k: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        d_k = share("d_model", d_model, heads) if d_k is None else d_k
        d_v = share("d_model", d_model, heads) if d_v is None else d_v
        sizes = {"query": heads * d_k, "key": heads * d_k, "value": heads * d_v}
        for name, size in sizes.items():
            self.add_module(name, nn.Linear(d_model, size, bias))
        self.add_module("output", nn.Linear(heads * d_v, d_model, bias))
        self.heads, self.p, self.d_k, self.turns = heads, dropout, d_k, rotary
        if rotary:
            even("d_k", d_k)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object = None,
    ) -> Tensor:
        """Build the function, call it."""
        drop = partial(F.dropout, p=self.p, training=self.training)
        run = multi_head(self.get_submodule, self.heads, drop, rotary if self.turns else lambda y: y)
        mask = mask.unsqueeze(-3) if mask is not None and mask.ndim == 3 else mask
        return run(x, x if context is None else context, mask, bias)


def _root(eps: float) -> Map:
    return lambda x: (x.square().mean(-1, keepdim=True) + eps).sqrt()


class LayerNorm(nn.Module):
    """Centre, then divide by the root mean square."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))
        self.root = _root(eps)

    def forward(self, x: Tensor) -> Tensor:
        """Three small functions."""
        unit = in_float32(compose(lambda y: y - y.mean(-1, keepdim=True), lambda y: y / self.root(y)))
        return torch.addcmul(self.bias, unit(x), self.weight)


class RMSNorm(nn.Module):
    """Divide by the root mean square."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.root = nn.Parameter(torch.ones(d_model)), _root(eps)

    def forward(self, x: Tensor) -> Tensor:
        """One small function."""
        return in_float32(lambda y: y / self.root(y))(x) * self.weight


class FeedForward(nn.Module):
    """A composition."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        bends: dict[str, Map] = {
            "relu": torch.relu,
            "gelu": F.gelu,
            "gelu_tanh": partial(F.gelu, approximate="tanh"),
            "swiglu": F.silu,
        }
        if activation not in bends:
            raise ValueError(f"activation={activation!r}: choose one of {', '.join(bends)}")
        self.bend, self.p = bends[activation], dropout
        self.up, self.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.gate = nn.Linear(d_model, d_ff) if activation == "swiglu" else None

    def forward(self, x: Tensor) -> Tensor:
        """Up, bend (or gate), drop, down."""
        gate = self.gate
        hidden = compose(self.up, self.bend) if gate is None else (lambda y: self.bend(gate(y)) * self.up(y))
        return compose(hidden, partial(F.dropout, p=self.p, training=self.training), self.down)(x)


def pre(norm: Map, f: Map) -> Map:
    """The skip stays free."""
    return lambda x: x + f(norm(x))


def post(norm: Map, f: Map) -> Map:
    """The sum is normed."""
    return lambda x: norm(x + f(x))


class DecoderBlock(nn.Module):
    """Two wrapped functions in a row."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        orders = {"pre": pre, "post": post}
        if norm not in orders:
            raise ValueError(f"norm={norm!r}: choose one of {', '.join(orders)}")
        self.wrap = orders[norm]
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.norm_1, self.norm_2 = LayerNorm(d_model), LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: object = None
    ) -> Tensor:
        """Attention with its mask bound, then the feed-forward network."""
        look = partial(self.attention, mask=mask, bias=bias)
        first = self.wrap(self.norm_1, compose(look, self.dropout))
        second = self.wrap(self.norm_2, compose(self.feed_forward, self.dropout))
        return compose(first, second)(x)
