"""Who may look at whom: Boolean masks, True where a query may look. What must hold: spec/masks.py."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def causal_mask(
    queries: int, keys: int | None = None, device: torch.device | str | None = None
) -> Bool[Tensor, "query key"]:
    """Every position sees itself and all before it.

    Shapes: (queries, keys); with more keys than queries the queries are the last positions. keys defaults to queries.
    """
    # TODO: compare the position of each query with that of each key
    raise NotImplementedError


def padding_mask(tokens: Int[Tensor, "batch position"], pad: int) -> Bool[Tensor, "batch 1 key"]:
    """Every query sees the keys that are no padding.

    Shapes: tokens (batch, position); the mask's query axis is 1, one row for all queries.
    """
    # TODO: compare the tokens with pad, and give the mask a query axis
    raise NotImplementedError


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Bool[Tensor, "query key"]:
    """Every position sees the last `window` positions, itself included.

    Raises: ValueError where the window has no room for the position itself.
    """
    # TODO: causal, and not further back than the window reaches
    raise NotImplementedError
