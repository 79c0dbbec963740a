"""Chapter 1, plain torch."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | None = None
) -> Float[Tensor, "position d_model"]:
    """Even columns sine, odd columns cosine."""
    if d_model % 2:
        raise ValueError(f"d_model={d_model} is odd")
    position = torch.arange(length, dtype=torch.float32, device=device).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, d_model, 2, device=device) * (-math.log(10000.0) / d_model))
    table = torch.zeros(length, d_model, device=device)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table


class LearnedPositions(nn.Module):
    """One trainable row a position."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.weight = nn.Parameter(torch.randn(max_length, d_model) * 0.02)

    def forward(self, length: int, offset: int = 0) -> Float[Tensor, "position d_model"]:
        """The rows from offset on."""
        if offset + length > self.max_length:
            raise ValueError(f"{offset + length} positions, but max_length={self.max_length}")
        return self.weight[offset : offset + length]


def rotary(
    x: Float[Tensor, "*batch position d_k"], offset: int = 0, base: float = 10000.0
) -> Float[Tensor, "*batch position d_k"]:
    """Rotate neighbouring pairs."""
    length, d_k = x.shape[-2:]
    position = torch.arange(offset, offset + length, device=x.device, dtype=x.dtype)
    frequency = base ** (-torch.arange(0, d_k, 2, device=x.device, dtype=x.dtype) / d_k)
    angle = position[:, None] * frequency[None, :]
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2)


def rotary_half_split(
    x: Float[Tensor, "batch head position d_k"], offset: int = 0
) -> Float[Tensor, "batch head position d_k"]:
    """The other pairing."""
    half = x.size(-1) // 2
    inverse = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.outer(torch.arange(x.size(-2), dtype=x.dtype) + offset, inverse)
    angle = torch.cat([angle, angle], dim=-1)
    left, right = x.chunk(2, dim=-1)
    turned = torch.cat((-right, left), dim=-1)
    return x * angle.cos() + turned * angle.sin()


def alibi_bias(heads: int, length: int) -> Float[Tensor, "head query key"]:
    """Falls linearly with the distance."""
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
    position = torch.arange(length)
    distance = position[None, :] - position[:, None]
    return slopes[:, None, None] * distance.clamp(max=0).float()


def demo() -> None:
    """Run all."""
    sinusoidal_positions(7, 10)
    LearnedPositions(9, 6)(5, offset=2)
    x = torch.randn(2, 3, 5, 8)
    rotary(x, offset=1)
    rotary_half_split(x)
    alibi_bias(4, 6)
