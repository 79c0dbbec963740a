"""The engine: it loads modules, knows what constructors set, and checks one function at a time."""

import ast
from dataclasses import dataclass, field

from .annotations import BadShapeError, ListSpec, NameSpec, ShapeSpec, Spec, TupleSpec, UnionSpec, read, shapes_in
from .dims import Dim, integer, is_flexible, is_int, last_name
from .interpreter import Interpreter, Problem
from .layers import SIZES
from .matching import own_stars, to_shape
from .modules import ClassInfo, FunctionInfo, Loader, Module, Parameter
from .solver import Solver, names_of
from .values import ANONYMOUS, UNKNOWN, Class, Instance, Int, Items, Layer, Many, Nothing, Plain, Tensor, Unknown, Value


@dataclass
class ClassState:
    """What a class's constructor fixes."""

    attributes: dict[str, Value] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)  # its integers, `d_model` or `config.d_model`
    free: set[str] = field(default_factory=set)  # those of them that follow from the others only where they are None

    known: dict[str, Dim] = field(default_factory=dict)  # the equalities that it has asserted

    @property
    def names(self) -> set[str]:
        """The last names of its integers."""
        return {last_name(path) for path in self.paths}

    def integers(self, axes: set[str]) -> dict[str, str]:
        """The integer that each axis name is called after, where there is just one."""
        found = {}
        for axis in axes:
            exact = [path for path in self.paths if last_name(path) == axis]
            near = exact or [path for path in self.paths if last_name(path) in names_of(axis)]
            if len(near) == 1:
                found[axis] = near[0]
        return found


@dataclass
class Summary:
    """What a caller may know of a function beyond its signature."""

    sizes: dict[str, Dim] = field(default_factory=dict)  # axes that only the result names, in terms of the arguments
    keeps_dots: bool = True  # is "..." in the result the "..." of the arguments?


class Engine:
    """Everything that is known about a set of modules."""

    def __init__(self, load: Loader) -> None:
        self.load = load
        self.modules: dict[str, Module | None] = {}
        self.states: dict[ClassInfo, ClassState] = {}
        self.summaries: dict[FunctionInfo, Summary] = {}
        self.inner_functions: dict[ast.FunctionDef, FunctionInfo] = {}
        self.followed = 0  # calls read into a body since the last function began
        self.found: dict[tuple[str, int, int, int | None, int | None], bool] = {}  # expressions: is the shape known?

    def module(self, name: str) -> Module | None:
        """A module by name, if its source is at hand and parses."""
        if name not in self.modules:
            self.modules[name] = None
            loaded = self.load(name)
            if loaded is not None:
                try:
                    self.modules[name] = Module(name, *loaded, self.module)
                except (SyntaxError, RecursionError, ValueError):
                    return None
        return self.modules[name]

    def check_module(self, name: str) -> list[Problem]:
        """All problems of a module."""
        module = self.module(name)
        return [problem for info in module.all_functions for problem in self.check(info)] if module is not None else []

    def check(self, info: FunctionInfo, around: dict[str, Value] | None = None) -> list[Problem]:
        """All problems of a function; `around` is what it can see outside itself."""
        problems = []
        info.read_annotations()
        for node, why in info.bad:
            end = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
            message = f"This shape cannot be read: {why}"
            problems.append(Problem(node.lineno, node.col_offset, *end, message, "shape-annotation"))
        self.summaries[info] = Summary()  # what a function that calls itself may know
        absent = {p.name for p in info.parameters if is_nothing(p.default)}
        optional = {p.name for p in info.parameters if p.name in absent and any(shapes_in(p.spec))}
        for given in (None, True, False) if optional else (None,):  # either way, then all optional tensors, then none
            run = self.interpreter(info, optional if given is False else set())
            run.given = given
            run.one_dots = around is None and one_dots(info)
            run.scope = dict(around or {}) | self.parameters(info)
            if given is not None:
                objects = {name for name in absent if isinstance(run.scope[name], Instance)}
                run.scope |= dict.fromkeys(objects if given else objects | optional, Nothing())
            self.followed = 0
            try:
                run.block(info.node.body)
            except RecursionError:
                return problems
            if given is None:
                self.summaries[info] = Summary({} if run.problems else common(run.results), not run.loose_star)
            if run.problems:
                break
        once: dict[tuple[int, str], Problem] = {}
        for problem in problems + run.problems:  # one complaint a line: the rest follows from it
            once.setdefault((problem.line, problem.code), problem)
        return list(once.values())

    def interpreter(self, info: FunctionInfo, absent: set[str]) -> Interpreter:
        """An interpreter that knows which names of the function are axes and which are integers."""
        given = [p for p in info.parameters if p.name not in absent]
        parameters = {name for p in given for spec in shapes_in(p.spec) for name in spec.names}
        every = parameters | {name for spec in info.shapes for name in spec.names}
        for node in ast.walk(info.node):
            if isinstance(node, ast.AnnAssign):
                every |= {name for spec in shapes_in(self.read(info.module, node.annotation)) for name in spec.names}
        integers = {p.name for p in info.parameters if isinstance(p.spec, NameSpec) and p.spec.name == "int"}
        state = self.state(info.owner) if info.owner is not None and info.is_bound else ClassState()
        fixed = state.names
        axes = parameters | {name for name in every if names_of(name) & (integers | fixed)}
        solver = Solver(axes, integers, fixed, state.free)
        for atom, dim in state.known.items():
            solver.assume(Dim.atom(atom), dim)
        return Interpreter(self, info.module, info, solver)

    def parameters(self, info: FunctionInfo) -> dict[str, Value]:
        """The values that a function's own annotations promise it."""
        scope: dict[str, Value] = {}
        for i, parameter in enumerate(info.parameters):
            if i == 0 and info.is_bound and info.owner is not None:
                scope[parameter.name] = (
                    Class(info.owner) if "classmethod" in info.decorators else Instance(info.owner, me=True)
                )
                scope |= {"." + name: value for name, value in self.state(info.owner).attributes.items()}
            else:
                scope[parameter.name] = promised(info.module, parameter)
        if info.node.args.vararg is not None:
            spec = self.read(info.module, info.node.args.vararg.annotation)
            scope[info.node.args.vararg.arg] = Many(promised(info.module, Parameter("", spec, None)))
        if info.node.args.kwarg is not None:
            scope[info.node.args.kwarg.arg] = UNKNOWN
        return scope

    def state(self, info: ClassInfo) -> ClassState:
        """What a class's constructor sets; what other methods set too is unknown."""
        if info in self.states:
            return self.states[info]
        state = self.states[info] = ClassState()
        run = Interpreter(self, info.module, None, Solver())
        run.silent, run.initialising = True, info
        for base in reversed(list(info.line())):
            for name, declared in base.fields.items():
                spec = self.read(base.module, declared.annotation)
                if isinstance(spec, ShapeSpec):
                    run.scope["." + name] = Tensor(to_shape(spec, integer, own_stars(spec)), spec.dtype)
                elif isinstance(spec, NameSpec) and spec.name == "int":
                    run.paths.add(name)
                    run.scope["." + name] = Int(integer(name))
        init = info.find("__init__")
        if init is not None:
            self.initialise(run, init, state)
        changed = {name for cls in info.line() for name in set_elsewhere(cls)}
        state.attributes = {
            name[1:]: value
            for name, value in run.scope.items()
            if name.startswith(".") and "." not in name[1:] and name[1:] not in changed
        }
        state.paths |= run.paths
        known = run.solver.known.items()
        state.known = {atom: dim for atom, dim in known if all(map(is_int, {atom, *dim.atoms}))}
        return state

    def initialise(self, run: Interpreter, init: FunctionInfo, state: ClassState) -> None:
        """Run a constructor."""
        init.read_annotations()
        run.module, run.initialising = init.module, init.owner
        for parameter in init.called:
            run.scope[parameter.name] = promised(init.module, parameter)
            if isinstance(run.scope[parameter.name], Int):
                state.paths.add(parameter.name)
                if is_nothing(parameter.default):
                    state.free.add(parameter.name)
        if init.parameters and init.owner is not None:
            run.scope[init.parameters[0].name] = run.scope["self"] = Instance(init.owner, me=True)
        run.returns = []
        try:
            run.block(init.node.body)
        except RecursionError:
            return

    def summary(self, info: FunctionInfo) -> dict[str, Dim]:
        """Axes that only the result names, in terms of the arguments."""
        if info not in self.summaries:
            self.check(info)
        return self.summaries[info].sizes if info in self.summaries else {}

    def keeps_dots(self, info: FunctionInfo) -> bool:
        """Is "..." in the result the "..." of the arguments?"""
        return info not in self.summaries or self.summaries[info].keeps_dots

    def inner(self, module: Module, node: ast.FunctionDef) -> FunctionInfo:
        """A function inside a function."""
        if node not in self.inner_functions:
            self.inner_functions[node] = FunctionInfo(node, module).read_annotations()
        return self.inner_functions[node]

    def read(self, module: Module, node: ast.expr | None) -> Spec | None:
        """An annotation; one that cannot be read says nothing."""
        try:
            return read(node, module)
        except (BadShapeError, RecursionError):
            return None

    def stars(self, info: FunctionInfo | None) -> set[str]:
        """The names of the stars in a function's parameters."""
        if info is None:
            return set()
        specs = [spec for p in info.parameters for spec in shapes_in(p.spec)]
        return {axis.star for spec in specs for axis in spec.axes if axis.star is not None}

    def count(self, module: Module, node: ast.expr, value: Tensor) -> None:
        """Remember whether an expression's shape is known."""
        known = value.shape is not None and None not in value.shape.dims
        self.found[module.name, node.lineno, node.col_offset, node.end_lineno, node.end_col_offset] = known


def one_dots(info: FunctionInfo) -> bool:
    """Has just one parameter axes that are written "..."?"""
    stars = [axis.star for p in info.parameters for spec in shapes_in(p.spec) for axis in spec.axes]
    return stars.count(ANONYMOUS) == 1 and info.node.args.vararg is None


def is_nothing(node: ast.expr | None) -> bool:
    """Is this a written None?"""
    return isinstance(node, ast.Constant) and node.value is None


def promised(module: Module, parameter: Parameter) -> Value:
    """The value of a parameter inside its function."""
    spec, name = parameter.spec, parameter.name
    if isinstance(spec, ShapeSpec):
        return Tensor(to_shape(spec, Dim.atom, inside=True), spec.dtype)
    if isinstance(spec, UnionSpec):
        return Tensor()
    if isinstance(spec, TupleSpec):
        return Items([promised(module, Parameter("", item, None)) for item in spec.items])
    if isinstance(spec, ListSpec):
        return Many(promised(module, Parameter("", spec.item, None)))
    if isinstance(spec, NameSpec):
        if spec.name == "int":
            return Int(integer(name)) if name else Int(None)
        if spec.name in ("float", "bool", "str", "complex"):
            return Plain()
        if spec.name in ("Tensor", "Parameter"):
            return Tensor()
        package, _, layer = (module.dotted(spec.node) or "").rpartition(".")
        if package in ("torch.nn", "torch.nn.modules") and layer in SIZES:
            return Layer(layer, (None,) * len(SIZES[layer]))
        info = module.class_of(spec)
        if info is not None and (info.is_module or any(method.shapes for method in info.methods.values())):
            return Instance(info, {"*": UNKNOWN})
    default = parameter.default
    if spec is None and isinstance(default, ast.Constant) and isinstance(default.value, float | bool | str):
        return Plain()
    return Unknown(name) if name else UNKNOWN


def common(results: list[dict[str, Dim | None]]) -> dict[str, Dim]:
    """What all results of a function agree on."""
    first, *others = results or [{}]
    return {
        name: dim
        for name, dim in first.items()
        if dim is not None
        and all(other.get(name) == dim for other in others)
        and not any(is_flexible(atom) or "." in atom for atom in dim.atoms)
    }


def set_elsewhere(info: ClassInfo) -> set[str]:
    """The attributes that methods other than the constructor set."""
    return {
        node.attr
        for name, method in info.methods.items()
        if name != "__init__"
        for node in ast.walk(method.node)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    }
