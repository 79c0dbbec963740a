"""The style of a nanoGPT reader: one linear layer makes queries, keys and values at once, the kernel does the rest.

Canonical names load into the fused matrix, and the state dict shows them, by PyTorch's own hooks (chapters 4 and 5).
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

LEVEL = "robust"

NAMES = ("query", "key", "value")


def _turn(x: Tensor, base: float = 10000.0) -> Tensor:
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    rate = base ** (-torch.arange(half, dtype=wide, device=x.device) / half)
    angle = torch.outer(torch.arange(x.shape[-2], dtype=wide, device=x.device), rate)
    a, b = x.to(wide)[..., :half], x.to(wide)[..., half:]
    turned = torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1)
    return turned.to(x.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Each head takes its slice of the channels."""
    if x.shape[-1] % heads:
        raise ValueError(f"{x.shape[-1]} channels do not divide into heads={heads}")
    return rearrange(x, "... position (head d) -> ... head position d", head=heads)


def merge_heads(x: Tensor) -> Tensor:
    """The slices side by side again."""
    return rearrange(x, "... head position d -> ... position (head d)")


class MultiHeadAttention(nn.Module):
    """Causal or not is the mask's business; one matrix multiplication makes q, k and v."""

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
        if d_model % heads and None in (d_k, d_v):
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        d_k, d_v = d_k or d_model // heads, d_v or d_model // heads
        if rotary and d_k % 2:
            raise ValueError(f"rotary needs an even d_k, not d_k={d_k}")
        self.heads, self.p, self.rotary = heads, dropout, rotary
        self.sizes = [heads * d_k, heads * d_k, heads * d_v]
        self.qkv = nn.Linear(d_model, sum(self.sizes), bias=bias)
        self.output = nn.Linear(heads * d_v, d_model, bias=bias)
        self.register_load_state_dict_pre_hook(_fuse)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_show)  # type: ignore[no-untyped-call]

    def _project(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        if context is None:
            return list(torch.split(self.qkv(x), self.sizes, dim=-1))
        cut, bias = self.sizes[0], self.qkv.bias
        q = F.linear(x, self.qkv.weight[:cut], None if bias is None else bias[:cut])
        kv = F.linear(context, self.qkv.weight[cut:], None if bias is None else bias[cut:])
        return [q, kv[..., :cut], kv[..., cut:]]

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """A row with nothing visible gets zeros from the kernel."""
        q, k, v = (split_heads(part, self.heads) for part in self._project(x, context))
        if self.rotary:
            q, k = _turn(q), _turn(k)
        if mask is not None and mask.ndim == 3:
            mask = rearrange(mask, "batch query key -> batch 1 query key")
        look = mask
        if bias is not None:
            look = bias.to(q.dtype) if mask is None else bias.to(q.dtype).masked_fill(~mask, -torch.inf)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=look, dropout_p=self.p if self.training else 0.0)
        result: Tensor = self.output(merge_heads(out))
        return result


def _fuse(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for kind in ("weight", "bias"):
        names = [f"{prefix}{name}.{kind}" for name in NAMES]
        if all(name in state for name in names):
            state[f"{prefix}qkv.{kind}"] = torch.cat([state.pop(name) for name in names])


def _show(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, MultiHeadAttention)
    for kind in ("weight", "bias"):
        fused = state.pop(f"{prefix}qkv.{kind}", None)
        if fused is not None:
            state |= zip((f"{prefix}{name}.{kind}" for name in NAMES), fused.split(module.sizes), strict=True)


class LayerNorm(nn.LayerNorm):
    """PyTorch's own."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__(d_model, eps=eps)


class RMSNorm(nn.Module):
    """PyTorch's function, called in float32 or wider."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d_model)), eps

    def forward(self, x: Tensor) -> Tensor:
        """RMS 1, times the gain."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(wide), x.shape[-1:], self.weight.to(wide), self.eps).to(x.dtype)


class FeedForward(nn.Module):
    """For the gated kind, gate and up are one matrix as well."""

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        super().__init__()
        if activation not in {"relu", "gelu", "gelu_tanh", "swiglu"}:
            raise ValueError(f"activation={activation!r} is none of relu, gelu, gelu_tanh, swiglu")
        self.activation, self.p = activation, dropout
        self.up = nn.Linear(d_model, d_ff)
        self.gate = nn.Linear(d_model, d_ff) if activation == "swiglu" else None
        self.down = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Position by position."""
        up = self.up(x)
        match self.activation:
            case "relu":
                up = up.relu()
            case "gelu":
                up = F.gelu(up)
            case "gelu_tanh":
                up = F.gelu(up, approximate="tanh")
            case _:
                assert self.gate is not None
                up = F.silu(self.gate(x)) * up
        return F.dropout(self.down(up), self.p, self.training)


class DecoderBlock(nn.Module):
    """nanoGPT's block with a choice of the norm's place."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in {"pre", "post"}:
            raise ValueError(f"norm={norm!r}, but only 'pre' and 'post' exist")
        self.pre = norm == "pre"
        self.norm_1 = LayerNorm(d_model)
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.norm_2 = LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, dropout=dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: Any = None) -> Tensor:
        """Attention, then feed-forward."""
        if self.pre:
            x = x + self.drop(self.attention(self.norm_1(x), mask=mask, bias=bias))
            y: Tensor = x + self.feed_forward(self.norm_2(x))
        else:
            x = self.norm_1(x + self.drop(self.attention(x, mask=mask, bias=bias)))
            y = self.norm_2(x + self.feed_forward(x))
        return y
