"""The other right rotary: it turns channels i and i + d_k/2, where ours turns neighbours.

A learner may write either. Mistakes are written over ours, so to compare them with a learner of the other pairing every
rotary in the reference, its copies and the mistakes is replaced for a while by its like in halves.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator

from einops import rearrange
from torch import Tensor

Rotary = Callable[..., Tensor]
OURS = ("reference", "spec.mistakes.")
RAW = "spec.mistakes.positions"  # wrong rotaries are made of the right one here: what is turned is the whole


def in_halves(rotary: Rotary) -> Rotary:
    """The same turns, of channels i and i + d_k/2."""

    @functools.wraps(rotary)
    def turned(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        if x.shape[-1] % 2:
            return rotary(x, *args, **kwargs)
        neighbours = rearrange(x, "... (two pair) -> ... (pair two)", two=2)
        return rearrange(rotary(neighbours, *args, **kwargs), "... (pair two) -> ... (two pair)", two=2)

    return turned


@contextlib.contextmanager
def halves() -> Iterator[None]:
    """Every rotary of ours turns halves in here. Import what is needed before: an import in here would keep it."""
    found = [
        (module, name, vars(module)[name])
        for path, module in list(sys.modules.items())
        if path.startswith(OURS) and path != RAW
        for name in ("rotary", "rotate")
        if name in vars(module)
    ]
    for module, name, rotary in found:
        setattr(module, name, in_halves(rotary))
    try:
        yield
    finally:
        for module, name, rotary in found:
            setattr(module, name, rotary)
