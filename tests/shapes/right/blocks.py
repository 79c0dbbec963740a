"""Chapter 5."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .heads import MultiHeadAttention


class LayerNorm(nn.Module):
    """Mean 0, variance 1."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Over the last axis."""
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class RMSNorm(nn.Module):
    """Root mean square 1."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Over the last axis."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class FeedForward(nn.Module):
    """Each position alone."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(d_model, d_ff)
        if activation == "swiglu":
            self.gate = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Up and down again."""
        up = self.up(x)
        if self.activation == "swiglu":
            hidden = F.silu(self.gate(x)) * up
        elif self.activation == "relu":
            hidden = F.relu(up)
        else:
            hidden = F.gelu(up, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.down(self.dropout(hidden))


class DecoderBlock(nn.Module):
    """Attention and feed-forward, each with a skip."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre") -> None:
        super().__init__()
        self.norm = norm
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout)
        self.feed_forward = FeedForward(d_model, d_ff, dropout=dropout)
        self.norm_1 = LayerNorm(d_model)
        self.norm_2 = RMSNorm(d_model)

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "..."] | None = None,
        bias: Float[Tensor, "head position position"] | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Pre-norm or post-norm."""
        if self.norm == "pre":
            x = x + self.attention(self.norm_1(x), mask=mask, bias=bias)
            return x + self.feed_forward(self.norm_2(x))
        x = self.norm_1(x + self.attention(x, mask=mask, bias=bias))
        return self.norm_2(x + self.feed_forward(x))


def demo() -> None:
    """Run all."""
    x = torch.randn(2, 5, 12)
    DecoderBlock(12, 3, 20)(x, torch.ones(5, 5, dtype=torch.bool), torch.zeros(3, 5, 5))
    DecoderBlock(12, 4, 7, norm="post")(x)
    FeedForward(12, 9, "swiglu")(x[0])
