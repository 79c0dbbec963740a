"""The step remembers how often it was called, and warms the gradient up: a run that resumes starts that again."""

import torch
from torch import Tensor, nn

from reference import server

CALLS: list[int] = []


def distributed_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    max_norm: float | None = None,
) -> float:
    """A second warm-up, inside the step."""
    CALLS.append(1)
    for group in optimizer.param_groups:
        group["lr"] *= min(1.0, len(CALLS) / 25)
    return server.distributed_step(model, optimizer, inputs, targets, max_norm)
