"""The block that a Transformer repeats (Vaswani et al. 2017, §3.1). What must hold: spec/blocks.py."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from .heads import LayerCache


class LayerNorm(nn.Module):
    """Every token gets mean 0 and variance 1 over its channels, then a gain and a shift for each channel.

    Parameters: weight (ones at the start), bias (zeros). The variance is the biased one, and eps is added to it.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        # TODO: weight and bias here; in forward: mean, variance, norm, gain and shift
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """(x − mean) / √(variance + eps) · weight + bias, over the last axis; statistics in float32 at least."""
        raise NotImplementedError


class RMSNorm(nn.Module):
    """Every token gets a root mean square of 1 over its channels, then a gain for each channel.

    Parameters: weight (ones at the start). No mean is taken off, and there is no shift.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        # TODO: weight here; in forward: mean of squares, norm, gain
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """x / √(mean of squares + eps) · weight, over the last axis."""
        raise NotImplementedError


class FeedForward(nn.Module):
    """Two linear layers with a bend between, applied to each position alone.

    Parameters: up and down, linear layers; for swiglu also gate, whose bent result multiplies that of up.
    Raises: ValueError where the activation is none of relu, gelu, gelu_tanh, swiglu.
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        # TODO: up and down (and gate) here; in forward: up, bend, down
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """down(bend(up(x))), or down(silu(gate(x)) · up(x)) for swiglu."""
        raise NotImplementedError


class DecoderBlock(nn.Module):
    """Attention, then a feed-forward network, each with a norm of its own and a skip around it.

    Parameters: attention (MultiHeadAttention), feed_forward (FeedForward), norm_1 and norm_2 (LayerNorm).
    Raises: ValueError where norm is neither "pre" nor "post".
    """

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        # TODO: attention, network and two norms here; in forward: two sublayers with their skips, in either norm order
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
        bias: Float[Tensor, "*#head #position #key"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """x + sublayer(norm(x)) for "pre", norm(x + sublayer(x)) for "post", twice.

        Shapes: mask and bias as in MultiHeadAttention; without a mask every position sees all.
        """
        raise NotImplementedError
