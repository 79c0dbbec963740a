"""Names the mistake: the one that gives the learner's result on every call of the case, where the right answer differs.

The failing case runs again with each mistake as the implementation, its modules loaded with the learner's weights. A
mistake is named only if it agrees with all of the learner's calls, in value and gradient, and fails the requirement too.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spec.kit import catalogue, draw
from spec.kit.catalogue import Requirement
from spec.kit.plug import Implementation
from spec.kit.record import Call, Log, tensors

SECONDS = 3.0  # for one call of a mistake; what takes longer is not compared


def same(mine: Any, theirs: Any) -> bool:
    """Equal to rounding, nested containers included; objects without a value count as equal."""
    if isinstance(mine, Tensor) or isinstance(theirs, Tensor):
        try:
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4, equal_nan=True)
        except (AssertionError, TypeError, ValueError):
            return False
        return True
    if type(mine) is not type(theirs):
        return False
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(same(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list | tuple):
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    if isinstance(mine, float):
        return abs(mine - theirs) <= 1e-5 + 1e-4 * abs(theirs) or (mine != mine and theirs != theirs)
    if isinstance(mine, int | str | bool | None):
        return bool(mine == theirs)
    return True


def gradients(call: Call) -> list[Tensor | None] | None:
    """How the result moves with each input that wants a gradient; None where the graph is gone."""
    wanted = [tensor for tensor in tensors(call.arguments) if tensor.requires_grad]
    results = [out for out in tensors(call.live) if out.is_floating_point() and out.requires_grad]
    if not wanted:
        return []
    if not results:
        return [None] * len(wanted)
    try:
        weighed = [(out * draw.randn(*out.shape, key="gradients").to(out)).sum() for out in results]
        return list(torch.autograd.grad(sum(weighed), wanted, retain_graph=True, allow_unused=True))
    except RuntimeError:
        return None


def agree(mine: Call, theirs: Call) -> bool:
    """Whether two runs of one call came to the same: result, gradients, or error."""
    if mine.name != theirs.name or type(mine.error) is not type(theirs.error):
        return False
    if mine.error is not None:
        return str(mine.error) == str(theirs.error)
    return same(mine.result, theirs.result) and same(gradients(mine), gradients(theirs))


def explains(mine: Iterable[Call], theirs: list[Call]) -> bool:
    """Whether their calls begin with all of mine and come to the same."""
    mine = list(mine)
    return len(theirs) >= len(mine) and all(map(agree, mine, theirs))


@functools.cache
def _suspect(name: str) -> Implementation:
    return Implementation(name, Path.cwd())


def rerun(name: str, log: Log) -> tuple[list[Call], BaseException | None]:
    """The calls of the same case in another implementation, which starts from the same weights."""
    other = _suspect(name)
    other.log.weights, other.log.seconds = log.made, SECONDS
    ended: BaseException | None = None
    try:
        assert log.body is not None
        draw.run_case(other.log, log.body, log.case, other)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        ended = error
    return other.log.calls, ended


def suspects(requirement: Requirement) -> list[str]:
    """The mistakes to try: those that the requirement is there to reject, then the chapter's others."""
    chapter = catalogue.mistakes(requirement.chapter)
    return list(dict.fromkeys([*(name for name in requirement.rejects if name in chapter), *chapter]))


def explain(requirement: Requirement, log: Log) -> list[str]:
    """The names of the mistakes that explain what was recorded; empty where none does."""
    if not log.calls or log.body is None or any(isinstance(m.module, nn.Module) and not m.start for m in log.made):
        return []
    try:
        right, _ = rerun("reference", log)
        if explains(log.calls, right):
            return []
        runs = ((name, *rerun(f"mistake:{name}", log)) for name in suspects(requirement))
        return [name for name, calls, ended in runs if ended is not None and explains(log.calls, calls)]
    except Exception:  # a diagnosis that breaks is none; the verdict stands without it
        return []
