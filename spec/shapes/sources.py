"""Where the sources of a project lie."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .modules import FOREIGN, Loader, Module


def root_of(path: str, module: str) -> str:
    """The folder in which a module's dotted name begins."""
    folder = Path(path).absolute().parent
    parts = module.split(".")
    for _ in parts if path.endswith("__init__.py") else parts[1:]:
        folder = folder.parent
    return str(folder)


def name_of(path: Path) -> str:
    """The dotted name of a file, by the packages that it lies in."""
    parts = [] if path.stem == "__init__" else [path.stem]
    folder = path.absolute().parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


def loader(roots: Iterable[str]) -> Loader:
    """Find modules by name below these folders."""
    folders = [Path(root) for root in dict.fromkeys(roots)]

    def load(name: str) -> tuple[str, str] | None:
        parts = name.split(".")
        if parts[0] in FOREIGN or not all(part.isidentifier() for part in parts):
            return None
        for folder in folders:
            for path in (folder.joinpath(*parts).with_suffix(".py"), folder.joinpath(*parts, "__init__.py")):
                if path.is_file():
                    try:
                        return str(path), path.read_text(encoding="utf-8")
                    except (OSError, UnicodeDecodeError):
                        return None
        return None

    return load


def digest(name: str, load: Loader, version: int) -> str:
    """Of a module and all that it imports from the project: what a check of it may depend on."""
    total = hashlib.sha256(str(version).encode())
    waiting, seen = [name], {name}
    while waiting:
        found = load(waiting.pop())
        if found is None:
            continue
        total.update(found[1].encode())
        try:
            module = Module(name, *found, lambda _: None)
        except (SyntaxError, RecursionError, ValueError):
            continue
        for full in module.imports.values():
            for candidate in (full, full.rpartition(".")[0]):
                if candidate and candidate not in seen:
                    seen.add(candidate)
                    waiting.append(candidate)
    return total.hexdigest()
