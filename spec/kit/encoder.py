"""One encoder for every block: what differs between two of them is the block, and nothing else."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Encoder(nn.Module):
    """Embeddings, a stack of blocks, a norm and a tied head; `block(number)` makes the block of that layer."""

    def __init__(
        self, vocab: int, max_length: int, d_model: int, layers: int, block: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, d_model), nn.Embedding(max_length, d_model)
        self.blocks = nn.ModuleList(block(number) for number in range(layers))
        self.norm = nn.LayerNorm(d_model)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=d_model**-0.5)

    def hidden(
        self, tokens: Int[Tensor, "batch position"], mask: Bool[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch position d_model"]:
        """What the stack makes of each token, seeing all that the mask shows."""
        d_model = self.tokens.embedding_dim
        x: Tensor = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        x = math.sqrt(d_model) * x
        for block in self.blocks:
            x = block(x, mask=mask)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """How well each token fits."""
        return torch.nn.functional.linear(hidden, self.tokens.weight)

    def forward(
        self, tokens: Int[Tensor, "batch position"], mask: Bool[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """The logits of the token at every position."""
        return self.logits(self.hidden(tokens, mask))
