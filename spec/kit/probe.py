"""Looks into a computation from outside: who sees whom, what moves what."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from spec.kit.verdict import Broken, Misbehaved, NotOffered


def who_sees_whom(layer: Callable[[Tensor], Tensor], x: Tensor) -> Bool[Tensor, "query key"]:
    """True where the output at a position depends on the input at another, read off the Jacobian.

    `layer` maps (1, position, d) to (1, position, d); gradients tell the dependency, however small it is.
    """
    x = x.detach().clone().requires_grad_()
    out = layer(x)
    rows = []
    for position in range(out.shape[1]):
        weigh = torch.linspace(0.5, 1.5, out.shape[-1], dtype=out.dtype)  # no symmetry of a norm cancels it
        (moved,) = torch.autograd.grad((out[0, position] * weigh).sum(), x, retain_graph=True, materialize_grads=True)
        rows.append(moved[0].abs().amax(-1) > 0)
    return torch.stack(rows)


def lower_triangle(queries: int, keys: int | None = None) -> Bool[Tensor, "query key"]:
    """What a causal picture has to be; with more keys than queries the queries are the last positions."""
    keys = queries if keys is None else keys
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


def finite(*values: Tensor) -> bool:
    """Whether every number is a number; NaN hides in a maximum."""
    return all(bool(value.isfinite().all()) for value in values)


def gradients_are_derivatives(function: Callable[..., Tensor], *inputs: Tensor) -> bool:
    """Whether autograd's gradients of float64 inputs are the slopes that small steps measure, for each input alone.

    The largest step is right for an implementation that computes in float32 inside, for which gradcheck's are too
    small. The smaller ones are for a kink of ReLU that a larger one crosses; a wrong gradient is the slope of none.
    """
    weigh = torch.linspace(0.5, 1.5, 97, dtype=torch.float64)  # no symmetry of a norm cancels it

    def height(*values: Tensor) -> Tensor:
        out = function(*values).double().flatten()
        return (out * weigh.repeat(out.numel() // 97 + 1)[: out.numel()]).sum()

    for number, x in enumerate(inputs):
        for turn in range(3):
            direction = torch.sin(torch.arange(x.numel(), dtype=x.dtype) * (turn + 1.7) + turn).view_as(x)
            direction = direction / direction.norm()
            values = [value.detach().clone() for value in inputs]
            values[number].requires_grad_()
            here = height(*values)
            slope = torch.zeros((), dtype=torch.float64)
            if here.requires_grad:
                (gradient,) = torch.autograd.grad(here, values[number], materialize_grads=True)
                slope = (gradient * direction).sum()
            for step in (1e-2, 1e-3, 1e-4):
                with torch.no_grad():
                    values[number] = x + step * direction
                    above = height(*values)
                    values[number] = x - step * direction
                    measured = (above - height(*values)) / (2 * step)
                if torch.isclose(slope, measured, rtol=1e-2, atol=1e-3):
                    break
            else:
                return False
    return True


def refuses(call: Callable[[], object], *numbers: int) -> bool:
    """Whether the call ends in a clear error: any exception but NotImplementedError, its message naming the numbers."""
    try:
        call()
    except (NotImplementedError, NotOffered, Broken, Misbehaved):
        raise
    except Exception as error:
        clear = all(str(number) in str(error) for number in numbers)
        error.clear = clear  # type: ignore[attr-defined]  # all that is asked of it: the diagnosis compares no words
        return clear
    return False


def history(out: Tensor) -> set[object]:
    """Every step of the computation that autograd remembers behind a tensor."""
    found: set[object] = set()
    waiting = [out.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is not None and step not in found:
            found.add(step)
            waiting += [before for before, _ in step.next_functions]
    return found


def steps_between(start: Tensor, out: Tensor) -> tuple[int, int]:
    """How many steps of the computation lie between a leaf and a result: on the shortest way and on the longest.

    No step of a way can begin before the one in front of it has ended; (0, 0) where no way leads from one to the other.
    """
    known: dict[object, tuple[int, int] | None] = {}
    waiting: list[Any] = [out.grad_fn] if out.grad_fn is not None else []
    while waiting:
        step = waiting[-1]
        before = [one for one, _ in step.next_functions if one is not None]
        if left := [one for one in before if one not in known]:
            waiting += left
            continue
        waiting.pop()
        ways = [way for one in before if (way := known[one]) is not None]
        known[step] = (1 + min(way[0] for way in ways), 1 + max(way[1] for way in ways)) if ways else None
        if getattr(step, "variable", None) is start:
            known[step] = (0, 0)
    return known.get(out.grad_fn) or (0, 0)


def leaves(out: Tensor) -> set[Tensor]:
    """The tensors that a gradient of `out` is collected in."""
    return {step.variable for step in history(out) if hasattr(step, "variable")}


def astray(module: nn.Module, out: Tensor) -> list[str]:
    """In words, what of a module no gradient of `out` reaches, and what it reaches that is no parameter."""
    reached = leaves(out)
    lost = {name: p for name, p in module.named_parameters() if p.requires_grad and p not in reached}
    parts = {name: {p for p in part.parameters() if p.requires_grad} for name, part in module.named_modules()}
    names = [name for name, inside in parts.items() if inside and inside <= set(lost.values())] + list(lost)
    within = [name for name in names if any(name != part and _is_in(name, part) for part in names)]
    strangers = sorted(tuple(each.shape) for each in reached - set(module.parameters()))
    return [
        *(f"no gradient reaches {name or 'any parameter'}" for name in names if name not in within),
        *(f"a tensor of shape {shape} learns and is no parameter" for shape in strangers),
    ]


def idle(module: nn.Module) -> list[str]:
    """In words, after backward(), which parameters have no finite gradient, and which matrices one of zeros alone."""
    found = []
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        if gradient is None and parameter.requires_grad:
            found.append(f"{name} has no gradient")
        elif gradient is not None and not gradient.isfinite().all():
            found.append(f"the gradient of {name} is not finite")
        elif gradient is not None and gradient.ndim >= 2 and not gradient.any():
            found.append(f"the gradient of {name} is zero")
    return found


def _is_in(name: str, part: str) -> bool:
    """Whether a parameter, or a module, belongs to a module of that name."""
    return name.startswith(f"{part}." if part else "")


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file can grow beyond `room` bytes inside, whoever writes it; where the system has no such limit, it can."""
    try:
        import resource
    except ImportError:  # Windows
        yield
        return
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
