"""The shortest `generate`: no cache is offered, and the top-p set comes from comparing all pairs of tokens.

Quadratic in the vocabulary, and without any sorting for top-p.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LEVEL = "core"
UNSUPPORTED = {"cache=True"}


def probabilities(
    logits: Float[Tensor, "batch vocab"], temperature: float, top_k: int | None, top_p: float | None
) -> Float[Tensor, "batch vocab"]:
    """What is left after top-k and top-p, not summing to one."""
    p = (logits.double() / temperature).softmax(-1)
    if top_k is not None and top_k < p.shape[-1]:
        p = torch.zeros_like(p).scatter(-1, p.topk(top_k).indices, p.topk(top_k).values)
        p = p / p.sum(-1, keepdim=True)
    if top_p is not None:
        index = torch.arange(p.shape[-1], device=p.device)
        equal_and_earlier = (p[:, None, :] == p[:, :, None]) & (index < index[:, None])
        before = (p[:, None, :] > p[:, :, None]) | equal_and_earlier
        p = torch.where(((before * p[:, None, :]).sum(-1).float() < top_p) | ~before.any(-1), p, 0.0)
    return p


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
    """One token more, and again."""
    if cache:
        raise ValueError("cache=True is not offered")
    tokens, longest = prompt, getattr(model, "max_length", None) or prompt.shape[1] + steps
    for _ in range(steps):
        with torch.no_grad():
            logits = model(tokens[:, -longest:])[:, -1]
        if temperature == 0:
            token = logits.argmax(-1)[:, None]
        else:
            token = torch.multinomial(probabilities(logits, temperature, top_k, top_p), 1, generator=generator)
        tokens = torch.hstack([tokens, token])
    return tokens
