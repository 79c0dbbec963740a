"""The abstract interpreter: it runs one function on shapes instead of tensors."""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .dims import Dim, fresh, integer, is_flexible
from .expressions import EXPRESSIONS, attribute_of
from .operations import Call
from .solver import INDEPENDENT, Solver
from .sources import DEBUG
from .statements import STATEMENTS, assign
from .user_calls import call_value
from .values import (
    ANONYMOUS,
    UNKNOWN,
    Closure,
    Function,
    Instance,
    Int,
    Items,
    Layer,
    Library,
    Many,
    Nothing,
    Plain,
    Shape,
    Size,
    Star,
    Tensor,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from .engine import Engine
    from .modules import ClassInfo, FunctionInfo, Module

Underline = tuple[str, int, int]  # a string literal's text, and which part of it


@dataclass(frozen=True)
class Problem:
    """A complaint, at the exact place in the source; columns count from 0."""

    line: int
    column: int
    end_line: int
    end_column: int
    message: str
    code: str = "shape"


class Interpreter:
    """The state of one function's analysis."""

    def __init__(self, engine: "Engine", module: "Module", function: "FunctionInfo | None", solver: Solver) -> None:
        self.engine, self.module, self.function, self.solver = engine, module, function, solver
        self.scope: dict[str, Value] = {}
        self.problems: list[Problem] = []
        self.silent = False
        self.depth = 0
        self.returns: list[Value] | None = None  # collected where a call is followed into a body
        self.result_names: dict[str, Dim] = {}  # axes that only the results name
        self.results: list[dict[str, Dim | None]] = []
        self.paths: set[str] = set()  # integers that the code knows by path
        self.exits: list[dict[str, Value]] = []  # what holds where a loop is left early
        self.loose_star = False
        self.one_dots = False
        self.given: bool | None = None  # are the optional tensors given? None: perhaps
        self.initialising: ClassInfo | None = None  # the class whose __init__ this is

    # ---------------------------------------------------------------- reporting

    def fail(self, node: ast.AST, message: str, code: str = "shape", underline: Underline | None = None) -> Tensor:
        """Complain at a node; what it gives is unknown from here on."""
        if not self.silent and isinstance(node, ast.expr | ast.stmt):
            line, column = node.lineno, node.col_offset
            end_line, end_column = node.end_lineno or line, node.end_col_offset or column
            if underline is not None and line == end_line:
                text, start, end = underline
                found = self.module.lines[line - 1].encode().find(text.encode(), column, end_column)
                if found >= 0:
                    column, end_column = found + len(text[:start].encode()), found + len(text[:end].encode())
            self.problems.append(Problem(line, column, end_line, end_column, message, code))
        return Tensor()

    def show(self, shape: Shape | None) -> str:
        """A shape in the learner's names."""
        return "an unknown shape" if shape is None else shape.show(self.solver.show)

    # ---------------------------------------------------------------- values

    def size(self, value: Value | None) -> Dim | None:
        """A value as an integer: an attribute of unknown type is known by its path."""
        if isinstance(value, Int):
            return value.dim
        if isinstance(value, Unknown) and value.path is not None:
            self.paths.add(value.path)
            return integer(value.path)
        return None

    def is_exact(self, star: Star) -> bool:
        """Does it stand for the same axes wherever it stands? "..." does where one parameter alone has it."""
        return self.one_dots if star.name == ANONYMOUS else star.name[0] not in ".#"

    def number(self, value: Value | None) -> int | None:
        """A value as an integer that is known."""
        dim = self.solver.resolve(self.size(value))
        return None if dim is None else dim.value

    def dims(self, value: Value) -> list[Dim | None] | None:
        """A tuple of sizes."""
        if isinstance(value, Int):
            return [value.dim]
        items = self.items(value) if isinstance(value, Items | Size) else None
        return None if items is None else [self.size(item) for item in items]

    def items(self, value: Value, count: int | None = None, node: ast.AST | None = None) -> list[Value] | None:
        """The values that unpacking gives."""
        if isinstance(value, Items):
            return list(value.items)
        if isinstance(value, Size) and value.shape is not None:
            shape = value.shape
            if shape.rank is not None:
                if count is not None and shape.rank != count and node is not None:
                    self.fail(node, f"{count} sizes are unpacked from the shape {self.show(shape)}")
                    return None
                return [Int(dim) for dim in shape.dims]
            if count is None or count < len(shape.dims):
                return None
            middle = count - len(shape.dims)
            axes = (*shape.front, *[None] * middle, *shape.back)
            return [Int(axis) for axis in axes if not isinstance(axis, Star)]
        if isinstance(value, Many):
            return None if count is None else [value.item] * count
        if isinstance(value, Tensor) and count is not None:
            first = self.solver.resolve(value.shape.get(0)) if value.shape is not None else None
            if (
                first is not None
                and node is not None
                and first.value != count
                and (first.value is not None or first.single in INDEPENDENT)
            ):
                self.fail(node, f"{count} names on the left, but the first axis of {self.show(value.shape)} is {first}")
                return None
            return [self.item(value)] * count
        return None

    def item(self, value: Value) -> Value:
        """What iterating gives."""
        if isinstance(value, Many):
            return value.item
        if isinstance(value, Items) and value.items:
            first, *others = value.items
            for other in others:
                first = self.join(first, other)
            return first
        if isinstance(value, Tensor):
            return Tensor(value.shape.rest() if value.shape is not None else None, value.dtype)
        if isinstance(value, Layer) and value.kind in ("ModuleList", "Sequential") and value.inside is not None:
            return self.item(value.inside)
        return UNKNOWN

    def join(self, a: Value, b: Value) -> Value:
        """What is true of both: sizes that differ become one flexible size."""
        if a == b or isinstance(b, Nothing):
            return a
        if isinstance(a, Nothing):
            return b
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            dtype = a.dtype if a.dtype == b.dtype else None
            x, y = a.shape, b.shape
            if x is None or y is None or x.star != y.star or len(x.axes) != len(y.axes):
                return Tensor(None, dtype)
            if x.star is not None and x.axes[x.star] != y.axes[x.star]:
                return Tensor(None, dtype)
            joined = [
                p if isinstance(p, Star) or isinstance(q, Star) else self.join_size(p, q)
                for p, q in zip(x.axes, y.axes, strict=True)
            ]
            return Tensor(Shape(tuple(joined)), dtype)
        if isinstance(a, Int) and isinstance(b, Int):
            return Int(self.join_size(a.dim, b.dim))
        if isinstance(a, Plain) and isinstance(b, Plain):
            return Plain()
        if isinstance(a, Items) and isinstance(b, Items) and len(a.items) == len(b.items):
            return Items([self.join(x, y) for x, y in zip(a.items, b.items, strict=True)])
        if isinstance(a, Items | Many) and isinstance(b, Items | Many):
            empty = isinstance(a, Items) and not a.items, isinstance(b, Items) and not b.items
            return Many(
                self.item(b) if empty[0] else self.item(a) if empty[1] else self.join(self.item(a), self.item(b))
            )
        if isinstance(a, Instance) and isinstance(b, Instance) and a.info is b.info and a.me == b.me:
            return a
        kinds = Library | Closure | Function | Layer
        if isinstance(a, kinds) and isinstance(b, kinds) and self.keeps_shape(a) and self.keeps_shape(b):
            return Layer("Same")  # one of several activations
        return UNKNOWN

    def keeps_shape(self, function: Value) -> bool:
        """Does it give a tensor of the shape that it is given?"""
        if isinstance(function, Layer) and function.kind == "Same":
            return True
        silent, self.silent = self.silent, True
        probe = Tensor(Shape((Star("probe"),)), "f")
        result = self.call(function, [probe], {}, ast.Constant(None))
        self.silent = silent
        return isinstance(result, Tensor) and result.shape == probe.shape

    def join_size(self, a: Dim | None, b: Dim | None) -> Dim | None:
        """One size that is either of two."""
        a, b = self.solver.resolve(a), self.solver.resolve(b)
        if a is None or b is None:
            return None
        return a if a == b else fresh(str(a) if b.atoms and any(map(is_flexible, b.atoms)) else str(b))

    def join_scopes(self, a: dict[str, Value], b: dict[str, Value]) -> dict[str, Value]:
        """After a branch: a name that only one side sets is only used where that side ran."""
        return {k: self.join(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k, UNKNOWN)) for k in {**a, **b}}

    # ---------------------------------------------------------------- running

    def eval(self, node: ast.expr | None) -> Value:
        """The value of an expression."""
        if node is None:
            return Nothing()
        rule = EXPRESSIONS.get(type(node))
        if rule is None:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self.eval(child)
            return UNKNOWN
        value = rule(self, node)
        if isinstance(value, Tensor):
            if value.shape is not None:
                self.solver.note(value.shape.dims)
            if not self.silent and self.depth == 0:
                self.engine.count(self.module, node, value)
        return value

    def call(self, function: Value, args: list[Value], kw: dict[str, Value], node: ast.expr) -> Value:
        """What a call gives."""
        return call_value(self, function, args, kw, node)

    def attribute(self, owner: Value, name: str, node: ast.expr) -> Value:
        """What an attribute is."""
        return attribute_of(self, owner, name, node)

    def bind(self, target: ast.expr, value: Value) -> None:
        """Give a target a value."""
        assign(self, target, value)

    def operation(self, node: ast.expr, name: str, *args: Value) -> Call:
        """A call of an operation that the source writes as an operator."""
        return Call(self, node, name, list(args))

    def block(self, body: list[ast.stmt]) -> bool:
        """Run statements; can control reach the end?"""
        for statement in body:
            rule = STATEMENTS.get(type(statement))
            try:
                if rule is not None and rule(self, statement) is False:
                    return False
            except RecursionError:
                raise
            except Exception:  # a learner must never see a failure of the checker
                if DEBUG:
                    raise
                for node in ast.walk(statement):
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        self.scope[node.id] = UNKNOWN
        return True

    def inside(self, module: "Module") -> "Interpreter":
        """An interpreter for a body that is read at its call."""
        inner = Interpreter(self.engine, module, None, self.solver)
        inner.silent, inner.depth, inner.problems, inner.returns = self.silent, self.depth + 1, self.problems, []
        inner.given, inner.one_dots = self.given, self.one_dots
        return inner

    def start(
        self, node: ast.Lambda | ast.FunctionDef, scope: dict[str, Value], args: list[Value], kw: dict[str, Value]
    ) -> None:
        """Bind a function's parameters, over what it can see outside."""
        positional = [p.arg for p in (*node.args.posonlyargs, *node.args.args)]
        keywords = [p.arg for p in node.args.kwonlyargs]
        self.scope = scope | dict.fromkeys((*positional, *keywords), UNKNOWN)
        defaults = [
            *zip(positional[::-1], node.args.defaults[::-1], strict=False),
            *zip(keywords, node.args.kw_defaults, strict=True),
        ]
        self.scope |= {name: self.eval(default) for name, default in defaults if default is not None}
        self.scope |= dict(zip(positional, args, strict=False)) | kw

    def result(self, node: ast.Lambda | ast.FunctionDef) -> Value:
        """Run a body that has been started: what it gives."""
        if isinstance(node, ast.Lambda):
            return self.eval(node.body)
        ends = self.block(node.body)
        out: list[Value] = [*(self.returns or []), *([Nothing()] if ends else [])]
        return self.item(Items(out)) if out else UNKNOWN

    @contextmanager
    def undone(self) -> Iterator[None]:
        """What is learned inside holds only there."""
        known, names = dict(self.solver.known), dict(self.result_names)
        yield
        self.solver.known, self.result_names = known, names

    def name_size(self, name: str) -> Dim:
        """An axis name in an annotation of the function under analysis."""
        return Dim.atom(name) if name in self.solver.axes else self.result_names.setdefault(name, fresh(name))
