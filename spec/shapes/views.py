"""Rules for the same elements in other axes: view, permute, expand, cat, split and their like."""

from fractions import Fraction

from .dims import ONE, ZERO, Dim, product
from .operations import Call, rule
from .solver import total
from .values import Axis, Int, Items, Library, Many, Nothing, Shape, Size, Star, Tensor, Value


@rule("transpose", "swapaxes", "swapdims")
def transpose(call: Call) -> Value:
    """Two axes exchanged."""
    x = call.tensor(0, "input")
    i, j = call.axis(x.shape, 1, "dim0", "axis0"), call.axis(x.shape, 2, "dim1", "axis1")
    return call.like(x, x.shape.swap(i, j) if x.shape is not None and i is not None and j is not None else None)


@rule("t", "T")
def flip_axes(call: Call) -> Value:
    """The axes in reverse."""
    x = call.tensor(0, "input")
    return call.like(x, Shape(x.shape.axes[::-1]) if x.shape is not None and x.shape.rank is not None else None)


@rule("mT", "mH", "adjoint")
def matrix_transpose(call: Call) -> Value:
    """The last two axes exchanged."""
    x = call.tensor(0)
    if x.shape is not None and x.shape.lacks(-2):
        return call.fail(f".{call.name} needs at least 2 axes, but the shape is {call.show(x.shape)}")
    return call.like(x, x.shape.swap(-1, -2) if x.shape is not None else None)


@rule("permute", "movedim")
def permute(call: Call) -> Value:
    """The axes in another order."""
    x = call.tensor(0, "input")
    order = call.sizes(1, "dims")
    if x.shape is None or x.shape.rank is None or order is None or call.name == "movedim":
        return Tensor()
    axes = [None if dim is None else dim.value for dim in order]
    numbers = [axis for axis in axes if axis is not None]
    if len(numbers) != len(axes):
        return Tensor()
    if sorted(k % max(x.shape.rank, 1) for k in numbers) != list(range(x.shape.rank)):
        return call.fail(f"permute({', '.join(map(str, numbers))}) does not fit the shape {call.show(x.shape)}")
    return call.like(x, Shape(tuple(x.shape.axes[k] for k in numbers)))


@rule("view", "reshape")
def view(call: Call) -> Value:
    """Other axes for as many elements."""
    x = call.tensor(0, "input")
    if isinstance(call.arg(1, "dtype"), Library):
        return Tensor()
    sizes = call.sizes(1, "shape", "size")
    return Tensor() if sizes is None else reshaped(call, x, sizes)


def reshaped(call: Call, x: Tensor, sizes: list[Dim | None]) -> Tensor:
    """The tensor in these sizes, of which one may be -1."""
    solver = call.run.solver
    dims = [solver.resolve(size) for size in sizes]
    open_places = [i for i, dim in enumerate(dims) if dim is not None and dim.value == -1]
    have = total(x.shape.dims, solver) if x.shape is not None and x.shape.rank is not None else None
    given = product(dim for i, dim in enumerate(dims) if i not in open_places)
    if open_places:
        dims[open_places[0]] = have.over(given) if have is not None and given is not None else None
    elif not solver.unify(have, given):
        shapes = f"{call.show(x.shape)} as {call.show(Shape(tuple(dims)))}"
        return call.fail(f"Cannot view {shapes}: {have} elements against {given}")
    return call.like(x, Shape(tuple(dims)))


@rule("view_as", "reshape_as", "expand_as")
def as_other(call: Call) -> Value:
    """The shape of another tensor."""
    return call.like(call.tensor(0), call.tensor(1, "other").shape)


@rule("flatten")
def flatten(call: Call) -> Value:
    """Neighbouring axes made one."""
    x = call.tensor(0, "input")
    a, b = call.axis(x.shape, 1, "start_dim", default=0), call.axis(x.shape, 2, "end_dim", default=-1)
    if x.shape is None or a is None or b is None:
        return Tensor()
    first, last = x.shape.place(a), x.shape.place(b)
    merged = x.shape.axes[first : last + 1] if first is not None and last is not None else ()
    if not merged or any(isinstance(axis, Star) for axis in merged) or last is None:
        return Tensor()
    dim = total(Shape(merged).dims, call.run.solver)
    return call.like(x, Shape((*x.shape.axes[:first], dim, *x.shape.axes[last + 1 :])))


@rule("unflatten")
def unflatten(call: Call) -> Value:
    """One axis made several."""
    x = call.tensor(0, "input")
    axis, sizes = call.axis(x.shape, 1, "dim"), call.sizes(2, "sizes", "unflattened_size")
    if x.shape is None or axis is None or sizes is None or x.shape.place(axis) is None:
        return Tensor()
    parts = reshaped(call, Tensor(Shape((x.shape.get(axis),))), sizes).shape
    return call.like(x, x.shape.replace(axis, *parts.axes) if parts is not None else None)


@rule("unsqueeze")
def unsqueeze(call: Call) -> Value:
    """A new axis of size 1."""
    x, at = call.tensor(0, "input"), call.number(1, "dim")
    if x.shape is None or at is None:
        return Tensor()
    if x.shape.rank is not None and not -x.shape.rank - 1 <= at <= x.shape.rank:
        return call.fail(f"unsqueeze({at}) does not fit the shape {call.show(x.shape)}")
    return call.like(x, x.shape.insert(at, ONE))


@rule("squeeze")
def squeeze(call: Call) -> Value:
    """An axis of size 1 dropped; others stay."""
    x = call.tensor(0, "input")
    axis = call.axis(x.shape, 1)
    dim = call.run.solver.resolve(x.shape.get(axis)) if x.shape is not None and axis is not None else None
    if x.shape is None or axis is None or dim is None:
        return Tensor()
    if dim == ONE:
        return call.like(x, x.shape.replace(axis))
    return x if dim.atoms <= call.run.solver.axes else Tensor()


@rule("expand")
def expand(call: Call) -> Value:
    """Axes of size 1 made longer."""
    x, sizes = call.tensor(0), call.sizes(1, "size")
    if sizes is None or x.shape is None or x.shape.rank is None:
        return Tensor()
    if len(sizes) < x.shape.rank:
        return call.fail(f"expand to {len(sizes)} axes, but the shape is {call.show(x.shape)}")
    old = (ONE,) * (len(sizes) - x.shape.rank) + x.shape.dims
    out: list[Axis] = []
    for want, have in zip(sizes, old, strict=True):
        keeps = want is not None and want.value == -1
        if not keeps and call.run.solver.resolve(have) != ONE and not call.run.solver.unify(want, have):
            return call.fail(f"Cannot expand {call.show(x.shape)} to {call.show(Shape(tuple(sizes)))}")
        out.append(have if keeps else want)
    return call.like(x, Shape(tuple(out)))


@rule("repeat", "tile")
def repeat(call: Call) -> Value:
    """Each axis some times over."""
    x, times = call.tensor(0, "input"), call.sizes(1, "repeats", "dims")
    if times is None or x.shape is None or x.shape.rank is None or len(times) < x.shape.rank:
        return Tensor()
    old = (ONE,) * (len(times) - x.shape.rank) + x.shape.dims
    return call.like(x, Shape(tuple(product((call.run.solver.resolve(d), n)) for d, n in zip(old, times, strict=True))))


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Value:
    """Each entry along an axis some times over."""
    x, times, axis = call.tensor(0, "input"), call.size(1, "repeats"), call.axis(call.tensor(0, "input").shape, 2)
    if x.shape is None or axis is None or not isinstance(call.arg(1, "repeats"), Int):
        return Tensor()
    return call.like(x, x.shape.replace(axis, product((call.run.solver.resolve(x.shape.get(axis)), times))))


@rule("cat", "concat", "concatenate", "stack")
def join(call: Call) -> Value:
    """Tensors one after the other, along an old axis or a new one."""
    tensors, stacks = call.arg(0, "tensors"), call.name == "stack"
    axis = call.number(1, "dim", "axis", default=0)
    if isinstance(tensors, Many) and isinstance(tensors.item, Tensor) and tensors.item.shape and axis is not None:
        shape = tensors.item.shape
        return call.like(tensors.item, shape.insert(axis, None) if stacks else shape.replace(axis, None))
    if not isinstance(tensors, Items) or axis is None:
        return Tensor()
    shapes = [t.shape for t in tensors.items if isinstance(t, Tensor) and t.shape is not None]
    if len(shapes) != len(tensors.items) or not shapes:
        return Tensor()
    first = shapes[0]
    if not stacks and call.axis(first, 1, default=0) is None:
        return Tensor()
    at = None if stacks else first.place(axis)
    if at is None and not stacks:
        return Tensor()
    axes = list(first.axes)
    for shape in shapes[1:]:
        if shape.rank != first.rank and shape.rank is not None and first.rank is not None:
            return call.fail(f"Cannot {call.name} {call.show(first)} and {call.show(shape)}: different numbers of axes")
        if shape.rank != first.rank or shape.star != first.star or len(shape.axes) != len(first.axes):
            return Tensor()
        for i, axis_size in enumerate(shape.axes):
            ours = axes[i]
            if isinstance(ours, Star) or isinstance(axis_size, Star):
                if ours != axis_size:
                    return Tensor()
            elif i == at:
                axes[i] = None if ours is None or axis_size is None else ours + axis_size
            elif not call.run.solver.unify(ours, axis_size):
                show = call.run.solver.show
                why = f"axis {i} is {show(ours)} in one and {show(axis_size)} in the other"
                return call.fail(f"Cannot {call.name} {call.show(first)} and {call.show(shape)} (axis {axis}): {why}")
            else:
                axes[i] = axis_size if ours is None else ours
    whole: Shape | None = Shape(tuple(axes))
    if stacks and whole is not None:
        whole = whole.insert(axis, Dim.const(len(shapes)))
    kinds = {t.dtype for t in tensors.items if isinstance(t, Tensor)}
    return Tensor(whole, kinds.pop() if len(kinds) == 1 else None)


@rule("chunk", "split", "tensor_split", "unbind")
def split(call: Call) -> Value:
    """One tensor as several."""
    x = call.tensor(0, "input", "tensor")
    at = 1 if call.name == "unbind" else 2
    axis = call.axis(x.shape, at, "dim", default=0)
    if x.shape is None or axis is None or x.shape.place(axis) is None:
        return Many(Tensor())
    shape, solver = x.shape, call.run.solver
    whole = solver.resolve(shape.get(axis))

    def part(size: Axis) -> Tensor:
        return call.like(x, shape.replace(axis, size))

    if call.name == "unbind":
        one, n = call.like(x, shape.replace(axis)), whole.value if whole is not None else None
        return Items([one] * n) if n is not None and 0 < n < 9 else Many(one)
    if call.name in ("chunk", "tensor_split"):
        n = call.number(1, "chunks", "indices_or_sections")
        if n is None or not 0 < n < 13:
            return Many(part(None))
        return Items([part(None if whole is None else whole * Dim.const(Fraction(1, n)))] * n)
    sections = call.arg(1, "split_size", "split_size_or_sections")
    if isinstance(sections, Items):
        sizes = [call.run.size(item) for item in sections.items]
        known = [size for size in sizes if size is not None]
        added = sum(known, ZERO)
        if len(known) == len(sizes) and not solver.unify(whole, added):
            call.fail(f"The parts add up to {solver.show(added)}, but the axis is {whole} in {call.show(shape)}")
            return Items([Tensor()] * len(sizes))
        return Items([part(size) for size in sizes])
    size = solver.resolve(call.run.size(sections))
    times = whole.over(size) if whole is not None and size is not None else None
    if times is not None and times.value is not None and 0 < times.value < 13:
        return Items([part(size)] * times.value)
    return Many(part(None))


@rule("size")
def size_rule(call: Call) -> Value:
    """One size, or all."""
    x = call.tensor(0)
    if (len(call.args) < 2 and not call.kw) or isinstance(call.arg(1, "dim"), Nothing):
        return Size(x.shape)
    axis = call.axis(x.shape, 1)
    return Int(x.shape.get(axis) if x.shape is not None and axis is not None else None)
