"""The style of somebody who knows view and transpose by heart: no einops, no einsum, all five chapters.

Rotary is half-split; scores are masked with −∞ and rows with nothing visible are cleared after the softmax.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVEL = "robust"


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Interleaved sines and cosines, computed in double precision."""
    if d_model % 2 != 0:
        raise ValueError(f"d_model={d_model} is odd, but sines and cosines come in pairs")
    p = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    rate = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
    table = torch.zeros(length, d_model, dtype=torch.float64)
    table[:, 0::2] = torch.sin(p * rate)
    table[:, 1::2] = torch.cos(p * rate)
    return table.to(device=device, dtype=dtype or torch.float32)


class LearnedPositions(nn.Module):
    """A trainable row for every position."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.weight = nn.Parameter(torch.randn(max_length, d_model) * 0.02)

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Rows offset … offset + length − 1."""
        if offset < 0 or offset + length > self.max_length:
            raise ValueError(f"length={length} at offset={offset} exceeds max_length={self.max_length}")
        return self.weight[offset : offset + length]


def rotary(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Channel i is turned together with channel i + d_k/2."""
    length, d_k = x.size(-2), x.size(-1)
    if d_k % 2 != 0:
        raise ValueError(f"d_k={d_k} is odd, but rotary turns pairs of channels")
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    rate = base ** (-torch.arange(0, d_k, 2, device=x.device, dtype=exact) / d_k)
    angle = torch.arange(offset, offset + length, device=x.device, dtype=exact).unsqueeze(1) * rate
    cos, sin = torch.cat([angle.cos()] * 2, dim=-1), torch.cat([angle.sin()] * 2, dim=-1)
    first, second = x.to(exact).chunk(2, dim=-1)
    return (x.to(exact) * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """A slope for every head, times minus the distance."""
    slopes = torch.tensor([2.0 ** (-8.0 * h / heads) for h in range(1, heads + 1)])
    p = torch.arange(length)
    distance = (p.view(1, -1) - p.view(-1, 1)).abs()
    return (-slopes.view(-1, 1, 1) * distance).to(device=device, dtype=dtype or torch.float32)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The softmax over the keys of scaled scores."""
    if q.size(-1) != k.size(-1):
        raise ValueError(f"queries have d_k={q.size(-1)}, keys have d_k={k.size(-1)}")
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if mask is None:
        return F.softmax(scores, dim=-1)
    # The masked_fill before the softmax stops the NaN gradient of an empty row, the one after it the NaN itself.
    return F.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1).masked_fill(~mask, 0.0)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Weighted means of the values."""
    if k.size(-2) != v.size(-2):
        raise ValueError(f"{k.size(-2)} keys, but {v.size(-2)} values")
    return torch.matmul(attention_weights(q, k, mask, bias), v)


def causal_mask(queries: int, keys: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """Lower triangular, aligned at the last position."""
    keys = queries if keys is None else keys
    return torch.tril(torch.ones(queries, keys, dtype=torch.bool, device=device), diagonal=keys - queries)


def padding_mask(tokens: Tensor, pad: int) -> Tensor:
    """Keys that are no padding, for every query."""
    return tokens.ne(pad).unsqueeze(1)


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Tensor:
    """A band of `window` diagonals that ends at the main one."""
    if window < 1:
        raise ValueError(f"window={window}, but a position sees at least itself")
    full = torch.ones(length, length, dtype=torch.bool, device=device)
    return full.tril().triu(diagonal=1 - window)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(…, position, heads * d) becomes (…, heads, position, d)."""
    if x.size(-1) % heads != 0:
        raise ValueError(f"{x.size(-1)} channels cannot be split into heads={heads}")
    return x.contiguous().view(*x.shape[:-1], heads, x.size(-1) // heads).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """(…, heads, position, d) becomes (…, position, heads * d)."""
    x = x.transpose(-3, -2).contiguous()
    return x.view(*x.shape[:-2], x.size(-2) * x.size(-1))


class MultiHeadAttention(nn.Module):
    """Four linear layers around one attention."""

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
        if d_model % heads != 0 and (d_k is None or d_v is None):
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        d_k = d_model // heads if d_k is None else d_k
        d_v = d_model // heads if d_v is None else d_v
        if rotary and d_k % 2 != 0:
            raise ValueError(f"d_k={d_k} is odd, but rotary turns pairs of channels")
        self.heads, self.dropout, self.rotary = heads, dropout, rotary
        self.query = nn.Linear(d_model, heads * d_k, bias=bias)
        self.key = nn.Linear(d_model, heads * d_k, bias=bias)
        self.value = nn.Linear(d_model, heads * d_v, bias=bias)
        self.output = nn.Linear(heads * d_v, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object | None = None,
    ) -> Tensor:
        """Self-attention, or attention to a context."""
        context = x if context is None else context
        q = split_heads(self.query(x), self.heads)
        k = split_heads(self.key(context), self.heads)
        v = split_heads(self.value(context), self.heads)
        if self.rotary:
            q, k = rotary(q), rotary(k)
        if mask is not None and mask.dim() == 3:
            mask = mask.unsqueeze(1)
        weights = F.dropout(attention_weights(q, k, mask, bias), self.dropout, self.training)
        out: Tensor = self.output(merge_heads(torch.matmul(weights, v)))
        return out


class LayerNorm(nn.Module):
    """Mean 0 and variance 1 for each token, then gain and shift."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Statistics over the last axis, in at least float32."""
        wide = x if x.dtype == torch.float64 else x.float()
        centred = wide - wide.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        return (centred / torch.sqrt(variance + self.eps)).to(x.dtype) * self.weight + self.bias


class RMSNorm(nn.Module):
    """Root mean square 1 for each token, then a gain."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Statistics over the last axis, in at least float32."""
        wide = x if x.dtype == torch.float64 else x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class FeedForward(nn.Module):
    """Up, activation, down."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        if activation not in ("relu", "gelu", "gelu_tanh", "swiglu"):
            raise ValueError(f"unknown activation {activation!r}")
        self.activation = activation
        self.up = nn.Linear(d_model, d_ff)
        if activation == "swiglu":
            self.gate = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Each position alone."""
        hidden: Tensor = self.up(x)
        if self.activation == "swiglu":
            hidden = F.silu(self.gate(x)) * hidden
        elif self.activation == "relu":
            hidden = F.relu(hidden)
        else:
            hidden = F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        out: Tensor = self.down(self.dropout(hidden))
        return out


class DecoderBlock(nn.Module):
    """Attention and a feed-forward network, each with a skip and a norm."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"norm={norm!r} is neither 'pre' nor 'post'")
        self.norm = norm
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.feed_forward = FeedForward(d_model, d_ff, dropout=dropout)
        self.norm_1, self.norm_2 = LayerNorm(d_model), LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: object | None = None
    ) -> Tensor:
        """Pre-norm keeps the skip free of norms; post-norm norms the sum."""
        if self.norm == "pre":
            x = x + self.dropout(self.attention(self.norm_1(x), mask=mask, bias=bias))
            out: Tensor = x + self.dropout(self.feed_forward(self.norm_2(x)))
        else:
            x = self.norm_1(x + self.dropout(self.attention(x, mask=mask, bias=bias)))
            out = self.norm_2(x + self.dropout(self.feed_forward(x)))
        return out
