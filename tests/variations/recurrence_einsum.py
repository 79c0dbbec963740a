"""The style of a mathematician: raw parameters, einsum, gates as an axis; the source is summed in a loop.

The loop makes the way through attention as long as the source, which the robust level does not accept.
"""

import math

import torch
from torch import Tensor, nn

LEVEL = "core"


class LSTMCell(nn.Module):
    """Canonical parameters, reshaped where they are used."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.n = hidden_size
        self.weight_ih = nn.Parameter(torch.randn(4 * hidden_size, input_size) / math.sqrt(input_size))
        self.weight_hh = nn.Parameter(torch.randn(4 * hidden_size, hidden_size) / math.sqrt(hidden_size))
        self.bias_ih = nn.Parameter(torch.zeros(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(4 * hidden_size))

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """σ(z) = (1 + tanh(z/2)) / 2."""
        h, c = state
        w, u = self.weight_ih.view(4, self.n, -1), self.weight_hh.view(4, self.n, -1)
        z = torch.einsum("gnj,bj->gbn", w, x) + torch.einsum("gnm,bm->gbn", u, h)
        z = z + (self.bias_ih + self.bias_hh).view(4, 1, self.n)
        half = (1 + torch.tanh(z / 2)) / 2
        c = torch.addcmul(half[0] * torch.tanh(z[2]), half[1], c)
        return half[3] * torch.tanh(c), c


class BahdanauAttention(nn.Module):
    """One key after another."""

    PARAMETERS = {"query.weight": "w", "key.weight": "u", "score.weight": "v"}  # noqa: RUF012

    def __init__(self, d_query: int, d_key: int, d_attention: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(d_attention, d_query) / math.sqrt(d_query))
        self.u = nn.Parameter(torch.randn(d_attention, d_key) / math.sqrt(d_key))
        self.v = nn.Parameter(torch.randn(1, d_attention) / math.sqrt(d_attention))

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A list of scores, and a running sum."""
        asked = torch.einsum("aq,bq->ba", self.w, query)
        scores = torch.stack(
            [torch.einsum("a,ba->b", self.v[0], torch.tanh(asked + key @ self.u.T)) for key in keys.unbind(1)], dim=1
        )
        if mask is not None:
            scores = scores.masked_fill(torch.logical_not(mask), float("-inf"))
        weights = torch.softmax(scores, 1)
        context = torch.zeros_like(keys[:, 0])
        for j in range(keys.shape[1]):
            context = context + weights[:, j, None] * keys[:, j]
        return context, weights
