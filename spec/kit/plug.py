"""Finds an implementation by its place, and binds what it has not written to the next place's.

`reference`, `student`, a dotted module, a folder, one .py file, `mistake:NAME`, or several joined by `+`. Nothing of a
learner's is imported before a requirement asks for it, so an error there fails that requirement and not the run.
"""

import ast
import copy
import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from spec import CHAPTERS
from spec.kit import annotated, catalogue
from spec.kit.catalogue import ROOT, Exercise
from spec.kit.record import Log, built, guarded, offered, watched
from spec.kit.verdict import Broken, Endless, Misbehaved, NotOffered, NotWritten


class UnknownPlace(ValueError):
    """No implementation is there; the message lists what exists."""


class Place:
    """One source of chapters: a package with a module a chapter, or one module for all."""

    def __init__(self, name: str, path: Path, module: str) -> None:
        self.name, self.path, self.module = name, path, module

    @property
    def is_package(self) -> bool:
        """Whether chapters are files of their own."""
        return self.path.is_dir()

    @property
    def inside(self) -> str:
        """The folder (or file) whose lines are the implementation's own."""
        return str(self.path)

    def file(self, chapter: str) -> Path:
        """Where the chapter is, or would be."""
        return self.path / f"{chapter}.py" if self.is_package else self.path

    def load(self, chapter: str) -> ModuleType | None:
        """Imports the chapter; None where there is no such file."""
        if not self.file(chapter).exists():
            return None
        return importlib.import_module(f"{self.module}.{chapter}" if self.is_package else self.module)

    def unwritten(self, chapter: str) -> set[str]:
        """The exercises whose body is still the stub's: a docstring and `raise NotImplementedError`."""
        return _stubs(self.file(chapter))


class MistakePlace(Place):
    """The reference, copied under another name, with one exercise replaced by a wrong version."""

    def __init__(self, mistake: catalogue.Mistake) -> None:
        super().__init__(f"mistake:{mistake.name}", ROOT / "reference", f"reference_with_{mistake.name}")
        self.mistake = mistake
        _register(self.module, self.path)

    def load(self, chapter: str) -> ModuleType | None:
        """The copy's chapter; the wrong version is bound there before later chapters import it."""
        module = super().load(chapter)
        exercise = catalogue.exercise(self.mistake.of)
        if exercise is not None and chapter == exercise.chapter:  # a model's cache is a later chapter's than the model
            setattr(module, self.mistake.of, self.mistake.wrong)
        return module


def _register(name: str, path: Path) -> None:
    """Makes a folder importable as a package of that name, with or without an __init__.py."""
    if name in sys.modules:
        return
    init = path / "__init__.py" if path.is_dir() else path
    locations = [str(path)] if path.is_dir() else None
    loader = importlib.machinery.SourceFileLoader(name, str(init)) if init.exists() else None
    spec = importlib.util.spec_from_file_location(name, init, loader=loader, submodule_search_locations=locations)
    if loader is None or spec is None:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = locations
    _FOUND[name] = spec


class _Finder:
    """Answers imports of the places that were plugged in by path."""

    @staticmethod
    def find_spec(name: str, _path: Any = None, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The place of that name, if it was plugged in."""
        return _FOUND.get(name)


_FOUND: dict[str, importlib.machinery.ModuleSpec] = {}
_PLUGGED: dict[Path, str] = {}  # the module names of paths: one path is one module, however often it is asked for
sys.meta_path.insert(0, _Finder)


@functools.cache
def _tree(path: Path, _changed: float) -> ast.Module | None:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return None


def _is_stub(node: ast.AST) -> bool:
    if isinstance(node, ast.ClassDef):
        return any(_is_stub(item) for item in node.body if isinstance(item, ast.FunctionDef))
    if not isinstance(node, ast.FunctionDef):
        return False
    body = [line for line in node.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.unparse(body[0])


def _stubs(path: Path) -> set[str]:
    tree = _tree(path, path.stat().st_mtime) if path.exists() else None
    return (
        {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and _is_stub(node)}
        if tree
        else set()
    )


def line_of(path: Path, name: str) -> int:
    """The line where an exercise is defined; 1 where it is not."""
    tree = _tree(path, path.stat().st_mtime) if path.exists() else None
    found = [n.lineno for n in tree.body if getattr(n, "name", None) == name] if tree else []
    return found[0] if found else 1


def place(name: str, base: Path) -> Place:
    """Finds one place by its name; raises UnknownPlace, which lists what exists."""
    if name.startswith("mistake:"):
        mistake = catalogue.mistake(name.removeprefix("mistake:"))
        if mistake is None:
            raise UnknownPlace(_no_mistake(name.removeprefix("mistake:")))
        return MistakePlace(mistake)
    path = (base / name).expanduser()
    if path.suffix == ".py" or "/" in name or "\\" in name or path.is_dir():
        if not path.exists():
            raise UnknownPlace(f"--impl={name}: there is no file or folder {path}.")
        path = path.resolve()
        if path == ROOT / path.name:
            return Place(name, path, path.name)
        if path not in _PLUGGED:
            free = path.stem.isidentifier() and not _taken(path.stem)
            _PLUGGED[path] = path.stem if free else f"implementation_{zlib.crc32(str(path).encode())}"
            _register(_PLUGGED[path], path)
        return Place(name, path, _PLUGGED[path])
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise UnknownPlace(_no_place(name))
    folder = next(iter(spec.submodule_search_locations or []), None)
    return Place(name, Path(folder or spec.origin or "").resolve(), name)


def _taken(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return True


def _no_place(name: str) -> str:
    here = sorted(
        p.name for p in ROOT.iterdir() if p.is_dir() and (p / "attention.py").exists() and p.name not in ("spec",)
    )
    close = difflib.get_close_matches(name, here, 1)
    return (
        f"--impl={name}: there is no such implementation.{f' Did you mean {close[0]}?' if close else ''}\n"
        f"  Here are: {', '.join(here)}.\n"
        "  A folder or a file is named by its path (./my_folder, ./my_file.py), an installed module by its dotted\n"
        "  name, a known mistake as mistake:NAME (`pytest --mistakes` lists them), and a+b takes what a lacks from b."
    )


def _no_mistake(name: str) -> str:
    known = [mistake for chapter in CHAPTERS for mistake in catalogue.mistakes(chapter)]
    close = " or ".join(difflib.get_close_matches(name, known, 3))
    meant = f" Did you mean {close}?" if close else ""
    return f"--impl=mistake:{name}: there is no mistake of that name.{meant}\n  `pytest --mistakes` lists them all."


class Implementation:
    """What a requirement gets as `impl`: every exercise as an attribute, each call under watch."""

    def __init__(self, name: str, base: Path | None = None) -> None:
        self.name, self.log = name, Log()
        self.places = [place(part, base or Path.cwd()) for part in name.split("+")]
        self._chapters: dict[str, ModuleType | Broken] = {}
        self._wrapped: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Implementation({self.name!r})"

    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("_") else catalogue.exercise(name)
        if found is None:
            raise AttributeError(f"the curriculum has no exercise {name}")
        if name not in self._wrapped:
            self._wrapped[name] = self._wrap(found)
        return self._wrapped[name]

    def anew(self) -> "Implementation":
        """The same places, with nothing loaded and nothing recorded yet."""
        other = copy.copy(self)
        other.log, other._chapters, other._wrapped = Log(), {}, {}
        return other

    @property
    def home(self) -> Place:
        """The place under test; the others only help out."""
        return self.places[0]

    def module(self, chapter: str) -> ModuleType:
        """The chapter's module, overlaid; raises Broken where it cannot be imported."""
        before = CHAPTERS[: CHAPTERS.index(chapter) + 1] if chapter in CHAPTERS else (chapter,)
        overlaid = len(self.places) > 1 or isinstance(self.home, MistakePlace) or annotated.wanted
        for each in before if overlaid else (chapter,):
            if each not in self._chapters:
                self._chapters[each] = self._load(each)
        loaded = self._chapters[chapter]
        if isinstance(loaded, Broken):
            raise Broken(*loaded.args)
        return loaded

    def _load(self, chapter: str) -> ModuleType | Broken:
        layers: list[tuple[Place, ModuleType]] = []
        for source in self.places:
            try:
                module = guarded(
                    f"import of {source.file(chapter).name}", source.inside, self.log,
                    functools.partial(source.load, chapter),
                )  # fmt: skip
            except (Exception, SystemExit, Endless) as error:
                return Broken(_import_story(error, source, chapter))
            if module is not None:
                if annotated.wanted and source is self.home:
                    annotated.hold(module)
                layers.append((source, module))
        if not layers:
            return ModuleType(f"empty_{chapter}")
        first = layers[0][1]
        if layers[0][0] is not self.home:
            return first
        for name in (*catalogue.exercises(chapter), *_results(layers)):
            writers = [
                module for source, module in layers if hasattr(module, name) and name not in source.unwritten(chapter)
            ]
            if writers:
                setattr(first, name, getattr(writers[0], name))
        return first

    def unsupported(self, module: ModuleType) -> frozenset[str]:
        """What the implementation says that it does not offer."""
        listed = getattr(module, "UNSUPPORTED", ())
        package = sys.modules.get(self.home.module)
        names = {*listed, *getattr(package, "UNSUPPORTED", ())} if self.owns(module) else set()
        return frozenset(names | ({"KVCache", "cache=True"} if names & {"cache", "cache=True"} else set()))

    def owns(self, module: ModuleType) -> bool:
        """Whether a module is the implementation's own and not a helper's."""
        return str(getattr(module, "__file__", "")).startswith(self.home.inside)

    def _wrap(self, found: Exercise) -> Callable[..., Any]:
        module = self.module(found.chapter)
        raw = getattr(module, found.name, None)
        if raw is None and found.name in self.unsupported(module):
            raise NotOffered(found.name)
        if raw is None or (len(self.places) == 1 and found.name in self.home.unwritten(found.chapter)):
            raise NotWritten(f"{found.name} is not written yet")
        inside = self.home.inside
        if inspect.isclass(raw):
            watch = {name: contract for name, contract in found.methods.items() if hasattr(raw, name)}
            made = built(found.name, raw, watch, inside, self.log, self.unsupported(module)) if watch else raw
        elif callable(raw):
            made = watched(found.name, raw, None if found.is_class else found.contract, inside, self.log)
        else:
            raise Broken(f"{found.name} is {type(raw).__name__}, not a function or a class")
        return offered(found.name, self.unsupported(module), found.contract, made)

    def raw(self, name: str) -> Any:
        """The exercise itself, without the watch: for what compiles or pickles."""
        found = catalogue.exercise(name)
        assert found is not None
        getattr(self, name)
        return getattr(self.module(found.chapter), name)


def _results(layers: Sequence[tuple[Place, ModuleType]]) -> list[str]:
    """Classes that are no exercises, `History` say, which whoever writes an exercise may take as given."""
    return [
        name
        for _, module in layers[1:]
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def _import_story(error: BaseException, source: Place, chapter: str) -> str:
    """What went wrong at import, in a learner's words, with file and line."""
    where = source.file(chapter)
    if isinstance(error, SyntaxError):
        text = (error.text or "").strip()
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}{f', in: {text}' if text else ''}"
    if isinstance(error, Endless):
        return f"{where}: {error}"
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(source.inside)]
    place = f"{lines[-1].filename}:{lines[-1].lineno}" if lines else str(where)
    said = str(error) or (f"in: {lines[-1].line}" if lines else "")  # a bare assert has no words
    return f"{where}: {error}" if isinstance(error, Misbehaved) else f"{place}: {type(error).__name__}: {said}"
