"""The style of somebody who wants no black box in a norm: mean, variance and root by hand.

Chapter 5's norms (one class for both kinds) and feed-forward part; the variance is E[x²] − E[x]² in double precision.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

LEVEL = "robust"


class _Norm(nn.Module):
    """(x − shift) / root, times a gain, plus a bias where there is one."""

    centred: bool

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.register_parameter("bias", nn.Parameter(torch.zeros(d_model)) if self.centred else None)
        self.bias: Tensor | None
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Two moments; double precision, because their difference cancels."""
        wide = x.double()
        first = wide.mean(dim=-1, keepdim=True) if self.centred else torch.zeros_like(wide[..., :1])
        second = (wide * wide).mean(dim=-1, keepdim=True)
        variance = (second - first * first).clamp(min=0.0)
        y = (wide - first) / torch.sqrt(variance + self.eps) * self.weight.double()
        if self.bias is not None:
            y = y + self.bias.double()
        return y.to(x.dtype)


class LayerNorm(_Norm):
    """With the mean taken off."""

    centred = True


class RMSNorm(_Norm):
    """With the mean left in."""

    centred = False


class FeedForward(nn.Module):
    """Activations by hand as well."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        known: dict[str, Callable[[Tensor], Tensor]] = {
            "relu": lambda x: torch.maximum(x, torch.zeros_like(x)),
            "gelu": lambda x: x * torch.special.ndtr(x),
            "gelu_tanh": lambda x: x * torch.sigmoid(1.5957691216057308 * (x + 0.044715 * x**3)),
            "swiglu": lambda x: x * torch.sigmoid(x),
        }
        if activation not in known:
            raise ValueError(f"activation {activation!r} is none of {', '.join(known)}")
        self.activation = known[activation]
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.gate = nn.Linear(d_model, d_ff) if activation == "swiglu" else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Every token alone."""
        hidden = self.activation(self.up(x)) if self.gate is None else self.activation(self.gate(x)) * self.up(x)
        out: Tensor = self.down(self.dropout(hidden))
        return out
