"""Writing on: a language model is asked for one token after the other. What must hold: spec/generation.py."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from .heads import LayerCache


class KVCache:
    """The keys and values of the tokens that a model has read, so that it need not read them again.

    Made empty; `model(tokens, cache=cache)` reads tokens that follow what the cache holds, and adds theirs to it. It
    holds no graph.
    """

    def __init__(self) -> None:
        # TODO: nothing is held yet; then length and layer
        raise NotImplementedError

    @property
    def length(self) -> int:
        """How many positions are held."""
        raise NotImplementedError

    def layer(self, number: int) -> LayerCache:
        """One block's share, made when it is first asked for."""
        raise NotImplementedError


def generate(
    model: nn.Module,
    prompt: Int[Tensor, "batch position"],
    steps: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    cache: bool = False,
) -> Int[Tensor, "batch longer"]:
    """The prompt, followed by `steps` tokens that are drawn from the model one after the other.

    Temperature 0 takes the most likely token. Otherwise the logits are divided by the temperature, then the top_k most
    likely tokens are kept, then the fewest whose probabilities reach top_p. A model with `max_length` reads the last
    max_length tokens. With a cache each token is read once while the text fits into the context; a cropped window is
    read anew, since its positions begin at 0 again. The model's mode is the same afterwards.
    Raises: ValueError where temperature, top_k or top_p is out of range.
    """
    # TODO: crop, ask the model, choose a token, append it; the cache comes last
    raise NotImplementedError
