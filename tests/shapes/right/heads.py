"""Chapter 4: the reference's style, with context, masks of every rank, and rotary."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .attention import attention
from .positions import rotary


def split_heads(
    x: Float[Tensor, "*batch position d_model"], heads: int
) -> Float[Tensor, "*batch {heads} position d_k"]:
    """Channels to heads."""
    return rearrange(x, "... position (head d) -> ... head position d", head=heads)


def merge_heads(x: Float[Tensor, "*batch head position d_k"]) -> Float[Tensor, "*batch position head*d_k"]:
    """Heads to channels."""
    return rearrange(x, "... head position d -> ... position (head d)")


class MultiHeadAttention(nn.Module):
    """Self-attention without context, cross-attention with it."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_k: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        use_rotary: bool = False,
    ) -> None:
        super().__init__()
        if d_model % heads and (d_k is None or d_v is None):
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        d_k = d_model // heads if d_k is None else d_k
        d_v = d_model // heads if d_v is None else d_v
        self.heads = heads
        self.use_rotary = use_rotary
        self.query = nn.Linear(d_model, heads * d_k, bias=bias)
        self.key = nn.Linear(d_model, heads * d_k, bias=bias)
        self.value = nn.Linear(d_model, heads * d_v, bias=bias)
        self.output = nn.Linear(heads * d_v, d_model, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"] | None = None,
        mask: Bool[Tensor, "..."] | None = None,
        bias: Float[Tensor, "*#batch #query #key"] | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Attend."""
        context = x if context is None else context
        q = split_heads(self.query(x), self.heads)
        k = split_heads(self.key(context), self.heads)
        v = split_heads(self.value(context), self.heads)
        if self.use_rotary:
            q, k = rotary(q), rotary(k)
        if mask is not None and mask.ndim == 3:
            mask = rearrange(mask, "batch query key -> batch 1 query key")
        out = attention(q, k, v, mask, bias)
        return self.dropout(self.output(merge_heads(out)))


def demo() -> None:
    """Run all."""
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    layer = MultiHeadAttention(12, 3, use_rotary=True)
    layer(x)
    layer(x, memory, torch.ones(2, 1, 7, dtype=torch.bool))
    MultiHeadAttention(12, 3, d_k=2, d_v=5)(x, memory, torch.ones(5, 7, dtype=torch.bool), torch.zeros(3, 5, 7))
    merge_heads(split_heads(x, 4))
