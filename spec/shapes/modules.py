"""What a module declares: imports, aliases, functions, classes. Read from its source, never imported."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from .annotations import DTYPES, BadShapeError, NameSpec, Scope, ShapeSpec, Spec, read, shapes_in
from .sources import FOREIGN

Loader = Callable[[str], "tuple[str, str] | None"]  # a module's name -> its path and source
# Decorators that leave a function's signature as it is written.
_HARMLESS = """staticmethod classmethod property cached_property no_grad inference_mode jaxtyped beartype typechecked
    override abstractmethod cache lru_cache compile final"""
HARMLESS = frozenset(_HARMLESS.split())


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function."""

    name: str
    spec: Spec | None
    default: ast.expr | None


@dataclass(eq=False)
class FunctionInfo:
    """A function and what its annotations say."""

    node: ast.FunctionDef
    module: "Module"
    owner: "ClassInfo | None" = None
    parameters: list[Parameter] = field(default_factory=list)
    returns: Spec | None = None
    bad: list[tuple[ast.expr, str]] = field(default_factory=list)
    _read: bool = False

    @property
    def name(self) -> str:
        """The name, with its class's where it is a method."""
        return f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name

    @cached_property
    def decorators(self) -> set[str]:
        """The last names of its decorators."""
        nodes = [d.func if isinstance(d, ast.Call) else d for d in self.node.decorator_list]
        return {d.attr if isinstance(d, ast.Attribute) else getattr(d, "id", "?") for d in nodes}

    @cached_property
    def is_bound(self) -> bool:
        """Does its first parameter come from the object it is called on?"""
        return self.owner is not None and "staticmethod" not in self.decorators

    @cached_property
    def is_trusted(self) -> bool:
        """Can a caller rely on the signature as it is written?"""
        return self.decorators <= HARMLESS and not any(
            isinstance(n, ast.Yield | ast.YieldFrom) for n in own_nodes(self.node)
        )

    @property
    def annotations(self) -> list[ast.expr]:
        """The annotations, in the order of the source."""
        args = self.node.args
        every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
        found = [a.annotation for a in every if a is not None and a.annotation is not None]
        return found + ([self.node.returns] if self.node.returns is not None else [])

    def read_annotations(self) -> "FunctionInfo":
        """Fill in `parameters` and `returns`; late, since aliases may be imported."""
        if self._read:
            return self
        self._read = True
        args = self.node.args
        positional = [*args.posonlyargs, *args.args]
        defaults = [*[None] * (len(positional) - len(args.defaults)), *args.defaults, *args.kw_defaults]
        for arg, default in zip([*positional, *args.kwonlyargs], defaults, strict=True):
            self.parameters.append(Parameter(arg.arg, self._spec(arg.annotation), default))
        self.returns = self._spec(self.node.returns)
        return self

    def _spec(self, node: ast.expr | None) -> Spec | None:
        try:
            return read(node, self.module)
        except BadShapeError as error:
            assert node is not None
            self.bad.append((node, str(error)))
        except RecursionError:  # an alias of itself
            pass
        return None

    @property
    def shapes(self) -> list[ShapeSpec]:
        """All shape strings of the signature."""
        self.read_annotations()
        return [s for spec in (*(p.spec for p in self.parameters), self.returns) for s in shapes_in(spec)]

    @property
    def called(self) -> list[Parameter]:
        """The parameters that a call fills."""
        self.read_annotations()
        return self.parameters[1:] if self.is_bound else self.parameters


@dataclass(eq=False)
class ClassInfo:
    """A class: its methods and annotated fields."""

    node: ast.ClassDef
    module: "Module"
    methods: dict[str, FunctionInfo] = field(default_factory=dict)
    fields: dict[str, ast.AnnAssign] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name

    def line(self) -> Iterator["ClassInfo"]:
        """The class and its bases, as far as the source is at hand."""
        seen: list[ClassInfo] = []
        waiting = [self]
        while waiting:
            info = waiting.pop(0)
            if info not in seen:
                seen.append(info)
                yield info
                bases = (info.module.find_class(base) for base in info.node.bases)
                waiting += [base for base in bases if base is not None]

    def find(self, method: str) -> FunctionInfo | None:
        """A method, perhaps inherited."""
        return next((info.methods[method] for info in self.line() if method in info.methods), None)

    def is_a(self, base: str) -> bool:
        """Is one of its bases this library class?"""
        return any((info.module.dotted(b) or "").startswith(base) for info in self.line() for b in info.node.bases)

    @property
    def is_module(self) -> bool:
        """Is it an nn.Module?"""
        return self.is_a("torch.nn")


class Module:
    """One source file."""

    def __init__(self, name: str, path: str, source: str, find: "Callable[[str], Module | None]") -> None:
        self.name, self.path, self.find = name, path, find
        self.lines = source.splitlines()
        self.tree = ast.parse(source)
        self.package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        self.imports: dict[str, str] = {}
        self.aliases: dict[str, ast.expr] = {}
        self.constants: dict[str, ast.expr | None] = {}
        self.functions: dict[str, FunctionInfo] = {}
        self.classes: dict[str, ClassInfo] = {}
        self.all_functions: list[FunctionInfo] = []
        for node in ast.walk(self.tree):
            self._import(node)
        self._declare(self.tree.body)
        changed = [name for node in ast.walk(self.tree) if isinstance(node, ast.Global) for name in node.names]
        self.constants |= dict.fromkeys(changed)

    def _import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for a in node.names:
                first = a.name.split(".")[0]
                self.imports[a.asname or first] = a.name if a.asname else first
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = self.package.split(".") if self.package else []
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([node.module] if node.module else [])])
            for a in node.names:
                self.imports[a.asname or a.name] = f"{base}.{a.name}" if base else a.name

    def _declare(self, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = self._function(node, None)
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = self._class(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name) and node.value is not None:
                        again = target.id in self.constants
                        self.constants[target.id] = None if again else node.value
                        self.aliases[target.id] = node.value
            elif hasattr(ast, "TypeAlias") and isinstance(node, ast.TypeAlias):
                self.aliases[node.name.id] = node.value
            elif isinstance(node, ast.If | ast.Try):
                self._declare(node.body)
                self._declare(node.orelse)

    def _class(self, node: ast.ClassDef) -> ClassInfo:
        info = ClassInfo(node, self)
        for member in node.body:
            if isinstance(member, ast.FunctionDef):
                info.methods[member.name] = self._function(member, info)
            elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                info.fields[member.target.id] = member
        return info

    def _function(self, node: ast.FunctionDef, owner: ClassInfo | None) -> FunctionInfo:
        info = FunctionInfo(node, self, owner)
        self.all_functions.append(info)
        return info

    def jaxtyping(self, node: ast.expr) -> str | None:
        """The jaxtyping dtype that an expression names."""
        package, _, name = (self.dotted(node) or "").rpartition(".")
        return name if package == "jaxtyping" and name in DTYPES else None

    def alias(self, name: str) -> tuple[ast.expr, Scope] | None:
        """What a type alias stands for, and in which module to read it."""
        if name in self.aliases and isinstance(self.aliases[name], ast.Subscript | ast.BinOp | ast.Name):
            return self.aliases[name], self
        found = self.imported(name)
        return found[0].alias(found[1]) if found is not None else None

    def dotted(self, node: ast.expr) -> str | None:
        """The full name of an imported thing."""
        if isinstance(node, ast.Name):
            return self.imports.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return None if base is None else f"{base}.{node.attr}"
        return None

    def imported(self, name: str, hops: int = 5) -> "tuple[Module, str] | None":
        """Where a name that comes from another module of the project is defined."""
        full = self.imports.get(name, "")
        package, _, symbol = full.rpartition(".")
        if not package or full.split(".")[0] in FOREIGN:
            return None
        module = self.find(package)
        if module is None or module is self or not hops:
            return None
        if any(symbol in names for names in (module.functions, module.classes, module.aliases, module.constants)):
            return module, symbol
        return module.imported(symbol, hops - 1)

    def find_class(self, node: ast.expr) -> ClassInfo | None:
        """The class of the project that an expression names."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.Name(node.value)
        if isinstance(node, ast.Attribute):
            package, _, symbol = (self.dotted(node) or "").rpartition(".")
            module = self.find(package) if package and package.split(".")[0] not in FOREIGN else None
            return module.classes.get(symbol) if module else None
        if not isinstance(node, ast.Name):
            return None
        if node.id in self.classes:
            return self.classes[node.id]
        found = self.imported(node.id)
        return found[0].classes.get(found[1]) if found is not None else None

    def class_of(self, spec: Spec | None) -> ClassInfo | None:
        """The class of the project that an annotation names."""
        return self.find_class(spec.node) if isinstance(spec, NameSpec) else None


def own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions inside it."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)
