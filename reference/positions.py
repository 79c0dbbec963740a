"""Where a token stands: sinusoids, learned rows, rotations and distance penalties."""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn


def _angles(positions: Float[Tensor, "position"], size: int, base: float) -> Float[Tensor, "position pair"]:
    """position / base^(2i/size): one angle for each pair of channels, from fast to slow."""
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=positions.dtype) / size
    return einsum(positions, base**-exponents, "position, pair -> position pair")


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "position d_model"]:
    """Column 2i holds sin(position / 10000^(2i/d_model)), column 2i+1 the cosine of the same angle.

    Returns: a fixed table, float32 on the CPU unless said otherwise.
    Raises: ValueError where d_model is odd, since sines and cosines come in pairs.
    Source: Vaswani et al. 2017, §3.5.
    """
    if d_model % 2:
        raise ValueError(f"d_model={d_model} is odd, but sines and cosines come in pairs")
    angles = _angles(torch.arange(length, dtype=torch.float64), d_model, 10000.0)
    pairs = torch.stack([angles.sin(), angles.cos()])
    table = rearrange(pairs, "two position pair -> position (pair two)")
    return table.to(device=device, dtype=dtype or torch.float32)


class LearnedPositions(nn.Module):
    """A trainable table with one row for each position; its parameter is `weight` (max_length, d_model).

    Source: Vaswani et al. 2017, §3.5; Radford et al. 2019.
    """

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.weight = nn.Parameter(0.02 * torch.randn(max_length, d_model))

    def forward(self, length: int, offset: int = 0) -> Float[Tensor, "position d_model"]:
        """The rows of the positions offset … offset + length − 1.

        Raises: ValueError where they do not all lie within max_length.
        """
        end = offset + length
        if offset < 0 or end > self.max_length:
            raise ValueError(f"length={length} from offset={offset} on does not fit into max_length={self.max_length}")
        return self.weight[offset:end]


def rotary(
    x: Float[Tensor, "*batch position d_k"], offset: int = 0, base: float = 10000.0
) -> Float[Tensor, "*batch position d_k"]:
    """Turns each pair of neighbouring channels by an angle that grows with the position.

    Shapes: x (*batch, position, d_k); the first of its positions is number `offset`.
    Raises: ValueError where d_k is odd, since pairs are turned.
    Source: Su et al. 2021, §3.2.2 and §3.4.2.
    """
    length, d_k = x.shape[-2:]
    if d_k % 2:
        raise ValueError(f"d_k={d_k} is odd, but rotary turns pairs of channels")
    # bfloat16 cannot tell position 1000 from 1001, so angles are computed in float32 at least.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    angles = _angles(torch.arange(offset, offset + length, device=x.device, dtype=wide.dtype), d_k, base)
    cos, sin = angles.cos(), angles.sin()
    first, second = wide[..., 0::2], wide[..., 1::2]
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos])
    return rearrange(turned, "two ... position pair -> ... position (pair two)").to(x.dtype)


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "head query key"]:
    """Minus the distance from query to key, times the slope 2^(−8h/heads) of head h = 1 … heads.

    Returns: a bias for the scaled scores, float32 on the CPU unless said otherwise.
    Source: Press et al. 2022, §3.
    """
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
    position = torch.arange(length)
    distance = (rearrange(position, "query -> query 1") - rearrange(position, "key -> 1 key")).abs()
    bias = -einsum(slopes, distance.to(slopes), "head, query key -> head query key")
    return bias.to(device=device, dtype=dtype)
