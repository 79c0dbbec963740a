"""The style of somebody who never writes a softmax: `F.scaled_dot_product_attention` does it all.

The weights are the kernel's answer for values that are the rows of the identity (chapters 2 and 4).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

LEVEL = "robust"


def _additive(q: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    # The kernel wants two axes, where plain broadcasting is content with one.
    mask = mask[None] if mask is not None and mask.ndim == 1 else mask
    if bias is None:
        return mask
    bias = bias.to(q.dtype)
    return bias if mask is None else bias.masked_fill(~mask, -torch.inf)


def attention(
    q: Float[Tensor, "*batch query d_k"],
    k: Float[Tensor, "*batch key d_k"],
    v: Float[Tensor, "*batch key d_v"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    bias: Float[Tensor, "*#batch #query #key"] | None = None,
) -> Float[Tensor, "*batch query d_v"]:
    """One call; zeros where nothing is visible are the kernel's own."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_additive(q, mask, bias))


def attention_weights(
    q: Float[Tensor, "*batch query d_k"],
    k: Float[Tensor, "*batch key d_k"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    bias: Float[Tensor, "*#batch #query #key"] | None = None,
) -> Float[Tensor, "*batch query key"]:
    """Attend to one-hot values: what comes out are the weights."""
    keys = k.shape[-2]
    one_hot = torch.eye(keys, dtype=k.dtype, device=k.device).expand(*k.shape[:-2], keys, keys)
    return attention(q, k, one_hot, mask, bias)


def split_heads(x: Float[Tensor, "*batch position channel"], heads: int) -> Float[Tensor, "*batch head position d"]:
    """Head h takes channels h·d to (h+1)·d."""
    if x.shape[-1] % heads:
        raise ValueError(f"cannot split {x.shape[-1]} channels into heads={heads}")
    return rearrange(x, "... position (head d) -> ... head position d", head=heads)


def merge_heads(x: Float[Tensor, "*batch head position d"]) -> Float[Tensor, "*batch position channel"]:
    """The inverse of `split_heads`."""
    return rearrange(x, "... head position d -> ... position (head d)")


def _quarter_turns(x: Float[Tensor, "*batch position d_k"]) -> Float[Tensor, "*batch position d_k"]:
    half = x.shape[-1] // 2
    rate = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[-2], device=x.device, dtype=torch.float64)[:, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return rearrange([even * cos - odd * sin, even * sin + odd * cos], "two ... i -> ... (i two)")


class MultiHeadAttention(nn.Module):
    """Four projections around the kernel, dropout inside it."""

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
        for size in (d_k, d_v):
            if size is None and d_model % heads:
                raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        d_k, d_v = d_k or d_model // heads, d_v or d_model // heads
        if rotary and d_k % 2:
            raise ValueError(f"d_k={d_k} is odd: rotary needs pairs")
        self.heads, self.dropout, self.rotary = heads, dropout, rotary
        self.query = nn.Linear(d_model, heads * d_k, bias)
        self.key = nn.Linear(d_model, heads * d_k, bias)
        self.value = nn.Linear(d_model, heads * d_v, bias)
        self.output = nn.Linear(heads * d_v, d_model, bias)

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"] | None = None,
        mask: Bool[Tensor, "..."] | None = None,
        bias: Float[Tensor, "..."] | None = None,
        cache: object = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """A mask of rank 3 is given its head axis."""
        source = x if context is None else context
        q = split_heads(self.query(x), self.heads)
        k = split_heads(self.key(source), self.heads)
        v = split_heads(self.value(source), self.heads)
        if self.rotary:
            q, k = _quarter_turns(q), _quarter_turns(k)
        if mask is not None and mask.ndim == 3:
            mask = rearrange(mask, "batch query key -> batch 1 query key")
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=_additive(q, mask, bias), dropout_p=p)
        out: Tensor = self.output(merge_heads(y))
        return out
