"""`generate` alone, for anybody's model: sorted and scattered back, drawn as the largest logit plus Gumbel noise.

It looks into no cache: it makes one, hands it over and counts tokens. `KVCache` is the one of the model below it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LEVEL = "robust"


class KVCache:
    """The model's own; this file has none."""

    def __init__(self) -> None:
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
) -> Int[Tensor, "batch position"]:
    """The prompt and what follows; the model's mode is the caller's business."""
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is below 0")
    limit = getattr(model, "max_length", None) or float("inf")
    pieces, store, stored = [prompt], None, 0
    with torch.no_grad():
        for _ in range(steps):
            tokens = torch.cat(pieces, dim=1)
            window = tokens if tokens.shape[1] <= limit else tokens[:, tokens.shape[1] - limit :]
            if cache:
                if store is None or stored + 1 > limit:
                    store, stored = KVCache(), 0
                fresh = window if stored == 0 else window[:, -1:]
                logits = model(fresh, cache=store)
                stored += fresh.shape[1]
            else:
                logits = model(window)
            pieces.append(pick(logits[:, -1, :], temperature, top_k, top_p, generator))
    return torch.cat(pieces, dim=1)


def pick(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Int[Tensor, "batch position"]:
    """arg-max of the logits and, above temperature 0, of a noise that makes it a draw."""
    if temperature == 0:
        return logits.max(dim=-1, keepdim=True).indices
    ordered, order = (logits.double() / temperature).sort(dim=-1, descending=True)
    if top_k is not None:
        ordered[:, top_k:] = float("-inf")
    if top_p is not None:
        cumulated = ordered.softmax(dim=-1).to(torch.float32).cumsum(dim=-1)
        beyond = cumulated.roll(1, dims=-1) >= top_p  # moved by one: the token that crosses p stays
        beyond[:, 0] = False
        ordered = ordered.masked_fill(beyond, float("-inf"))
    kept = torch.empty_like(ordered).scatter_(-1, order, ordered)
    noise = torch.empty_like(kept).exponential_(generator=generator).clamp_min(torch.finfo(kept.dtype).tiny).log()
    return (kept - noise).argmax(dim=-1, keepdim=True)
