"""The 2017 paper's habits in a decoder: embeddings times √d_model, no final norm after post-norm, ReLU, own names.

The factor makes it another function of the same weights, so equality under the same weights cannot be checked.
"""

# mypy: disable-error-code="no-any-return"

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL = "robust"
UNSUPPORTED = {"positions=rotary", "positions=alibi", "cache=True"}


class MultiHead(nn.Module):
    """Heads by chunk and stack."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"heads={heads} do not divide d_model={d_model}")
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(d_model, d_model) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """`visible` is True where a query may look."""
        q, k, v = (torch.stack(w(x).chunk(self.heads, dim=-1), dim=1) for w in (self.w_q, self.w_k, self.w_v))
        scores = torch.einsum("bhqd,bhkd->bhqk", q * q.shape[-1] ** -0.5, k)
        weights = torch.where(visible, scores, float("-inf")).softmax(-1)
        return self.w_o(torch.cat(torch.einsum("bhqk,bhkd->bhqd", weights, v).unbind(1), dim=-1))


class Layer(nn.Module):
    """Two sublayers."""

    def __init__(self, d_model: int, heads: int, d_ff: int, p: float, first: bool) -> None:
        super().__init__()
        self.self_attn = MultiHead(d_model, heads)
        self.linear_in, self.linear_out = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.ln = nn.ModuleList([nn.LayerNorm(d_model), nn.LayerNorm(d_model)])
        self.p, self.first = p, first

    def sublayers(self, visible: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """As functions of the stream."""
        return [lambda x: self.self_attn(x, visible), lambda x: self.linear_out(self.linear_in(x).relu())]

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Norm first or last."""
        for ln, f in zip(self.ln, self.sublayers(visible), strict=True):
            branch = F.dropout(f(ln(x) if self.first else x), self.p, training=self.training)
            x = x + branch if self.first else ln(x + branch)
        return x


class DecoderLM(nn.Module):
    """Shares the table by calling `F.linear` with it."""

    def __init__(
        self,
        vocab: int,
        max_length: int,
        d_model: int,
        layers: int,
        heads: int,
        d_ff: int | None = None,
        dropout: float = 0.0,
        positions: str = "learned",
        norm: str = "pre",
        tie: bool = True,
    ) -> None:
        super().__init__()
        if positions not in ("learned", "sinusoidal", "none") or norm not in ("pre", "post"):
            raise ValueError(f"positions={positions!r} with norm={norm!r} is not offered")
        if positions == "sinusoidal" and d_model % 2:
            raise ValueError(f"d_model={d_model} is odd, and sine and cosine come in pairs")
        self.max_length, self.p, self.kind = max_length, dropout, positions
        self.shared = nn.Parameter(torch.randn(vocab, d_model) * 0.02)
        self.where = nn.Parameter(torch.randn(max_length, d_model) * 0.02) if positions == "learned" else None
        self.stack = nn.ModuleList(
            Layer(d_model, heads, d_ff or 4 * d_model, dropout, norm == "pre") for _ in range(layers)
        )
        self.last = nn.LayerNorm(d_model) if norm == "pre" else nn.Identity()
        self.out = None if tie else nn.Parameter(torch.randn(vocab, d_model) * 0.02)
        for name, weight in self.stack.named_parameters():
            if weight.ndim == 2:
                nn.init.xavier_uniform_(weight)
            elif "bias" in name:
                nn.init.zeros_(weight)

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        length, d_model = tokens.shape[-1], self.shared.shape[-1]
        if length > self.max_length:
            raise ValueError(f"length {length} is beyond max_length={self.max_length}")
        x = F.embedding(tokens, self.shared) * d_model**0.5
        if self.where is not None:
            x = x + self.where[:length]
        if self.kind == "sinusoidal":
            x = x + sine_and_cosine(length, d_model, x)
        x = F.dropout(x, self.p, training=self.training)
        visible = torch.arange(length, device=x.device)[:, None] >= torch.arange(length, device=x.device)
        for layer in self.stack:
            x = layer(x, visible)
        return F.linear(self.last(x), self.shared if self.out is None else self.out)


def sine_and_cosine(length: int, d_model: int, like: Tensor) -> Float[Tensor, "position d_model"]:
    """The paper's table, a cosine being a sine a quarter turn later."""
    column = torch.arange(d_model, device=like.device)
    rate = torch.pow(10000.0, -(column - column % 2) / d_model)
    angle = torch.arange(length, device=like.device)[:, None] * rate + (column % 2) * (torch.pi / 2)
    return torch.sin(angle).to(like.dtype)
