"""The style of somebody who learned from BERT's code: inside, a mask is a float tensor of 0 and −∞ that is added.

Chapters 2 to 4. Rows with nothing visible get no penalty and are multiplied by zero afterwards.
"""

import torch
from torch import Tensor, nn

LEVEL = "robust"


def _penalty(mask: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """What is added to the scores, and 1 for rows that see anything, else 0."""
    alive = mask.any(dim=-1, keepdim=True)
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(mask | ~alive, zero, zero - torch.inf), alive.to(like.dtype)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Scores, plus bias, plus penalty."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if bias is not None:
        scores = scores + bias.to(scores)
    if mask is None:
        return torch.softmax(scores, dim=-1)
    penalty, alive = _penalty(mask, scores)
    return torch.softmax(scores + penalty, dim=-1) * alive


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Weights times values."""
    return attention_weights(q, k, mask, bias) @ v


def causal_mask(queries: int, keys: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """Built as a float triangle of −∞, given out as a Boolean."""
    keys = keys if keys is not None else queries
    triangle = torch.full((queries, keys), -torch.inf, device=device).triu(keys - queries + 1)
    return triangle == 0


def padding_mask(tokens: Tensor, pad: int) -> Tensor:
    """True for tokens that are not `pad`."""
    return torch.logical_not(tokens == pad).view(tokens.shape[0], 1, tokens.shape[1])


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Tensor:
    """The causal mask without the causal mask of `window` steps ago."""
    causal = causal_mask(length, device=device)
    return causal ^ torch.ones_like(causal).tril(-window)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """A slice of channels for each head, stacked."""
    if x.shape[-1] % heads != 0:
        raise ValueError(f"{x.shape[-1]} channels, heads={heads}: no even split")
    return torch.stack(x.chunk(heads, dim=-1), dim=-3)


def merge_heads(x: Tensor) -> Tensor:
    """The heads' outputs, concatenated."""
    return torch.cat(x.unbind(dim=-3), dim=-1)


def _rotated(x: Tensor) -> Tensor:
    d_k = x.shape[-1]
    index = torch.arange(d_k // 2, dtype=torch.float64, device=x.device)
    angle = torch.arange(x.shape[-2], dtype=torch.float64, device=x.device)[:, None] / 10000 ** (2 * index / d_k)
    left, right = x.chunk(2, dim=-1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class MultiHeadAttention(nn.Module):
    """BERT's self-attention with a free choice of head sizes."""

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
            raise ValueError(f"The hidden size ({d_model}) is not a multiple of the number of heads ({heads})")
        d_k = d_k if d_k is not None else d_model // heads
        d_v = d_v if d_v is not None else d_model // heads
        if rotary and d_k % 2 != 0:
            raise ValueError(f"Rotary positions need an even head size, not {d_k}")
        self.heads, self.rotary = heads, rotary
        self.query = nn.Linear(d_model, heads * d_k, bias=bias)
        self.key = nn.Linear(d_model, heads * d_k, bias=bias)
        self.value = nn.Linear(d_model, heads * d_v, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(heads * d_v, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object = None,
    ) -> Tensor:
        """BERT's extended attention mask, for any rank from 2 to 4."""
        source = context if context is not None else x
        q = split_heads(self.query(x), self.heads)
        k = split_heads(self.key(source), self.heads)
        v = split_heads(self.value(source), self.heads)
        if self.rotary:
            q, k = _rotated(q), _rotated(k)
        extended = mask[:, None, :, :] if mask is not None and mask.ndim == 3 else mask
        weights = self.dropout(attention_weights(q, k, extended, bias))
        out: Tensor = self.output(merge_heads(weights @ v))
        return out
