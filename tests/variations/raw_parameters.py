"""The style of somebody who wants to see the matrices: raw `nn.Parameter` and `x @ W`.

Chapters 4 and 5; PyTorch stores a weight as "out in", so hooks transpose on the way in and out.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

LEVEL = "robust"


def _matrix(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) / math.sqrt(rows))


class _Transposing(nn.Module):
    """Own name ↔ canonical name; what has two axes is turned."""

    names: dict[str, str]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for own, canonical in self.names.items():
            if prefix + canonical in state_dict:
                tensor = state_dict.pop(prefix + canonical)
                state_dict[prefix + own] = tensor.T if tensor.ndim == 2 else tensor
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for own, canonical in self.names.items():
            if prefix + own in destination:
                tensor = destination.pop(prefix + own)
                destination[prefix + canonical] = tensor.T if tensor.ndim == 2 else tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape, then swap."""
    *lead, length, channels = x.shape
    if channels % heads:
        raise ValueError(f"{channels} channels and {heads} heads do not go together")
    return x.reshape(*lead, length, heads, channels // heads).swapaxes(-2, -3)


def merge_heads(x: Tensor) -> Tensor:
    """Swap, then reshape."""
    *lead, heads, length, d = x.shape
    return x.swapaxes(-2, -3).reshape(*lead, length, heads * d)


class MultiHeadAttention(_Transposing):
    """W_q, W_k, W_v, W_o as in the paper."""

    names = {"Wq": "query.weight", "Wk": "key.weight", "Wv": "value.weight", "Wo": "output.weight"}  # noqa: RUF012
    names |= {"bq": "query.bias", "bk": "key.bias", "bv": "value.bias", "bo": "output.bias"}

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
        if d_model % heads and not (d_k and d_v):
            raise ValueError(f"heads={heads} must divide d_model={d_model}")
        d_k, d_v = d_k or d_model // heads, d_v or d_model // heads
        if rotary and d_k % 2:
            raise ValueError(f"d_k={d_k} must be even where rotary=True")
        self.h, self.p, self.rotary = heads, dropout, rotary
        self.Wq, self.Wk = _matrix(d_model, heads * d_k), _matrix(d_model, heads * d_k)
        self.Wv, self.Wo = _matrix(d_model, heads * d_v), _matrix(heads * d_v, d_model)
        for name, size in (("bq", heads * d_k), ("bk", heads * d_k), ("bv", heads * d_v), ("bo", d_model)):
            self.register_parameter(name, nn.Parameter(torch.zeros(size)) if bias else None)
        self.bq: Tensor | None
        self.bk: Tensor | None
        self.bv: Tensor | None
        self.bo: Tensor | None

    def _rotate(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        p = torch.arange(x.shape[-2], device=x.device, dtype=torch.float64)
        angle = p[:, None] * torch.logspace(0, -4 * (half - 1) / half, half, dtype=torch.float64, device=x.device)
        c, s = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        return torch.cat((x[..., :half] * c - x[..., half:] * s, x[..., :half] * s + x[..., half:] * c), -1)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object = None,
    ) -> Tensor:
        """softmax(x Wq (c Wk)ᵀ / √d_k) c Wv Wo."""
        c = x if context is None else context
        q, k, v = x @ self.Wq, c @ self.Wk, c @ self.Wv
        if self.bq is not None and self.bk is not None and self.bv is not None:
            q, k, v = q + self.bq, k + self.bk, v + self.bv
        q, k, v = (split_heads(t, self.h) for t in (q, k, v))
        if self.rotary:
            q, k = self._rotate(q), self._rotate(k)
        s = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        if bias is not None:
            s = s + bias.to(s.dtype)
        if mask is not None:
            mask = mask[:, None] if mask.ndim == 3 else mask
            s = s.masked_fill(~mask, -math.inf)
        a = torch.softmax(s, -1)
        if mask is not None:
            a = torch.where(mask, a, torch.zeros_like(a))
        y = merge_heads(torch.dropout(a, self.p, self.training) @ v) @ self.Wo
        return y if self.bo is None else y + self.bo


class LayerNorm(nn.Module):
    """g · (x − μ)/σ + b."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """μ and σ² by the centred second moment, never in half precision."""
        z = x.to(torch.promote_types(x.dtype, torch.float32))
        z = z - z.sum(-1, keepdim=True) / z.shape[-1]
        var = (z * z).sum(-1, keepdim=True) / z.shape[-1]
        return (z * (var + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)


class RMSNorm(nn.Module):
    """g · x / rms(x)."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Tensor) -> Tensor:
        """The product with the gain is in float32 as well."""
        z = x.to(torch.promote_types(x.dtype, torch.float32))
        return (z / ((z * z).mean(-1, keepdim=True) + self.eps).sqrt() * self.weight).to(x.dtype)


class FeedForward(_Transposing):
    """f(x W1 + b1) W2 + b2, or (silu(x W3 + b3) ⊙ (x W1 + b1)) W2 + b2."""

    names = {"W1": "up.weight", "b1": "up.bias", "W2": "down.weight", "b2": "down.bias"}  # noqa: RUF012
    names |= {"W3": "gate.weight", "b3": "gate.bias"}

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        if activation not in ("relu", "gelu", "gelu_tanh", "swiglu"):
            raise ValueError(f"activation={activation!r} is unknown")
        self.activation, self.p = activation, dropout
        self.W1, self.b1 = _matrix(d_model, d_ff), nn.Parameter(torch.zeros(d_ff))
        self.W2, self.b2 = _matrix(d_ff, d_model), nn.Parameter(torch.zeros(d_model))
        if activation == "swiglu":
            self.W3, self.b3 = _matrix(d_model, d_ff), nn.Parameter(torch.zeros(d_ff))

    def _f(self, x: Tensor) -> Tensor:
        z = x @ self.W1 + self.b1
        if self.activation == "relu":
            return z.clamp(min=0)
        if self.activation == "gelu":
            return z * (1 + torch.erf(z / math.sqrt(2))) / 2
        if self.activation == "gelu_tanh":
            return z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z))) / 2
        gate = x @ self.W3 + self.b3
        return gate * torch.sigmoid(gate) * z

    def forward(self, x: Tensor) -> Tensor:
        """The activations are written out."""
        return torch.dropout(self._f(x), self.p, self.training) @ self.W2 + self.b2


class DecoderBlock(nn.Module):
    """The two sublayers."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"norm={norm!r} is unknown")
        self.norm, self.p = norm, dropout
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.feed_forward = FeedForward(d_model, d_ff, dropout=dropout)
        self.norm_1, self.norm_2 = LayerNorm(d_model), LayerNorm(d_model)

    def _drop(self, x: Tensor) -> Tensor:
        return torch.dropout(x, self.p, self.training)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: object = None
    ) -> Tensor:
        """y = x + A(x); z = y + F(y)."""
        out: Tensor
        if self.norm == "post":
            y = self.norm_1(x + self._drop(self.attention(x, None, mask, bias)))
            out = self.norm_2(y + self._drop(self.feed_forward(y)))
        else:
            y = x + self._drop(self.attention(self.norm_1(x), None, mask, bias))
            out = y + self._drop(self.feed_forward(self.norm_2(y)))
        return out
