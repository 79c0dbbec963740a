"""The register of shape rules. What has no rule has an unknown shape, and never a complaint."""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .dims import Dim
from .values import UNKNOWN, Int, Items, Nothing, Plain, Shape, Size, Tensor, Unknown, Value

if TYPE_CHECKING:
    from .interpreter import Interpreter


@dataclass
class Call:
    """One call of a library's operation; a method's tensor is its first argument."""

    run: "Interpreter"
    node: ast.expr
    name: str
    args: list[Value]
    kw: dict[str, Value] = field(default_factory=dict)

    def arg(self, i: int, *names: str) -> Value | None:
        """An argument by position or name."""
        if i < len(self.args):
            return self.args[i]
        return next((self.kw[name] for name in names if name in self.kw), None)

    def tensor(self, i: int, *names: str) -> Tensor:
        """A tensor argument, perhaps one of unknown shape."""
        value = self.arg(i, *names)
        return value if isinstance(value, Tensor) else Tensor()

    def size(self, i: int, *names: str) -> Dim | None:
        """An integer argument."""
        return self.run.size(self.arg(i, *names))

    def number(self, i: int, *names: str, default: int | None = None) -> int | None:
        """An integer argument of known value."""
        value = self.arg(i, *names)
        dim = self.run.solver.resolve(self.run.size(value))
        return default if value is None else dim.value if dim is not None else None

    def axis(self, shape: Shape | None, i: int, *names: str, default: int | None = None) -> int | None:
        """The number of an axis; complains if the shape certainly has no such axis."""
        number = self.number(i, *(names or ("dim", "axis")), default=default)
        if shape is not None and number is not None and shape.lacks(number):
            self.fail(f"Axis {number} does not exist in the shape {self.show(shape)}")
            return None
        return number

    def sizes(self, i: int, *names: str) -> list[Dim | None] | None:
        """Sizes given as f(2, 3), f((2, 3)) or f(size=(2, 3))."""
        first = self.arg(i, *names)
        if isinstance(first, Items | Size):
            return self.run.dims(first)
        if first is None or (isinstance(first, Unknown) and first.path is None):
            return None
        several = self.args[i:] if i < len(self.args) else [first]
        return [self.run.size(value) for value in several] if all(map(may_be_size, several)) else None

    def fail(self, message: str) -> Tensor:
        """Complain about this call; its result is unknown."""
        return self.run.fail(self.node, message)

    def show(self, shape: Shape | None) -> str:
        """A shape in the learner's names."""
        return self.run.show(shape)

    def like(self, tensor: Tensor, shape: Shape | None) -> Tensor:
        """The same kind of tensor in another shape."""
        return Tensor(shape, tensor.dtype)


def may_be_size(value: Value) -> bool:
    """Can this be one integer?"""
    return isinstance(value, (Int, Unknown))


def is_scalar(value: Value | None) -> bool:
    """Is this certainly no tensor?"""
    return value is None or isinstance(value, Plain | Nothing) or (isinstance(value, Int) and value.sure)


Rule = Callable[[Call], Value]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under the names that torch gives the operation."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def apply(call: Call) -> Value:
    """What an operation gives."""
    found = RULES.get(call.name)
    return found(call) if found is not None else UNKNOWN
