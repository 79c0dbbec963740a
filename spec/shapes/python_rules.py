"""Rules for Python's builtins: what they do to sizes and to lists of tensors."""

import ast
from collections.abc import Callable

from .dims import Dim
from .operations import Call
from .values import UNKNOWN, Instance, Int, Items, Layer, Many, Plain, Size, Tensor, Unknown, Value


def builtin(call: Call) -> Value:
    """What a builtin gives."""
    found = BUILTINS.get(call.name)
    if found is not None and call.args:
        return found(call)
    return Plain() if call.name in PLAIN else UNKNOWN


PLAIN = frozenset(
    ["float", "bool", "str", "print", "isinstance", "hasattr", "repr", "format", "callable", "any", "all"]
)


def length(call: Call) -> Value:
    """len: of a tensor, its first axis."""
    x = call.args[0]
    if isinstance(x, Items):
        return Int(Dim.const(len(x.items)))
    if isinstance(x, Size):
        rank = x.shape.rank if x.shape is not None else None
        return Int(Dim.const(rank) if rank is not None else None)
    return Int(x.shape.get(0) if isinstance(x, Tensor) and x.shape is not None else None)


def integer(call: Call) -> Value:
    """int: a quotient of sizes stays one; what a constructor rounds is a size by that formula."""
    x = call.args[0]
    if call.run.initialising is not None and isinstance(x, Plain) and isinstance(call.node, ast.Call):
        return Int(Dim.atom("i:" + ast.unparse(call.node)))
    return x if isinstance(x, Int | Unknown) else Int(None)


def listed(call: Call) -> Value:
    """list, tuple, reversed, sorted, iter."""
    x = call.args[0]
    items = call.run.items(x) if isinstance(x, Items | Size) else None
    if items is None:
        return x if isinstance(x, Many) else UNKNOWN if not isinstance(x, Tensor) else Many(call.run.item(x))
    if call.name == "sorted":
        return Many(call.run.item(Items(items)))
    return Items(items[::-1] if call.name == "reversed" else items)


def zipped(call: Call) -> Value:
    """zip."""
    lengths = [len(x.items) for x in call.args if isinstance(x, Items)]
    if not lengths:
        return Many(Items([call.run.item(x) for x in call.args]))
    lists = [x.items if isinstance(x, Items) else [call.run.item(x)] * min(lengths) for x in call.args]
    return Items([Items(list(group)) for group in zip(*lists, strict=False)])


def enumerated(call: Call) -> Value:
    """enumerate."""
    x = call.args[0]
    if isinstance(x, Items):
        return Items([Items([Int(Dim.const(i)), item]) for i, item in enumerate(x.items)])
    return Many(Items([Int(None), call.run.item(x)]))


def mapped(call: Call) -> Value:
    """map over one list."""
    if len(call.args) != 2:
        return UNKNOWN
    function, x = call.args
    if isinstance(x, Items):
        return Items([call.run.call(function, [item], {}, call.node) for item in x.items])
    return Many(call.run.call(function, [call.run.item(x)], {}, call.node))


def summed(call: Call) -> Value:
    """sum: tensors that broadcast to the shape of one."""
    x = call.run.item(call.args[0])
    return x if isinstance(x, Tensor) else UNKNOWN


def some_int(call: Call) -> Value:
    """min, max, abs, round: an integer, but which?"""
    return Int(None) if all(isinstance(x, Int | Plain) for x in call.args) else UNKNOWN


def attribute(call: Call) -> Value:
    """getattr with a written name."""
    name = call.args[1] if len(call.args) > 1 else UNKNOWN
    if isinstance(name, Plain) and isinstance(name.const, str) and isinstance(call.args[0], Unknown | Instance | Layer):
        return call.run.attribute(call.args[0], name.const, call.node)
    return UNKNOWN


BUILTINS: dict[str, Callable[[Call], Value]] = {
    "len": length,
    "int": integer,
    "zip": zipped,
    "enumerate": enumerated,
    "map": mapped,
    "sum": summed,
    "getattr": attribute,
    "range": lambda call: Many(Int(None)),
    **dict.fromkeys(("list", "tuple", "reversed", "sorted", "iter"), listed),
    **dict.fromkeys(("min", "max", "abs", "round"), some_int),
}
