"""What a learner may do otherwise than the reference and be right, so that mistakes can be made in that manner too.

A rotary may turn channels i and i + d_k/2, where ours turns neighbours; a model's networks may bend by ReLU, where ours
bend by GELU; a sequence may begin behind the last target of the one before, where ours begins with it. Mistakes are
written over ours: for a while all of ours does it in the learner's manner.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from einops import rearrange
from torch import Tensor, nn

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


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Every right `sequences` of ours steps by length + 1 in here: no token is in two sequences."""
    right = sys.modules["reference.data"].sequences

    @functools.wraps(right)
    def stepping(stream: Tensor, length: int) -> tuple[Tensor, Tensor]:
        right(stream, length)  # for the error of a stream that is too short
        pieces = stream.unfold(0, length + 1, length + 1)
        return pieces[:, :-1], pieces[:, 1:]

    found = [
        module
        for path, module in list(sys.modules.items())
        if path.startswith(OURS) and vars(module).get("sequences") is right
    ]
    for module in found:
        module.sequences = stepping  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in found:
            module.sequences = right  # type: ignore[attr-defined]


@contextlib.contextmanager
def bent_by(activation: str) -> Iterator[None]:
    """Every network of ours that is made in here without a word about it bends by this; what is imported in here does
    not know it.
    """
    starts = [network.__init__ for network in _networks()]
    usual = [start.__defaults__ for start in starts]
    for start in starts:
        start.__defaults__ = tuple(activation if each == "gelu" else each for each in start.__defaults__)
    try:
        yield
    finally:
        for start, defaults in zip(starts, usual, strict=True):
            start.__defaults__ = defaults


def has_a_network(module: nn.Module) -> bool:
    """Whether a feed-forward network of ours is in it."""
    return any(isinstance(part, tuple(_networks())) for part in module.modules())


def _networks() -> set[Any]:
    """The reference's network, in each of its copies."""
    modules = [module for path, module in list(sys.modules.items()) if path.startswith(OURS[0])]
    return {vars(module)["FeedForward"] for module in modules if "FeedForward" in vars(module)}
