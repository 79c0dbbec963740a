"""Redesigned blocks for speed, under other names: fused projections, `nn.MultiheadAttention`, `nn.RMSNorm`.

The PA-Former is another one, by a small network of the visible tokens' mean: the name has no definition. The norm's eps
stands inside the root, as in torch, so the core level is meant; requirements under equal weights cannot be checked.
"""

# mypy: disable-error-code="no-any-return"

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "core"


class ParallelBlock(nn.Module):
    """torch's attention and a Sequential, as in ViT-22B's figure."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.ln, self.heads = nn.LayerNorm(d_model), heads
        self.mha = nn.MultiheadAttention(d_model, heads, dropout=dropout, batch_first=True, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, d_ff, bias=False), nn.GELU("tanh"), nn.Linear(d_ff, d_model, bias=False)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """True hides, in this module."""
        n = self.ln(x)
        added = None
        if mask is not None:
            mask = rearrange(mask, "b q k -> b 1 q k") if mask.ndim == 3 else mask
            shape = (x.shape[0], self.heads, x.shape[1], x.shape[1])
            added = torch.zeros(shape, dtype=x.dtype, device=x.device).masked_fill(~mask, -torch.inf).flatten(0, 1)
        found, _ = self.mha(n, n, n, attn_mask=added, need_weights=False)
        return x + self.drop(found) + self.drop(self.mlp(n))


class ShapedAttention(nn.Module):
    """One matrix for queries and keys, the gains as one tensor, and I never made."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model={d_model}, heads={heads}")
        self.n = heads
        self.qk = nn.Linear(d_model, 2 * d_model)
        nn.init.normal_(self.qk.weight, std=0.02)
        with torch.no_grad():
            self.qk.weight[:d_model] = 0
            self.qk.bias.zero_()
        self.delta = nn.Parameter(torch.zeros(d_model, d_model)) if first_layer else None
        self.gains = nn.Parameter(torch.ones(3, heads))

    def _parts(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        values = x if self.delta is None else x + x @ self.delta
        joined = torch.cat([self.qk(x), values], -1)
        q, k, v = rearrange(joined, "b p (three h d) -> three b h p d", three=3, h=self.n)
        return q, k, v, mask[:, None] if mask is not None and mask.ndim == 3 else mask

    def _gains(self, v: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        return self.gains[:, :, None, None].unbind(0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """alpha v + beta attention − gamma mean, both by the fast kernel."""
        q, k, v, mask = self._parts(x, mask)
        mean = F.scaled_dot_product_attention(torch.zeros_like(q), k, v, mask)
        alpha, beta, gamma = self._gains(v, mean)
        out = torch.lerp(mean, F.scaled_dot_product_attention(q, k, v, mask), 1.0)
        return rearrange(alpha * v + beta * out - gamma * mean, "b h p d -> b p (h d)")

    def matrix(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the kernels make of unit vectors."""
        q, k, v, mask = self._parts(x, mask)
        units = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand(*k.shape[:2], -1, -1)
        mean = F.scaled_dot_product_attention(torch.zeros_like(q), k, v, mask)
        alpha, beta, gamma = self._gains(v, mean)
        uniform = F.scaled_dot_product_attention(torch.zeros_like(q), k, units, mask)
        return alpha * units + beta * F.scaled_dot_product_attention(q, k, units, mask) - gamma * uniform


class SimplifiedBlock(nn.Module):
    """The network's gain is folded into its last matrix at the start."""

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
        self.look = self._attention(d_model, heads, first_layer)
        self.before = nn.RMSNorm(d_model, eps=1e-8) if norm or first_layer else nn.Identity()
        self.between = None if parallel else nn.RMSNorm(d_model, eps=1e-8) if norm else nn.Identity()
        self.w_in, self.w_out = (
            nn.Parameter(torch.randn(d_ff, d_model) / d_model**0.5),
            nn.Parameter(torch.randn(d_model, d_ff) / d_ff**0.5),
        )
        self.mix = nn.Parameter(torch.tensor([1.0, residual_gain, 1.0]))

    def _attention(self, d_model: int, heads: int, first_layer: bool) -> ShapedAttention:
        return ShapedAttention(d_model, heads, first_layer)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Skipless."""
        n = self.before(x)
        y = self.mix[0] * self.look(n, mask)
        read = n if self.between is None else self.between(y)
        thought = F.linear(F.relu(F.linear(read, self.w_in)), self.mix[1] * self.w_out)
        return thought + (y if self.between is None else self.mix[2] * y)


class ByTheMean(ShapedAttention):
    """A small network of mean square and mean, for each head and query."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, first_layer)
        last = nn.Linear(4, 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), last)

    def _gains(self, v: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        statistics = torch.stack([v.square().mean(-1), mean.square().mean(-1)], -1)
        factor = 1 + self.net(statistics)
        plain = self.gains[:, :, None, None]
        return tuple(plain[i] * factor[..., i : i + 1] for i in range(3))


class PAFormerBlock(SimplifiedBlock):
    """Another definition."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, first_layer: bool = False, residual_gain: float = 0.1
    ) -> None:
        super().__init__(d_model, heads, d_ff, first_layer=first_layer, residual_gain=residual_gain)

    def _attention(self, d_model: int, heads: int, first_layer: bool) -> ShapedAttention:
        return ByTheMean(d_model, heads, first_layer)
