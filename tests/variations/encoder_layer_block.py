"""The style of somebody who found the whole block in PyTorch: `nn.TransformerEncoderLayer` with a mask.

Chapter 5's block alone; its names are mapped by hooks, rotary is not offered.
"""

from typing import Any

import torch
from torch import Tensor, nn

LEVEL = "robust"

UNSUPPORTED = {"rotary=True"}

OWN = {
    "attention.output": "self_attn.out_proj",
    "feed_forward.up": "linear1",
    "feed_forward.down": "linear2",
    "norm_1": "norm1",
    "norm_2": "norm2",
}


def _gelu(x: Tensor) -> Tensor:
    """PyTorch's fast path takes a float mask for a Boolean one; an activation it does not know keeps it away."""
    return nn.functional.gelu(x)


class DecoderBlock(nn.Module):
    """PyTorch's encoder layer behind the signature of a decoder block."""

    def __init__(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> None:
        super().__init__()
        if rotary:
            raise NotImplementedError("nn.TransformerEncoderLayer does not rotate")
        if norm not in ("pre", "post"):
            raise ValueError(f"norm={norm!r} must be 'pre' or 'post'")
        if d_model % heads:
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        self.heads = heads
        self.layer = nn.TransformerEncoderLayer(
            d_model, heads, d_ff, dropout, activation=_gelu, batch_first=True, norm_first=norm == "pre"
        )
        self.register_load_state_dict_pre_hook(_to_torch)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_from_torch)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, mask: Tensor | None = None, bias: Tensor | None = None, cache: Any = None) -> Tensor:
        """Mask and bias become one float tensor, (batch · heads, query, key)."""
        if mask is None and bias is None:
            plain: Tensor = self.layer(x)
            return plain
        added = torch.zeros(x.size(0), self.heads, x.size(1), x.size(1), dtype=x.dtype, device=x.device)
        if bias is not None:
            added = added + bias.to(x.dtype)
        if mask is not None:
            added = added.masked_fill(~(mask[:, None] if mask.dim() == 3 else mask), -torch.inf)
        out: Tensor = self.layer(x, src_mask=added.flatten(0, 1))
        return out


def _to_torch(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for kind in ("weight", "bias"):
        for canonical, own in OWN.items():
            if f"{prefix}{canonical}.{kind}" in state:
                state[f"{prefix}layer.{own}.{kind}"] = state.pop(f"{prefix}{canonical}.{kind}")
        names = [f"{prefix}attention.{part}.{kind}" for part in ("query", "key", "value")]
        if all(name in state for name in names):
            state[f"{prefix}layer.self_attn.in_proj_{kind}"] = torch.cat([state.pop(name) for name in names])


def _from_torch(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for kind in ("weight", "bias"):
        for canonical, own in OWN.items():
            state[f"{prefix}{canonical}.{kind}"] = state.pop(f"{prefix}layer.{own}.{kind}")
        parts = state.pop(f"{prefix}layer.self_attn.in_proj_{kind}").chunk(3)
        for part, tensor in zip(("query", "key", "value"), parts, strict=True):
            state[f"{prefix}attention.{part}.{kind}"] = tensor
