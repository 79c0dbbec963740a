"""The mypy plugin: it drives the engine and reports what it finds; the types that mypy computes do not change.

jaxtyping's dtypes are `Annotated` where types are checked, so mypy asks the plugin about every `Float[...]` of a
signature, in every kind of run. The first one of a function is where its problems are reported. The engine is imported
only when mypy asks: a run from the cache does not need it.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mypy.errorcodes import ErrorCode
from mypy.nodes import Context, MypyFile
from mypy.options import Options
from mypy.plugin import AnalyzeTypeContext, Plugin, ReportConfigContext
from mypy.types import ExtraAttrs, Instance, LiteralType, Type, get_proper_type

from .sources import DEBUG, Sources, root_of

if TYPE_CHECKING:
    from .reports import FileReport

CODES = {
    code: ErrorCode(code, description, "Tensor shapes")
    for code, description in (
        ("shape", "Tensor shapes that do not fit"),
        ("einops", "einops patterns that do not fit their tensors"),
        ("einops-name", "einops patterns that call an axis by another axis's name"),
        ("shape-annotation", "Shape strings that cannot be read"),
    )
}


class ShapePlugin(Plugin):
    """The hooks."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.files: dict[str, FileReport] = {}
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
        if not isinstance(file, MypyFile) or file.is_stub:
            return found
        try:
            from .reports import is_dtype

            if not is_dtype(ctx.type.name.rpartition(".")[2]):
                return found
            report = self.report(file, (ctx.type.line, ctx.type.column), analyser.api)
            return carrying(found, ctx, report.digest) if self.options.fine_grained_incremental else found
        except Exception:  # a learner's mypy run must never fail because of the checker
            if DEBUG:
                raise
            return found

    def report(self, file: MypyFile, place: tuple[int, int], api: Any) -> "FileReport":
        """Report the functions whose place this is; under a daemon a file or its imports may have changed since."""
        from .reports import FileReport

        report, sources = self.files.get(file.fullname), self.sources_of(file.path, file.fullname)
        if report is None or place in report.functions:
            digest = sources.digest(file.fullname)
            if report is None or report.digest != digest:
                report = self.files[file.fullname] = FileReport(file.fullname, sources, digest)
        for problem in report.problems(place):
            where = Context(problem.line, problem.column)
            where.end_line, where.end_column = problem.end_line, problem.end_column
            api.fail(problem.message, where, serious=True, code=CODES[problem.code])
        return report

    def report_config_data(self, ctx: ReportConfigContext) -> Any:
        """What a cached result of this module depends on: its source and those that it imports."""
        if not ctx.path.endswith(".py") or "site-packages" in ctx.path or "typeshed" in ctx.path:
            return None
        sources = self.sources_of(ctx.path, ctx.id)
        found = sources.find(ctx.id)
        return None if found is None or not found.has_shapes else sources.digest(ctx.id)


def carrying(found: Type, ctx: AnalyzeTypeContext, digest: str) -> Type:
    """Let the shape ride on the type, unseen by subtyping, so that a daemon notices when only a string changes."""
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
