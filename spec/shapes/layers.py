"""Rules for the layers of torch.nn: what a constructor fixes, what a call gives."""

import ast

from .dims import ONE
from .einops_rules import einops_layer
from .functional import normalised
from .operations import Call, apply
from .values import UNKNOWN, Int, Items, Layer, Many, Shape, Tensor, Unknown, Value

_SAME = """Dropout Dropout1d Dropout2d GELU ReLU ReLU6 SiLU Tanh Sigmoid Identity Softmax
    LogSoftmax LeakyReLU ELU SELU Mish Softplus Hardtanh Hardswish AlphaDropout"""
SAME = frozenset(_SAME.split())
SIZES = {  # the constructor's arguments that fix shapes
    "Linear": ("in_features", "out_features"),
    "Embedding": ("num_embeddings", "embedding_dim"),
    "Conv1d": ("in_channels", "out_channels"),
    "Conv2d": ("in_channels", "out_channels"),
    "BatchNorm1d": ("num_features",),
}


def make_layer(call: Call) -> Value:
    """What a class of torch.nn (or another of torch's classes) constructs."""
    name = call.name
    if name == "Parameter":
        return call.tensor(0, "data")
    if name in ("LayerNorm", "RMSNorm"):
        shape = call.arg(0, "normalized_shape")
        dims = [call.run.size(shape)] if isinstance(shape, Int | Unknown) else call.run.dims(shape or UNKNOWN)
        return Layer("Norm", tuple(dims or ()), options={"name": Unknown(name)})
    if name in SIZES:
        return Layer(name, tuple(call.size(i, size) for i, size in enumerate(SIZES[name])))
    if name in SAME:
        return Layer("Same")
    if name == "Sequential":
        return Layer(name, inside=call.kw.get("*") or Items(call.args))
    if name == "ModuleList":
        inside = call.arg(0, "modules") or Items([])
        return Layer(name, inside=inside if isinstance(inside, Items | Many) else Many(UNKNOWN))
    if name in ("Flatten", "Unflatten"):
        return Layer(name, options={str(i): value for i, value in enumerate(call.args)} | call.kw)
    if name in ("Rearrange", "Reduce"):
        return Layer(name, inside=call.arg(0, "pattern"), options={k: v for k, v in call.kw.items() if k != "pattern"})
    if name == "Size":
        return call.arg(0) or UNKNOWN
    return Tensor() if name.endswith("Tensor") else UNKNOWN


def label(call: Call) -> str:
    """What the code calls the layer."""
    return ast.unparse(call.node.func) if isinstance(call.node, ast.Call) else "The layer"


def call_layer(call: Call, layer: Layer) -> Value:
    """What a layer gives."""
    value = call.arg(0, "input", "x") or UNKNOWN
    x = value if isinstance(value, Tensor) else Tensor()
    if layer.kind == "Same":
        return x
    if layer.kind == "Linear":
        return linear(call, layer, x)
    if layer.kind == "Embedding":
        return Tensor(x.shape.plus(layer.sizes[1]) if x.shape is not None else None, "f")
    if layer.kind == "Norm":
        return normalised(call, x, layer.sizes, label(call))
    if layer.kind in ("Conv1d", "Conv2d"):
        return convolution(call, layer, x, 1 if layer.kind == "Conv1d" else 2)
    if layer.kind == "BatchNorm1d":
        return x
    if layer.kind in ("Flatten", "Unflatten"):
        options = layer.options or {}
        start: list[Value] = [] if layer.kind == "Unflatten" or "0" in options or "start_dim" in options else [Int(ONE)]
        args = [value for name, value in options.items() if name.isdigit()]
        named = {name: value for name, value in options.items() if not name.isdigit()}
        return apply(Call(call.run, call.node, layer.kind.lower(), [x, *start, *args], named))
    if layer.kind in ("Rearrange", "Reduce"):
        return einops_layer(call, layer)
    return sequential(call, layer, value) if layer.kind == "Sequential" else UNKNOWN


def linear(call: Call, layer: Layer, x: Tensor) -> Value:
    """The last axis is changed, whatever stands before it."""
    if x.shape is None:
        return Tensor()
    features, out = layer.sizes
    if x.shape.rank == 0 or not call.run.solver.unify(features, x.shape.get(-1)):
        show = call.run.solver.show
        sizes = f"from {show(features)} to {show(out)}"
        return call.fail(f'"{label(call)}" is a Linear {sizes}, but its input has shape {call.show(x.shape)}')
    return Tensor(x.shape.replace(-1, out), "f")


def convolution(call: Call, layer: Layer, x: Tensor, spatial: int) -> Value:
    """Channels stand before the spatial axes, whose sizes are not followed."""
    if x.shape is None or x.shape.place(-spatial - 1) is None:
        return Tensor()
    channels = x.shape.get(-spatial - 1)
    if not call.run.solver.unify(layer.sizes[0], channels):
        show = call.run.solver.show
        need = f"takes {show(layer.sizes[0])} channels on axis {-spatial - 1}"
        return call.fail(f'"{label(call)}" {need}, but its input has shape {call.show(x.shape)}')
    out: Shape | None = x.shape.replace(-spatial - 1, layer.sizes[1])
    for i in range(spatial):
        out = out.replace(-i - 1, None) if out is not None else None
    return Tensor(out, "f")


def sequential(call: Call, layer: Layer, value: Value) -> Value:
    """One after the other; a list of unknown length holds layers that fit each other."""
    inside = layer.inside
    if isinstance(inside, Many):
        once = call.run.call(inside.item, [value], {}, call.node)
        return once if run_equal(call, once, value) else Tensor()
    if not isinstance(inside, Items):
        return UNKNOWN
    for part in inside.items:
        value = call.run.call(part, [value], {}, call.node)
    return value


def run_equal(call: Call, a: Value, b: Value) -> bool:
    """Have two tensors one shape?"""
    known = isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape is not None and b.shape is not None
    return known and call.show(a.shape) == call.show(b.shape)  # type: ignore[attr-defined]


def layer_attribute(layer: Layer, name: str) -> Value | None:
    """A layer's weight or size."""
    sizes = dict(zip(SIZES.get(layer.kind, ()), layer.sizes, strict=False))
    if name in sizes:
        return Int(sizes[name])
    if name == "weight" and layer.kind in ("Linear", "Embedding"):
        a, b = layer.sizes
        return Tensor(Shape((b, a) if layer.kind == "Linear" else (a, b)), "f")
    if name == "weight" and layer.kind == "Norm" and layer.sizes:
        return Tensor(Shape(layer.sizes), "f")
    if name == "bias" and layer.kind == "Linear":
        return Tensor(Shape((layer.sizes[1],)), "f")
    return None
