"""Blocks x + LN(f(x)), a module for each head, kernel-1 convolutions as linear maps, key-major scores.

The mask adds the lowest finite number. Shapes and names are its own: same weights cannot be checked.
"""

# mypy: disable-error-code="no-any-return"

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LEVEL = "robust"
UNSUPPORTED = {"positions=sinusoidal", "positions=rotary", "positions=alibi", "norm=post", "cache=True"}


class Head(nn.Module):
    """One head; its value matrix has its own share of the output."""

    def __init__(self, d_model: int, d_head: int) -> None:
        super().__init__()
        self.to_query = nn.Linear(d_model, d_head, bias=False)
        self.to_key = nn.Linear(d_model, d_head, bias=False)
        self.to_value = nn.Linear(d_model, d_head, bias=False)
        self.scale = d_head**-0.5

    def forward(self, x: Float[Tensor, "batch position d_model"], additive: Tensor) -> Tensor:
        """Scores lie key by query here, and the softmax runs over axis 1, the keys."""
        scores = self.to_key(x) @ self.to_query(x).mT * self.scale + additive
        return scores.softmax(dim=1).mT @ self.to_value(x)


class Layer(nn.Module):
    """The branch is normed, the stream never is."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(d_model, d_model // heads) for _ in range(heads))
        self.mix = nn.Conv1d(d_model, d_model, kernel_size=1)
        self.mlp = nn.Sequential(nn.Conv1d(d_model, d_ff, 1), nn.ReLU(), nn.Conv1d(d_ff, d_model, 1))
        self.after_attention, self.after_mlp = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, additive: Tensor) -> Tensor:
        """Convolutions want the channels in the middle."""
        found = torch.cat([head(x, additive) for head in self.heads], dim=-1)
        x = x + self.drop(self.after_attention(self.mix(found.mT).mT))
        return x + self.drop(self.after_mlp(self.mlp(x.mT).mT))


class DecoderLM(nn.Module):
    """A final norm, then the table again."""

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
        if positions not in ("learned", "none") or norm != "pre":
            raise ValueError(f"positions={positions!r} with norm={norm!r} is not offered")
        if d_model % heads:
            raise ValueError(f"d_model={d_model} leaves a remainder when cut into heads={heads}")
        self.max_length = max_length
        self.table = nn.Embedding(vocab, d_model)
        self.places = nn.Embedding(max_length, d_model) if positions == "learned" else None
        self.sequence = nn.ModuleList(
            [Layer(d_model, heads, 4 * d_model if d_ff is None else d_ff, dropout) for _ in range(layers)]
        )
        self.closing = nn.LayerNorm(d_model)
        self.drop = nn.Dropout(dropout)
        nn.init.normal_(self.table.weight, std=0.02)
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=0.02)
        self.readout = None
        if not tie:
            self.readout = nn.Linear(d_model, vocab, bias=False)

    def forward(self, tokens: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position vocab"]:
        """Logits."""
        length = tokens.size(1)
        if length > self.max_length:
            raise IndexError(f"position {length - 1} is outside max_length={self.max_length}")
        x = self.table(tokens)
        if self.places is not None:
            x = x + self.places.weight[:length]
        x = self.drop(x)
        lowest = torch.finfo(x.dtype).min
        additive = torch.full((length, length), lowest, dtype=x.dtype, device=x.device).tril(-1)
        for layer in self.sequence:
            x = layer(x, additive)
        x = self.closing(x)
        return x @ self.table.weight.T if self.readout is None else self.readout(x)
