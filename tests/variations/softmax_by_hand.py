"""The style of somebody who builds it from exp and sum: a naive, stable softmax that runs over the visible keys alone.

Chapters 2 and 3; no call of softmax, no −∞: hidden scores are replaced before the exponential.
"""

import torch
from torch import Tensor

LEVEL = "robust"


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """exp(s − max) over its sum, both taken over visible keys."""
    d_k = q.shape[-1]
    if k.shape[-1] != d_k:
        raise ValueError(f"a query has {d_k} numbers, a key {k.shape[-1]}")
    scores = q @ k.transpose(-1, -2) / d_k**0.5
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    visible = torch.ones_like(scores, dtype=torch.bool)
    if mask is not None:
        visible = visible & mask
    # The lowest visible score stands for a hidden one: it moves neither the maximum nor an exponent out of range.
    peak = torch.where(visible, scores, torch.finfo(scores.dtype).min).amax(dim=-1, keepdim=True).detach()
    shifted = torch.where(visible, scores - peak, 0)
    power = torch.where(visible, shifted.exp(), 0)
    total = power.sum(dim=-1, keepdim=True)
    return power / torch.where(total > 0, total, 1)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Sum over the keys of weight times value, as a broadcast product."""
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"there are {k.shape[-2]} keys and {v.shape[-2]} values")
    return (attention_weights(q, k, mask, bias).unsqueeze(-1) * v.unsqueeze(-3)).sum(dim=-2)


def causal_mask(queries: int, keys: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """A list of lists, as one writes it on paper."""
    keys = queries if keys is None else keys
    rows = [[key <= query + keys - queries for key in range(keys)] for query in range(queries)]
    return torch.tensor(rows, dtype=torch.bool, device=device).reshape(queries, keys)


def padding_mask(tokens: Tensor, pad: int) -> Tensor:
    """Not equal to pad."""
    return ~tokens.eq(pad).unsqueeze(-2)


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Tensor:
    """Row by row: from query − window + 1 to query."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    for query in range(length):
        mask[query, max(0, query - window + 1) : query + 1] = True
    return mask.to(device)
