"""What a test tells: the equalities that it states, and its outcome where that is certain."""

import ast
from typing import TYPE_CHECKING

from .dims import fresh
from .values import Items, Nothing, Plain, Tensor

if TYPE_CHECKING:
    from .interpreter import Interpreter


def assume(run: "Interpreter", test: ast.expr, holds: bool) -> None:
    """Learn the equalities that a test states."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        assume(run, test.operand, not holds)
    elif isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) == holds:
        for part in test.values:
            assume(run, part, holds)
    elif isinstance(test, ast.Compare) and len(test.ops) == 1:
        equal = isinstance(test.ops[0], ast.Eq if holds else ast.NotEq)
        small = isinstance(test.ops[0], ast.Lt | ast.LtE if holds else ast.Gt | ast.GtE)
        if not equal and not small:
            return
        silent, run.silent = run.silent, True
        a, b = run.eval(test.left), run.eval(test.comparators[0])
        run.silent = silent
        if small:  # `if n <= 1`: a size that is treated apart may be any number there
            dim, bound = run.solver.resolve(run.size(a)), run.number(b)
            if dim is not None and dim.single is not None and bound is not None and bound < 3:
                run.solver.known[dim.single] = fresh(dim.single)
            return
        x, y = run.dims(a) or [run.size(a)], run.dims(b) or [run.size(b)]
        if len(x) == len(y):
            for one, other in zip(x, y, strict=True):
                run.solver.assume(one, other)


def verdict(run: "Interpreter", test: ast.expr) -> bool | None:
    """The outcome of a test, where it is certain."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = verdict(run, test.operand)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        parts = [verdict(run, part) for part in test.values]
        decisive = isinstance(test.op, ast.Or)
        return decisive if decisive in parts else None if None in parts else not decisive
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        value = run.eval(test) if isinstance(test, ast.Name | ast.Attribute | ast.Constant) else None
        return value.const if isinstance(value, Plain) and isinstance(value.const, bool) else None
    a, b, op = run.eval(test.left), run.eval(test.comparators[0]), test.ops[0]
    if isinstance(b, Nothing) and isinstance(op, ast.Is | ast.IsNot):
        same = True if isinstance(a, Nothing) else False if run.given and isinstance(a, Tensor) else None
        return None if same is None else same == isinstance(op, ast.Is)
    if isinstance(a, Plain) and isinstance(b, Plain) and isinstance(a.const, str) and isinstance(b.const, str):
        return (a.const == b.const) == isinstance(op, ast.Eq) if isinstance(op, ast.Eq | ast.NotEq) else None
    x, y = run.number(a), run.number(b)
    if x is None or y is None:
        if isinstance(op, ast.In | ast.NotIn) and x is not None and isinstance(b, Items):
            numbers = [run.number(item) for item in b.items]
            return None if None in numbers else (x in numbers) == isinstance(op, ast.In)
        return None
    outcomes = {ast.Eq: x == y, ast.NotEq: x != y, ast.Lt: x < y, ast.LtE: x <= y, ast.Gt: x > y, ast.GtE: x >= y}
    return outcomes.get(type(op))


def refuses(body: list[ast.stmt]) -> bool:
    """Does a branch only complain about its arguments?"""
    return bool(body) and isinstance(body[-1], ast.Raise)


def defaulted(test: ast.expr) -> str | None:
    """The name in `name is None`."""
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and len(test.ops) == 1:
        none = test.comparators[0]
        if isinstance(test.ops[0], ast.Is) and isinstance(none, ast.Constant) and none.value is None:
            return test.left.id
    return None
