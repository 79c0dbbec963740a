"""Rules for what acts on each element, and for the matrix products: all that broadcasts."""

from .operations import Call, is_scalar, rule
from .values import ANONYMOUS, Axis, Int, Shape, Star, Tensor, Unknown, Value

SAME = """abs bernoulli bernoulli_ bfloat16 bool byte ceil celu clamp_max clamp_min clip clone contiguous copy_ cos cosh
    cpu cuda deg2rad detach detach_ double dropout dropout_ elu empty_like erf erfc exp exp_ expm1
    exponential_ fill_ float floor full_like gelu half hardtanh index_fill_ int isfinite isinf isnan
    leaky_relu log log10 log1p log2 log_normal_ logical_not logit logsigmoid long mish nan_to_num neg normal_
    ones_like pin_memory rand_like randn_like reciprocal relu relu6 relu_ requires_grad_ retain_grad round
    rsqrt scatter scatter_ scatter_add scatter_add_ selu sgn sigmoid sigmoid_ sign silu sin sinh softplus sqrt
    square tan tanh tanh_ to tril triu tril_ triu_ trunc type type_as uniform_ zero_ zeros_like softmin
    dropout1d feature_dropout alpha_dropout hardswish"""
ALONG = "softmax log_softmax cumsum cumprod logcumsumexp normalize flip roll gumbel_softmax cummax_"
BINARY = """add sub mul div divide true_divide multiply subtract maximum minimum pow fmod remainder atan2 floor_divide
    bitwise_and bitwise_or bitwise_xor fmin fmax clamp clamp_ where lerp addcmul logaddexp hypot"""
IN_PLACE = "add_ sub_ mul_ div_ pow_"
LOGICAL = (
    """eq ne lt le gt ge greater less greater_equal less_equal logical_and logical_or logical_xor not_equal isclose"""
)
DTYPES = {"float": "f", "half": "f", "double": "f", "bfloat16": "f", "long": "i", "int": "i", "bool": "b", "isnan": "b"}
DTYPES |= {"isinf": "b", "isfinite": "b", "logical_not": "b"}
RECAST = frozenset(["to", "type", "type_as", "zeros_like", "ones_like", "full_like", "empty_like"])
SCALARS = frozenset(("eps", "epsilon", "temperature", "scale", "scaling"))  # attributes that no rule has made a tensor


def broadcast(call: Call, a: Shape, b: Shape) -> tuple[Shape | None, str | None]:
    """The common shape of two tensors, or why there certainly is none; both None where it cannot be told."""
    left, right = list(a.axes), list(b.axes)
    out: list[Axis] = []
    while left and right:
        x, y = left.pop(), right.pop()
        if isinstance(x, Star) and isinstance(y, Star):
            # two stars of one name are the same axes, so what stands before them lines up again
            exact = x.name == y.name and call.run.is_exact(x)
            if x.name.lstrip("#") != y.name.lstrip("#") or len(left) != len(right) or (left and not exact):
                return None, None
            out.append(y if x.name[0] == "#" else x)
        elif isinstance(x, Star) or isinstance(y, Star):
            star = x if isinstance(x, Star) else y
            if isinstance(star, Star) and star.name[0] == "#" and not (left if star is x else right):
                rest = [*right, y] if star is x else [*left, x]  # what only broadcasts is taken to be no larger
                return Shape((*rest, *reversed(out))), None
            if isinstance(star, Star) and call.run.is_exact(star) and star in a.axes and star in b.axes:
                name = star.name if star.name == ANONYMOUS else "*" + star.name
                why = f'"{name}" stands {len(a.back)} axes from the end in one and {len(b.back)} in the other'
                return None, why
            return None, None
        else:
            dim, fits = call.run.solver.broadcast(x, y)
            if not fits:
                show = call.run.solver.show
                return None, f"axis {-len(out) - 1} is {show(x)} in one and {show(y)} in the other"
            out.append(dim)
    return Shape((*left, *right, *reversed(out))), None


def elementwise(call: Call, values: list[Value], what: str = "") -> Tensor:
    """Broadcast tensors and scalars against each other."""
    shape: Shape | None = None
    dtype: str | None = None
    sure = True
    for value in values:
        if not isinstance(value, Tensor):
            named = isinstance(value, Unknown) and value.path is not None and value.path.split(".")[-1] in SCALARS
            sure = sure and (is_scalar(value) or named)
        elif value.shape is None:
            sure = False
        elif shape is None:
            shape, dtype = value.shape, value.dtype
        else:
            wider, why = broadcast(call, shape, value.shape)
            if why:
                shapes = f"{call.show(shape)} and {call.show(value.shape)}"
                return call.fail(f"{what or 'The shapes'} {shapes} do not broadcast: {why}".strip())
            if wider is None:
                return Tensor()
            shape, dtype = wider, dtype if value.dtype == dtype else None
    return Tensor(shape, dtype) if sure else Tensor()


@rule(*SAME.split())
def same(call: Call) -> Value:
    """One tensor in, the same shape out."""
    x = call.tensor(0, "input")
    return Tensor(x.shape, DTYPES.get(call.name, None if call.name in RECAST else x.dtype))


@rule(*ALONG.split())
def along(call: Call) -> Value:
    """The same shape, but along an axis that must exist."""
    x = call.tensor(0, "input")
    at = 2 if call.name in ("normalize", "roll", "gumbel_softmax") else 1
    dim = call.arg(at, "dim", "axis")
    if isinstance(dim, Int):
        call.axis(x.shape, at)
    return x


@rule(*BINARY.split())
def binary(call: Call) -> Value:
    """Operations that broadcast all their tensors."""
    if call.name == "where" and len(call.args) < 3:
        return Unknown()
    values = [*call.args, *(call.kw[k] for k in ("input", "other", "min", "max", "exponent") if k in call.kw)]
    result = elementwise(call, values, f"{call.name}: the shapes")
    return Tensor(result.shape) if call.name == "where" else result


@rule(*IN_PLACE.split())
def in_place(call: Call) -> Value:
    """The result has the shape of the tensor that is changed."""
    return call.tensor(0) if elementwise(call, call.args).shape is not None else Tensor()


@rule(*LOGICAL.split())
def logical(call: Call) -> Value:
    """Comparisons."""
    return Tensor(elementwise(call, [*call.args, *call.kw.values()], f"{call.name}: the shapes").shape, "b")


@rule("masked_fill", "masked_fill_")
def masked_fill(call: Call) -> Value:
    """The mask broadcasts against the tensor; one of unknown shape is taken to be no larger."""
    x, mask = call.tensor(0, "input"), call.tensor(1, "mask")
    if x.shape is None or mask.shape is None:
        return x
    return elementwise(call, [x, Tensor(mask.shape, x.dtype)], "masked_fill: the tensor and its mask")


@rule("matmul", "bmm", "mm", "mv", "dot", "inner_product")
def matmul(call: Call) -> Value:
    """Matrix products: inner axes agree, the axes before them broadcast."""
    a, b = call.tensor(0, "input"), call.tensor(1, "other", "mat2")
    x, y = a.shape, b.shape
    if x is None or y is None:
        return Tensor()
    title = f"Cannot multiply {call.show(x)} @ {call.show(y)}: "
    if x.rank == 0 or y.rank == 0:
        return call.fail(title + "a scalar has no axes")
    inner = -1 if y.rank == 1 else -2
    if x.place(-1) is None or y.place(inner) is None:
        return Tensor()
    if not call.run.solver.unify(x.get(-1), y.get(inner)):
        show = call.run.solver.show
        return call.fail(f"{title}the inner axes are {show(x.get(-1))} and {show(y.get(inner))}")
    if y.rank == 1:
        return Tensor(x.cut(1), a.dtype)
    if x.rank == 1:
        return Tensor(y.replace(-2), a.dtype)
    rows, columns = x.cut(2), y.cut(2)
    if rows is None or columns is None:
        return Tensor()
    batch, why = broadcast(call, rows, columns)
    if why:
        return call.fail(f"{title}the axes before the last two do not broadcast, {why}")
    return Tensor(batch.plus(x.get(-2), y.get(-1)) if batch is not None else None, a.dtype)


@rule("outer", "ger")
def outer(call: Call) -> Value:
    """Two vectors give a matrix."""
    x, y = call.tensor(0, "input").shape, call.tensor(1, "vec2").shape
    return Tensor(Shape(x.axes + y.axes) if x is not None and y is not None and x.rank == y.rank == 1 else None)
