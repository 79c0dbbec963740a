"""The style of an Annotated Transformer reader: `masked_fill(mask == 0, -1e9)`, in float32 whatever the input is.

Chapters 2 and 4. Core only: a row with nothing visible looks at everything alike.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

LEVEL = "core"


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Compute 'Scaled Dot Product Attention'."""
    d_k = query.size(-1)
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(d_k)
    # −1e9 does not fit into float16.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e9)
    return scores.softmax(dim=-1).to(query.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return the weighted values."""
    return torch.matmul(attention_weights(q, k, mask, bias), v)


def clones(module: nn.Module, n: int) -> nn.ModuleList:
    """Produce n identical layers, which `reset_parameters` makes different."""
    layers = nn.ModuleList([copy.deepcopy(module) for _ in range(n)])
    for layer in layers:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return layers


class MultiHeadAttention(nn.Module):
    """h heads; the four layers live in one list, PARAMETERS says which is which."""

    PARAMETERS = {  # noqa: RUF012
        f"{name}.{kind}": f"linears.{i}.{kind}"
        for i, name in enumerate(("query", "key", "value", "output"))
        for kind in ("weight", "bias")
    }

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
            assert d_model % heads == 0
        self.d_k = d_k or d_model // heads
        self.d_v = d_v or d_model // heads
        self.h = heads
        self.rotary = rotary
        if rotary:
            assert self.d_k % 2 == 0
        self.linears = clones(nn.Linear(d_model, heads * self.d_k, bias), 2)
        self.linears.append(nn.Linear(d_model, heads * self.d_v, bias))
        self.linears.append(nn.Linear(heads * self.d_v, d_model, bias))
        if not bias:
            self.PARAMETERS = {name: own for name, own in self.PARAMETERS.items() if name.endswith("weight")}
        self.dropout = nn.Dropout(p=dropout)

    def _rotate(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.size(-2), device=x.device).float().unsqueeze(1) * torch.exp(
            torch.arange(0, self.d_k, 2, device=x.device).float() * -(math.log(10000.0) / self.d_k)
        )
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        x1, x2 = x[..., : self.d_k // 2], x[..., self.d_k // 2 :]
        return torch.cat((x1 * cos - x2 * sin, x1 * sin + x2 * cos), dim=-1)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """1) project, 2) attend, 3) concatenate and project."""
        if mask is not None and mask.dim() == 3:
            # Same mask applied to all h heads.
            mask = mask.unsqueeze(1)
        nbatches = x.size(0)
        memory = x if context is None else context
        query, key, value = (
            lin(t).view(nbatches, -1, self.h, d).transpose(1, 2)
            for lin, t, d in zip(self.linears, (x, memory, memory), (self.d_k, self.d_k, self.d_v), strict=False)
        )
        if self.rotary:
            query, key = self._rotate(query), self._rotate(key)
        attn = self.dropout(attention_weights(query, key, mask=mask, bias=bias))
        y = torch.matmul(attn, value).transpose(1, 2).contiguous().view(nbatches, -1, self.h * self.d_v)
        out: Tensor = self.linears[-1](y)
        return out
