"""Who may look at whom: Boolean masks, True where a query may look."""

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor


def _steps_back(queries: int, keys: int, device: torch.device | str | None = None) -> Int[Tensor, "query key"]:
    """How many positions each key stands behind each query; negative for keys that come later."""
    # The queries are the last positions: with keys remembered from before, query 0 is not position 0.
    query = torch.arange(keys - queries, keys, device=device)
    key = torch.arange(keys, device=device)
    return rearrange(query, "query -> query 1") - rearrange(key, "key -> 1 key")


def causal_mask(
    queries: int, keys: int | None = None, device: torch.device | str | None = None
) -> Bool[Tensor, "query key"]:
    """Every position sees itself and all before it.

    Shapes: (queries, keys); with more keys than queries the queries are the last positions. keys defaults to queries.
    Source: Vaswani et al. 2017, §3.2.3.
    """
    return _steps_back(queries, queries if keys is None else keys, device) >= 0


def padding_mask(tokens: Int[Tensor, "batch position"], pad: int) -> Bool[Tensor, "batch 1 key"]:
    """Every query sees the keys that are no padding.

    Shapes: tokens (batch, position); the mask's query axis is 1, one row for all queries.
    """
    return rearrange(tokens != pad, "batch key -> batch 1 key")


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Bool[Tensor, "query key"]:
    """Every position sees the last `window` positions, itself included.

    Raises: ValueError where the window has no room for the position itself.
    Source: Beltagy et al. 2020, §3.1.
    """
    if window < 1:
        raise ValueError(f"window={window} is too small: a position sees at least itself")
    back = _steps_back(length, length, device)
    return (back >= 0) & (back < window)
