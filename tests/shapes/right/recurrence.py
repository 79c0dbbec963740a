"""Chapter `recurrence`: what came before."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """PyTorch's parameter names."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.randn(4 * hidden_size, input_size) * 0.1)
        self.weight_hh = nn.Parameter(torch.randn(4 * hidden_size, hidden_size) * 0.1)
        self.bias_ih = nn.Parameter(torch.zeros(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(4 * hidden_size))

    def forward(
        self,
        x: Float[Tensor, "batch input_size"],
        state: tuple[Float[Tensor, "batch hidden_size"], Float[Tensor, "batch hidden_size"]],
    ) -> tuple[Float[Tensor, "batch hidden_size"], Float[Tensor, "batch hidden_size"]]:
        """One step."""
        h, c = state
        gates = x @ self.weight_ih.T + self.bias_ih + h @ self.weight_hh.T + self.bias_hh
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, c


class BahdanauAttention(nn.Module):
    """Additive scores."""

    def __init__(self, d_query: int, d_key: int, d_attention: int) -> None:
        super().__init__()
        self.query = nn.Linear(d_query, d_attention, bias=False)
        self.key = nn.Linear(d_key, d_attention, bias=False)
        self.score = nn.Linear(d_attention, 1, bias=False)

    def forward(
        self,
        query: Float[Tensor, "batch d_query"],
        keys: Float[Tensor, "batch key d_key"],
        mask: Bool[Tensor, "batch key"] | None = None,
    ) -> tuple[Float[Tensor, "batch d_key"], Float[Tensor, "batch key"]]:
        """The context and the weights."""
        hidden = torch.tanh(self.query(query)[:, None, :] + self.key(keys))
        scores = self.score(hidden).squeeze(-1)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        weights = scores.softmax(dim=-1)
        context = torch.bmm(weights.unsqueeze(1), keys).squeeze(1)
        return context, weights


class Recurrent(nn.Module):
    """A layer over a sequence."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.cell = LSTMCell(d_model, hidden)

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position hidden"]:
        """Step by step."""
        batch, length, _ = x.shape
        h = x.new_zeros(batch, self.hidden)
        c = torch.zeros_like(h)
        outputs = []
        for t in range(length):
            h, c = self.cell(x[:, t], (h, c))
            outputs.append(h)
        return torch.stack(outputs, dim=1)


def demo() -> None:
    """Run all."""
    x = torch.randn(2, 5, 6)
    states = Recurrent(6, 4)(x)
    BahdanauAttention(6, 4, 3)(x[:, 0], states, torch.ones(2, 5, dtype=torch.bool))
