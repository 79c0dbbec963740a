"""The style of a lecture follower: `Head`, `sa.heads`, `ffwd.net`, `ln1`; names are foreign and nothing maps them.

Chapters 4 and 5, with RMSNorm without gain. Core only: −∞ everywhere, so a row with nothing visible is NaN.
"""

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

LEVEL = "core"

UNSUPPORTED = {"rotary=True"}


class Head(nn.Module):
    """One head of self-attention."""

    def __init__(self, n_embd: int, head_size: int, value_size: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.k = nn.Linear(n_embd, head_size, bias=bias)
        self.q = nn.Linear(n_embd, head_size, bias=bias)
        self.v = nn.Linear(n_embd, value_size, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        """(B, T, C) in, (B, T, head size) out."""
        k = self.k(context)  # (B, S, hs)
        q = self.q(x)  # (B, T, hs)
        wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5  # (B, T, hs) @ (B, hs, S) -> (B, T, S)
        if bias is not None:
            wei = wei + bias.to(wei.dtype)
        if mask is not None:
            wei = wei.masked_fill(mask == 0, float("-inf"))
        wei = F.softmax(wei, dim=-1)
        wei = self.dropout(wei)
        out: Tensor = wei @ self.v(context)
        return out


class MultiHeadAttention(nn.Module):
    """Several heads of self-attention in parallel."""

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
        if rotary:
            raise NotImplementedError("no rotary in the lecture")
        assert d_model % heads == 0 or (d_k and d_v)
        d_k, d_v = d_k or d_model // heads, d_v or d_model // heads
        self.heads = nn.ModuleList([Head(d_model, d_k, d_v, bias, dropout) for _ in range(heads)])
        self.proj = nn.Linear(heads * d_v, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object = None,
    ) -> Tensor:
        """Head i takes slice i of what has a head axis; an axis of 1 serves all."""
        context = x if context is None else context
        out = []
        for i, h in enumerate(self.heads):
            m = mask[:, i % mask.shape[1]] if mask is not None and mask.ndim == 4 else mask
            b = bias[..., i % bias.shape[-3], :, :] if bias is not None and bias.ndim >= 3 else bias
            out.append(h(x, context, m, b))
        y: Tensor = self.dropout(self.proj(torch.cat(out, dim=-1)))
        return y


class LayerNorm(nn.Module):
    """As in the lecture on batch norm, with gamma and beta."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.ones(d_model))
        self.beta = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """The batch's mean has become the token's mean."""
        xmean = x.mean(-1, keepdim=True)
        xvar = x.var(-1, keepdim=True, unbiased=False)
        xhat = (x - xmean) / torch.sqrt(xvar + self.eps)
        return self.gamma * xhat + self.beta


class RMSNorm(nn.Module):
    """Without a gain, and therefore without a parameter."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x over its root mean square."""
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()


class _Gated(nn.Module):
    def __init__(self, n_embd: int, hidden: int) -> None:
        super().__init__()
        self.both = nn.Linear(n_embd, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, dim=-1)
        out: Tensor = F.silu(a) * b
        return out


class FeedForward(nn.Module):
    """A simple linear layer followed by a non-linearity."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        kinds: dict[str, Callable[[], list[nn.Module]]] = {
            "relu": lambda: [nn.Linear(d_model, d_ff), nn.ReLU()],
            "gelu": lambda: [nn.Linear(d_model, d_ff), nn.GELU()],
            "gelu_tanh": lambda: [nn.Linear(d_model, d_ff), nn.GELU(approximate="tanh")],
            "swiglu": lambda: [_Gated(d_model, d_ff)],
        }
        self.net = nn.Sequential(*kinds[activation](), nn.Linear(d_ff, d_model), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Think about what attention has gathered."""
        out: Tensor = self.net(x)
        return out


class DecoderBlock(nn.Module):
    """Communication followed by computation."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        assert norm in ("pre", "post"), norm
        self.sa = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.ffwd = FeedForward(d_model, d_ff, dropout=dropout)
        self.ln1 = LayerNorm(d_model)
        self.ln2 = LayerNorm(d_model)
        self.norm_first = norm == "pre"

    def forward(
        self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: object = None
    ) -> Tensor:
        """Two skips."""
        if self.norm_first:
            x = x + self.sa(self.ln1(x), mask=mask, bias=bias)
            x = x + self.ffwd(self.ln2(x))
        else:
            x = self.ln1(x + self.sa(x, mask=mask, bias=bias))
            x = self.ln2(x + self.ffwd(x))
        return x
