"""Where the sources of a project lie."""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIBRARIES = frozenset(("torch", "einops", "math", "copy"))  # what the rules know
FOREIGN = LIBRARIES | {"numpy", "jaxtyping", *sys.stdlib_module_names}
DEBUG = "SHAPES_DEBUG" in os.environ

_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]*(\([^)]*\)|[^\n#]*)|import[ \t]+([^\n]*))", re.M)


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


@dataclass(frozen=True)
class Source:
    """A file as it was read, and what it may import."""

    path: str
    text: str
    stamp: tuple[int, int]
    digest: bytes
    imports: frozenset[str]
    has_shapes: bool


class Sources:
    """The modules below some folders; a file is read again only when it has changed."""

    def __init__(self, roots: Iterable[str]) -> None:
        self.roots = list(dict.fromkeys(roots))
        self.cache: dict[str, Source] = {}

    def find(self, name: str) -> Source | None:
        """A module by its dotted name."""
        parts = name.split(".")
        if parts[0] in FOREIGN or not all(part.isidentifier() for part in parts):
            return None
        for root in self.roots:
            base = os.path.join(root, *parts)
            for path in (base + ".py", os.path.join(base, "__init__.py")):
                try:
                    status = os.stat(path)
                    return self._read(path, name, (status.st_mtime_ns, status.st_size))
                except (OSError, UnicodeDecodeError):
                    continue
        return None

    def _read(self, path: str, name: str, stamp: tuple[int, int]) -> Source:
        known = self.cache.get(path)
        if known is not None and known.stamp == stamp:
            return known
        text = Path(path).read_text(encoding="utf-8")
        package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        imports = frozenset(imported(text, package))
        digest = hashlib.sha256(text.encode()).digest()
        self.cache[path] = Source(path, text, stamp, digest, imports, "jaxtyping" in text)
        return self.cache[path]

    def load(self, name: str) -> tuple[str, str] | None:
        """A module's path and text, as the engine asks for it."""
        found = self.find(name)
        return None if found is None else (found.path, found.text)

    def digest(self, name: str) -> str:
        """Of a module and all that it imports from the project: what a check of it may depend on."""
        total = hashlib.sha256(own_digest())
        waiting, seen = [name], {name}
        while waiting:
            found = self.find(waiting.pop())
            if found is not None:
                total.update(found.digest)
                new = sorted(found.imports - seen)
                seen.update(new)
                waiting += new
        return total.hexdigest()


@cache
def own_digest() -> bytes:
    """Of the checker itself, since another one may say other things."""
    total = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.digest()


def imported(text: str, package: str) -> Iterator[str]:
    """The modules that a source may import; without parsing, since every run of mypy asks for every file."""
    for match in _IMPORT.finditer(text):
        base, names, plain = match.groups()
        if plain is not None:
            yield from (part.split(" as ")[0].strip() for part in plain.split("#")[0].split(","))
            continue
        dots = len(base) - len(base.lstrip("."))
        if dots:
            parts = package.split(".")[: len(package.split(".")) - dots + 1]
            base = ".".join([*parts, *([base[dots:]] if base[dots:] else [])])
        yield base
        yield from (f"{base}.{name.split(' as ')[0].strip()}" for name in names.strip("() \n").split(","))
