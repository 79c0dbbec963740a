"""Multi-head attention: several attentions side by side, each in its own projection (Vaswani et al. 2017, §3.2.2)."""

from typing import Protocol

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from .positions import rotary as rotate


class LayerCache(Protocol):
    """The keys and values that one layer has already seen; chapter `generation` implements it."""

    length: int
    """How many positions are held."""

    def extend(
        self, key: Float[Tensor, "batch head position d_k"], value: Float[Tensor, "batch head position d_v"]
    ) -> tuple[Float[Tensor, "batch head key d_k"], Float[Tensor, "batch head key d_v"]]:
        """Appends new positions and returns everything that is held."""
        ...


def split_heads(x: Float[Tensor, "*batch position channels"], heads: int) -> Float[Tensor, "*batch head position d"]:
    """Gives every head its own slice of the channels of each position.

    Shapes: x (*batch, position, heads · d), the result (*batch, head, position, d); head 0 has the first d channels.
    Raises: ValueError where the channels cannot be divided among the heads.
    Source: Vaswani et al. 2017, §3.2.2.
    """
    if x.shape[-1] % heads:
        raise ValueError(f"{x.shape[-1]} channels are not divisible by heads={heads}")
    return rearrange(x, "... position (head d) -> ... head position d", head=heads)


def merge_heads(x: Float[Tensor, "*batch head position d"]) -> Float[Tensor, "*batch position channels"]:
    """Puts the heads' channels side by side again: the inverse of split_heads.

    Shapes: x (*batch, head, position, d), the result (*batch, position, heads · d).
    Source: Vaswani et al. 2017, §3.2.2 ("Concat").
    """
    return rearrange(x, "... head position d -> ... position (head d)")


class MultiHeadAttention(nn.Module):
    """Every head attends in a projection of its own; the output layer mixes what they found.

    Parameters: query, key, value, output, each a linear layer. Head h owns the h-th slice of d_k rows of query and
    key, and of d_v rows of value.
    Raises: ValueError where heads do not divide d_model and d_k or d_v is to be derived from it.
    Source: Vaswani et al. 2017, §3.2.2; rotary: Su et al. 2021.
    """

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
        if (d_k is None or d_v is None) and d_model % heads:
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        d_k = d_model // heads if d_k is None else d_k
        d_v = d_model // heads if d_v is None else d_v
        if rotary and d_k % 2:
            raise ValueError(f"rotary turns pairs of channels, and d_k={d_k} is odd")
        self.heads, self.dropout, self.rotary = heads, dropout, rotary
        self.query = nn.Linear(d_model, heads * d_k, bias=bias)
        self.key = nn.Linear(d_model, heads * d_k, bias=bias)
        self.value = nn.Linear(d_model, heads * d_v, bias=bias)
        self.output = nn.Linear(heads * d_v, d_model, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"] | None = None,
        mask: Bool[Tensor, "#query #key"]
        | Bool[Tensor, "#batch #query #key"]
        | Bool[Tensor, "#batch #head #query #key"]
        | None = None,
        bias: Float[Tensor, "*#head #query #key"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Queries come from x; keys and values from the context, or from x itself where there is none.

        Shapes: mask (query, key), (batch, query, key) or (batch, head, query, key), True where a query may look; bias
        broadcasts against (batch, head, query, key). With a cache, x follows what the cache holds, and the keys are
        those held and x's own.
        Raises: ValueError where both a context and a cache are given.
        """
        if context is not None and cache is not None:
            raise ValueError("a cache holds the keys of self-attention: give a context or a cache, not both")
        query, key, value = (split_heads(each, self.heads) for each in self._project(x, context))
        if self.rotary:
            offset = 0 if cache is None else cache.length
            query, key = rotate(query, offset), rotate(key, offset)
        if cache is not None:
            key, value = cache.extend(key, value)
        out: Tensor = self.output(merge_heads(self._attend(query, key, value, mask, bias)))
        return out

    def _project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """Queries, keys and values of all heads; one large product is faster than three where the input is one."""
        if context is not None:
            return self.query(x), self.key(context), self.value(context)
        layers = (self.query, self.key, self.value)
        weight = torch.cat([layer.weight for layer in layers])
        bias = None if self.query.bias is None else torch.cat([layer.bias for layer in layers])
        return torch.split(F.linear(x, weight, bias), [layer.out_features for layer in layers], dim=-1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        """The attention of all heads at once, in torch's fast kernel, which gives zeros where nothing is visible."""
        dropout = self.dropout if self.training else 0.0  # the kernel knows nothing of eval()
        return F.scaled_dot_product_attention(query, key, value, _visible(mask, bias, query), dropout_p=dropout)


def _visible(mask: Tensor | None, bias: Tensor | None, like: Tensor) -> Tensor | None:
    """Mask and bias as the one argument that torch's kernel takes: Boolean, or added to the scores."""
    if mask is not None and mask.ndim == 3:
        # Broadcasting would read the batch axis as heads.
        mask = rearrange(mask, "batch query key -> batch 1 query key")
    if bias is None:
        return mask
    bias = bias.to(like)
    return bias if mask is None else bias.masked_fill(~mask, -torch.inf)
