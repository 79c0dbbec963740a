"""Calls: of library operations, of the learner's annotated functions and modules, of what must be read on the spot."""

import ast
from typing import TYPE_CHECKING

from . import functional, reductions, views  # noqa: F401  their rules are registered by being imported
from .annotations import NameSpec, shapes_in
from .dims import Dim, fresh, integer, is_flexible
from .einops_rules import EINOPS, torch_einsum
from .layers import call_layer, make_layer
from .matching import Stars, choose, mismatch, pairs, to_value
from .operations import Call, apply
from .python_rules import builtin
from .solver import names_of
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
    Tensor,
    Unknown,
    Value,
    substitute,
)

if TYPE_CHECKING:
    from .interpreter import Interpreter
    from .modules import FunctionInfo, Module

DEPTH = 3  # how far unannotated functions are followed
FOLLOWED = 200  # and how many of them for one function
FUNCTIONAL = frozenset(("torch", "torch.nn.functional", "torch.Tensor"))
_KEEPS_LAYER = "to eval train cuda cpu apply float double half compile requires_grad_"
KEEPS_LAYER = frozenset(_KEEPS_LAYER.split())


def argument_lists(run: "Interpreter", node: ast.Call) -> tuple[list[Value], dict[str, Value], bool]:
    """The arguments of a call, and whether they are all known one by one."""
    args: list[Value] = []
    kw: dict[str, Value] = {}
    exact = True
    for arg in node.args:
        value = run.eval(arg)
        if isinstance(arg, ast.Starred):
            items = run.items(value)
            if items is None:
                exact = False
                kw["*"] = value if isinstance(value, Many) else Many(UNKNOWN)
            else:
                args += items
        else:
            args.append(value)
    for keyword in node.keywords:
        value = run.eval(keyword.value)
        if keyword.arg is None:
            exact = False
        else:
            kw[keyword.arg] = value
    return args, kw, exact and not (len(args) and "*" in kw)


def call_value(run: "Interpreter", function: Value, args: list[Value], kw: dict[str, Value], node: ast.expr) -> Value:
    """What calling a value gives."""
    if isinstance(function, Library):
        return call_library(Call(run, node, "", args, kw), function.name)
    if isinstance(function, ModuleName) and function.name == "functools.partial" and len(args) == 1:
        return args[0]  # only keywords are fixed: it acts on as many tensors as before
    if isinstance(function, Method):
        return call_method(run, function, args, kw, node)
    if isinstance(function, Layer):
        return call_layer(Call(run, node, function.kind, args, kw), function)
    if isinstance(function, Function):
        return call_function(run, function.info, function.owner, args, kw, node)
    if isinstance(function, Closure):
        return follow(run, function.node, function.module, dict(function.scope), args, kw)
    if isinstance(function, Class):
        return construct(run, function, args, kw)
    if isinstance(function, Instance):
        info = function.info.find("forward" if function.info.is_module else "__call__")
        if info is not None:
            return call_function(run, info, function, args, kw, node)
        layer = attribute_value(run, function, "*", node)
        return call_value(run, layer, args, kw, node) if isinstance(layer, Layer) else UNKNOWN
    return UNKNOWN


def call_library(call: Call, full: str) -> Value:
    """A function or class of torch, einops, math, copy or the builtins."""
    package, _, call.name = full.rpartition(".")
    root = full.split(".")[0]
    if root == "builtins":
        return builtin(call)
    if root == "math":
        return Plain() if call.name not in ("prod", "floor", "ceil", "isqrt", "gcd") else Int(None)
    if root == "copy":
        return call.args[0] if call.args else UNKNOWN
    if call.name[:1].isupper():
        return make_layer(call)
    if root == "einops":
        return EINOPS[call.name](call) if call.name in EINOPS else UNKNOWN
    if full == "torch.einsum":
        return torch_einsum(call)
    if package == "torch.nn.init":
        return call.args[0] if call.args else UNKNOWN
    if package == "torch" and call.name in ("device", "manual_seed", "is_grad_enabled"):
        return Plain()
    return apply(call) if package in FUNCTIONAL else UNKNOWN


def call_method(run: "Interpreter", method: Method, args: list[Value], kw: dict[str, Value], node: ast.expr) -> Value:
    """A method of a tensor or a layer."""
    owner = method.owner
    if isinstance(owner, Tensor):
        if method.name == "numel":
            return Int(None)
        return apply(Call(run, node, method.name, [owner, *args], kw))
    if isinstance(owner, Layer):
        if method.name == "forward":
            return call_value(run, owner, args, kw, node)
        if method.name == "append" and args and isinstance(owner.inside, Items | Many):
            empty = isinstance(owner.inside, Items) and not owner.inside.items
            owner.inside = Many(args[0] if empty else run.join(run.item(owner.inside), args[0]))
            return owner
        return owner if method.name in KEEPS_LAYER else UNKNOWN
    return UNKNOWN


def list_method(run: "Interpreter", method: Method, node: ast.Call) -> Value:
    """A list that grows is a new list; any other change leaves only what its items have in common."""
    args = [run.eval(arg) for arg in node.args]
    old = method.owner
    if method.name in ("index", "count", "copy"):
        return Int(None) if method.name != "copy" else old
    new: Value = Many(run.item(old))
    if method.name == "append" and len(args) == 1:
        new = Items([*old.items, args[0]]) if isinstance(old, Items) else run.join(old, Many(args[0]))
    elif method.name in ("extend", "insert"):
        new = Many(UNKNOWN)
    if isinstance(node.func, ast.Attribute):
        run.bind(node.func.value, new)
    return run.item(old) if method.name == "pop" else Nothing()


def construct(run: "Interpreter", of: Class, args: list[Value], kw: dict[str, Value]) -> Value:
    """An object; its constructor's arguments are what fixes its sizes."""
    init = of.info.find("__init__")
    if init is None:
        names = list(of.info.fields)
    else:
        names = [parameter.name for parameter in init.called]
    return Instance(of.info, {**dict(zip(names, args, strict=False)), **kw})


def size_for(run: "Interpreter", owner: Instance, path: str) -> Dim | None:
    """An integer of a class, as the one who constructed the object knows it."""
    root, *rest = path.split(".")
    value = owner.arguments.get(root)
    if owner.me:
        return integer(path)
    if value is None and "*" not in owner.arguments and not rest:
        init = owner.info.find("__init__")
        default = next((p.default for p in init.called if p.name == root), None) if init is not None else None
        if isinstance(default, ast.Constant) and type(default.value) is int:
            return Dim.const(default.value)
    for part in rest:
        value = run.attribute(value, part, ast.Name(part)) if isinstance(value, Unknown | Instance) else None
    return run.size(value)


def construct_base(run: "Interpreter", args: list[Value], kw: dict[str, Value]) -> Value:
    """super().__init__(…): the base's attributes, in terms of the arguments that it is given."""
    line = list(run.initialising.line()) if run.initialising is not None else []
    base = next((info for info in line[1:] if "__init__" in info.methods), None)
    if base is None and run.initialising is not None and run.initialising.is_a("torch.nn.Sequential"):
        run.scope[".*"] = Layer("Sequential", inside=kw.get("*") or Items(args))
    if base is not None and run.depth < DEPTH:
        node = base.methods["__init__"].node
        inner = run.inside(base.module)
        inner.initialising = base
        names = [p.arg for p in (*node.args.posonlyargs, *node.args.args)]
        own = {name: value for name, value in run.scope.items() if name.startswith(".")}
        inner.start(node, own, [run.scope.get("self", UNKNOWN), *args] if names else [], kw)
        inner.block(node.body)
        run.scope |= {name: value for name, value in inner.scope.items() if name.startswith(".")}
    return Nothing()


def attribute_value(run: "Interpreter", owner: Instance, attr: str, node: ast.expr) -> Value:
    """An attribute of an object of the learner's."""
    if owner.me and "." + attr in run.scope:
        return run.scope["." + attr]
    method = owner.info.find(attr)
    if method is not None:
        if method.decorators & {"property", "cached_property"}:
            return call_function(run, method, owner, [], {}, node)
        return Function(method, owner if method.is_bound and "classmethod" not in method.decorators else None)
    if owner.me:
        return Unknown("self." + attr)
    if not owner.info.is_module and attr in owner.arguments:
        return owner.arguments[attr]
    found = run.engine.state(owner.info).attributes.get(attr)
    if found is None:
        return UNKNOWN
    return substitute(found, lambda atom: size_for(run, owner, atom[2:]) if atom.startswith("i:") else None)


def call_function(
    run: "Interpreter",
    info: "FunctionInfo",
    owner: Value | None,
    args: list[Value],
    kw: dict[str, Value],
    node: ast.expr,
) -> Value:
    """A function of the learner's: by its annotations, or by its body where they say nothing of the result."""
    if not info.is_trusted or info.node.args.vararg or info.node.args.kwarg:
        return UNKNOWN
    if info.is_bound and owner is None and "classmethod" not in info.decorators and args:
        owner, args = args[0], args[1:]  # Class.method(object, …)
    parameters = [*info.node.args.posonlyargs, *info.node.args.args][int(info.is_bound) :]
    given = dict(zip((p.arg for p in parameters), args, strict=False)) | kw
    for value in given.values():
        if isinstance(value, Closure) and not run.depth:  # it will be called with something
            follow(run, value.node, value.module, dict(value.scope), [], {})
    binding, stars, fits = unify_arguments(run, info, owner, given, node)
    if not fits:
        return Tensor()
    if not any(shapes_in(info.returns)):
        promised = to_value(info.returns, lambda name: None)
        if isinstance(promised, Plain | Int) or run.depth >= DEPTH:
            return promised
        return followed(run, info, owner, given, node) if not isinstance(owner, Unknown | Layer) else UNKNOWN
    for name, dim in run.engine.summary(info).items():
        if name not in binding:
            told = dim.substitute(lambda atom: binding.get(atom) or _argument(run, given, atom), kept=False)
            if told is not None:
                binding[name] = told
    if not run.engine.keeps_dots(info):
        stars["..."] = None
    return to_value(info.returns, lambda name: run.solver.resolve(binding.setdefault(name, fresh(name))), stars)


def _argument(run: "Interpreter", given: dict[str, Value], atom: str) -> Dim | None:
    return run.size(given.get(atom[2:])) if atom.startswith("i:") else None


def unify_arguments(
    run: "Interpreter", info: "FunctionInfo", owner: Value | None, given: dict[str, Value], node: ast.expr
) -> tuple[dict[str, Dim], Stars, bool]:
    """What the axis names of a signature are at this call; complains about an argument that cannot fit."""
    names = {name for spec in info.shapes for name in spec.names}
    binding: dict[str, Dim] = {}
    if isinstance(owner, Instance):
        for name, path in run.engine.state(owner.info).integers(names).items():
            dim = size_for(run, owner, path)
            if dim is not None:
                binding[name] = dim
    for parameter in info.called:
        if isinstance(parameter.spec, NameSpec) and parameter.spec.name == "int" and parameter.name in given:
            dim = run.size(given[parameter.name])
            called = {name for name in names if parameter.name in names_of(name)}
            if dim is not None and called:
                binding[parameter.name if parameter.name in called else min(called)] = dim
    stars: Stars = {}
    fits = True

    def named(name: str) -> Dim:
        return binding.setdefault(name, fresh(name))

    for i, parameter in enumerate(info.called):
        for choices, tensor in pairs(parameter.spec, given.get(parameter.name, UNKNOWN)):
            if tensor.shape is None:
                continue
            spec = choose(run.solver, choices, tensor.shape, named, stars) if len(choices) > 1 else choices[0]
            if spec is None:
                continue
            found, before = run.show(tensor.shape), dict(binding)
            why = mismatch(run.solver, spec, tensor.shape, named, stars, given=True)
            if why:
                what = f'Argument "{parameter.name}" of {info.name} must have shape "{spec.text}"'
                run.fail(
                    argument_node(node, i, parameter.name),
                    f"{what}, but this has shape {found}: {why}{here(run, spec.names, before)}",
                )
                fits = False
    return binding, stars, fits


def here(run: "Interpreter", names: set[str], binding: dict[str, Dim]) -> str:
    """What the names of the signature are at this call."""
    bound = []
    for name in sorted(names & binding.keys()):
        dim = run.solver.resolve(binding[name])
        if dim is not None and str(dim) != name and not any(map(is_flexible, dim.atoms)):
            bound.append(f"{name} = {dim}")
    return f" (here {', '.join(bound)})" if bound else ""


def argument_node(node: ast.expr, i: int, name: str) -> ast.expr:
    """Where an argument is written."""
    if not isinstance(node, ast.Call):
        return node
    if i < len(node.args) and not any(isinstance(arg, ast.Starred) for arg in node.args[: i + 1]):
        return node.args[i]
    return next((keyword.value for keyword in node.keywords if keyword.arg == name), node)


def followed(
    run: "Interpreter", info: "FunctionInfo", owner: Value | None, given: dict[str, Value], node: ast.expr
) -> Value:
    """Read an unannotated function's body with these arguments."""
    scope: dict[str, Value] = {}
    if info.is_bound and info.node.args.args:
        given = {info.node.args.args[0].arg: owner or UNKNOWN} | given
        if isinstance(owner, Instance) and owner.me:
            scope = {name: value for name, value in run.scope.items() if name.startswith(".")}
    if run.engine.followed >= FOLLOWED:  # unannotated functions that call each other could go on for ever
        return UNKNOWN
    run.engine.followed += 1
    inner = run.inside(info.module)
    inner.problems = []
    inner.start(info.node, scope, [], given)
    result = inner.result(info.node)
    if inner.problems:
        first = inner.problems[0]
        run.fail(node, f"{info.name} fails with these arguments, in its line {first.line}: {first.message}", first.code)
        return Tensor()
    return result


def follow(
    run: "Interpreter",
    node: ast.Lambda | ast.FunctionDef,
    module: "Module",
    scope: dict[str, Value],
    args: list[Value],
    kw: dict[str, Value],
) -> Value:
    """Run a body in a scope of its own."""
    if run.depth >= DEPTH:
        return UNKNOWN
    inner = run.inside(module)
    inner.start(node, scope, args, kw)
    return inner.result(node)
