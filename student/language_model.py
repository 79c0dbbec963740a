"""A decoder-only language model (Radford et al. 2019). What must hold: spec/language_model.py."""

from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from .heads import LayerCache


class Cache(Protocol):
    """The keys and values that every layer has already seen; chapter `generation` implements it."""

    @property
    def length(self) -> int:
        """How many positions are held."""
        ...

    def layer(self, number: int) -> LayerCache:
        """One block's share."""
        ...


class DecoderLM(nn.Module):
    """Reads tokens and says at every position which token comes next, seeing that position and those before it.

    Parameters: tokens.weight, positions.weight (learned positions alone), blocks.N.* (DecoderBlock), norm.* (LayerNorm,
    with either norm order), head.weight (tokens.weight itself where tie is True; the head has no bias). d_ff is
    4 · d_model where it is None.
    Raises: ValueError where positions or norm is unknown, or heads do not divide d_model.
    """

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
        # TODO: embeddings, positions, blocks, a norm and a head; then forward (its cache can wait until `generation`)
        raise NotImplementedError

    def forward(
        self, tokens: Int[Tensor, "batch position"], cache: Cache | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """The logits of the next token at every position.

        With a cache, the tokens follow what it holds, and their keys and values are added to it.
        Raises: ValueError beyond max_length; torch's IndexError for a token id outside the vocabulary.
        """
        raise NotImplementedError
