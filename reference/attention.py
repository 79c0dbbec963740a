"""Scaled dot-product attention (Vaswani et al. 2017, §3.2.1)."""

import math

from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor


def attention_weights(
    q: Float[Tensor, "*batch query d_k"],
    k: Float[Tensor, "*batch key d_k"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    bias: Float[Tensor, "*#batch #query #key"] | None = None,
) -> Float[Tensor, "*batch query key"]:
    """How much each query looks at each key: softmax(q kᵀ / √d_k + bias) over the keys that the mask leaves visible.

    Shapes: q (*batch, query, d_k), k (*batch, key, d_k); mask and bias broadcast against (*batch, query, key).
    A mask is True where a query may look. A row with nothing visible is zero.
    Raises: torch's error where d_k of q and k differ, or where the mask does not broadcast.
    Source: Vaswani et al. 2017, §3.2.1, equation 1.
    """
    scores = einsum(q, k, "... query d_k, ... key d_k -> ... query key") / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias.to(scores)
    if mask is None:
        return scores.softmax(-1)
    # A row of −inf alone becomes NaN in the softmax: the second fill makes it zero, and the first one its gradient.
    return scores.masked_fill(~mask, -math.inf).softmax(-1).masked_fill(~mask, 0.0)


def attention(
    q: Float[Tensor, "*batch query d_k"],
    k: Float[Tensor, "*batch key d_k"],
    v: Float[Tensor, "*batch key d_v"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    bias: Float[Tensor, "*#batch #query #key"] | None = None,
) -> Float[Tensor, "*batch query d_v"]:
    """For each query, the average of the values, weighted by how much it looks at their keys.

    Shapes: v (*batch, key, d_v), one value for each key; d_v and the number of queries are free.
    Raises: torch's error where there are not as many values as keys.
    Source: Vaswani et al. 2017, §3.2.1, equation 1.
    """
    weights = attention_weights(q, k, mask, bias)
    return einsum(weights, v, "... query key, ... key d_v -> ... query d_v")
