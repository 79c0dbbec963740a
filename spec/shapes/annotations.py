"""jaxtyping annotations, read from the syntax tree."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .dims import Dim
from .values import ANONYMOUS

_GROUPS = {
    "f": "Float BFloat16 Float16 Float32 Float64 Inexact Complex Complex64 Complex128",
    "i": "Int Integer UInt Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64",
    "b": "Bool",
    "": "Shaped Num Real Key",
}
DTYPES: dict[str, str | None] = {name: kind or None for kind, names in _GROUPS.items() for name in names.split()}


class BadShapeError(ValueError):
    """A shape string that cannot be read."""


@dataclass(frozen=True)
class AxisSpec:
    """One word of a shape string: a size, an anonymous axis (no formula), or a star."""

    text: str
    formula: ast.expr | None = None
    star: str | None = None
    broadcast: bool = False


@dataclass(frozen=True)
class ShapeSpec:
    """A shape string."""

    axes: tuple[AxisSpec, ...]
    text: str
    dtype: str | None = None

    @property
    def names(self) -> set[str]:
        """The axis names in its formulas."""
        trees = [axis.formula for axis in self.axes if axis.formula is not None]
        return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


@dataclass(frozen=True)
class TupleSpec:
    """An annotation `tuple[a, b]`."""

    items: "tuple[Spec | None, ...]"


@dataclass(frozen=True)
class ListSpec:
    """An annotation `list[a]`, `Sequence[a]`, `tuple[a, ...]`."""

    item: "Spec | None"


@dataclass(frozen=True)
class UnionSpec:
    """Several shapes, of which a tensor has one."""

    choices: tuple[ShapeSpec, ...]


@dataclass(frozen=True)
class NameSpec:
    """Any other class; `optional` where None is allowed too."""

    node: ast.Name | ast.Attribute

    @property
    def name(self) -> str:
        """Its last name."""
        return self.node.attr if isinstance(self.node, ast.Attribute) else self.node.id


Spec = ShapeSpec | TupleSpec | ListSpec | UnionSpec | NameSpec


class Scope(Protocol):
    """What a module knows about names."""

    def jaxtyping(self, node: ast.expr) -> str | None:
        """The jaxtyping dtype that an expression names."""

    def alias(self, name: str) -> "tuple[ast.expr, Scope] | None":
        """What a type alias stands for, and where."""


def parse_shape(text: str, dtype: str | None = None) -> ShapeSpec:
    """Read a shape string."""
    axes = tuple(_axis(word) for word in text.split())
    if sum(axis.star is not None for axis in axes) > 1:
        raise BadShapeError(f'"{text}" has more than one axis with *, and cannot tell them apart')
    return ShapeSpec(axes, text, dtype)


def _axis(word: str) -> AxisSpec:
    if word == "...":
        return AxisSpec(word, star=ANONYMOUS)
    marks = re.match(r"[#*?]*", word)
    prefix = marks.group() if marks else ""
    name = word[len(prefix) :]
    if "=" in name and "==" not in name:  # "rows=3": the name is only for the reader
        name = name.split("=", 1)[1]
    broadcast = "#" in prefix
    if "*" in prefix:
        loose = not name or name.startswith("_")
        return AxisSpec(word, star=ANONYMOUS if loose else "#" + name if broadcast else name)
    if name.startswith("_") or "?" in prefix:
        return AxisSpec(word)
    try:
        formula = ast.parse(re.sub(r"\{([^{}]*)\}", r"(\1)", name), mode="eval").body
    except SyntaxError:
        raise BadShapeError(f'"{word}" is not the name or size of an axis') from None
    return AxisSpec(word, formula, broadcast=broadcast)


def size_of(formula: ast.expr, name: Callable[[str], Dim | None]) -> Dim | None:
    """The size that a formula in a shape string gives."""
    if isinstance(formula, ast.Constant) and isinstance(formula.value, int):
        return Dim.const(formula.value)
    if isinstance(formula, ast.Name):
        return name(formula.id)
    if isinstance(formula, ast.Attribute):  # {self.d_k}
        return name(formula.attr)
    if isinstance(formula, ast.BinOp):
        a, b = size_of(formula.left, name), size_of(formula.right, name)
        return None if a is None or b is None else arithmetic(formula.op, a, b)
    return None


def arithmetic(op: ast.operator, a: Dim, b: Dim) -> Dim | None:
    """Integer arithmetic; a floor division is taken to be exact, as it is between sizes."""
    if isinstance(op, ast.Add):
        return a + b
    if isinstance(op, ast.Sub):
        return a - b
    if isinstance(op, ast.Mult):
        return a * b
    if isinstance(op, ast.FloorDiv):
        if a.value is not None and b.value is not None:
            return Dim.const(a.value // b.value) if b.value else None
        return a.over(b)
    if isinstance(op, ast.Pow) and b.value is not None and 0 <= b.value < 5:
        power = Dim.const(1)
        for _ in range(b.value):
            power = power * a
        return power
    return None


def read(node: ast.expr | None, scope: Scope) -> Spec | None:
    """Read an annotation; None where it says nothing about shapes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return read(ast.parse(node.value.strip(), mode="eval").body, scope)
        except SyntaxError:
            return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _either([node.left, node.right], scope)
    if isinstance(node, ast.Subscript):
        return _subscript(node, scope)
    if isinstance(node, ast.Name):
        found = scope.alias(node.id)
        return read(*found) if found is not None else NameSpec(node)
    return NameSpec(node) if isinstance(node, ast.Attribute) else None


def _either(choices: list[ast.expr], scope: Scope) -> Spec | None:
    real = [read(node, scope) for node in choices if not (isinstance(node, ast.Constant) and node.value is None)]
    shapes = [
        shape
        for spec in real
        if isinstance(spec, ShapeSpec | UnionSpec)
        for shape in (spec.choices if isinstance(spec, UnionSpec) else (spec,))
    ]
    if len(real) == 1:
        return real[0]
    return UnionSpec(tuple(shapes)) if all(isinstance(spec, ShapeSpec | UnionSpec) for spec in real) else None


def _subscript(node: ast.Subscript, scope: Scope) -> Spec | None:
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    dtype = scope.jaxtyping(node.value)
    if dtype is not None:
        text = inner[1] if len(inner) == 2 else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            return parse_shape(text.value, DTYPES[dtype])
        return None
    base = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
    if base in ("Optional", "Union"):
        return _either(inner, scope)
    if base == "Annotated":
        return read(inner[0], scope)
    if base in ("tuple", "Tuple"):
        if any(isinstance(item, ast.Constant) and item.value is Ellipsis for item in inner):
            return ListSpec(read(inner[0], scope))
        return TupleSpec(tuple(read(item, scope) for item in inner))
    if base in ("list", "List", "Sequence", "Iterable", "Iterator", "Generator"):
        return ListSpec(read(inner[0], scope))
    return None


def shapes_in(spec: Spec | None) -> Iterator[ShapeSpec]:
    """All shape strings of an annotation."""
    if isinstance(spec, ShapeSpec):
        yield spec
    elif isinstance(spec, UnionSpec):
        yield from spec.choices
    elif isinstance(spec, TupleSpec):
        for item in spec.items:
            yield from shapes_in(item)
    elif isinstance(spec, ListSpec):
        yield from shapes_in(spec.item)
