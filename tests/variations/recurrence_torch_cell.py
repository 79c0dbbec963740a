"""The style of somebody who takes what PyTorch has: `nn.LSTMCell` itself, and the attention of PyTorch's tutorial.

The tutorial's names W, U and V are mapped to the canonical ones; its layers have biases.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVEL = "robust"


class LSTMCell(nn.LSTMCell):
    """Nothing is added."""


class BahdanauAttention(nn.Module):
    """V tanh(W query + U keys)."""

    PARAMETERS = {"query.weight": "W.weight", "key.weight": "U.weight", "score.weight": "V.weight"}  # noqa: RUF012

    def __init__(self, d_query: int, d_key: int, d_attention: int) -> None:
        super().__init__()
        self.W = nn.Linear(d_query, d_attention)
        self.U = nn.Linear(d_key, d_attention)
        self.V = nn.Linear(d_attention, 1)

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The score's bias moves all scores alike, and so nothing."""
        scores = self.V(torch.tanh(self.W(query.unsqueeze(1)) + self.U(keys))).squeeze(2).unsqueeze(1)
        if mask is not None:
            hidden = ~mask.unsqueeze(1)
            weights = functional.softmax(scores.masked_fill(hidden, torch.finfo(scores.dtype).min), dim=-1)
            weights = torch.where(hidden, torch.zeros_like(weights), weights)
        else:
            weights = functional.softmax(scores, dim=-1)
        return torch.bmm(weights, keys).squeeze(1), weights.squeeze(1)
