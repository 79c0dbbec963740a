"""The style of a physicist: every contraction is an einsum with its indices written out, weights included.

Chapters 1 to 4; projections are tensors shaped (heads, d_k, d_model) that hooks map to canonical names.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, einsum, nn

LEVEL = "robust"


def sinusoidal_positions(
    length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """The real and the imaginary part of e^(i·angle), imaginary first."""
    if d_model % 2:
        raise ValueError(f"d_model={d_model} must be even")
    p = torch.arange(length, dtype=torch.float64)
    rate = 10000.0 ** (-torch.arange(d_model // 2, dtype=torch.float64) * 2 / d_model)
    angle = einsum("p,i->pi", p, rate)
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1).to(device=device, dtype=dtype or torch.float32)


class LearnedPositions(nn.Module):
    """Rows picked by a one-hot contraction."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_length, d_model).normal_(std=0.02))

    def forward(self, length: int, offset: int = 0) -> Tensor:
        """Rows from offset on."""
        have = self.weight.shape[0]
        if not 0 <= offset <= have - length:
            raise IndexError(f"length={length} from offset={offset} on needs more than max_length={have} rows")
        here = torch.eye(have, device=self.weight.device, dtype=self.weight.dtype)[offset : offset + length]
        return einsum("pm,md->pd", here, self.weight)


def rotary(x: Tensor, offset: int = 0, base: float = 10000.0) -> Tensor:
    """Neighbouring pairs, turned by the two generators 1 and J."""
    d_k = x.shape[-1]
    if d_k % 2:
        raise ValueError(f"d_k={d_k} must be even")
    wide = torch.promote_types(x.dtype, torch.float32)
    rate = base ** (-torch.arange(0, d_k, 2, dtype=wide, device=x.device) / d_k)
    angle = einsum("p,i->pi", torch.arange(offset, offset + x.shape[-2], dtype=wide, device=x.device), rate)
    one = torch.eye(2, dtype=wide, device=x.device)
    j = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=wide, device=x.device)
    pairs = x.to(wide).reshape(*x.shape[:-1], -1, 2)
    turned = einsum("pi,ab,...pib->...pia", angle.cos(), one, pairs)
    turned = turned + einsum("pi,ab,...pib->...pia", angle.sin(), j, pairs)
    return turned.flatten(-2).to(x.dtype)


def alibi_bias(
    heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """An outer product of slopes and distances."""
    slope = 2.0 ** (-8.0 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)
    p = torch.arange(length, dtype=torch.float64)
    return einsum("h,qk->hqk", slope, -(p[:, None] - p[None]).abs()).to(device=device, dtype=dtype or torch.float32)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """A Boltzmann distribution over the keys."""
    d_k = q.shape[-1]
    # einsum would broadcast an axis of size 1 without a word.
    if k.shape[-1] != d_k:
        raise ValueError(f"query has d_k={d_k}, key has d_k={k.shape[-1]}")
    energy = einsum("...qd,...kd->...qk", q, k) / math.sqrt(d_k)
    if bias is not None:
        energy = energy + bias.to(energy.dtype)
    if mask is None:
        return torch.softmax(energy, -1)
    reachable = mask.any(-1, keepdim=True)
    # Empty rows look at everything first, so that no NaN arises, and are cleared after.
    return torch.softmax(energy.masked_fill(~mask & reachable, -torch.inf), -1).masked_fill(~mask, 0)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The mean of the values under that distribution."""
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"{k.shape[-2]} keys do not pair with {v.shape[-2]} values")
    return einsum("...qk,...kd->...qd", attention_weights(q, k, mask, bias), v)


def causal_mask(queries: int, keys: int | None = None, device: torch.device | str | None = None) -> Tensor:
    """Key k is visible to query q from k ≤ q + (keys − queries) on."""
    keys = queries if keys is None else keys
    q, k = torch.arange(queries, device=device), torch.arange(keys, device=device)
    return k[None, :] <= q[:, None] + (keys - queries)


def padding_mask(tokens: Tensor, pad: int) -> Tensor:
    """True where a key is a real token."""
    return (tokens != pad)[:, None, :]


def window_mask(length: int, window: int, device: torch.device | str | None = None) -> Tensor:
    """0 ≤ q − k < window."""
    p = torch.arange(length, device=device)
    age = p[:, None] - p[None, :]
    return (age >= 0) & (age < window)


def _selector(channels: int, heads: int, like: Tensor) -> Tensor:
    size = channels // heads
    return torch.eye(channels, dtype=like.dtype, device=like.device).reshape(channels, heads, size)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """A contraction with a selector (channel, head, d), that is: pure bookkeeping."""
    if x.shape[-1] % heads:
        raise ValueError(f"heads={heads} does not divide {x.shape[-1]} channels")
    return einsum("...pc,chd->...hpd", x, _selector(x.shape[-1], heads, x))


def merge_heads(x: Tensor) -> Tensor:
    """The same selector, read backwards."""
    heads, d = x.shape[-3], x.shape[-1]
    return einsum("...hpd,chd->...pc", x, _selector(heads * d, heads, x))


class MultiHeadAttention(nn.Module):
    """Weights carry their head axis."""

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
        if (d_k is None or d_v is None) and d_model % heads:
            raise ValueError(f"heads={heads} does not divide d_model={d_model}")
        d_k = d_model // heads if d_k is None else d_k
        d_v = d_model // heads if d_v is None else d_v
        if rotary and d_k % 2:
            raise ValueError(f"d_k={d_k} must be even for rotary")
        self.rotary = rotary
        self.dropout = nn.Dropout(dropout)
        self.w_q = nn.Parameter(torch.randn(heads, d_k, d_model) * d_model**-0.5)
        self.w_k = nn.Parameter(torch.randn(heads, d_k, d_model) * d_model**-0.5)
        self.w_v = nn.Parameter(torch.randn(heads, d_v, d_model) * d_model**-0.5)
        self.w_o = nn.Parameter(torch.randn(d_model, heads, d_v) * (heads * d_v) ** -0.5)
        self.b_q = nn.Parameter(torch.zeros(heads, d_k)) if bias else None
        self.b_k = nn.Parameter(torch.zeros(heads, d_k)) if bias else None
        self.b_v = nn.Parameter(torch.zeros(heads, d_v)) if bias else None
        self.b_o = nn.Parameter(torch.zeros(d_model)) if bias else None

    @staticmethod
    def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = einsum("...pm,hdm->...hpd", x, weight)
        return y if bias is None else y + bias[:, None, :]

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: None = None,
    ) -> Tensor:
        """Any number of leading axes with masks of rank 2, one with the others."""
        source = x if context is None else context
        q = self._project(x, self.w_q, self.b_q)
        k = self._project(source, self.w_k, self.b_k)
        v = self._project(source, self.w_v, self.b_v)
        if self.rotary:
            q, k = rotary(q), rotary(k)
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]
        weights = self.dropout(attention_weights(q, k, mask, bias))
        y = einsum("...hqk,...hkd,mhd->...qm", weights, v, self.w_o)
        return y if self.b_o is None else y + self.b_o

    NAMES: Mapping[str, str] = {
        f"{whole}.{kind}": f"{kind[0]}_{whole[0]}"
        for whole in ("query", "key", "value", "output")
        for kind in ("weight", "bias")
    }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for canonical, own in self.NAMES.items():
            target = getattr(self, own)
            if prefix + canonical in state_dict and target is not None:
                given = state_dict.pop(prefix + canonical)
                # A wrong size goes on as it is: PyTorch's own message about it is the clear one.
                state_dict[prefix + own] = given.reshape(target.shape) if given.numel() == target.numel() else given
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for canonical, own in self.NAMES.items():
            if prefix + own in destination:
                tensor = destination.pop(prefix + own)
                if canonical.endswith("bias"):
                    destination[prefix + canonical] = tensor.flatten()
                else:
                    destination[prefix + canonical] = tensor.flatten(1) if own == "w_o" else tensor.flatten(0, 1)
