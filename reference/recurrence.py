"""What came before the Transformer: a recurrent cell, and the attention that was added to it (Bahdanau et al. 2015)."""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class LSTMCell(nn.Module):
    """One step of reading: what is new, and the state so far, become the next state.

    Parameters: weight_ih (4 · hidden_size, input_size), weight_hh (4 · hidden_size, hidden_size), bias_ih and bias_hh
    (4 · hidden_size); their rows hold input gate, forget gate, candidate and output gate, in this order.
    Source: Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000; names and order: torch.nn.LSTMCell.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def forward(
        self,
        x: Float[Tensor, "batch input_size"],
        state: tuple[Float[Tensor, "batch hidden_size"], Float[Tensor, "batch hidden_size"]],
    ) -> tuple[Float[Tensor, "batch hidden_size"], Float[Tensor, "batch hidden_size"]]:
        """c' = forget · c + input · candidate, and h' = output · tanh(c'); returns (h', c').

        Gates and candidate are linear in x and h together; the gates are bent by a sigmoid, the candidate by tanh.
        """
        h, c = state
        both = F.linear(x, self.weight_ih, self.bias_ih) + F.linear(h, self.weight_hh, self.bias_hh)
        write, keep, candidate, show = rearrange(both, "batch (gate hidden) -> gate batch hidden", gate=4)
        c = keep.sigmoid() * c + write.sigmoid() * candidate.tanh()
        h = show.sigmoid() * c.tanh()
        return h, c


class BahdanauAttention(nn.Module):
    """A query looks over the words of a source: a small network says how well it fits to each of them.

    Parameters: query.weight (d_attention, d_query), key.weight (d_attention, d_key), score.weight (1, d_attention).
    Source: Bahdanau et al. 2015, §3.1 and appendix A.1.2.
    """

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
        """The context, which is the keys averaged by their weights, and the weights: softmax(score(tanh(query + key))).

        A mask is True where the query may look. Where it may look at nothing, context and weights are zero.
        """
        asked = rearrange(self.query(query), "batch d_attention -> batch 1 d_attention")
        scores = rearrange(self.score(torch.tanh(asked + self.key(keys))), "batch key 1 -> batch key")
        if mask is None:
            weights = scores.softmax(-1)
        else:
            # A row of −inf alone becomes NaN in the softmax: the second fill makes it zero, and the first its gradient.
            weights = scores.masked_fill(~mask, -math.inf).softmax(-1).masked_fill(~mask, 0.0)
        return einsum(weights, keys, "batch key, batch key d_key -> batch d_key"), weights
