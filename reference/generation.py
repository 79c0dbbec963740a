"""Writing on: a language model is asked for one token after the other."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .heads import LayerCache


class LayerKeysAndValues:
    """What one layer has seen: the keys and values of all heads, position after position."""

    def __init__(self) -> None:
        self.length = 0
        self._held: tuple[Tensor, Tensor] | None = None

    def extend(
        self, key: Float[Tensor, "batch head position d_k"], value: Float[Tensor, "batch head position d_v"]
    ) -> tuple[Float[Tensor, "batch head key d_k"], Float[Tensor, "batch head key d_v"]]:
        """Appends new positions and returns everything that is held."""
        if self._held is not None:
            key, value = torch.cat([self._held[0], key], dim=-2), torch.cat([self._held[1], value], dim=-2)
        # With the graph, every step would keep all steps before it alive.
        self._held = key.detach(), value.detach()
        self.length = key.shape[-2]
        return key, value


class KVCache:
    """The keys and values of the tokens that a model has read, so that it need not read them again.

    Made empty; `model(tokens, cache=cache)` reads tokens that follow what the cache holds, and adds theirs to it. It
    holds no graph.
    """

    def __init__(self) -> None:
        self._layers: list[LayerKeysAndValues] = []

    @property
    def length(self) -> int:
        """How many positions are held."""
        return self._layers[0].length if self._layers else 0

    def layer(self, number: int) -> LayerCache:
        """One block's share, made when it is first asked for."""
        while len(self._layers) <= number:
            self._layers.append(LayerKeysAndValues())
        return self._layers[number]


@torch.no_grad()
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
    Source: top-p: Holtzman et al. 2020, §3.1; top-k: Fan et al. 2018, §5.
    """
    _check(temperature, top_k, top_p)
    context = getattr(model, "max_length", None)
    tokens, held = prompt, None
    with _evaluating(model):
        for _ in range(steps):
            window = tokens if context is None else tokens[:, -context:]
            if not cache:
                logits = model(window)
            elif held is None or window.shape[1] < tokens.shape[1]:
                held = KVCache()
                logits = model(window, cache=held)
            else:
                logits = model(tokens[:, -1:], cache=held)
            tokens = torch.cat([tokens, _choose(logits[:, -1], temperature, top_k, top_p, generator)], dim=1)
    return tokens


def _check(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is below 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} keeps no token")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is not above 0 and at most 1")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every part is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _choose(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Int[Tensor, "batch 1"]:
    """One token for each sequence."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    # float16 cannot add up a large vocabulary's probabilities
    ranked, order = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).sort(descending=True)
    likely = ranked[:, :top_k].softmax(-1)
    if top_p is not None:
        # A token stays when those before it do not reach p: so the one that crosses p stays, and the first always.
        before = likely.cumsum(-1) - likely
        likely = likely.masked_fill(before >= top_p, 0.0)
    source = logits.device if generator is None else generator.device  # a generator draws on its own device alone
    rank = torch.multinomial(likely.to(source), 1, generator=generator).to(logits.device)
    return order.gather(-1, rank)
