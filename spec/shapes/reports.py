"""What mypy is told of one file, and at which annotation of it."""

import ast

from .annotations import DTYPES
from .engine import Engine
from .interpreter import Problem
from .modules import FunctionInfo, Module
from .sources import Sources

Place = tuple[int, int]  # line and column


class FileReport:
    """One file of this run: the problems of each function belong to its first shape annotation."""

    def __init__(self, name: str, sources: Sources, digest: str) -> None:
        self.digest = digest
        self.engine = Engine(sources.load)
        self.functions: dict[Place, list[FunctionInfo]] = {}
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
                self.functions.setdefault(min(own), []).append(info)
            else:
                homeless.append(info)
        if spots:
            self.functions.setdefault(min(spots), []).extend(homeless)

    def problems(self, place: Place) -> list[Problem]:
        """What is to be reported at a place."""
        return [problem for info in self.functions.get(place, ()) for problem in self.engine.check(info)]


def shape_place(module: Module, node: ast.AST) -> Place | None:
    """Where a jaxtyping annotation stands."""
    return (node.lineno, node.col_offset) if isinstance(node, ast.Subscript) and module.jaxtyping(node.value) else None


def is_dtype(name: str) -> bool:
    """Is this one of jaxtyping's names?"""
    return name in DTYPES
