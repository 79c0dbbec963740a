"""The style of somebody for whom a head is a thing: each is a module with three layers.

Chapters 4 and 5; hooks cut canonical matrices into heads when loading and stack them when saving.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVEL = "robust"

PARTS = ("query", "key", "value")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """A loop over slices."""
    width, rest = divmod(x.shape[-1], heads)
    if rest:
        raise ValueError(f"{x.shape[-1]} channels over {heads} heads leave a rest of {rest}")
    return torch.stack([x[..., h * width : (h + 1) * width] for h in range(heads)], dim=-3)


def merge_heads(x: Tensor) -> Tensor:
    """A loop over heads."""
    return torch.cat([x[..., h, :, :] for h in range(x.shape[-3])], dim=-1)


class Head(nn.Module):
    """One attention head on its own."""

    def __init__(self, d_model: int, d_k: int, d_v: int, bias: bool, dropout: float, rotary: bool) -> None:
        super().__init__()
        self.query = nn.Linear(d_model, d_k, bias)
        self.key = nn.Linear(d_model, d_k, bias)
        self.value = nn.Linear(d_model, d_v, bias)
        self.dropout = nn.Dropout(dropout)
        self.rotary = rotary

    @staticmethod
    def _rotate(x: Tensor) -> Tensor:
        d_k = x.shape[-1]
        wide = torch.promote_types(x.dtype, torch.float32)
        positions = torch.arange(x.shape[-2], dtype=wide, device=x.device)
        turned = []
        for i in range(d_k // 2):
            angle = positions * 10000.0 ** (-2 * i / d_k)
            a, b = x[..., 2 * i].to(wide), x[..., 2 * i + 1].to(wide)
            turned += [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
        return torch.stack(turned, dim=-1).to(x.dtype)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        """Nobody but this head sees its scores."""
        q, k, v = self.query(x), self.key(context), self.value(context)
        if self.rotary:
            q, k = self._rotate(q), self._rotate(k)
        scores = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        if mask is not None:
            scores = scores.masked_fill(mask.logical_not(), -torch.inf)
        weights = scores.softmax(dim=2)
        if mask is not None:
            weights = weights.masked_fill(mask.logical_not(), 0.0)
        out: Tensor = self.dropout(weights) @ v
        return out


class MultiHeadAttention(nn.Module):
    """A list of heads and the layer that mixes what they say."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_k: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        if d_k is None or d_v is None:
            width, rest = divmod(d_model, heads)
            if rest:
                raise ValueError(f"d_model={d_model} over heads={heads} leaves a rest of {rest}")
            d_k, d_v = d_k or width, d_v or width
        if rotary and d_k % 2:
            raise ValueError(f"d_k={d_k} is odd, so rotary cannot pair its channels")
        self.heads = nn.ModuleList(Head(d_model, d_k, d_v, bias, dropout, rotary) for _ in range(heads))
        self.output = nn.Linear(heads * d_v, d_model, bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Each head gets its own slice of a mask or a bias that has a head axis."""
        context = x if context is None else context
        count = len(self.heads)
        if mask is not None and mask.ndim == 4:
            masks: list[Tensor | None] = list(mask.expand(-1, count, -1, -1).unbind(dim=1))
        else:
            masks = [mask] * count
        if bias is not None and bias.ndim > 2:
            biases: list[Tensor | None] = list(bias.expand(*bias.shape[:-3], count, -1, -1).unbind(dim=-3))
        else:
            biases = [bias] * count
        said = [head(x, context, m, b) for head, m, b in zip(self.heads, masks, biases, strict=True)]
        out: Tensor = self.output(torch.cat(said, dim=-1))
        return out

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for part in PARTS:
            for kind in ("weight", "bias"):
                whole = state_dict.pop(f"{prefix}{part}.{kind}", None)
                if whole is not None:
                    for h, piece in enumerate(whole.chunk(len(self.heads))):
                        state_dict[f"{prefix}heads.{h}.{part}.{kind}"] = piece
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
        """The heads' layers are stacked into canonical matrices, which are copies."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        for part in PARTS:
            for kind in ("weight", "bias"):
                names = [f"{prefix}heads.{h}.{part}.{kind}" for h in range(len(self.heads))]
                if all(name in state for name in names):
                    state[f"{prefix}{part}.{kind}"] = torch.cat([state.pop(name) for name in names])
        return state


class LayerNorm(nn.Module):
    """`functional.layer_norm`, in float32 for low precision."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Upcast, norm, downcast."""
        wide = torch.promote_types(x.dtype, torch.float32)
        y = functional.layer_norm(x.to(wide), x.shape[-1:], self.weight.to(wide), self.bias.to(wide), self.eps)
        return y.to(x.dtype)


class RMSNorm(nn.Module):
    """Length √d_model for every token, times a gain."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Tensor) -> Tensor:
        """Written with the vector's norm; eps·d_model stands in the same place as eps does beside the mean."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        d = x.shape[-1]
        length = torch.sqrt((wide * wide).sum(-1, keepdim=True) + d * self.eps)
        unit: Tensor = wide * d**0.5 / length
        return unit.to(x.dtype) * self.weight


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


class FeedForward(nn.Module):
    """Two layers, or three."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        if activation != "swiglu" and activation not in ACTIVATIONS:
            raise ValueError(f"there is no activation {activation!r}, only {[*ACTIVATIONS, 'swiglu']}")
        self.up, self.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        if activation == "swiglu":
            self.gate = nn.Linear(d_model, d_ff)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """A gate multiplies; an activation bends."""
        if self.activation == "swiglu":
            hidden = functional.silu(self.gate(x)) * self.up(x)
        else:
            hidden = ACTIVATIONS[self.activation](self.up(x))
        out: Tensor = self.dropout(self.down(hidden))
        return out


class _Sublayer(nn.Module):
    """x + f(norm(x)) or norm(x + f(x)), for any f; the norm belongs to the caller."""

    def __init__(self, pre: bool, dropout: float) -> None:
        super().__init__()
        self.pre, self.dropout = pre, nn.Dropout(dropout)

    def forward(self, x: Tensor, norm: nn.Module, f: Callable[[Tensor], Tensor]) -> Tensor:
        out: Tensor = x + self.dropout(f(norm(x))) if self.pre else norm(x + self.dropout(f(x)))
        return out


class DecoderBlock(nn.Module):
    """Two sublayer connections."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"norm={norm!r} is not 'pre', nor 'post'")
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.norm_1, self.norm_2 = LayerNorm(d_model), LayerNorm(d_model)
        self.connection = _Sublayer(norm == "pre", dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: Any = None) -> Tensor:
        """Around attention, then around the feed-forward network."""
        x = self.connection(x, self.norm_1, lambda y: self.attention(y, mask=mask, bias=bias))
        out: Tensor = self.connection(x, self.norm_2, self.feed_forward)
        return out
