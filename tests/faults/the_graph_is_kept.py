"""The step adds up its losses with their graphs, for an average that is printed some day."""

import torch
from torch import Tensor, nn

from reference import server

LOSSES: list[Tensor] = []


def distributed_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    max_norm: float | None = None,
) -> float:
    """Remembers the logits' mean, and with it all that they were computed from."""
    LOSSES.append(model(inputs).mean())
    return server.distributed_step(model, optimizer, inputs, targets, max_norm)
