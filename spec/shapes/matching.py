"""Annotated shapes against found ones."""

import ast
from collections.abc import Callable, Iterator

from .annotations import ListSpec, NameSpec, ShapeSpec, Spec, TupleSpec, UnionSpec, shapes_in, size_of
from .dims import ONE, Dim, is_flexible, may_be_one
from .solver import INDEPENDENT, Solver
from .values import ANONYMOUS, OTHER, UNKNOWN, Axis, Int, Items, Many, Plain, Shape, Star, Tensor, Value

Naming = Callable[[str], Dim | None]
Stars = dict[str, tuple[Axis, ...] | None]


def to_shape(spec: ShapeSpec, name: Naming, stars: Stars | None = None, inside: bool = False) -> Shape:
    """The shape that a shape string describes; a star that is not known stays one, and `inside` a "#name" too."""
    axes: list[Axis] = []
    for axis in spec.axes:
        if axis.broadcast and axis.star is None:
            axes.append(Dim.atom(axis.text) if inside and isinstance(axis.formula, ast.Name) else None)
        elif axis.star is None:
            axes.append(None if axis.formula is None else size_of(axis.formula, name))
        elif stars is None:
            axes.append(Star(axis.star))
        else:
            bound = stars.get(axis.star)
            axes += (Star(OTHER),) if bound is None else bound
    return Shape(tuple(axes))


def own_stars(spec: Spec | None) -> Stars:
    """The named stars of an annotation inside a function, each for itself; "..." may be any axes."""
    names = {axis.star for shape in shapes_in(spec) for axis in shape.axes if axis.star not in (None, ANONYMOUS)}
    return {name: (Star(name),) for name in names if name is not None}


def to_value(spec: Spec | None, name: Naming, stars: Stars | None = None) -> Value:
    """The value that an annotation promises."""
    if isinstance(spec, ShapeSpec):
        return Tensor(to_shape(spec, name, stars), spec.dtype)
    if isinstance(spec, TupleSpec):
        return Items([to_value(item, name, stars) for item in spec.items])
    if isinstance(spec, ListSpec):
        return Many(to_value(spec.item, name, stars))
    if isinstance(spec, NameSpec):
        if spec.name == "int":
            return Int(None)
        if spec.name in ("float", "bool", "str", "complex"):
            return Plain()
        if spec.name in ("Tensor", "Parameter"):
            return Tensor()
    return UNKNOWN


def pairs(spec: Spec | None, value: Value) -> Iterator[tuple[tuple[ShapeSpec, ...], Tensor]]:
    """The shape strings of an annotation, each (or the choice of them) with the tensor that it describes."""
    if isinstance(spec, ShapeSpec) and isinstance(value, Tensor):
        yield (spec,), value
    elif isinstance(spec, UnionSpec) and isinstance(value, Tensor):
        yield spec.choices, value
    elif isinstance(spec, TupleSpec) and isinstance(value, Items) and len(value.items) == len(spec.items):
        for part, item in zip(spec.items, value.items, strict=True):
            yield from pairs(part, item)
    elif isinstance(spec, ListSpec) and isinstance(value, Many):
        yield from pairs(spec.item, value.item)
    elif isinstance(spec, ListSpec) and isinstance(value, Items):
        for item in value.items:
            yield from pairs(spec.item, item)


def choose(
    solver: Solver, choices: tuple[ShapeSpec, ...], shape: Shape, name: Naming, stars: Stars
) -> ShapeSpec | None:
    """The one of several shape strings to hold a shape to: None where more than one may be meant."""
    fit = []
    for spec in choices:
        known = dict(solver.known)
        if mismatch(solver, spec, shape, name, dict(stars), given=True) is None:
            fit.append(spec)
        solver.known = known
    ranks = [spec for spec in choices if len(spec.axes) == len(shape.axes)]
    return (fit or ranks or choices)[0] if len(fit) < 2 else None


def mismatch(
    solver: Solver, spec: ShapeSpec, shape: Shape, name: Naming, stars: Stars, given: bool = False
) -> str | None:
    """Why a shape (of an argument, if `given`) certainly is not the annotated one; None where it is, or may be."""
    at = next((i for i, axis in enumerate(spec.axes) if axis.star is not None), None)
    fixed = len(spec.axes) - (at is not None)
    have = len(shape.dims)
    if (shape.rank is not None and (have < fixed or (at is None and have != fixed))) or (at is None and have > fixed):
        more, least = "" if at is None else " or more", "" if shape.rank is not None else "at least "
        return f"{fixed}{more} axes are expected, but there are {least}{have}"
    head = spec.axes if at is None else spec.axes[:at]
    tail = spec.axes if at is None else spec.axes[at + 1 :]
    front, back = shape.front, shape.back if shape.star is not None else shape.axes
    matched = list(zip(head, front, strict=False))
    if at is not None or shape.rank is None:
        matched += list(zip(tail[::-1], back[::-1], strict=False))[::-1]
    if at is not None:
        fits = len(head) <= len(front) and len(tail) <= len(back)
        rest = shape.axes[len(head) : len(shape.axes) - len(tail)] if fits else None
        why = _star(solver, spec.axes[at].star or ANONYMOUS, rest, stars)
        if why:
            return why
    for axis, dim in matched:
        found = None if isinstance(dim, Star) else solver.resolve(dim)
        if axis.formula is None or found is None or (axis.broadcast and found == ONE):
            continue
        want = size_of(axis.formula, name)
        if axis.broadcast and found.single is not None and may_be_one(found.single):
            known = solver.resolve(want)
            if known is None or any(map(is_flexible, known.atoms)):
                continue  # it may be 1 in this call, so it tells nothing about others
            if solver.differ(known, Dim.atom(found.single[1:])):
                return f'axis "{axis.text}" is "{found.single[1:]}"'
            continue
        if given and want == ONE and found.single is not None and found.single not in INDEPENDENT:
            continue  # "channel" may be 1 just here, after a test that is not understood
        if not solver.unify(want, found):
            quoted = f'"{found}"' if found.single else str(found)
            return f'axis "{axis.text}" is {quoted}'
    return None


def _star(solver: Solver, name: str, rest: tuple[Axis, ...] | None, stars: Stars) -> str | None:
    """Hold the axes that a star stands for to what it stood for before."""
    before = stars.get(name, rest) if rest is not None else stars.get(name)
    if name[0] in ".#" or before is None or rest is None:
        stars[name] = rest if before == rest else None
        return None
    stars[name] = before
    if len(before) != len(rest):
        certain = any(isinstance(axis, Star) for axis in before) == any(isinstance(axis, Star) for axis in rest)
        return f'"*{name}" is {len(rest)} axes here and {len(before)} before' if certain else None
    for a, b in zip(before, rest, strict=True):
        if isinstance(a, Star) or isinstance(b, Star):
            if a != b:
                return None
        elif not solver.unify(a, b):
            return f'an axis of "*{name}" is {solver.show(b)} here and {solver.show(a)} before'
    return None
