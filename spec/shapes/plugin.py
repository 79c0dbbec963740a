"""The mypy plugin: it drives the engine and reports what it finds; the types that mypy computes do not change.

jaxtyping's dtypes are `Annotated` where types are checked, so mypy asks the plugin about every `Float[...]` of a
signature, in every kind of run. The first one of a function is where its problems are reported.
"""

import ast
import os
from collections.abc import Callable
from typing import Any

from mypy.errorcodes import ErrorCode
from mypy.nodes import Context, MypyFile
from mypy.options import Options
from mypy.plugin import AnalyzeTypeContext, Plugin, ReportConfigContext
from mypy.types import ExtraAttrs, Instance, LiteralType, Type, get_proper_type

from .annotations import DTYPES
from .engine import VERSION, Engine
from .interpreter import DEBUG
from .modules import FunctionInfo, Module
from .sources import Sources, root_of

CODES = {
    code: ErrorCode(code, description, "Tensor shapes")
    for code, description in (
        ("shape", "Tensor shapes that do not fit"),
        ("einops", "einops patterns that do not fit their tensors"),
        ("einops-name", "einops patterns that call an axis by another axis's name"),
        ("shape-annotation", "Shape strings that cannot be read"),
    )
}
Place = tuple[int, int]  # line and column


class FileState:
    """What is known about one file of this run."""

    def __init__(self, name: str, sources: Sources, digest: str) -> None:
        self.digest = digest
        self.engine = Engine(sources.load)
        self.reported_at: dict[Place, list[FunctionInfo]] = {}
        module = self.engine.module(name)
        if module is not None:
            self._place(module)

    def _place(self, module: Module) -> None:
        """Decide where each function's problems are reported: what has no place of its own goes to the first."""
        spots = [place for node in ast.walk(module.tree) if (place := shape_place(module, node))]
        homeless = []
        for info in module.all_functions:
            own = [p for a in info.annotations for node in ast.walk(a) if (p := shape_place(module, node))]
            if own:
                self.reported_at.setdefault(min(own), []).append(info)
            else:
                homeless.append(info)
        if spots:
            self.reported_at.setdefault(min(spots), []).extend(homeless)


def shape_place(module: Module, node: ast.AST) -> Place | None:
    """Where a jaxtyping annotation stands."""
    return (node.lineno, node.col_offset) if isinstance(node, ast.Subscript) and module.jaxtyping(node.value) else None


class ShapePlugin(Plugin):
    """The hooks."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.files: dict[str, FileState] = {}
        self.sources: dict[str, Sources] = {}
        self.paths = [os.getcwd(), *options.mypy_path]

    def sources_of(self, path: str, module: str) -> Sources:
        """The modules that a file may import."""
        root = root_of(path, module)
        return self.sources.setdefault(root, Sources([root, *self.paths]))

    def get_type_analyze_hook(self, fullname: str) -> Callable[[AnalyzeTypeContext], Type] | None:
        """Every `Annotated`, by which jaxtyping's dtypes are known."""
        return self.annotated if fullname in ("typing.Annotated", "typing_extensions.Annotated") else None

    def annotated(self, ctx: AnalyzeTypeContext) -> Type:
        """Report at a shape annotation, and give the type that mypy would have given."""
        analyser: Any = ctx.api
        if not ctx.type.args:
            return ctx.type  # mypy itself complains
        found: Type = analyser.analyze_type(ctx.type.args[0])
        file = getattr(getattr(analyser, "api", None), "cur_mod_node", None)
        if ctx.type.name.rpartition(".")[2] not in DTYPES or not isinstance(file, MypyFile) or file.is_stub:
            return found
        try:
            state = self.report(file, (ctx.type.line, ctx.type.column), analyser.api)
            return carrying(found, ctx, state.digest)
        except Exception:  # a learner's mypy run must never fail because of the checker
            if DEBUG:
                raise
            return found

    def report(self, file: MypyFile, place: Place, api: Any) -> FileState:
        """Report the functions whose place this is; under a daemon a file or its imports may have changed since."""
        state, sources = self.files.get(file.fullname), self.sources_of(file.path, file.fullname)
        if state is None or place in state.reported_at:
            digest = sources.digest(file.fullname, VERSION)
            if state is None or state.digest != digest:
                state = self.files[file.fullname] = FileState(file.fullname, sources, digest)
        for info in state.reported_at.get(place, ()):
            for problem in state.engine.check(info):
                where = Context(problem.line, problem.column)
                where.end_line, where.end_column = problem.end_line, problem.end_column
                api.fail(problem.message, where, serious=True, code=CODES[problem.code])
        return state

    def report_config_data(self, ctx: ReportConfigContext) -> Any:
        """What a cached result of this module depends on: its source and those that it imports."""
        if not ctx.path.endswith(".py") or "site-packages" in ctx.path or "typeshed" in ctx.path:
            return None
        sources = self.sources_of(ctx.path, ctx.id)
        found = sources.find(ctx.id)
        return None if found is None or "jaxtyping" not in found.text else sources.digest(ctx.id, VERSION)


def carrying(found: Type, ctx: AnalyzeTypeContext, digest: str) -> Type:
    """Let the shape ride on the type, unseen by subtyping: so a daemon notices when only a string changes."""
    text = ctx.type.args[1] if len(ctx.type.args) > 1 else None
    proper = get_proper_type(found)
    if text is None or not isinstance(proper, Instance):
        return found
    new = proper.copy_modified()
    literal = LiteralType(f"{text}|{digest}", ctx.api.named_type("builtins.str", []))
    new.extra_attrs = ExtraAttrs({"__shape__": literal}, set(), None)
    return new


def plugin(version: str) -> type[Plugin]:
    """The entry point for mypy."""
    return ShapePlugin
