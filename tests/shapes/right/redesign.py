"""Chapter `redesign`: parallel, shaped and simplified blocks."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn


class ParallelBlock(nn.Module):
    """Attention and feed-forward read the same norm."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.d_ff = heads, d_ff
        self.norm = nn.LayerNorm(d_model)
        self.fused = nn.Linear(d_model, 3 * d_model + d_ff)
        self.output = nn.Linear(d_model + d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch position d_model"], mask: Bool[Tensor, "position position"] | None = None
    ) -> Float[Tensor, "batch position d_model"]:
        """One matrix in, one out."""
        d_model = x.shape[-1]
        qkv, up = self.fused(self.norm(x)).split([3 * d_model, self.d_ff], dim=-1)
        q, k, v = rearrange(qkv, "b p (three h d) -> three b h p d", three=3, h=self.heads)
        attended = rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h p d -> b p (h d)")
        return x + self.dropout(self.output(torch.cat([attended, F.gelu(up)], dim=-1)))


class ShapedAttention(nn.Module):
    """alpha I + beta softmax − gamma C, one gain a head."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.delta = nn.Parameter(torch.zeros(d_model, d_model)) if first_layer else None
        self.alpha = nn.Parameter(torch.ones(heads))
        self.beta = nn.Parameter(torch.ones(heads))
        self.gamma = nn.Parameter(torch.ones(heads))

    def matrix(
        self, x: Float[Tensor, "batch position d_model"], mask: Bool[Tensor, "position position"] | None = None
    ) -> Float[Tensor, "batch head position position"]:
        """The attention matrix."""
        q = rearrange(self.query(x), "batch position (head d_k) -> batch head position d_k", head=self.heads)
        k = rearrange(self.key(x), "batch position (head d_k) -> batch head position d_k", head=self.heads)
        scores = einsum(q, k, "batch head i d_k, batch head j d_k -> batch head i j") / q.shape[-1] ** 0.5
        length = x.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool) if mask is None else mask
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        centre = visible.float() / visible.sum(-1, keepdim=True)
        identity = torch.eye(length)
        alpha, beta, gamma = (rearrange(g, "head -> head 1 1") for g in (self.alpha, self.beta, self.gamma))
        return alpha * identity + beta * weights - gamma * centre

    def forward(
        self, x: Float[Tensor, "batch position d_model"], mask: Bool[Tensor, "position position"] | None = None
    ) -> Float[Tensor, "batch position d_model"]:
        """Values are slices of the input."""
        v = x if self.delta is None else x + x @ self.delta
        v = rearrange(v, "batch position (head d_v) -> batch head position d_v", head=self.heads)
        out = einsum(self.matrix(x, mask), v, "batch head i j, batch head j d_v -> batch head i d_v")
        return rearrange(out, "batch head position d_v -> batch position (head d_v)")


class SimplifiedBlock(nn.Module):
    """SAS-P, or SAS."""

    def __init__(self, d_model: int, heads: int, d_ff: int, parallel: bool = True, residual_gain: float = 0.1) -> None:
        super().__init__()
        self.parallel, self.residual_gain = parallel, residual_gain
        self.attention = ShapedAttention(d_model, heads, first_layer=True)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)
        self.norm_1 = nn.RMSNorm(d_model)
        self.norm_2 = nn.RMSNorm(d_model)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(
        self, x: Float[Tensor, "batch position d_model"], mask: Bool[Tensor, "position position"] | None = None
    ) -> Float[Tensor, "batch position d_model"]:
        """No skip around attention."""
        n = self.norm_1(x)
        attended = self.gain * self.attention(n, mask)
        if self.parallel:
            return attended + self.residual_gain * self.down(F.relu(self.up(n)))
        return attended + self.residual_gain * self.down(F.relu(self.up(self.norm_2(attended))))


class AdaptiveGains(nn.Module):
    """Gains by a small function of the input's statistics."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3 * heads))
        self.heads = heads

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "three batch head 1 1"]:
        """alpha, beta, gamma of each head."""
        statistics = torch.stack([x.mean(dim=(1, 2)), x.std(dim=(1, 2))], dim=-1)
        return rearrange(self.net(statistics), "b (three h) -> three b h 1 1", three=3)


def spread(gains: Float[Tensor, "head"], batch: int) -> Float[Tensor, "{batch} head 1 1"]:
    """For a batch."""
    return repeat(gains, "head -> batch head 1 1", batch=batch)


def demo() -> None:
    """Run all."""
    x, mask = torch.randn(2, 5, 12), torch.ones(5, 5).tril().bool()
    ParallelBlock(12, 3, 20)(x, mask)
    SimplifiedBlock(12, 4, 20)(x, mask)
    SimplifiedBlock(12, 3, 20, parallel=False)(x)
    AdaptiveGains(12, 3)(x)
    spread(torch.ones(3), 2)
