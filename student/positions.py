"""Where a token stands: sinusoids, learned rows, rotations, distances. What must hold: spec/positions.py."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "position d_model"]:
    """Column 2i holds sin(position / 10000^(2i/d_model)), column 2i+1 the cosine of the same angle.

    Returns: a fixed table, float32 on the CPU unless said otherwise.
    Raises: ValueError where d_model is odd, since sines and cosines come in pairs.
    """
    # TODO: positions times frequencies, sines into the even columns, cosines into the odd ones
    raise NotImplementedError


class LearnedPositions(nn.Module):
    """A trainable table with one row for each position; its parameter is `weight` (max_length, d_model)."""

    def __init__(self, max_length: int, d_model: int) -> None:
        # TODO: a parameter with one row a position; forward returns the rows that are asked for
        raise NotImplementedError

    def forward(self, length: int, offset: int = 0) -> Float[Tensor, "position d_model"]:
        """The rows of the positions offset … offset + length − 1.

        Raises: ValueError where they do not all lie within max_length.
        """
        raise NotImplementedError


def rotary(
    x: Float[Tensor, "*batch position d_k"], offset: int = 0, base: float = 10000.0
) -> Float[Tensor, "*batch position d_k"]:
    """Turns each pair of neighbouring channels by an angle that grows with the position.

    Shapes: x (*batch, position, d_k); the first of its positions is number `offset`.
    Raises: ValueError where d_k is odd, since pairs are turned.
    """
    # TODO: angles, their cosines and sines, and a rotation of each pair
    raise NotImplementedError


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "head query key"]:
    """Minus the distance from query to key, times the slope 2^(−8h/heads) of head h = 1 … heads.

    Returns: a bias for the scaled scores, float32 on the CPU unless said otherwise.
    """
    # TODO: a slope for each head, times minus the distance
    raise NotImplementedError
