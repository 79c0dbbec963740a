"""Rules for what removes an axis, or picks along one."""

from .dims import ONE, Dim
from .elementwise import elementwise
from .operations import Call, rule
from .values import UNKNOWN, Axis, Int, Items, Nothing, Plain, Shape, Tensor, Value

REDUCE = """sum mean amax amin prod std var logsumexp norm all any argmax argmin nansum nanmean max min median
    count_nonzero vector_norm std_mean var_mean nanmedian mode"""
PAIRS = frozenset(("max", "min", "median", "nanmedian", "mode"))
ARRAYS = frozenset(("std", "var"))  # a second positional argument is not keepdim


@rule(*REDUCE.split())
def reduce(call: Call) -> Value:
    """Axes folded away, or kept with size 1."""
    x, name = call.tensor(0, "input"), call.name
    other = call.arg(1, "dim", "axis", "other")
    if isinstance(other, Tensor):
        return elementwise(call, [x, other], f"{name}: the shapes")
    at = 2 if name == "norm" or name == "vector_norm" else 1
    axes = call.arg(at, "dim", "axis")
    if axes is None and name in ("std_mean", "var_mean"):
        return UNKNOWN
    keep = call.arg(at + 1 if name not in ARRAYS else 9, "keepdim", "keepdims")
    dtype = {"argmax": "i", "argmin": "i", "all": "b", "any": "b", "count_nonzero": "i"}.get(name, x.dtype)
    out = reduced(call, x.shape, axes, keep, at)
    if name in ("std_mean", "var_mean"):
        return Items([Tensor(out, dtype)] * 2)
    if name in PAIRS and axes is not None:
        return Items([Tensor(out, dtype), Tensor(out, "i")])
    return Tensor(out, dtype)


def reduced(call: Call, shape: Shape | None, axes: Value | None, keep: Value | None, at: int) -> Shape | None:
    """The shape without these axes."""
    if keep is not None and not (isinstance(keep, Plain) and isinstance(keep.const, bool)):
        return None
    keeps = isinstance(keep, Plain) and keep.const is True
    if axes is None or isinstance(axes, Nothing):
        return Shape(()) if not keeps else None
    if isinstance(axes, Items):
        numbers = [call.run.number(item) for item in axes.items]
        lost = next((n for n in numbers if n is not None and shape is not None and shape.lacks(n)), None)
        if lost is not None:
            call.fail(f"Axis {lost} does not exist in the shape {call.show(shape)}")
            return None
    else:
        numbers = [call.axis(shape, at)]
    if shape is None or not numbers:
        return None
    places = [shape.place(n) if n is not None else None for n in numbers]
    if None in places:
        return None
    left: list[Axis] = []
    for i, axis in enumerate(shape.axes):
        if i not in places:
            left.append(axis)
        elif keeps:
            left.append(ONE)
    return Shape(tuple(left))


@rule("sort", "cummax", "cummin")
def sort(call: Call) -> Value:
    """Values and indices, as many as before."""
    x = call.tensor(0, "input")
    return Items([x, Tensor(x.shape, "i")])


@rule("argsort")
def argsort(call: Call) -> Value:
    """Indices, as many as before."""
    return Tensor(call.tensor(0, "input").shape, "i")


@rule("topk")
def topk(call: Call) -> Value:
    """The k largest along an axis."""
    x, k = call.tensor(0, "input"), call.size(1, "k")
    axis = call.axis(x.shape, 2, "dim", default=-1)
    out = x.shape.replace(axis, k) if x.shape is not None and axis is not None else None
    return Items([Tensor(out, x.dtype), Tensor(out, "i")])


@rule("multinomial")
def multinomial(call: Call) -> Value:
    """Draws from each row."""
    x, n = call.tensor(0, "input"), call.size(1, "num_samples")
    return Tensor(x.shape.replace(-1, n) if x.shape is not None else None, "i")


@rule("gather", "take_along_dim")
def gather(call: Call) -> Value:
    """The shape of the index, which has as many axes as the tensor."""
    x = call.tensor(0, "input")
    index = call.tensor(2, "index") if call.name == "gather" else call.tensor(1, "indices")
    axis = call.axis(x.shape, 1) if call.name == "gather" else None
    if x.shape is None or index.shape is None or call.name != "gather":
        return Tensor()
    if x.shape.rank is not None and index.shape.rank is not None and x.shape.rank != index.shape.rank:
        shapes = f"{call.show(index.shape)} must have as many axes as {call.show(x.shape)}"
        return call.fail(f"gather: the index {shapes}")
    place = x.shape.place(axis) if axis is not None else None
    if place is not None and x.shape.rank is not None and index.shape.rank is not None:
        for i, (ours, theirs) in enumerate(zip(x.shape.dims, index.shape.dims, strict=True)):
            if i != place and index_too_long(call, ours, theirs):
                show = call.run.solver.show
                why = f"axis {i} is {show(theirs)} against {show(ours)}"
                return call.fail(f"gather: the index {call.show(index.shape)} does not fit {call.show(x.shape)}: {why}")
    return Tensor(index.shape, x.dtype)


def index_too_long(call: Call, ours: Dim | None, theirs: Dim | None) -> bool:
    """An index may be shorter than its tensor, but not along an axis of another name."""
    one = call.run.solver.resolve(theirs)
    return one is not None and one.value is None and call.run.solver.differ(ours, theirs)


@rule("index_select")
def index_select(call: Call) -> Value:
    """Some entries of an axis."""
    x, index = call.tensor(0, "input"), call.tensor(2, "index").shape
    axis = call.axis(x.shape, 1)
    if x.shape is None or axis is None or index is None or index.rank != 1:
        return Tensor()
    return call.like(x, x.shape.replace(axis, index.axes[0]))


@rule("select")
def select(call: Call) -> Value:
    """One entry of an axis."""
    x = call.tensor(0, "input")
    axis = call.axis(x.shape, 1)
    return call.like(x, x.shape.replace(axis) if x.shape is not None and axis is not None else None)


@rule("unfold")
def unfold(call: Call) -> Value:
    """Windows along an axis: their entries are a new axis at the end."""
    x, size = call.tensor(0), call.size(2, "size")
    axis = call.axis(x.shape, 1, "dimension")
    counted = x.shape.replace(axis, None) if x.shape is not None and axis is not None else None
    return call.like(x, counted.plus(size) if counted is not None else None)


@rule("diagonal", "narrow", "masked_select", "nonzero", "unique")
def unknown_tensor(call: Call) -> Value:
    """A tensor, but its shape cannot be told."""
    return Tensor()


@rule("item", "data_ptr", "backward", "is_floating_point", "is_contiguous", "stride", "get_device", "is_tensor")
def no_tensor(call: Call) -> Value:
    """No tensor and no size."""
    return Plain()


@rule("dim", "ndimension", "ndim")
def dim(call: Call) -> Value:
    """The number of axes."""
    shape = call.tensor(0).shape
    return Int(Dim.const(shape.rank) if shape is not None and shape.rank is not None else None)
