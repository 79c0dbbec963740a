"""Redesigned blocks by somebody who reads papers: plain torch, canonical names, no biases in queries and keys.

Gains are shaped to be broadcast, the first layer's V is stored as a whole, block gains are constants where the formulas
show numbers, and the uniform attention is the softmax of zero scores, taken literally.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVEL = "robust"


def lift(mask: Tensor | None) -> Tensor | None:
    """(batch, query, key) gets its axis of heads."""
    return mask.unsqueeze(1) if mask is not None and mask.dim() == 3 else mask


def shares(scores: Tensor, mask: Tensor | None) -> Tensor:
    """A softmax that gives zeros where nothing is visible."""
    if mask is None:
        return F.softmax(scores, dim=-1)
    return F.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1) * mask


class ParallelBlock(nn.Module):
    """Everything by hand; two products with the two halves of what a fused layer would hold."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        if d_model % heads != 0:
            raise ValueError(f"{heads} heads do not divide d_model={d_model}")
        self.h, self.p = heads, dropout
        self.attention = nn.ModuleDict({n: nn.Linear(d_model, d_model) for n in ("query", "key", "value", "output")})
        self.feed_forward = nn.ModuleDict({"up": nn.Linear(d_model, d_ff), "down": nn.Linear(d_ff, d_model)})
        self.norm_1 = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """GPT-J."""
        b, t, d = x.shape
        n = self.norm_1(x)
        q, k, v = (self.attention[name](n).view(b, t, self.h, -1).transpose(1, 2) for name in ("query", "key", "value"))
        w = shares(q @ k.transpose(-2, -1) / math.sqrt(d // self.h), lift(mask))
        seen = self.attention["output"]((w @ v).transpose(1, 2).reshape(b, t, d))
        thought = self.feed_forward["down"](F.gelu(self.feed_forward["up"](n)))
        return x + F.dropout(seen, self.p, self.training) + F.dropout(thought, self.p, self.training)


class ShapedAttention(nn.Module):
    """The formula, term by term."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__()
        if d_model % heads != 0:
            raise ValueError(f"{heads} heads do not divide d_model={d_model}")
        self.h = heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        nn.init.zeros_(self.query.weight)
        nn.init.normal_(self.key.weight, std=0.02)
        if first_layer:
            self.value = nn.Linear(d_model, d_model, bias=False)
            nn.init.eye_(self.value.weight)
        self.alpha = nn.Parameter(torch.ones(heads, 1, 1))
        self.beta = nn.Parameter(torch.ones(heads, 1, 1))
        self.gamma = nn.Parameter(torch.ones(heads, 1, 1))

    def heads(self, y: Tensor) -> Tensor:
        """(batch, position, d_model) to (batch, head, position, d)."""
        return y.view(y.size(0), y.size(1), self.h, -1).transpose(1, 2)

    def matrix(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """alpha I + beta softmax − gamma C."""
        q, k = self.heads(self.query(x)), self.heads(self.key(x))
        scores = q @ k.transpose(-2, -1) * q.size(-1) ** -0.5
        eye = torch.eye(x.size(1), device=x.device, dtype=x.dtype)
        mask = lift(mask)
        a: Tensor = self.alpha * eye
        return a + self.beta * shares(scores, mask) - self.gamma * shares(scores * 0, mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Times V."""
        v = self.value(x) if hasattr(self, "value") else x
        out = self.matrix(x, mask) @ self.heads(v)
        return out.transpose(1, 2).reshape(x.shape)


class Norm(nn.Module):
    """RMSNorm of the published code."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """eps outside."""
        y = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        rms = y.norm(dim=-1, keepdim=True) * x.size(-1) ** -0.5
        return (y / (rms + 1e-8)).to(x.dtype) * self.weight


class SimplifiedBlock(nn.Module):
    """b and s are 1 and g is residual_gain, for good."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_ff: int,
        parallel: bool = True,
        norm: bool = True,
        first_layer: bool = False,
        residual_gain: float = 0.1,
    ) -> None:
        super().__init__()
        self.parallel, self.g = parallel, residual_gain
        self.attention = ShapedAttention(d_model, heads, first_layer)
        self.feed_forward = nn.Sequential()
        self.feed_forward.add_module("up", nn.Linear(d_model, d_ff, bias=False))
        self.feed_forward.add_module("relu", nn.ReLU())
        self.feed_forward.add_module("down", nn.Linear(d_ff, d_model, bias=False))
        if norm or first_layer:
            self.norm_1 = Norm(d_model)
        if norm and not parallel:
            self.norm_2 = Norm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """SAS-P, or SAS."""
        n = self.norm_1(x) if hasattr(self, "norm_1") else x
        y = self.attention(n, mask)
        if not self.parallel:
            n = self.norm_2(y) if hasattr(self, "norm_2") else y
        out: Tensor = y + self.g * self.feed_forward(n)
        return out


class AdaptedAttention(ShapedAttention):
    """Gains for each head and query."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, first_layer)
        self.adapt = nn.Parameter(torch.zeros(heads, 3, 3))

    def matrix(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """With what each query is and sees."""
        q, k = self.heads(self.query(x)), self.heads(self.key(x))
        v = self.heads(self.value(x) if hasattr(self, "value") else x)
        scores, mask = q @ k.transpose(-2, -1) * q.size(-1) ** -0.5, lift(mask)
        c = shares(scores * 0, mask)
        m = c @ v
        s = torch.stack([v * v, v * m, m * m]).mean(-1)  # statistic batch head query
        alpha, beta, gamma = torch.einsum("sbhq,hgs->gbhq", s, self.adapt)[..., None]
        eye = torch.eye(x.size(1), device=x.device, dtype=x.dtype)
        a: Tensor = (self.alpha + alpha) * eye
        return a + (self.beta + beta) * shares(scores, mask) - (self.gamma + gamma) * c


class PAFormerBlock(SimplifiedBlock):
    """SAS-P with the other attention."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, first_layer: bool = False, residual_gain: float = 0.1
    ) -> None:
        super().__init__(d_model, heads, d_ff, first_layer=first_layer, residual_gain=residual_gain)
        self.attention = AdaptedAttention(d_model, heads, first_layer)
