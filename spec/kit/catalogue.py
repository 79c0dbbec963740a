"""What the chapters hold: their exercises, their requirements, their mistakes."""

import ast
import functools
import importlib
import inspect
import textwrap
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from spec import CHAPTERS
from spec.kit.returns import Contract

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Exercise:
    """One name that an implementation has to offer."""

    chapter: str
    name: str
    contract: Contract
    methods: dict[str, Contract | None]  # of what a class makes; empty for a function
    is_class: bool


@dataclass(frozen=True)
class Requirement:
    """One test, as a learner reads it."""

    chapter: str
    name: str
    function: Callable[..., None]
    sentence: str
    why: str
    source: str
    hint: str
    robust: bool
    same_weights: bool
    trains: bool  # for seconds, so that nothing is run again to name what failed
    rejects: tuple[str, ...]
    uses: tuple[str, ...]  # the exercises that it calls, in the order of its text
    line: int

    @property
    def id(self) -> str:
        """`chapter.name`, the same everywhere."""
        return f"{self.chapter}.{self.name}"

    @property
    def place(self) -> str:
        """File and line, to be clicked on."""
        return f"spec/{self.chapter}.py:{self.line}"


@functools.cache
def chapter_module(chapter: str) -> ModuleType:
    """The chapter's specification."""
    return importlib.import_module(f"spec.{chapter}")


@functools.cache
def exercises(chapter: str) -> dict[str, Exercise]:
    """The chapter's exercises, in the order of its Protocol."""
    protocol = getattr(chapter_module(chapter), chapter.title().replace("_", ""))
    found = {}
    for name, method in vars(protocol).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            contract = Contract.of(method)
            made = contract.hints.get("return")
            is_class = name[0].isupper()
            found[name] = Exercise(chapter, name, contract, _methods(made) if is_class else {}, is_class)
    return found


def _methods(made: Any) -> dict[str, Contract | None]:
    """The methods that a class's objects are called by: of `Annotated[nn.Module, Protocol]` or of a Protocol."""
    protocols = [made, *typing.get_args(made)]
    listed: dict[str, Contract | None] = {
        name: Contract.of(method)
        for protocol in protocols
        if inspect.isclass(protocol) and protocol is not nn.Module and protocol.__module__.startswith("spec.")
        for name, method in vars(protocol).items()
        if inspect.isfunction(method) and (name == "__len__" or not name.startswith("_"))
    }
    return listed


def exercise(name: str) -> Exercise | None:
    """The exercise of that name, in whichever chapter."""
    return next((exercises(chapter)[name] for chapter in CHAPTERS if name in exercises(chapter)), None)


@functools.cache
def requirements(chapter: str) -> dict[str, Requirement]:
    """The chapter's requirements, easy to hard, robust ones last."""
    module = chapter_module(chapter)
    found = [
        requirement(function)
        for name, function in vars(module).items()
        if name.startswith("test_") and inspect.isfunction(function)
    ]
    return {r.name: r for r in sorted(found, key=lambda r: r.robust)}


@functools.cache
def requirement(function: Callable[..., None]) -> Requirement:
    """Reads a test function: its docstring, its marks and the exercises that it calls."""
    body = inspect.unwrap(function)
    marks = getattr(function, "pytestmark", [])
    names = {mark.name for mark in marks}
    text, _, hint = inspect.cleandoc(body.__doc__ or "").partition("\n\nHint: ")
    text, _, source = text.partition("\n\nSource: ")
    sentence, _, why = text.partition("\n\n")
    return Requirement(
        chapter=body.__module__.rpartition(".")[2],
        name=body.__name__.removeprefix("test_"),
        function=function,
        sentence=" ".join(sentence.split()),
        why=why.strip(),
        source=" ".join(source.split()),
        hint=" ".join(hint.split()),
        robust="robust" in names,
        same_weights="same_weights" in names,
        trains="training" in names,
        rejects=tuple(name for mark in marks if mark.name == "rejects" for name in mark.args),
        uses=_used(body),
        line=body.__code__.co_firstlineno,
    )


def _used(body: Callable[..., None]) -> tuple[str, ...]:
    """The exercises that a requirement calls, itself or in the helpers that it hands the implementation to."""
    names: dict[str, None] = {}
    waiting, seen = [inspect.unwrap(body)], set[Callable[..., None]]()
    while waiting:
        function = waiting.pop(0)
        seen.add(function)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "impl":
                names[node.attr] = None
            if isinstance(node, ast.Call) and any(isinstance(a, ast.Name) and a.id == "impl" for a in node.args):
                helper = _named(node.func, function.__globals__)
                if inspect.isfunction(helper) and helper.__module__.startswith("spec.") and helper not in seen:
                    waiting.append(helper)
    return tuple(name for name in names if exercise(name))


def _named(node: ast.expr, names: dict[str, Any]) -> Any:
    """What `helper` or `module.helper` stands for."""
    if isinstance(node, ast.Attribute):
        return getattr(_named(node.value, names), node.attr, None)
    return names.get(node.id) if isinstance(node, ast.Name) else None


@dataclass(frozen=True)
class Mistake:
    """A named wrong version of one exercise."""

    chapter: str
    name: str
    of: str
    diagnosis: str
    wrong: Any


@functools.cache
def mistakes(chapter: str) -> dict[str, Mistake]:
    """The chapter's mistakes, in the order of their file."""
    module = importlib.import_module(f"spec.mistakes.{chapter}")
    return {
        name: Mistake(chapter, name, wrong.instead_of, " ".join(inspect.cleandoc(wrong.__doc__ or "").split()), wrong)
        for name, wrong in vars(module).items()
        if hasattr(wrong, "instead_of") and wrong.__module__ == module.__name__ and wrong.__dict__.get("instead_of")
    }


def mistake(name: str) -> Mistake | None:
    """The mistake of that name, in whichever chapter."""
    return next((mistakes(chapter)[name] for chapter in CHAPTERS if name in mistakes(chapter)), None)
