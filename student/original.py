"""The Transformer of 2017 (Vaswani et al. 2017, §3), and search. What must hold: spec/original.py."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class EncoderBlock(nn.Module):
    """Attention, then a feed-forward network with ReLU, each with a norm of its own and a skip around it.

    Parameters: attention (MultiHeadAttention), feed_forward (FeedForward), norm_1 and norm_2 (LayerNorm).
    Raises: ValueError where norm is neither "pre" nor "post", or heads do not divide d_model.
    """

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        # TODO: attention, network and two norms here; in forward: two sublayers with their skips, in either norm order
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """norm(x + dropout(sublayer(x))) for "post", x + dropout(sublayer(norm(x))) for "pre", twice.

        Shapes: mask as in MultiHeadAttention; without one every position sees all.
        """
        raise NotImplementedError


class CrossDecoderBlock(nn.Module):
    """Attention among the target, attention to the memory, then a feed-forward network with ReLU.

    Parameters: attention and cross_attention (MultiHeadAttention), feed_forward (FeedForward), norm_1, norm_2, norm_3
    (LayerNorm), in this order. The memory is read as it is: no norm of this block is applied to it.
    Raises: ValueError where norm is neither "pre" nor "post", or heads do not divide d_model.
    """

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        # TODO: two attentions, network and three norms here; in forward: three sublayers with their skips
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        memory: Float[Tensor, "batch key d_model"],
        mask: Bool[Tensor, "#position #target"]
        | Bool[Tensor, "#batch #position #target"]
        | Bool[Tensor, "#batch #head #position #target"]
        | None = None,
        memory_mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Three sublayers, each as in EncoderBlock.

        Shapes: the memory has a length of its own; mask says what of the target a position sees, memory_mask what of
        the memory. Without a mask it is all.
        """
        raise NotImplementedError


class Transformer(nn.Module):
    """Reads a source and says at every position of the target which token comes next.

    Parameters: source.weight (source_vocab, d_model), target.weight and head.weight (target_vocab, d_model), and
    encoder.N.* (EncoderBlock), decoder.N.* (CrossDecoderBlock); the head has no bias. Where share is True the three
    matrices are one and the same, and a state dict may name it source.weight, target.weight, head.weight, or several
    of them. Attribute: pad, the token that both sides are filled with.
    Raises: ValueError where share is True and the two vocabularies differ in size, or heads do not divide d_model.
    """

    def __init__(
        self,
        source_vocab: int,
        target_vocab: int,
        d_model: int = 512,
        layers: int = 6,
        heads: int = 8,
        d_ff: int = 2048,
        dropout: float = 0.1,
        pad: int = 0,
        share: bool = True,
    ) -> None:
        # TODO: embeddings, both stacks and a head here, shared or not; then encode, decode and forward
        raise NotImplementedError

    def forward(
        self, source: Int[Tensor, "batch key"], target: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position target_vocab"]:
        """The logits of the next target token at every position, in one pass."""
        raise NotImplementedError

    def encode(self, source: Int[Tensor, "batch key"]) -> Float[Tensor, "batch key d_model"]:
        """What the last encoder block says of every source token; padding is seen by none."""
        raise NotImplementedError

    def decode(
        self,
        target: Int[Tensor, "batch position"],
        memory: Float[Tensor, "batch key d_model"],
        source: Int[Tensor, "batch key"],
    ) -> Float[Tensor, "batch position target_vocab"]:
        """The logits after each target token, which sees those before it and the whole memory.

        The source is asked for its padding alone.
        """
        raise NotImplementedError


def greedy_search(
    model: Transformer, source: Int[Tensor, "batch key"], start: int, end: int, max_length: int
) -> Int[Tensor, "batch position"]:
    """The sentence that takes the most likely token at every step.

    Each row begins with `start` and ends with `end`, if it comes to that before there are max_length tokens (start and
    end included); behind it the row is filled with the model's `pad`. Dropout is off, and the mode stays as it was.
    """
    # TODO: encode once; decode, take the most likely token, append it, until all have ended
    raise NotImplementedError


def beam_search(
    model: Transformer,
    source: Int[Tensor, "batch key"],
    start: int,
    end: int,
    max_length: int,
    beams: int = 4,
    alpha: float = 0.6,
) -> Int[Tensor, "batch position"]:
    """The best sentence found by following the `beams` most likely beginnings side by side.

    A sentence that has ended keeps its place among the beams. In the end, sentences of n tokens (the end is one, the
    start is none) are compared by log p / ((5 + n) / 6)^alpha, those that max_length has cut among them. The rows are
    as in greedy_search.
    """
    # TODO: as greedy_search, but follow several beginnings of each sentence, and choose in the end
    raise NotImplementedError
