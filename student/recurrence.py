"""What came before the Transformer (Bahdanau et al. 2015). What must hold: spec/recurrence.py."""

from jaxtyping import Bool, Float
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """One step of reading: what is new, and the state so far, become the next state.

    Parameters: weight_ih (4 · hidden_size, input_size), weight_hh (4 · hidden_size, hidden_size), bias_ih and bias_hh
    (4 · hidden_size); their rows hold input gate, forget gate, candidate and output gate, in this order.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        # TODO: two matrices and two biases here; in forward: three gates and a candidate, then c, then h
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch input_size"],
        state: tuple[Float[Tensor, "batch hidden_size"], Float[Tensor, "batch hidden_size"]],
    ) -> tuple[Float[Tensor, "batch hidden_size"], Float[Tensor, "batch hidden_size"]]:
        """c' = forget · c + input · candidate, and h' = output · tanh(c'); returns (h', c').

        Gates and candidate are linear in x and h together; the gates are bent by a sigmoid, the candidate by tanh.
        """
        raise NotImplementedError


class BahdanauAttention(nn.Module):
    """A query looks over the words of a source: a small network says how well it fits to each of them.

    Parameters: query.weight (d_attention, d_query), key.weight (d_attention, d_key), score.weight (1, d_attention).
    """

    def __init__(self, d_query: int, d_key: int, d_attention: int) -> None:
        # TODO: three linear layers here; in forward: scores, mask, softmax, average
        raise NotImplementedError

    def forward(
        self,
        query: Float[Tensor, "batch d_query"],
        keys: Float[Tensor, "batch key d_key"],
        mask: Bool[Tensor, "batch key"] | None = None,
    ) -> tuple[Float[Tensor, "batch d_key"], Float[Tensor, "batch key"]]:
        """The context, which is the keys averaged by their weights, and the weights: softmax(score(tanh(query + key))).

        A mask is True where the query may look. Where it may look at nothing, context and weights are zero.
        """
        raise NotImplementedError
