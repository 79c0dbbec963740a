"""The style of an engineer who writes no layer twice: `nn.MultiheadAttention` and `nn.LayerNorm` inside.

Chapters 4 and 5. PyTorch's module has no free head size and no rotary, so these are listed as not offered.
"""

from typing import Any

import torch
from torch import Tensor, nn

LEVEL = "robust"

UNSUPPORTED = {"rotary=True", "d_k", "d_v"}


class MultiHeadAttention(nn.Module):
    """An adapter: PyTorch's masks mean 'hidden', and per-head masks come as (batch · heads, query, key)."""

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
        if rotary:
            raise NotImplementedError("nn.MultiheadAttention does not rotate")
        if d_model % heads:
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        if d_k not in (None, d_model // heads) or d_v not in (None, d_model // heads):
            raise NotImplementedError(f"nn.MultiheadAttention has d_k = d_v = {d_model // heads}, not {d_k} and {d_v}")
        self.inner = nn.MultiheadAttention(d_model, heads, dropout=dropout, bias=bias, batch_first=True)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """A row with nothing visible looks at one token of zeros that is added for it."""
        source = x if context is None else context
        if mask is None and bias is None:
            return self._attend(x, source, None)
        full = (x.shape[0], self.inner.num_heads, x.shape[1], source.shape[1])
        added = torch.zeros(full, dtype=x.dtype, device=x.device)
        if bias is not None:
            added = added + bias.to(x.dtype)
        if mask is not None:
            mask = (mask.unsqueeze(1) if mask.dim() == 3 else mask).expand(full)
            # The extra key is hidden wherever a real one is visible.
            rescue = torch.zeros_like(added[..., :1]).masked_fill(mask.any(-1, keepdim=True), -torch.inf)
            added = torch.cat([added.masked_fill(~mask, -torch.inf), rescue], dim=-1)
            source = torch.cat([source, torch.zeros_like(source[:, :1])], dim=1)
        return self._attend(x, source, added.flatten(0, 1))

    def _attend(self, x: Tensor, source: Tensor, added: Tensor | None) -> Tensor:
        out: Tensor = self.inner(x, source, source, attn_mask=added, need_weights=False)[0]
        return out

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for kind in ("weight", "bias"):
            names = [f"{prefix}{part}.{kind}" for part in ("query", "key", "value")]
            if all(name in state_dict for name in names):
                state_dict[f"{prefix}inner.in_proj_{kind}"] = torch.cat([state_dict.pop(name) for name in names])
            if f"{prefix}output.{kind}" in state_dict:
                state_dict[f"{prefix}inner.out_proj.{kind}"] = state_dict.pop(f"{prefix}output.{kind}")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """PyTorch's entries under canonical names."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for kind in ("weight", "bias"):
            if f"{prefix}inner.in_proj_{kind}" in state:
                parts = state.pop(f"{prefix}inner.in_proj_{kind}").chunk(3)
                for name, part in zip(("query", "key", "value"), parts, strict=True):
                    state[f"{prefix}{name}.{kind}"] = part
            if f"{prefix}inner.out_proj.{kind}" in state:
                state[f"{prefix}output.{kind}"] = state.pop(f"{prefix}inner.out_proj.{kind}")
        return state


def LayerNorm(d_model: int, eps: float = 1e-5) -> nn.LayerNorm:
    """A factory instead of a class."""
    return nn.LayerNorm(d_model, eps=eps)


class RMSNorm(nn.RMSNorm):
    """PyTorch's own, whose epsilon is given."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        super().__init__(d_model, eps=eps)


class _SwiGLU(nn.Module):
    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(d_model, d_ff), nn.Linear(d_model, d_ff)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = nn.functional.silu(self.gate(x)) * self.up(x)
        return out


class FeedForward(nn.Sequential):
    """A sequence of PyTorch's modules, mapped by name."""

    PARAMETERS = {  # noqa: RUF012
        f"{canonical}.{kind}": f"{own}.{kind}"
        for canonical, own in (("up", "0"), ("down", "3"))
        for kind in ("weight", "bias")
    }

    def __init__(self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0) -> None:
        middle = {"relu": nn.ReLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "swiglu": nn.Identity()}
        if activation not in middle:
            raise ValueError(f"activation={activation!r} is not one of {sorted(middle)}")
        first = _SwiGLU(d_model, d_ff) if activation == "swiglu" else nn.Linear(d_model, d_ff)
        super().__init__(first, middle[activation], nn.Dropout(dropout), nn.Linear(d_ff, d_model))
        if activation == "swiglu":
            self.PARAMETERS = {
                f"{canonical}.{kind}": f"{own}.{kind}"
                for canonical, own in (("up", "0.up"), ("gate", "0.gate"), ("down", "3"))
                for kind in ("weight", "bias")
            }


class DecoderBlock(nn.Module):
    """The sublayers above; the feed-forward part keeps the names of its sequence."""

    PARAMETERS = {f"feed_forward.{name}": f"feed_forward.{own}" for name, own in FeedForward.PARAMETERS.items()}  # noqa: RUF012

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"norm must be 'pre' or 'post', not {norm!r}")
        self.attention = MultiHeadAttention(d_model, heads, dropout=dropout, rotary=rotary)
        self.feed_forward = FeedForward(d_model, d_ff, dropout=dropout)
        self.norm_1, self.norm_2 = LayerNorm(d_model), LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.order = norm

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: Any = None) -> Tensor:
        """Both orders, side by side."""
        out: Tensor
        if self.order == "pre":
            x = x + self.dropout(self.attention(self.norm_1(x), mask=mask, bias=bias))
            out = x + self.dropout(self.feed_forward(self.norm_2(x)))
        else:
            x = self.norm_1(x + self.dropout(self.attention(x, mask=mask, bias=bias)))
            out = self.norm_2(x + self.dropout(self.feed_forward(x)))
        return out
