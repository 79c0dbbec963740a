"""Multi-head attention (Vaswani et al. 2017, §3.2.2). What must hold: spec/heads.py."""

from typing import Protocol

from jaxtyping import Bool, Float
from torch import Tensor, nn


class LayerCache(Protocol):
    """The keys and values that one layer has already seen; chapter `generation` implements it."""

    length: int
    """How many positions are held."""

    def extend(
        self, key: Float[Tensor, "batch head position d_k"], value: Float[Tensor, "batch head position d_v"]
    ) -> tuple[Float[Tensor, "batch head key d_k"], Float[Tensor, "batch head key d_v"]]:
        """Appends new positions and returns everything that is held."""
        ...


def split_heads(x: Float[Tensor, "*batch position channels"], heads: int) -> Float[Tensor, "*batch head position d"]:
    """Gives every head its own slice of the channels of each position.

    Shapes: x (*batch, position, heads · d), the result (*batch, head, position, d); head 0 has the first d channels.
    Raises: ValueError where the channels cannot be divided among the heads.
    """
    # TODO: cut the channels into heads, and bring the heads' axis in front of the positions
    raise NotImplementedError


def merge_heads(x: Float[Tensor, "*batch head position d"]) -> Float[Tensor, "*batch position channels"]:
    """Puts the heads' channels side by side again: the inverse of split_heads.

    Shapes: x (*batch, head, position, d), the result (*batch, position, heads · d).
    """
    # TODO: bring the heads' axis back beside d, and join the two
    raise NotImplementedError


class MultiHeadAttention(nn.Module):
    """Every head attends in a projection of its own; the output layer mixes what they found.

    Parameters: query, key, value, output, each a linear layer. Head h owns the h-th slice of d_k rows of query and
    key, and of d_v rows of value.
    Raises: ValueError where heads do not divide d_model and d_k or d_v is to be derived from it.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_k: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rotary: bool = False,
    ) -> None:
        # TODO: four linear layers here; in forward: project, split, turn if rotary, attend, merge, mix
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"] | None = None,
        mask: Bool[Tensor, "#query #key"]
        | Bool[Tensor, "#batch #query #key"]
        | Bool[Tensor, "#batch #head #query #key"]
        | None = None,
        bias: Float[Tensor, "*#head #query #key"] | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Queries come from x; keys and values from the context, or from x itself where there is none.

        Shapes: mask (query, key), (batch, query, key) or (batch, head, query, key), True where a query may look; bias
        broadcasts against (batch, head, query, key). With a cache, x follows what the cache holds, and the keys are
        those held and x's own.
        Raises: ValueError where both a context and a cache are given.
        """
        raise NotImplementedError
