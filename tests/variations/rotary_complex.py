"""The style of LLaMA's release: neighbouring pairs are complex numbers, and a rotation is a multiplication.

Chapter 1 alone; the sinusoidal table is the same complex table, read as real numbers.
"""

import torch
from torch import Tensor, nn

LEVEL = "robust"


def _phases(positions: Tensor, d: int, base: float = 10000.0) -> Tensor:
    """e^(i·p·base^(−2j/d)) as complex128, "position pair"."""
    if d % 2:
        raise ValueError(f"{d} channels do not make complex pairs: the size must be even")
    rate = 1.0 / base ** (torch.arange(0, d, 2, dtype=torch.float64, device=positions.device) / d)
    angle = torch.outer(positions.to(torch.float64), rate)
    return torch.polar(torch.ones_like(angle), angle)


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Sine is the imaginary part, so the conjugate times i puts it first."""
    phases = _phases(torch.arange(length), d_model)
    return torch.view_as_real(1j * phases.conj()).flatten(1).to(device=device, dtype=dtype or torch.float32)


class LearnedPositions(nn.Embedding):
    """An embedding that makes its own indices."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__(max_length, d_model)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, length: int, offset: int = 0) -> Tensor:  # type: ignore[override]
        """The error comes before torch's own, which names no number."""
        if offset + length > self.num_embeddings or offset < 0:
            raise IndexError(f"length={length} at offset={offset} exceeds max_length={self.num_embeddings}")
        return super().forward(torch.arange(offset, offset + length, device=self.weight.device))


def rotary(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Pairs (x₀, x₁), (x₂, x₃), … times their phases."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    phases = _phases(torch.arange(offset, offset + x.shape[-2], device=x.device), x.shape[-1], base)
    pairs = torch.view_as_complex(x.to(wide).reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * phases.to(pairs.dtype)).flatten(-2).to(x.dtype)


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """A geometric sequence of slopes, whose ratio is its first member."""
    ratio = 2.0 ** (-8.0 / heads)
    slopes = torch.tensor([ratio**h for h in range(1, heads + 1)], dtype=torch.float64)
    p = torch.arange(length, dtype=torch.float64)[:, None]
    distance = torch.cdist(p, p)
    return -(slopes[:, None, None] * distance).to(device=device, dtype=dtype or torch.float32)
