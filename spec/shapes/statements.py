"""How each kind of statement changes what is known."""

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .annotations import NameSpec, ShapeSpec, Spec, TupleSpec, shapes_in
from .conditions import assume, defaulted, refuses, verdict
from .dims import integer, is_flexible, last_name
from .elementwise import broadcast
from .matching import Stars, choose, mismatch, own_stars, pairs, to_value
from .operations import Call
from .solver import INDEPENDENT, LONGEST, kind
from .values import UNKNOWN, Closure, Function, Instance, Int, Items, Many, Star, Tensor, Unknown, Value

if TYPE_CHECKING:
    from .interpreter import Interpreter

UNROLL = 6  # a loop over a written tuple is run item by item, up to this many


def expression(run: "Interpreter", node: ast.Expr) -> None:
    """A call for its effect."""
    run.eval(node.value)


def assignment(run: "Interpreter", node: ast.Assign) -> None:
    """a = b = value."""
    value = run.eval(node.value)
    for target in node.targets:
        assign(run, target, value)


def annotated(run: "Interpreter", node: ast.AnnAssign) -> None:
    """name: annotation = value."""
    value = run.eval(node.value) if node.value is not None else UNKNOWN
    spec = run.engine.read(run.module, node.annotation)
    if any(shapes_in(spec)):
        name = run.name_size if run.function is not None else integer
        check(run, node.value or node, spec, value, f'"{ast.unparse(node.target)}" is declared as')
        value = to_value(spec, name, own_stars(spec))
    elif isinstance(spec, NameSpec) and spec.name == "Tensor" and isinstance(value, Unknown):
        value = Tensor()
    assign(run, node.target, value)


def augmented(run: "Interpreter", node: ast.AugAssign) -> None:
    """a += value."""
    load = ast.parse(ast.unparse(node.target), mode="eval").body
    for part in ast.walk(load):
        ast.copy_location(part, node.target)
    old = run.eval(load)
    value = run.eval(ast.copy_location(ast.BinOp(load, node.op, node.value), node))
    if isinstance(old, Tensor) and isinstance(value, Tensor) and old.shape is not None:  # in place: the shape stays
        value = Tensor(old.shape, value.dtype)
    assign(run, node.target, value)


def returned(run: "Interpreter", node: ast.Return) -> bool:
    """The value against the annotation; what is learned on the way is undone."""
    value = run.eval(node.value)
    function = run.function
    if run.returns is not None:
        run.returns.append(value)
    elif function is not None and function.returns is not None and function.decorators.isdisjoint({"contextmanager"}):
        with run.undone():
            before = len(run.problems)
            check(run, node.value or node, function.returns, value, f"{function.name} is annotated to return", True)
            known = len(run.problems) == before and isinstance(value, Tensor | Items)
            names = {name: run.solver.resolve(dim) for name, dim in run.result_names.items()}
            run.results.append(names if known else {})
    return False


def check(run: "Interpreter", node: ast.AST, spec: Spec | None, value: Value, what: str, result: bool = False) -> None:
    """Complain if a value certainly is not what its annotation says."""
    if isinstance(spec, TupleSpec) and isinstance(node, ast.Tuple) and isinstance(value, Items):
        if len(spec.items) == len(value.items) == len(node.elts):
            for part, item, element in zip(spec.items, value.items, node.elts, strict=True):
                check(run, element, part, item, what + " a tuple with", result)
        return
    stars: Stars = {}
    for choices, tensor in pairs(spec, value):
        if tensor.shape is None:
            continue
        name = run.name_size if run.function is not None else integer
        shape_spec = choose(run.solver, choices, tensor.shape, name, stars) if len(choices) > 1 else choices[0]
        if shape_spec is None:
            continue
        for axis in shape_spec.axes:
            if axis.star is not None and axis.star in run.engine.stars(run.function):
                stars.setdefault(axis.star, (Star(axis.star),))
        found = run.show(tensor.shape)
        why = mismatch(run.solver, shape_spec, tensor.shape, name, stars)
        if result and stars.get("...", ()) is None:
            run.loose_star = True
        why = why or (misnamed(run, shape_spec) if result else None)
        if why:
            run.fail(node, f'{what} "{shape_spec.text}", but this has shape {found}: {why}')
            return
        word = exchanged(shape_spec, tensor)
        if word:
            run.fail(node, f'{what} "{shape_spec.text}", but the pattern calls these axes {word}', "einops-name")
            return


def exchanged(spec: ShapeSpec, tensor: Tensor) -> str | None:
    """The names of the pattern that made a tensor, if the annotation has them too, but in other places."""
    words = tensor.words or ()
    for axis, word in zip(spec.axes, words, strict=False) if len(words) == len(spec.axes) else ():
        if len(word) > 1 and word.isidentifier() and word in spec.names and axis.text in words and axis.text != word:
            return f'"{" ".join(words)}"'
    return None


def misnamed(run: "Interpreter", spec: ShapeSpec) -> str | None:
    """Is an axis that only the result names of another kind than its name tells: "vocab" where d_model is?"""
    for name in sorted(spec.names & run.result_names.keys()):
        found = run.solver.resolve(run.result_names[name])
        atom = found.single if found is not None else None
        other = last_name(atom) if atom is not None and not is_flexible(atom) else ""
        if kind(name) == "data" and LONGEST.fullmatch(other) and run.solver.integers & INDEPENDENT:
            return f'axis "{name}" is "{other}"'  # all rows, though an argument asks for some
        if kind(name) is not None and kind(other) is not None and kind(name) != kind(other):
            return f'axis "{name}" is "{other}"'
    return None


def stop(run: "Interpreter", node: ast.stmt) -> bool:
    """Control does not go on here."""
    if isinstance(node, ast.Raise):
        run.eval(node.exc)
    else:
        run.exits.append(dict(run.scope))
    return False


def asserted(run: "Interpreter", node: ast.Assert) -> None:
    """What is asserted holds from here on."""
    run.eval(node.test)
    assume(run, node.test, True)


def branch(run: "Interpreter", node: ast.If) -> bool:
    """Both sides, unless the test is certain; afterwards what is true of both."""
    run.eval(node.test)
    certain = verdict(run, node.test)
    if certain is not None:
        body, other = (node.body, node.orelse) if certain else (node.orelse, node.body)
        return run.block(body) or (refuses(body) and run.given is not None and run.block(other))
    before, known = dict(run.scope), dict(run.solver.known)
    assume(run, node.test, True)
    goes = run.block(node.body)
    then, then_known = run.scope, run.solver.known
    run.scope, run.solver.known = dict(before), dict(known)
    assume(run, node.test, False)
    skips = run.block(node.orelse)
    if goes and skips:
        kept = defaulted(node.test)
        joined = run.join_scopes(then, run.scope)
        if kept is not None and isinstance(before.get(kept), Int | Unknown):
            joined[kept] = before[kept]  # `if d_k is None: d_k = …`: from here on d_k is what it came to
        run.scope = joined
        run.solver.known = {k: v for k, v in run.solver.known.items() if then_known.get(k) == v}
    elif goes:
        run.scope, run.solver.known = then, then_known
    return goes or skips


def loop(run: "Interpreter", node: ast.For | ast.While) -> bool:
    """Twice: the second time with what the first may have changed."""
    known, exits = dict(run.solver.known), run.exits
    iterated = run.eval(node.iter) if isinstance(node, ast.For) else None
    written = iterated.items if isinstance(iterated, Items) and len(iterated.items) <= UNROLL else None
    for item in written if written is not None else [run.item(iterated or UNKNOWN)] * 2:
        before, run.exits = dict(run.scope), []
        if isinstance(node, ast.For):
            assign(run, node.target, item)
        else:
            run.eval(node.test)
        goes = run.block(node.body)
        ends = [
            *run.exits,
            *([run.scope] if goes else []),
            *([] if written is not None and not run.exits else [before]),
        ]
        run.scope = ends[0] if ends else run.scope
        for end in ends[1:]:
            run.scope = run.join_scopes(run.scope, end)
        run.solver.known = dict(known)
    run.exits = exits
    return run.block(node.orelse)


def with_block(run: "Interpreter", node: ast.With) -> bool:
    """A context: what it gives is unknown."""
    for item in node.items:
        run.eval(item.context_expr)
        if item.optional_vars is not None:
            assign(run, item.optional_vars, UNKNOWN)
    return run.block(node.body)


def try_block(run: "Interpreter", node: ast.Try) -> bool:
    """The body, and each handler after a part of it."""
    before = dict(run.scope)
    goes = run.block(node.body + node.orelse)
    ends = [run.scope] if goes else []
    for handler in node.handlers:
        run.scope = run.join_scopes(before, run.scope if goes else before)
        if run.block(handler.body):
            ends.append(run.scope)
    for i, end in enumerate(ends):
        run.scope = dict(end) if i == 0 else run.join_scopes(run.scope, end)
    return run.block(node.finalbody) and bool(ends)


def match_block(run: "Interpreter", node: ast.Match) -> bool:
    """Each case may run, or none."""
    run.eval(node.subject)
    before, known = dict(run.scope), dict(run.solver.known)
    ends = [before]
    for case in node.cases:
        run.scope, run.solver.known = dict(before), dict(known)
        for part in ast.walk(case.pattern):
            if isinstance(part, ast.MatchAs | ast.MatchStar) and part.name:
                run.scope[part.name] = UNKNOWN
        if run.block(case.body):
            ends.append(run.scope)
    run.scope, run.solver.known = ends[0], known
    for end in ends[1:]:
        run.scope = run.join_scopes(run.scope, end)
    return True


def inner_function(run: "Interpreter", node: ast.FunctionDef) -> None:
    """An annotated inner function is checked like any other; an unannotated one is read at its calls."""
    for part in ast.walk(node):
        if isinstance(part, ast.Nonlocal):
            run.scope |= dict.fromkeys(part.names, UNKNOWN)
    info = run.engine.inner(run.module, node)
    if not info.shapes:
        run.scope[node.name] = Closure(node, run.scope, run.module)
        return
    run.scope[node.name] = Function(info)
    if not run.silent and run.depth == 0:
        run.problems += run.engine.check(info, dict(run.scope))


def assign(run: "Interpreter", target: ast.expr, value: Value) -> None:
    """Bind a target."""
    if isinstance(target, ast.Name):
        run.scope[target.id] = value
    elif isinstance(target, ast.Starred):
        assign(run, target.value, value)
    elif isinstance(target, ast.Tuple | ast.List):
        unpack(run, target, value)
    elif isinstance(target, ast.Attribute):
        owner = run.eval(target.value)
        if isinstance(owner, Instance) and owner.me:
            run.scope["." + target.attr] = value
        elif isinstance(owner, Unknown) and owner.path is not None:
            run.scope[f".{owner.path}.{target.attr}"] = value
    elif isinstance(target, ast.Subscript):
        assign_part(run, target, value)


def unpack(run: "Interpreter", target: ast.Tuple | ast.List, value: Value) -> None:
    """a, b, *c = value."""
    star = next((i for i, part in enumerate(target.elts) if isinstance(part, ast.Starred)), None)
    items = run.items(value, None if star is not None else len(target.elts), target)
    if star is not None and items is not None:
        tail = len(target.elts) - star - 1
        short = len(items) < len(target.elts) - 1
        items = None if short else [*items[:star], Items(items[star : len(items) - tail]), *items[len(items) - tail :]]
    elif items is not None and len(items) != len(target.elts):
        run.fail(target, f"{len(target.elts)} names on the left, but {len(items)} values on the right")
        items = None
    for i, part in enumerate(target.elts):
        assign(run, part, items[i] if items is not None else UNKNOWN)


def assign_part(run: "Interpreter", target: ast.Subscript, value: Value) -> None:
    """x[…] = value: the value must broadcast to the place."""
    owner = run.eval(target.value)
    if isinstance(owner, Items | Many) and isinstance(target.value, ast.Name):
        run.scope[target.value.id] = Many(run.join(run.item(owner), value))
    if not isinstance(owner, Tensor):
        return
    place = run.eval(ast.copy_location(ast.Subscript(target.value, target.slice, ast.Load()), target))
    if not (isinstance(place, Tensor) and isinstance(value, Tensor)) or place.shape is None or value.shape is None:
        return
    message = f"A tensor of shape {run.show(value.shape)} does not fit into a place of shape {run.show(place.shape)}"
    ranks = value.shape.rank, place.shape.rank
    if ranks[0] is not None and ranks[1] is not None and ranks[0] > ranks[1]:
        run.fail(target, message)
        return
    _, why = broadcast(Call(run, target, "=", []), place.shape, value.shape)
    if why:
        run.fail(target, f"{message}: {why}")


STATEMENTS: dict[type[ast.stmt], Callable[[Any, Any], bool | None]] = {
    ast.Expr: expression,
    ast.Assign: assignment,
    ast.AnnAssign: annotated,
    ast.AugAssign: augmented,
    ast.Return: returned,
    ast.Raise: stop,
    ast.Continue: stop,
    ast.Break: stop,
    ast.Assert: asserted,
    ast.If: branch,
    ast.For: loop,
    ast.While: loop,
    ast.With: with_block,
    ast.Try: try_block,
    ast.Match: match_block,
    ast.FunctionDef: inner_function,
}
