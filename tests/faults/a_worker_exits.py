"""The step ends its process in the middle."""

import os

import torch
from torch import Tensor, nn


def distributed_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    max_norm: float | None = None,
) -> float:
    """As a crash in a library does."""
    os._exit(3)
