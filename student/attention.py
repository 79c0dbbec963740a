"""Scaled dot-product attention (Vaswani et al. 2017, §3.2.1). What must hold: spec/attention.py."""

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
    """
    # TODO: scores, scale, bias, mask, softmax
    raise NotImplementedError


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
    """
    # TODO: average the values with attention_weights
    raise NotImplementedError
