"""The style of a mathematician: every position has an explicit rotation matrix of 2×2 blocks.

Chapter 1 alone; the sinusoidal table is built by the recurrence P[p+1] = R·P[p] that makes it what it is.
"""

import math

import torch
from torch import Tensor, nn

LEVEL = "robust"


def _rotation(angles: list[float]) -> Tensor:
    """One 2×2 rotation for each angle, on the diagonal."""
    blocks = [
        torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64) for a in angles
    ]
    matrix = torch.zeros(2 * len(blocks), 2 * len(blocks), dtype=torch.float64)
    for i, block in enumerate(blocks):
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    return matrix


def _rates(size: int, base: float = 10000.0) -> list[float]:
    if size % 2 == 1:
        raise ValueError(f"an odd size ({size}) has no 2×2 blocks")
    return [base ** (-2 * i / size) for i in range(size // 2)]


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Start at 0, 1, 0, 1, … and turn each pair (sin, cos) by its rate, again and again."""
    # The pair (sin, cos) turns the other way round than (cos, sin).
    step = _rotation([-rate for rate in _rates(d_model)])
    row = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(d_model // 2)
    rows = []
    for _ in range(length):
        rows.append(row)
        row = step @ row
    table = torch.stack(rows) if rows else torch.zeros(0, d_model, dtype=torch.float64)
    return table.to(device=device, dtype=dtype or torch.float32)


class LearnedPositions(nn.Module):
    """A matrix, of which rows are read."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(max_length, d_model), std=0.01))

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """`narrow` refuses what does not fit; we only say it better."""
        try:
            return self.weight.narrow(0, offset, length)
        except (RuntimeError, IndexError) as error:
            have = len(self.weight)
            raise ValueError(f"no rows {offset} to {offset + length}: there are max_length={have}") from error


def rotary(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """y[p] = R[p] · x[p]."""
    length, d_k = x.shape[-2:]
    rates = _rates(d_k, base)
    matrices = [_rotation([(offset + p) * rate for rate in rates]) for p in range(length)]
    wide = torch.promote_types(x.dtype, torch.float32)
    stacked = torch.stack(matrices).to(device=x.device, dtype=wide)
    return (stacked @ x.to(wide).unsqueeze(-1)).squeeze(-1).to(x.dtype)


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Written as three loops."""
    table = [
        [[-(2 ** (-8 * (h + 1) / heads)) * abs(i - j) for j in range(length)] for i in range(length)]
        for h in range(heads)
    ]
    return torch.tensor(table, device=device, dtype=dtype or torch.float32)
