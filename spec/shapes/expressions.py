"""What each kind of expression gives."""

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .annotations import arithmetic
from .conditions import verdict
from .dims import Dim
from .elementwise import elementwise, matmul
from .indexing import const_slice, index, size_item
from .layers import layer_attribute
from .operations import RULES, apply, is_scalar
from .sources import LIBRARIES
from .user_calls import DEPTH, argument_lists, attribute_value, construct_base, list_method
from .values import (
    UNKNOWN,
    Class,
    Closure,
    Function,
    Instance,
    Int,
    Items,
    Layer,
    Library,
    Many,
    Method,
    ModuleName,
    Nothing,
    Plain,
    Size,
    Table,
    Tensor,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from .interpreter import Interpreter
    from .modules import Module

RESHAPES_ITSELF = frozenset(("unsqueeze_", "squeeze_", "t_", "transpose_", "swapaxes_", "resize_"))


def constant(run: "Interpreter", node: ast.Constant) -> Value:
    """A written value."""
    if node.value is None:
        return Nothing()
    if isinstance(node.value, int) and not isinstance(node.value, bool):
        return Int(Dim.const(node.value))
    return Plain(node.value)


def name(run: "Interpreter", node: ast.Name) -> Value:
    """A variable, or something that the module declares or imports."""
    if node.id in run.scope:
        return run.scope[node.id]
    found = declared(run, run.module, node.id)
    if found is not None:
        return found
    other = run.module.imported(node.id)
    if other is not None:
        return declared(run, *other) or UNKNOWN
    full = run.module.imports.get(node.id)
    if full is None:
        return Library("builtins." + node.id)
    return Library(full) if full.split(".")[0] in LIBRARIES else ModuleName(full)


def declared(run: "Interpreter", module: "Module", symbol: str) -> Value | None:
    """What a module declares under a name."""
    if symbol in module.functions:
        return Function(module.functions[symbol])
    if symbol in module.classes:
        return Class(module.classes[symbol])
    if symbol in module.constants:
        value = module.constants[symbol]
        if isinstance(value, ast.Constant):
            return constant(run, value)
        if isinstance(value, ast.Dict) and run.depth < DEPTH:
            return run.inside(module).eval(value)
        return UNKNOWN if value is None else Unknown(symbol)
    return None


def table(run: "Interpreter", node: ast.Dict) -> Value:
    """What all its values have in common: a table of activations keeps shapes, whichever is chosen."""
    values = [run.eval(value) for value in node.values]
    return Table(run.item(Items(values))) if values else UNKNOWN


def walrus(run: "Interpreter", node: ast.NamedExpr) -> Value:
    """(name := value)."""
    value = run.eval(node.value)
    run.scope[node.target.id] = value
    return value


def sequence(run: "Interpreter", node: ast.Tuple | ast.List) -> Value:
    """A written tuple or list, perhaps with another in it."""
    out: list[Value] = []
    for part in node.elts:
        value = run.eval(part)
        if isinstance(part, ast.Starred):
            items = run.items(value)
            if items is None:
                return Many(UNKNOWN)
            out += items
        else:
            out.append(value)
    return Items(out)


def conditional(run: "Interpreter", node: ast.IfExp) -> Value:
    """a if test else b."""
    run.eval(node.test)
    test = node.test
    if (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Name)
        and isinstance(test.comparators[0], ast.Constant)
    ):
        given = run.scope.get(test.left.id)
        if test.comparators[0].value is None and isinstance(given, Int | Unknown):  # what d_k comes to
            run.eval(node.body)
            run.eval(node.orelse)
            kept = node.orelse if isinstance(test.ops[0], ast.Is) else node.body
            if isinstance(kept, ast.Name) and kept.id == test.left.id:
                return given
    certain = verdict(run, test)
    if certain is not None:
        return run.eval(node.body if certain else node.orelse)
    known = dict(run.solver.known)
    body = run.eval(node.body)
    run.solver.known = dict(known)
    orelse = run.eval(node.orelse)
    run.solver.known = known
    return run.join(body, orelse)


def boolean(run: "Interpreter", node: ast.BoolOp) -> Value:
    """`d_k or d_model // heads` is what d_k comes to; of other operands, one or the other."""
    values = [run.eval(part) for part in node.values]
    if isinstance(node.op, ast.Or) and isinstance(values[0], Int | Unknown) and isinstance(node.values[0], ast.Name):
        return values[0]
    return Plain() if all(isinstance(value, Plain | Nothing) for value in values) else UNKNOWN


def text(run: "Interpreter", node: ast.JoinedStr) -> Value:
    """An f-string."""
    return Plain()


def closure(run: "Interpreter", node: ast.Lambda) -> Value:
    """A lambda, read at its calls."""
    return Closure(node, run.scope, run.module)


def unary(run: "Interpreter", node: ast.UnaryOp) -> Value:
    """-x, ~x, not x."""
    value = run.eval(node.operand)
    if isinstance(node.op, ast.Not):
        return Plain()
    if isinstance(value, Int) and isinstance(node.op, ast.USub):
        return Int(None if value.dim is None else -value.dim)
    return value if isinstance(value, Tensor | Int) else Plain() if isinstance(value, Plain) else UNKNOWN


def comparison(run: "Interpreter", node: ast.Compare) -> Value:
    """Comparisons of tensors broadcast."""
    values = [run.eval(part) for part in (node.left, *node.comparators)]
    if any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops):
        return Plain()
    if len(values) == 2 and any(isinstance(value, Tensor) for value in values):
        return Tensor(elementwise(run.operation(node, "compare"), values, "The compared shapes").shape, "b")
    return Plain() if all(isinstance(value, Int | Plain) for value in values) else UNKNOWN


def binary(run: "Interpreter", node: ast.BinOp) -> Value:
    """Arithmetic of tensors, of sizes, and of lists."""
    a, b, op = run.eval(node.left), run.eval(node.right), node.op
    if isinstance(op, ast.MatMult):
        return matmul(run.operation(node, "@", a, b))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return elementwise(run.operation(node, "operator"), [a, b])
    if isinstance(a, Items | Size | Many) or isinstance(b, Items | Size | Many):
        return listed(run, op, a, b)
    x, y = run.size(a), run.size(b)
    known = all(isinstance(value, Int) or (isinstance(value, Unknown) and value.path) for value in (a, b))
    if known and not isinstance(op, ast.Div):
        dim = arithmetic(op, x, y) if x is not None and y is not None else None
        sure = isinstance(op, ast.FloorDiv | ast.Mod) or all(isinstance(value, Int) and value.sure for value in (a, b))
        return Int(dim, sure) if not isinstance(op, ast.Pow) or dim is not None else Plain() if sure else UNKNOWN
    return Plain() if all(map(is_scalar, (a, b))) else UNKNOWN


def listed(run: "Interpreter", op: ast.operator, a: Value, b: Value) -> Value:
    """(x, y) + (z,) and [x] * n."""
    if isinstance(op, ast.Add):
        x, y = run.items(a), run.items(b)
        return Items(x + y) if x is not None and y is not None else Many(run.join(run.item(a), run.item(b)))
    if isinstance(op, ast.Mult) and isinstance(a, Items):
        times = run.number(b)
        return Items(a.items * times) if times is not None and 0 < times < 9 else Many(run.item(a))
    return UNKNOWN


def attribute(run: "Interpreter", node: ast.Attribute) -> Value:
    """owner.name."""
    return attribute_of(run, run.eval(node.value), node.attr, node)


def attribute_of(run: "Interpreter", owner: Value, attr: str, node: ast.expr) -> Value:
    """What an attribute is."""
    if isinstance(owner, Library):
        return Library(f"{owner.name}.{attr}")
    if isinstance(owner, ModuleName):
        module = run.engine.module(owner.name)
        if module is not None:
            return declared(run, module, attr) or UNKNOWN
        return ModuleName(f"{owner.name}.{attr}")
    if isinstance(owner, Tensor):
        return tensor_attribute(run, owner, attr, node)
    if isinstance(owner, Instance):
        return attribute_value(run, owner, attr, node)
    if isinstance(owner, Layer):
        return layer_attribute(owner, attr) or Method(owner, attr)
    if isinstance(owner, Unknown) and owner.path is not None:
        return run.scope.get(f".{owner.path}.{attr}", Unknown(f"{owner.path}.{attr}"))
    if isinstance(owner, Items) and attr in ("values", "indices") and len(owner.items) == 2:  # of max, sort, topk
        return owner.items[attr == "indices"]
    return Method(owner, attr) if isinstance(owner, Items | Many | Size) else UNKNOWN


def tensor_attribute(run: "Interpreter", x: Tensor, attr: str, node: ast.expr) -> Value:
    """An attribute of a tensor."""
    if attr == "shape":
        return Size(x.shape)
    if attr in ("T", "mT", "mH", "ndim"):
        return apply(run.operation(node, attr, x))
    if attr in ("device", "dtype", "requires_grad", "is_cuda", "layout"):
        return Plain()
    return x if attr in ("data", "grad", "real") else Method(x, attr)


def subscript(run: "Interpreter", node: ast.Subscript) -> Value:
    """owner[…]."""
    owner = run.eval(node.value)
    if isinstance(owner, Tensor):
        return index(run, node, owner)
    if isinstance(owner, Layer) and owner.inside is not None:
        owner = owner.inside
    if isinstance(owner, Table):
        run.eval(node.slice)
        return owner.item
    if isinstance(owner, Size):
        return size_item(run, node, owner)
    if isinstance(node.slice, ast.Slice):
        bounds = const_slice(node.slice)
        if isinstance(owner, Items) and bounds is not None:
            return Items(owner.items[bounds])
        return Many(run.item(owner)) if isinstance(owner, Items | Many) else UNKNOWN
    i = run.number(run.eval(node.slice))
    if isinstance(owner, Items) and i is not None and -len(owner.items) <= i < len(owner.items):
        return owner.items[i]
    return run.item(owner) if isinstance(owner, Items | Many) else UNKNOWN


def comprehension(run: "Interpreter", node: ast.ListComp | ast.GeneratorExp) -> Value:
    """A list made item by item."""
    outer, generator = dict(run.scope), node.generators[0]
    iterated = run.eval(generator.iter)
    out: list[Value] = []
    if isinstance(iterated, Items) and len(node.generators) == 1 and not generator.ifs and len(iterated.items) <= 8:
        for item in iterated.items:
            run.bind(generator.target, item)
            out.append(run.eval(node.elt))
        run.scope = outer
        return Items(out)
    for generator in node.generators:
        run.bind(generator.target, run.item(run.eval(generator.iter)))
        for test in generator.ifs:
            run.eval(test)
    item = run.eval(node.elt)
    run.scope = outer
    return Many(item)


def starred(run: "Interpreter", node: ast.Starred) -> Value:
    """*x."""
    return run.eval(node.value)


def produced(run: "Interpreter", node: ast.Yield | ast.Await) -> Value:
    """What comes back is unknown."""
    run.eval(node.value)
    return UNKNOWN


def call(run: "Interpreter", node: ast.Call) -> Value:
    """function(…)."""
    special = special_call(run, node)
    if special is not None:
        return special
    function = run.eval(node.func)
    if isinstance(function, Method) and isinstance(function.owner, Items | Many):
        return list_method(run, function, node)
    args, kw, exact = argument_lists(run, node)
    if not exact:
        if isinstance(function, Class):
            return Instance(function.info, {"*": UNKNOWN})
        spread = "*" in kw and isinstance(function, Library) and function.name.endswith(".Sequential")
        if not spread:
            tensor = isinstance(function, Library | Method) and (function.name.rpartition(".")[2] in RULES)
            return Tensor() if tensor else UNKNOWN
    value = run.call(function, args, kw, node)
    if isinstance(function, Method) and function.name in RESHAPES_ITSELF and isinstance(node.func, ast.Attribute):
        run.bind(node.func.value, Tensor())
    return value


def special_call(run: "Interpreter", node: ast.Call) -> Value | None:
    """super().__init__(…) and self.register_buffer(…): calls that set attributes."""
    if not isinstance(node.func, ast.Attribute):
        return None
    owner, attr = node.func.value, node.func.attr
    if (
        attr == "__init__"
        and isinstance(owner, ast.Call)
        and isinstance(owner.func, ast.Name)
        and owner.func.id == "super"
    ):
        args, kw, exact = argument_lists(run, node)
        return construct_base(run, args, kw) if exact or "*" in kw else Nothing()
    if (
        attr in ("get_buffer", "get_parameter", "get_submodule")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ):
        return attribute_of(run, run.eval(owner), str(node.args[0].value), node)
    if attr in ("register_buffer", "register_parameter", "add_module", "register_module") and len(node.args) > 1:
        target, given = run.eval(owner), node.args[0]
        value = run.eval(node.args[1])
        if isinstance(target, Instance) and target.me and isinstance(given, ast.Constant):
            run.scope["." + str(given.value)] = value
        return Nothing()
    return None


EXPRESSIONS: dict[type[ast.expr], Callable[[Any, Any], Value]] = {
    ast.Constant: constant,
    ast.Name: name,
    ast.NamedExpr: walrus,
    ast.Tuple: sequence,
    ast.List: sequence,
    ast.Dict: table,
    ast.IfExp: conditional,
    ast.BoolOp: boolean,
    ast.JoinedStr: text,
    ast.Lambda: closure,
    ast.UnaryOp: unary,
    ast.Compare: comparison,
    ast.BinOp: binary,
    ast.Attribute: attribute,
    ast.Subscript: subscript,
    ast.ListComp: comprehension,
    ast.GeneratorExp: comprehension,
    ast.Starred: starred,
    ast.Yield: produced,
    ast.Await: produced,
    ast.Call: call,
}
