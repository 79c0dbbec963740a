"""Looks into a computation from outside: who sees whom, what moves what."""

from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor


def who_sees_whom(layer: Callable[[Tensor], Tensor], x: Tensor) -> Bool[Tensor, "query key"]:
    """True where the output at a position depends on the input at another, read off the Jacobian.

    `layer` maps (1, position, d) to (1, position, d); gradients tell the dependency, however small it is.
    """
    x = x.detach().clone().requires_grad_()
    out = layer(x)
    rows = []
    for position in range(out.shape[1]):
        weigh = torch.linspace(0.5, 1.5, out.shape[-1], dtype=out.dtype)  # no symmetry of a norm cancels it
        (moved,) = torch.autograd.grad((out[0, position] * weigh).sum(), x, retain_graph=True)
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
    """Whether autograd's gradients of float64 inputs are the slopes that small steps measure."""
    return torch.autograd.gradcheck(
        function, [x.detach().clone().requires_grad_() for x in inputs], fast_mode=True, raise_exception=False
    )


def refuses(call: Callable[[], object], *numbers: int) -> bool:
    """Whether the call ends in a clear error: any exception but NotImplementedError, its message naming the numbers."""
    try:
        call()
    except NotImplementedError:
        raise
    except Exception as error:
        return all(str(number) in str(error) for number in numbers)
    return False
