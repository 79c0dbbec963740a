"""The style of somebody who comes from vision: a linear layer is a convolution of kernel 1.

Chapters 4 and 5; hooks add and drop the kernel's axis of weights.
"""

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"


class Pointwise(nn.Conv1d):
    """A kernel-1 convolution on "batch position channel" that loads and saves a linear layer's weight."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, kernel_size=1, bias=bias)
        self.register_load_state_dict_pre_hook(_add_kernel_axis)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_drop_kernel_axis)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Channels to the front and back again."""
        return super().forward(x.transpose(-1, -2)).transpose(-1, -2)


def _add_kernel_axis(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    weight = state.get(f"{prefix}weight")
    if weight is not None and weight.ndim == 2:
        state[f"{prefix}weight"] = weight[:, :, None]


def _drop_kernel_axis(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}weight" in state:
        state[f"{prefix}weight"] = state[f"{prefix}weight"].squeeze(-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Groups of channels."""
    if x.size(-1) % heads:
        raise ValueError(f"{x.size(-1)} channels do not form {heads} groups")
    return rearrange(x, "... position (group d) -> ... group position d", group=heads)


def merge_heads(x: Tensor) -> Tensor:
    """Groups concatenated."""
    return rearrange(x, "... group position d -> ... position (group d)")


def _rotate(x: Tensor) -> Tensor:
    d, wide = x.size(-1), torch.promote_types(x.dtype, torch.float32)
    rate = repeat(10000 ** (-torch.arange(0, d, 2, dtype=wide, device=x.device) / d), "i -> (i two)", two=2)
    angle = torch.arange(x.size(-2), dtype=wide, device=x.device)[:, None] * rate
    y = x.to(wide)
    swapped = rearrange(torch.stack([-y[..., 1::2], y[..., ::2]], dim=-1), "... i two -> ... (i two)")
    return (y * angle.cos() + swapped * angle.sin()).to(x.dtype)


class MultiHeadAttention(nn.Module):
    """Attention between pixels of a one-dimensional image."""

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
        if d_model % heads and (d_k is None or d_v is None):
            raise ValueError(f"d_model={d_model} channels do not form heads={heads} groups")
        d_k, d_v = d_k or d_model // heads, d_v or d_model // heads
        if rotary and d_k % 2:
            raise ValueError(f"rotary with odd d_k={d_k}")
        self.groups, self.rotary = heads, rotary
        self.query, self.key = Pointwise(d_model, heads * d_k, bias), Pointwise(d_model, heads * d_k, bias)
        self.value, self.output = Pointwise(d_model, heads * d_v, bias), Pointwise(heads * d_v, d_model, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: object = None,
    ) -> Tensor:
        """q, k, v, weights, output."""
        source = x if context is None else context
        q, k, v = (
            split_heads(conv(image), self.groups)
            for conv, image in ((self.query, x), (self.key, source), (self.value, source))
        )
        if self.rotary:
            q, k = _rotate(q), _rotate(k)
        scores = torch.einsum("b g q d, b g k d -> b g q k", q, k) / q.size(-1) ** 0.5
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        if mask is not None:
            mask = rearrange(mask, "b q k -> b 1 q k") if mask.ndim == 3 else mask
            # Where a whole row is hidden the softmax runs over zeros, and its result is not used.
            scores = scores.masked_fill(~mask.any(-1, keepdim=True), 0).masked_fill(
                ~mask & mask.any(-1, keepdim=True), -torch.inf
            )
        weights = scores.softmax(-1)
        if mask is not None:
            weights = weights * mask
        y = torch.einsum("b g q k, b g k d -> b g q d", self.dropout(weights), v)
        out: Tensor = self.output(merge_heads(y))
        return out


class LayerNorm(nn.GroupNorm):
    """A group norm with one group, where every token is an image of one pixel."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__(1, d_model, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens become a batch, so that they do not influence each other."""
        wide = torch.promote_types(x.dtype, torch.float32)
        tokens = x.reshape(-1, x.size(-1)).to(wide)
        y = F.group_norm(tokens, 1, self.weight.to(wide), self.bias.to(wide), self.eps)
        return y.view_as(x).to(x.dtype)


class RMSNorm(nn.Module):
    """Unit vectors, stretched by √d_model and a gain."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Tensor) -> Tensor:
        """Statistics in float32 or wider."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide / wide.square().mean(-1, keepdim=True).add(self.eps).sqrt()).to(x.dtype) * self.weight


class FeedForward(nn.Module):
    """An inverted bottleneck."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        match activation:
            case "relu":
                self.bend: nn.Module = nn.ReLU()
            case "gelu" | "gelu_tanh":
                self.bend = nn.GELU("tanh" if activation == "gelu_tanh" else "none")
            case "swiglu":
                self.bend = nn.SiLU()
                self.gate = Pointwise(d_model, d_ff)
            case _:
                raise ValueError(f"no such activation: {activation!r}")
        self.gated = activation == "swiglu"
        self.up, self.down = Pointwise(d_model, d_ff), Pointwise(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """A convolution of kernel 1 sees one position at a time."""
        hidden = self.bend(self.gate(x)) * self.up(x) if self.gated else self.bend(self.up(x))
        out: Tensor = self.down(self.dropout(hidden))
        return out


class DecoderBlock(nn.Module):
    """A residual block, pre- or post-activated so to speak."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in {"pre", "post"}:
            raise ValueError(f"no such norm order: {norm!r}")
        self.pre = norm == "pre"
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.feed_forward = FeedForward(d_model, d_ff, dropout=dropout)
        self.norm_1, self.norm_2 = LayerNorm(d_model), LayerNorm(d_model)
        self.drop_1, self.drop_2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: object = None
    ) -> Tensor:
        """Two residual branches."""
        branch = self.attention(self.norm_1(x) if self.pre else x, mask=mask, bias=bias)
        x = x + self.drop_1(branch)
        x = x if self.pre else self.norm_1(x)
        branch = self.feed_forward(self.norm_2(x) if self.pre else x)
        x = x + self.drop_2(branch)
        out: Tensor = x if self.pre else self.norm_2(x)
        return out
