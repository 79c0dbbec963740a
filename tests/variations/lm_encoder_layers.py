"""Made of `nn.TransformerEncoderLayer` with a causal mask, torch's own initialisation and a head of its own.

Post-norm has no final norm. Fused projections keep torch's names: same weights cannot be checked.
"""

# mypy: disable-error-code="no-any-return"

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LEVEL = "robust"
UNSUPPORTED = {"positions=rotary", "positions=alibi", "tie=True", "cache=True"}


class DecoderLM(nn.Module):
    """An encoder that may not look ahead."""

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
        tie: bool = False,
    ) -> None:
        super().__init__()
        if positions not in ("learned", "sinusoidal", "none") or tie or norm not in ("pre", "post"):
            raise ValueError(f"positions={positions!r}, norm={norm!r}, tie={tie} is not offered")
        if d_model % heads:
            raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")
        self.max_length = max_length
        self.embedding = nn.Embedding(vocab, d_model)
        table = torch.zeros(max_length, d_model)
        if positions == "sinusoidal":
            table = sinusoidal_table(max_length, d_model)
        if positions == "learned":
            self.table = nn.Parameter(table.normal_(std=0.02))
        else:
            self.register_buffer("table", table, persistent=False)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                d_model,
                heads,
                d_ff or 4 * d_model,
                dropout,
                activation="gelu",
                batch_first=True,
                norm_first=norm == "pre",
            )
            for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(d_model) if norm == "pre" else nn.Identity()
        self.unembedding = nn.Linear(d_model, vocab, bias=False)

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(f"a sequence of {length} tokens, but max_length={self.max_length}")
        hidden = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.embedding(tokens) + self.table[:length]
        for layer in self.layers:
            x = layer(x, src_mask=hidden, is_causal=True)
        return self.unembedding(self.final_norm(x))


def sinusoidal_table(length: int, d_model: int) -> Float[Tensor, "position d_model"]:
    """Even columns sine, odd columns cosine."""
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, not {d_model}")
    rate = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
    angle = torch.outer(torch.arange(length), rate)
    table = torch.empty(length, d_model)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table
