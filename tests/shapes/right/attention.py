"""Chapters 2 and 3, in einops with full names."""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor


def attention_weights(
    q: Float[Tensor, "*batch query d_k"],
    k: Float[Tensor, "*batch key d_k"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    bias: Float[Tensor, "*#batch #query #key"] | None = None,
) -> Float[Tensor, "*batch query key"]:
    """Softmax over the keys of the scaled scores."""
    scores = einsum(q, k, "... query d_k, ... key d_k -> ... query key") / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    return torch.nan_to_num(weights)


def attention(
    q: Float[Tensor, "*batch query d_k"],
    k: Float[Tensor, "*batch key d_k"],
    v: Float[Tensor, "*batch key d_v"],
    mask: Bool[Tensor, "*#batch #query #key"] | None = None,
    bias: Float[Tensor, "*#batch #query #key"] | None = None,
) -> Float[Tensor, "*batch query d_v"]:
    """The weighted mean of the values."""
    weights = attention_weights(q, k, mask, bias)
    return einsum(weights, v, "... query key, ... key d_v -> ... query d_v")


def attention_on_heads(
    q: Float[Tensor, "batch head query d_k"],
    k: Float[Tensor, "batch head key d_k"],
    v: Float[Tensor, "batch head key d_v"],
    mask: Bool[Tensor, "query key"] | None = None,
) -> Float[Tensor, "batch head query d_v"]:
    """The same with plain matrix products."""
    scores = q @ rearrange(k, "batch head key d_k -> batch head d_k key")
    scores = scores * q.size(-1) ** -0.5
    if mask is not None:
        scores = torch.where(mask, scores, torch.full_like(scores, -1e9))
    scores = scores - scores.amax(dim=-1, keepdim=True)
    weights = scores.exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def causal_mask(queries: int, keys: int | None = None) -> Bool[Tensor, "query key"]:
    """Each position sees itself and all before it."""
    keys = queries if keys is None else keys
    return torch.ones(queries, keys, dtype=torch.bool).tril(diagonal=keys - queries)


def padding_mask(tokens: Int[Tensor, "batch position"], pad: int) -> Bool[Tensor, "batch 1 key"]:
    """True where there is no padding."""
    return rearrange(tokens != pad, "batch key -> batch 1 key")


def window_mask(length: int, window: int) -> Bool[Tensor, "query key"]:
    """The last `window` positions."""
    query = torch.arange(length)[:, None]
    key = torch.arange(length)[None, :]
    return (key <= query) & (query - key < window)


def demo() -> None:
    """Run all."""
    q, k, v = torch.randn(2, 4, 6), torch.randn(2, 5, 6), torch.randn(2, 5, 3)
    attention(q, k, v, causal_mask(4, 5), torch.randn(4, 5))
    attention_on_heads(q[:, None], k[:, None], v[:, None], causal_mask(4, 5))
    attention(q, k, v, padding_mask(torch.arange(10).view(2, 5), 3))
    window_mask(6, 2)
