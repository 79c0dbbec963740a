"""What an expression may be, as far as shapes go."""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .dims import Dim

if TYPE_CHECKING:
    from .modules import ClassInfo, FunctionInfo, Module

ANONYMOUS = "..."
OTHER = "...?"  # of another place than the function's own parameters


@dataclass(frozen=True)
class Star:
    """Any number of axes; two anonymous ones need not be the same."""

    name: str


Axis = Dim | Star | None  # None: one axis of unknown size


@dataclass(frozen=True)
class Shape:
    """The axes of a tensor, at most one of them a Star."""

    axes: tuple[Axis, ...]

    @property
    def star(self) -> int | None:
        """Where the Star is."""
        return next((i for i, axis in enumerate(self.axes) if isinstance(axis, Star)), None)

    @property
    def rank(self) -> int | None:
        """The number of axes, if it is fixed."""
        return len(self.axes) if self.star is None else None

    @property
    def front(self) -> tuple[Axis, ...]:
        """The axes before the Star (all where there is none)."""
        return self.axes if self.star is None else self.axes[: self.star]

    @property
    def back(self) -> tuple[Axis, ...]:
        """The axes after the Star (none where there is none)."""
        return () if self.star is None else self.axes[self.star + 1 :]

    @property
    def dims(self) -> tuple[Dim | None, ...]:
        """All axes but the Star."""
        return tuple(axis for axis in self.axes if not isinstance(axis, Star))

    def place(self, i: int) -> int | None:
        """Where axis i is, if that can be known."""
        if i >= 0:
            return i if i < len(self.front) else None
        end = len(self.axes) if self.star is None else len(self.back)
        return len(self.axes) + i if -i <= end else None

    def lacks(self, i: int) -> bool:
        """Does axis i certainly not exist?"""
        return self.rank is not None and not -self.rank <= i < self.rank

    def get(self, i: int) -> Dim | None:
        """The size of axis i."""
        at = self.place(i)
        axis = None if at is None else self.axes[at]
        return None if isinstance(axis, Star) else axis

    def replace(self, i: int, *new: Axis) -> "Shape | None":
        """Other axes in the place of axis i."""
        at = self.place(i)
        return None if at is None else Shape(self.axes[:at] + new + self.axes[at + 1 :])

    def insert(self, i: int, new: Axis) -> "Shape | None":
        """A new axis that will be axis i."""
        longer = Shape((*self.axes, None))
        if self.star is not None:
            longer = Shape((None, *self.axes)) if i >= 0 else longer
        at = longer.place(i)
        return None if at is None else Shape((*self.axes[:at], new, *self.axes[at:]))

    def swap(self, i: int, j: int) -> "Shape | None":
        """Two axes exchanged."""
        a, b = self.place(i), self.place(j)
        if a is None or b is None:
            return None
        axes = list(self.axes)
        axes[a], axes[b] = axes[b], axes[a]
        return Shape(tuple(axes))

    def cut(self, n: int) -> "Shape | None":
        """All but the last n axes."""
        at = self.place(-n)
        return None if at is None else Shape(self.axes[:at])

    def rest(self) -> "Shape | None":
        """All but the first axis."""
        return self.replace(0)

    def plus(self, *new: Axis) -> "Shape":
        """More axes at the end."""
        return Shape(self.axes + new)

    def show(self, size: Callable[[Dim | None], str]) -> str:
        """The shape in the learner's names."""
        parts = [
            ("..." if a.name in (ANONYMOUS, OTHER) else "*" + a.name) if isinstance(a, Star) else size(a)
            for a in self.axes
        ]
        return f"({' '.join(parts)})" if parts else "() of a scalar"


class Value:
    """Anything."""


@dataclass
class Unknown(Value):
    """Nothing is known, but perhaps the path by which the code names it."""

    path: str | None = None


@dataclass
class Tensor(Value):
    """A tensor; its dtype is "f", "i" or "b"."""

    shape: Shape | None = None
    dtype: str | None = None
    words: tuple[str, ...] | None = field(default=None, compare=False)  # what the pattern that made it calls its axes


@dataclass
class Int(Value):
    """An integer, perhaps of known value; not `sure` where it might be a tensor after all."""

    dim: Dim | None = None
    sure: bool = True


@dataclass
class Plain(Value):
    """A float, a bool, a string: no tensor and no size."""

    const: object = None


@dataclass
class Nothing(Value):
    """None."""


@dataclass
class Items(Value):
    """A tuple or list of known length."""

    items: list[Value]


@dataclass
class Many(Value):
    """A list of unknown length, or anything else to iterate over."""

    item: Value


@dataclass
class Table(Value):
    """A dictionary: what its values have in common."""

    item: Value


@dataclass
class Size(Value):
    """The `.shape` of a tensor."""

    shape: Shape | None


@dataclass
class Library(Value):
    """Something of torch, einops, math or builtins, by its dotted name."""

    name: str


@dataclass
class ModuleName(Value):
    """An imported module."""

    name: str


@dataclass
class Method(Value):
    """A method of a tensor, a list or a layer."""

    owner: Value
    name: str


@dataclass
class Function(Value):
    """A function of the learner's, perhaps bound."""

    info: "FunctionInfo"
    owner: Value | None = None


@dataclass
class Closure(Value):
    """A lambda or an unannotated inner function: read anew at each call."""

    node: ast.Lambda | ast.FunctionDef
    scope: dict[str, Value]
    module: "Module"


@dataclass
class Class(Value):
    """A class of the learner's."""

    info: "ClassInfo"


@dataclass
class Instance(Value):
    """An object of a class of the learner's, with the constructor's arguments; `me` inside its own methods."""

    info: "ClassInfo"
    arguments: dict[str, Value] = field(default_factory=dict)
    me: bool = False


@dataclass
class Layer(Value):
    """A layer of torch or einops: its sizes, and what it contains."""

    kind: str
    sizes: tuple[Dim | None, ...] = ()
    inside: Value | None = None
    options: dict[str, Value] = field(default_factory=dict)


UNKNOWN = Unknown()


def substitute(value: Value, replace: Callable[[str], Dim | None]) -> Value:
    """A value read in one function, in terms of another: what cannot be told becomes unknown."""

    def size(dim: Dim | None) -> Dim | None:
        return None if dim is None else dim.substitute(replace, kept=False)

    if isinstance(value, Int):
        return Int(size(value.dim))
    if isinstance(value, Tensor) and value.shape is not None:
        axes = tuple(axis if isinstance(axis, Star) else size(axis) for axis in value.shape.axes)
        return Tensor(Shape(axes), value.dtype)
    if isinstance(value, Layer):
        inside = None if value.inside is None else substitute(value.inside, replace)
        options = {name: substitute(option, replace) for name, option in value.options.items()}
        return Layer(value.kind, tuple(size(dim) for dim in value.sizes), inside, options)
    if isinstance(value, Items):
        return Items([substitute(item, replace) for item in value.items])
    if isinstance(value, Many):
        return Many(substitute(value.item, replace))
    if isinstance(value, Instance):
        return Instance(value.info, {name: substitute(a, replace) for name, a in value.arguments.items()})
    if isinstance(value, Unknown) and value.path is not None:
        known = replace("i:" + value.path)
        return UNKNOWN if known is None else Int(known)
    return value
