"""The style of somebody who thinks in columns: scores are kᵀq, turned round at the end.

Chapters 2 and 4; inside the module tokens are columns too, so that weights stand left of what they act on.
"""

import math

import torch
from torch import Tensor, nn

LEVEL = "robust"


def _columns(q: Tensor, k: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Weights as "*batch key query": every column sums to one."""
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q has d_k={q.shape[-1]} and k has d_k={k.shape[-1]}")
    scores = torch.matmul(k, q.mT) / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias.to(scores.dtype).mT
    if mask is None:
        return torch.softmax(scores, dim=-2)
    hidden = ~mask.mT
    blind = hidden.all(dim=-2, keepdim=True)
    return torch.softmax(scores.masked_fill(hidden & ~blind, -torch.inf), dim=-2).masked_fill(blind, 0.0)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The columns, as rows."""
    mask, bias = (t[None] if t is not None and t.ndim == 1 else t for t in (mask, bias))
    return _columns(q, k, mask, bias).mT


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """vᵀ times the columns, as rows."""
    return (v.mT @ attention_weights(q, k, mask, bias).mT).mT


def split_heads(x: Tensor, heads: int) -> Tensor:
    """By way of "*batch head d position"."""
    channels = x.shape[-1]
    if channels % heads:
        raise ValueError(f"heads={heads} is no divisor of {channels}")
    return x.mT.reshape(*x.shape[:-2], heads, channels // heads, x.shape[-2]).transpose(-1, -2)


def merge_heads(x: Tensor) -> Tensor:
    """And back."""
    return x.mT.flatten(-3, -2).mT


class MultiHeadAttention(nn.Module):
    """W·X + b with X = "*batch d_model position"."""

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
        if d_model % heads and (d_k is None or d_v is None):
            raise ValueError(f"heads={heads} is no divisor of d_model={d_model}")
        d_k = d_k or d_model // heads
        d_v = d_v or d_model // heads
        if rotary and d_k % 2:
            raise ValueError(f"rotary needs an even d_k instead of {d_k}")
        self.heads, self.rotary = heads, rotary
        # nn.Linear serves as the holder of a weight and a bias, and of PyTorch's initialisation.
        self.query = nn.Linear(d_model, heads * d_k, bias)
        self.key = nn.Linear(d_model, heads * d_k, bias)
        self.value = nn.Linear(d_model, heads * d_v, bias)
        self.output = nn.Linear(heads * d_v, d_model, bias)
        self.dropout = nn.Dropout(dropout)

    @staticmethod
    def _apply_left(layer: nn.Linear, columns: Tensor) -> Tensor:
        y = layer.weight @ columns
        return y if layer.bias is None else y + layer.bias.unsqueeze(-1)

    def _turn(self, columns: Tensor) -> Tensor:
        d_k, length = columns.shape[-2:]
        rate = 10000.0 ** (-torch.arange(0, d_k, 2, device=columns.device, dtype=torch.float64) / d_k)
        angle = rate[:, None] * torch.arange(length, device=columns.device, dtype=torch.float64)
        cos, sin = angle.cos().to(columns.dtype), angle.sin().to(columns.dtype)
        even, odd = columns[..., 0::2, :], columns[..., 1::2, :]
        # The order of channels inside a head is free, as long as queries and keys share it.
        return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-2)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object = None,
    ) -> Tensor:
        """Columns in, columns out, and one transpose at each end."""
        target, source = x.mT, (x if context is None else context).mT
        q, k, v = (
            self._apply_left(layer, columns).reshape(*columns.shape[:-2], self.heads, -1, columns.shape[-1])
            for layer, columns in ((self.query, target), (self.key, source), (self.value, source))
        )
        if self.rotary:
            q, k = self._turn(q), self._turn(k)
        if mask is not None and mask.ndim == 3:
            mask = mask.unsqueeze(-3)
        weights = self.dropout(_columns(q.mT, k.mT, mask, bias))
        return self._apply_left(self.output, (v @ weights).flatten(-3, -2)).mT
