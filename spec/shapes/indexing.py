"""What `x[...]` gives."""

import ast
from fractions import Fraction
from typing import TYPE_CHECKING

from .dims import ONE, ZERO, Dim, is_int
from .elementwise import elementwise
from .solver import loose
from .values import Axis, Int, Items, Nothing, Plain, Shape, Size, Star, Tensor, Unknown, Value

if TYPE_CHECKING:
    from .interpreter import Interpreter


def index(run: "Interpreter", node: ast.Subscript, x: Tensor) -> Tensor:
    """A tensor indexed by integers, slices, None, an ellipsis, or one tensor of integers."""
    parts = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    values = [None if isinstance(part, ast.Slice) else run.eval(part) for part in parts]
    shape = x.shape
    if shape is None:
        return Tensor()
    advanced = [i for i, value in enumerate(values) if not is_plain_index(value)]
    dots = next((i for i, value in enumerate(values) if is_ellipsis(value)), None)
    if advanced:
        if len(advanced) == len(values):
            return by_tensors(run, node, values, x)
        return by_tensor(values, shape, x.dtype) if dots is None and len(advanced) == 1 else Tensor()
    used = sum(not isinstance(value, Nothing) for value in values) - (dots is not None)
    if shape.rank is not None and used > shape.rank:
        return run.fail(node, f"{used} indices for the shape {run.show(shape)}")
    split = len(parts) if dots is None else dots
    left = list(zip(parts[:split], values[:split], strict=True))
    right = list(zip(parts[split + 1 :], values[split + 1 :], strict=True))
    taken = sum(not isinstance(value, Nothing) for _, value in left)
    ending = sum(not isinstance(value, Nothing) for _, value in right)
    if taken > len(shape.front) or ending > (len(shape.back) if shape.star is not None else len(shape.axes)):
        return Tensor()
    end = len(shape.axes) - ending
    first = picked(run, left, shape.axes[:taken])
    last = picked(run, right, shape.axes[end:])
    return Tensor(Shape((*first, *shape.axes[taken:end], *last)), x.dtype)


def is_ellipsis(value: Value | None) -> bool:
    """Is this `...`?"""
    return isinstance(value, Plain) and value.const is Ellipsis


def is_plain_index(value: Value | None) -> bool:
    """A slice, an integer, None or an ellipsis: an unknown index may be a tensor."""
    return value is None or isinstance(value, Int | Nothing) or is_ellipsis(value)


def by_tensor(values: list[Value | None], shape: Shape, dtype: str | None) -> Tensor:
    """x[tokens] and x[:, tokens]: the index's axes stand in the place of the indexed one."""
    at = len(values) - 1
    chosen = values[at]
    whole = all(value is None for value in values[:at])
    if not isinstance(chosen, Tensor) or chosen.dtype != "i" or chosen.shape is None or shape.place(at) is None:
        return Tensor()
    if at and not whole:
        return Tensor()
    new = shape.replace(at, *chosen.shape.axes)
    stars = sum(isinstance(axis, Star) for axis in new.axes) if new is not None else 2
    return Tensor(new if stars < 2 else None, dtype)


def by_tensors(run: "Interpreter", node: ast.Subscript, values: list[Value | None], x: Tensor) -> Tensor:
    """x[rows, columns]: the indices broadcast, and stand in the place of the first axes."""
    whole = all(isinstance(value, Tensor) and value.dtype == "i" for value in values)
    if not whole or x.shape is None or len(values) > len(x.shape.front):
        return Tensor()
    index = elementwise(run.operation(node, "index"), [v for v in values if v is not None], "The indices").shape
    axes = (*index.axes, *x.shape.axes[len(values) :]) if index is not None else None
    stars = sum(isinstance(axis, Star) for axis in axes or ())
    return Tensor(Shape(axes) if axes is not None and stars < 2 else None, x.dtype)


def picked(run: "Interpreter", parts: list[tuple[ast.expr, Value | None]], axes: tuple[Axis, ...]) -> list[Axis]:
    """What each index leaves of its axis."""
    out: list[Axis] = []
    waiting = iter(axes)
    for part, value in parts:
        if isinstance(value, Nothing):
            out.append(ONE)
            continue
        axis = next(waiting)
        if isinstance(part, ast.Slice):
            out.append(None if isinstance(axis, Star) else slice_size(run, part, axis))
    return out


def slice_size(run: "Interpreter", part: ast.Slice, whole: Dim | None) -> Dim | None:
    """How long a slice is, if its bounds lie inside the axis, as those that are written mostly do."""
    low = run.size(run.eval(part.lower)) if part.lower else ZERO
    high = run.size(run.eval(part.upper)) if part.upper else None
    whole, low, high = run.solver.resolve(whole), run.solver.resolve(low), run.solver.resolve(high)
    if whole is not None and loose(whole):
        whole = None
    if low is None or (part.upper and high is None):
        return None
    if part.step is not None:
        step = run.number(run.eval(part.step))
        if whole is None or part.upper or step is None or step <= 0 or low.value not in range(step):
            return None
        return whole * Dim.const(Fraction(1, step))
    if is_negative(low):
        if part.upper is None:  # the last n, or all where there are fewer
            return -low if low.value is not None and (low.value == -1 or is_long(whole)) else None
        low = None if whole is None else whole + low
    if part.upper is None:
        return None if whole is None or low is None else whole - low
    if high is not None and is_negative(high):
        high = None if whole is None else whole + high
    elif high is None or (high != ONE and not reaches(whole, high)):
        return None
    return None if high is None or low is None else high - low


def reaches(whole: Dim | None, high: Dim) -> bool:
    """Does an axis surely reach to this bound? One of the data may be shorter than a number of the code."""
    if is_long(whole) or (whole is None and high.value is None):
        return True
    return high.value is None and not all(is_int(atom) for atom in high.atoms)


def is_negative(dim: Dim) -> bool:
    """Does it certainly count from the end?"""
    return bool(dim.terms) and all(c < 0 for c in dim.terms.values())


def is_long(whole: Dim | None) -> bool:
    """Is the axis one that a model fixes, rather than one of the data, which may be short?"""
    return whole is not None and (whole.value is not None or all(is_int(atom) for atom in whole.atoms))


def size_item(run: "Interpreter", node: ast.Subscript, size: Size) -> Value:
    """`x.shape[i]` and `x.shape[a:b]`."""
    shape = size.shape
    if isinstance(node.slice, ast.Slice):
        bounds = const_slice(node.slice)
        if shape is None or bounds is None:
            return Unknown()
        low, high = bounds.start, bounds.stop
        if shape.rank is None:
            ends = (
                bounds.step is None and low is not None and -len(shape.back) <= low < 0 and (high is None or high < 0)
            )
            if low is None and high is not None and high == -len(shape.back):
                return Size(Shape(shape.axes[:high]))
            if not ends:
                return Unknown()
        return Items([Int(axis) for axis in shape.axes[bounds] if not isinstance(axis, Star)])
    i = run.number(run.eval(node.slice))
    if shape is None or i is None:
        return Int(None)
    if shape.lacks(i):
        run.fail(node, f"Axis {i} of a tensor of shape {run.show(shape)} does not exist")
        return Int(None)
    return Int(shape.get(i))


def const_slice(node: ast.Slice) -> slice | None:
    """A slice with written numbers."""
    try:
        low, high, step = (None if b is None else ast.literal_eval(b) for b in (node.lower, node.upper, node.step))
    except ValueError:
        return None
    return slice(low, high, step) if all(b is None or isinstance(b, int) for b in (low, high, step)) else None
