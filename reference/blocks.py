"""The block that a Transformer repeats: attention and a feed-forward network, each normed and skipped around."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import LayerCache, MultiHeadAttention


class LayerNorm(nn.Module):
    """Every token gets mean 0 and variance 1 over its channels, then a gain and a shift for each channel.

    Parameters: weight (ones at the start), bias (zeros). The variance is the biased one, and eps is added to it.
    Source: Ba et al. 2016, equations 3 and 4.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """(x − mean) / √(variance + eps) · weight + bias, over the last axis; statistics in float32 at least."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Every token gets a root mean square of 1 over its channels, then a gain for each channel.

    Parameters: weight (ones at the start). No mean is taken off, and there is no shift.
    Source: Zhang & Sennrich 2019, equation 4.
    """

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """x / √(mean of squares + eps) · weight, over the last axis."""
        # The squares of float16 overflow above 255, and bfloat16 has three digits: the statistics need float32.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x) * self.weight


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "swiglu": F.silu,
}


class FeedForward(nn.Module):
    """Two linear layers with a bend between, applied to each position alone.

    Parameters: up and down, linear layers; for swiglu also gate, whose bent result multiplies that of up.
    Raises: ValueError where the activation is none of relu, gelu, gelu_tanh, swiglu.
    Source: Vaswani et al. 2017, §3.3; swiglu: Shazeer 2020, equation 6.
    """

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is none of {', '.join(_ACTIVATIONS)}")
        self.bend = _ACTIVATIONS[activation]
        self.up = nn.Linear(d_model, d_ff)
        self.gate = nn.Linear(d_model, d_ff) if activation == "swiglu" else None
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """down(bend(up(x))), or down(silu(gate(x)) · up(x)) for swiglu."""
        hidden = self.bend(self.up(x)) if self.gate is None else self.bend(self.gate(x)) * self.up(x)
        out: Tensor = self.down(self.dropout(hidden))
        return out


class DecoderBlock(nn.Module):
    """Attention, then a feed-forward network, each with a norm of its own and a skip around it.

    Parameters: attention (MultiHeadAttention), feed_forward (FeedForward), norm_1 and norm_2 (LayerNorm).
    Raises: ValueError where norm is neither "pre" nor "post".
    Source: Vaswani et al. 2017, §3.1 (post); Radford et al. 2019, §2.3 (pre).
    """

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f'norm={norm!r} is neither "pre" nor "post"')
        self.pre = norm == "pre"
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.feed_forward = FeedForward(d_model, d_ff, dropout=dropout)
        self.norm_1, self.norm_2 = LayerNorm(d_model), LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

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
        if self.pre:
            x = x + self.dropout(self.attention(self.norm_1(x), mask=mask, bias=bias, cache=cache))
            x = x + self.dropout(self.feed_forward(self.norm_2(x)))
        else:
            x = self.norm_1(x + self.dropout(self.attention(x, mask=mask, bias=bias, cache=cache)))
            x = self.norm_2(x + self.dropout(self.feed_forward(x)))
        return x
