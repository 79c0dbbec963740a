"""Rules for torch.nn.functional, for new tensors, and for einsum in torch's own letters."""

from collections.abc import Sequence
from fractions import Fraction

from .dims import ZERO, Dim
from .elementwise import broadcast
from .operations import Call, rule
from .values import Int, Items, Library, Nothing, Plain, Shape, Tensor, Value


def dtype_named(value: Value | None, default: str | None) -> str | None:
    """The kind of a `dtype=` argument."""
    if not isinstance(value, Library):
        return default if value is None or isinstance(value, Nothing) else None
    name = value.name.rpartition(".")[2]
    return "b" if name == "bool" else "i" if name.startswith(("int", "long", "uint")) else "f"


@rule("zeros", "ones", "empty", "rand", "randn", "new_zeros", "new_ones", "new_empty")
def new(call: Call) -> Value:
    """A tensor of given sizes."""
    sizes = call.sizes(1 if call.name.startswith("new_") else 0, "size")
    if sizes is None and not call.args and not call.kw:
        return Tensor(Shape(()))
    return Tensor(Shape(tuple(sizes)) if sizes is not None else None, dtype_named(call.kw.get("dtype"), "f"))


@rule("full", "new_full", "randint")
def full(call: Call) -> Value:
    """A tensor of given sizes, which are one argument."""
    sizes = call.kw.get("size")
    if sizes is None:
        sizes = next((value for value in call.args if isinstance(value, Items)), None)
    dims = call.run.dims(sizes) if sizes is not None else None
    default = "i" if call.name == "randint" else None
    return Tensor(Shape(tuple(dims)) if dims is not None else None, dtype_named(call.kw.get("dtype"), default))


@rule("arange")
def arange(call: Call) -> Value:
    """As many entries as from start to end."""
    bounds = [call.run.size(value) for value in call.args]
    dtype = dtype_named(call.kw.get("dtype"), "i" if bounds and all(isinstance(x, Int) for x in call.args) else None)
    if not 1 <= len(bounds) <= 3 or call.kw.keys() & {"start", "end", "step"}:
        return Tensor(Shape((None,)), dtype)
    start = bounds[0] if len(bounds) > 1 else ZERO
    end = bounds[min(1, len(bounds) - 1)]
    step = call.number(2, default=1)
    if start is None or end is None or step is None or step <= 0:
        return Tensor(Shape((None,)), dtype)
    return Tensor(Shape(((end - start) * Dim.const(Fraction(1, step)),)), dtype)


@rule("linspace")
def linspace(call: Call) -> Value:
    """As many entries as asked for."""
    return Tensor(Shape((call.size(2, "steps"),)), "f")


@rule("eye")
def eye(call: Call) -> Value:
    """A square, or as many columns as given."""
    rows = call.size(0, "n")
    return Tensor(
        Shape((rows, call.size(1, "m") if call.arg(1, "m") is not None else rows)),
        dtype_named(call.kw.get("dtype"), "f"),
    )


@rule("randperm")
def randperm(call: Call) -> Value:
    """A permutation."""
    return Tensor(Shape((call.size(0, "n"),)), "i")


@rule("tensor", "as_tensor", "scalar_tensor")
def tensor(call: Call) -> Value:
    """A scalar, or a tensor from numbers that are not read."""
    return Tensor(Shape(())) if isinstance(call.arg(0, "data"), Int | Plain) else Tensor()


@rule("one_hot")
def one_hot(call: Call) -> Value:
    """One more axis, of the classes."""
    x, classes = call.tensor(0, "input", "tensor").shape, call.arg(1, "num_classes")
    return Tensor(x.plus(call.run.size(classes)) if x is not None else None, "i")


@rule("linear")
def linear(call: Call) -> Value:
    """The last axis is multiplied by a matrix of (out, in)."""
    x, weight, bias = call.tensor(0, "input"), call.tensor(1, "weight").shape, call.tensor(2, "bias").shape
    if weight is not None and (weight.rank or 0) > 2:
        return call.fail(f"linear: the weight has shape {call.show(weight)}, but must have 2 axes")
    if x.shape is None or weight is None or weight.rank != 2:
        return Tensor()
    out, features = weight.dims
    show = call.run.solver.show
    if not call.run.solver.unify(features, x.shape.get(-1)):
        why = f"the last axis of {call.show(x.shape)} is {show(x.shape.get(-1))}"
        return call.fail(f"linear: the weight {call.show(weight)} takes {show(features)} features, but {why}")
    if bias is not None and bias.rank == 1 and not call.run.solver.unify(bias.dims[0], out):
        return call.fail(f"linear: the bias has {show(bias.dims[0])} entries, but the output {show(out)}")
    return call.like(x, x.shape.replace(-1, out))


@rule("embedding")
def embedding(call: Call) -> Value:
    """Rows of a table."""
    x, table = call.tensor(0, "input").shape, call.tensor(1, "weight").shape
    return Tensor(x.plus(table.dims[1]) if x is not None and table is not None and table.rank == 2 else None, "f")


@rule("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Value:
    """The same shape; the normalised sizes are the last ones."""
    x, shape = call.tensor(0, "input"), call.arg(1, "normalized_shape")
    dims = call.run.dims(shape) if shape is not None else None
    return normalised(call, x, dims or [], call.name)


def normalised(call: Call, x: Tensor, dims: Sequence[Dim | None], who: str) -> Tensor:
    """Check the sizes that a norm acts on."""
    if x.shape is None:
        return x
    for i, dim in enumerate(reversed(dims), start=1):
        if x.shape.lacks(-i) or not call.run.solver.unify(dim, x.shape.get(-i)):
            sizes = " ".join(map(call.run.solver.show, dims))
            return call.fail(f"{who} normalises ({sizes}), but its input has shape {call.show(x.shape)}")
    return x


@rule("scaled_dot_product_attention")
def sdpa(call: Call) -> Value:
    """(… query d_k), (… key d_k), (… key d_v) give (… query d_v)."""
    tensors = [call.tensor(i, name) for i, name in enumerate(("query", "key", "value"))]
    q, k, v = (t.shape for t in tensors)
    if q is None or k is None or v is None or any(s.place(-2) is None for s in (q, k, v)):
        return Tensor()
    who, show = "scaled_dot_product_attention: ", call.run.solver.show
    for a, b, what in (
        (q.get(-1), k.get(-1), "the features of queries and keys"),
        (k.get(-2), v.get(-2), "the numbers of keys and values"),
    ):
        if not call.run.solver.unify(a, b):
            return call.fail(f"{who}{what} are {show(a)} and {show(b)}")
    fronts = [s.cut(2) for s in (q, k, v)]
    grouped = call.kw.get("enable_gqa")
    front = fronts[0]
    for other in fronts[1:]:
        if grouped is None and front is not None and other is not None:
            both, why = broadcast(call, front, other)
            if why:
                return call.fail(
                    f"{who}{call.show(q)} and {call.show(k)} do not fit: {why}, counted without the last two"
                )
            front = both
    mask = call.tensor(3, "attn_mask").shape
    if front is not None and mask is not None:
        _, why = broadcast(call, front.plus(q.get(-2), k.get(-2)), mask)
        if why:
            scores = call.show(front.plus(q.get(-2), k.get(-2)))
            return call.fail(f"{who}the mask {call.show(mask)} does not broadcast to the scores {scores}: {why}")
    return Tensor(front.plus(q.get(-2), v.get(-1)) if front is not None else None, tensors[0].dtype)


@rule("cross_entropy", "nll_loss")
def cross_entropy(call: Call) -> Value:
    """Classes are axis 1 of the logits; targets have the other axes."""
    x, y = call.tensor(0, "input"), call.tensor(1, "target")
    plain = call.kw.get("reduction")
    out = Tensor(
        Shape(()) if plain is None or (isinstance(plain, Plain) and plain.const in ("mean", "sum")) else None, "f"
    )
    logits, targets = x.shape, y.shape
    if logits is None or targets is None or logits.rank is None or targets.rank is None or not logits.rank:
        return out
    if logits.rank == targets.rank and y.dtype != "i":  # probabilities as targets
        return out
    show = call.show
    if targets.rank != logits.rank - 1:
        need = f"need targets with {logits.rank - 1} axes"
        return call.fail(f"{call.name}: logits {show(logits)} {need}, but these have shape {show(targets)}")
    for ours, theirs in zip(logits.dims[:1] + logits.dims[2:], targets.dims, strict=logits.rank > 1):
        if logits.rank > 1 and not call.run.solver.unify(ours, theirs):
            return call.fail(
                f"{call.name}: logits {show(logits)}, classes on axis 1, do not fit targets {show(targets)}"
            )
    return out


@rule("mse_loss", "l1_loss", "binary_cross_entropy_with_logits", "binary_cross_entropy", "kl_div", "smooth_l1_loss")
def loss(call: Call) -> Value:
    """A scalar, unless another reduction is asked for."""
    return Tensor(Shape(()) if "reduction" not in call.kw else None, "f")


@rule("pad")
def pad(call: Call) -> Value:
    """The last axes grow, two numbers an axis."""
    x, widths = call.tensor(0, "input"), call.arg(1, "pad")
    sizes = call.run.dims(widths) if widths is not None else None
    shape = x.shape
    if shape is None or sizes is None:
        return Tensor()
    for i in range(len(sizes) // 2):
        parts = (shape.get(-i - 1), sizes[2 * i], sizes[2 * i + 1])
        known = [part for part in parts if part is not None]
        bigger = shape.replace(-i - 1, sum(known, ZERO) if len(known) == 3 else None)
        if bigger is None:
            return Tensor()
        shape = bigger
    return call.like(x, shape)
