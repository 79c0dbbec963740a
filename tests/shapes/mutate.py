"""Mechanical shape mistakes in right files, judged by the run-time net: `python -m tests.shapes.mutate [FOLDER]`.

A mutant that jaxtyping and beartype let pass has no shape mistake; of those that they stop, the share that the static
checker names is printed. The folder is a package whose modules have a `demo` that runs them.
"""

import argparse
import ast
import importlib
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import install_import_hook

from spec.shapes.engine import Engine
from spec.shapes.sources import Sources

RIGHT = Path(__file__).parent / "right"
SIZED = {"view", "reshape", "zeros", "ones", "expand", "permute", "new_zeros", "randint", "randn", "empty"}
SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)


@dataclass(frozen=True)
class Mutant:
    """One edit of one file."""

    file: str
    kind: str
    line: int
    start: int
    end: int
    new: str

    def apply(self, source: str) -> str:
        """The file with the edit."""
        data = source.encode()
        return (data[: self.start] + self.new.encode() + data[self.end :]).decode()


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """All mutants of a file."""
    offsets = [0]
    for line in source.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    tree = ast.parse(source)
    demo = {id(n) for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "demo" for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and id(node) not in demo:
            for kind, target, new in edits(node, source):
                start = offsets[target.lineno - 1] + target.col_offset
                end = offsets[(target.end_lineno or 0) - 1] + (target.end_col_offset or 0)
                yield Mutant(file, kind, target.lineno, start, end, new)


def edits(node: ast.expr, source: str) -> Iterator[tuple[str, ast.expr, str]]:
    """The edits at one expression: their kind, what they replace, and by what."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "->" in node.value:
        for new in swapped_words(node.value):
            yield "pattern", node, repr(new)
    if not isinstance(node, ast.Call):
        if isinstance(node, ast.Attribute) and node.attr in ("mT", "T"):
            yield "transpose", node, ast.unparse(node.value)
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if isinstance(node.func, ast.Attribute) and name in ("transpose", "unsqueeze", "squeeze", "flatten"):
        yield "transpose" if name == "transpose" else "dropped", node, ast.unparse(node.func.value)
    if name in SIZED or name in ("Linear", "Embedding"):
        for i in range(len(node.args) - 1):
            args = list(node.args)
            args[i], args[i + 1] = args[i + 1], args[i]
            if ast.dump(args[i]) != ast.dump(args[i + 1]):
                kind = "constructor" if name in ("Linear", "Embedding") else "sizes"
                yield kind, node, ast.unparse(ast.Call(node.func, args, node.keywords))
    if name in ("Linear", "Embedding", "LayerNorm", "RMSNorm") and node.args:
        for i, arg in enumerate(node.args[:2]):
            args = [*node.args[:i], ast.BinOp(arg, ast.Mult(), ast.Constant(2)), *node.args[i + 1 :]]
            yield "constructor", node, ast.unparse(ast.Call(node.func, args, node.keywords))
    for keyword in node.keywords:
        if keyword.arg == "keepdim":
            yield "keepdim", keyword.value, "False"
        if keyword.arg in ("dim", "axis"):
            yield from axis_edits(keyword.value)
    if name in (
        "transpose",
        "softmax",
        "sum",
        "mean",
        "chunk",
        "unsqueeze",
        "flatten",
        "squeeze",
        "cumsum",
        "unflatten",
    ):
        for arg in node.args:
            yield from axis_edits(arg)
    tensors = len(node.args) > 1 and all(isinstance(arg, ast.Name) for arg in node.args[:2])
    if tensors and name not in ("zip", "range", "isinstance", "Linear", "Embedding", *SIZED):
        args = [node.args[1], node.args[0], *node.args[2:]]
        yield "arguments", node, ast.unparse(ast.Call(node.func, args, node.keywords))


def axis_edits(node: ast.expr) -> Iterator[tuple[str, ast.expr, str]]:
    """Another axis."""
    try:
        axis = ast.literal_eval(node)
    except ValueError:
        return
    if isinstance(axis, int):
        yield "axis", node, str(axis - 1 if axis else axis + 1)
        yield "axis", node, str(axis + 1 if axis != -1 else 0)


def swapped_words(pattern: str) -> Iterator[str]:
    """Two neighbouring names of one side exchanged."""
    left, right = pattern.split("->")
    for side, frame in ((left, "{}->" + right), (right, left + "->{}")):
        letters = not any(c.isspace() for c in pattern.strip())
        words = list(side) if letters else side.split(" ")
        named = [i for i, word in enumerate(words) if word.strip("(),. ")]
        for i, j in pairwise(named):
            a, b = words[i].strip("(),"), words[j].strip("(),")
            if a == b:
                continue
            new = list(words)
            new[i], new[j] = words[i].replace(a, b), words[j].replace(b, a)
            yield frame.format(("" if letters else " ").join(new))


class Judge:
    """A copy of the folder, run and checked with one file replaced."""

    def __init__(self, folder: Path) -> None:
        self.work = Path(tempfile.mkdtemp())
        self.round, self.name = 0, "mutated"
        self.folder = self.work / self.name
        shutil.copytree(folder, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.py"))}
        sys.path.insert(0, str(self.work))
        sys.dont_write_bytecode = True
        torch.set_num_threads(1)

    def close(self) -> None:
        """Remove the copy."""
        sys.path.remove(str(self.work))
        self.forget()
        shutil.rmtree(self.work)

    def forget(self) -> None:
        """Let the next import read the files again, by another name: beartype remembers classes by theirs."""
        for name in [name for name in sys.modules if name.split(".")[0] == self.name]:
            del sys.modules[name]
        self.round += 1
        self.name = f"mutated_{self.round}"
        self.folder = self.folder.rename(self.work / self.name)
        importlib.invalidate_caches()

    def users(self, file: str) -> list[str]:
        """A file and those that import it, directly or not."""
        found = [file]
        for name in found:
            found += [n for n, text in self.sources.items() if f"from .{name} import" in text and n not in found]
        return found

    def fails(self, file: str) -> BaseException | None:
        """What the run-time net says."""
        self.forget()
        try:
            with install_import_hook(self.name, "beartype.beartype"):
                for name in self.users(file):
                    torch.manual_seed(0)
                    demo: Callable[[], None] = importlib.import_module(f"{self.name}.{name}").demo
                    demo()
        except Exception as error:
            return error
        return None

    def alarms(self, file: str) -> list[str]:
        """What the checker says."""
        engine = Engine(Sources([str(self.work)]).load)
        names = [f"{self.name}.{name}" for name in self.users(file)]
        return [
            f"{problem.line}: {problem.message} [{problem.code}]" for n in names for problem in engine.check_module(n)
        ]

    def judge(self, mutant: Mutant) -> str:
        """caught, missed, or undetectable; an alarm where the net is silent is none of these."""
        (self.folder / f"{mutant.file}.py").write_text(mutant.apply(self.sources[mutant.file]), encoding="utf-8")
        try:
            error, alarms = self.fails(mutant.file), self.alarms(mutant.file)
        finally:
            (self.folder / f"{mutant.file}.py").write_text(self.sources[mutant.file], encoding="utf-8")
        if error is None:
            return "alarm where the net is silent" if alarms else "undetectable"
        if not isinstance(error, SHAPE_ERRORS):
            return "another error"
        return "caught" if alarms else "missed"


def measure(folder: Path, limit: int | None = None, seed: int = 0, show: bool = False) -> Counter[tuple[str, str]]:
    """Judge the mutants of a folder, or some of them: how many there are of each kind and verdict."""
    judge = Judge(folder)
    every = [m for file, source in judge.sources.items() if file != "__init__" for m in mutants(file, source)]
    if limit is not None and limit < len(every):
        every = random.Random(seed).sample(every, limit)
    counts: Counter[tuple[str, str]] = Counter()
    try:
        for mutant in every:
            verdict = judge.judge(mutant)
            counts[mutant.kind, verdict] += 1
            if show and verdict in ("missed", "alarm where the net is silent"):
                print(f"{verdict}: {mutant.file}.py:{mutant.line} {mutant.kind}: {mutant.new}")
    finally:
        judge.close()
    return counts


def share(counts: Counter[tuple[str, str]], kind: str | None = None) -> tuple[int, int]:
    """How many are caught, of how many that the run-time net stops."""
    found = dict.fromkeys(("caught", "missed"), 0)
    for (of, verdict), count in counts.items():
        if verdict in found and kind in (None, of):
            found[verdict] += count
    return found["caught"], sum(found.values())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=RIGHT)
    parser.add_argument("--limit", type=int, help="judge this many, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="list what is missed")
    options = parser.parse_args()
    counts = measure(options.folder, options.limit, options.seed, options.show)
    print("| kind of mutant | caught | stopped by the run-time net | share |\n| --- | --- | --- | --- |")
    for kind in [*sorted({kind for kind, _ in counts}), None]:
        caught, every = share(counts, kind)
        print(f"| {kind or 'all'} | {caught} | {every} | {caught / max(every, 1):.1%} |")
    for other in ("undetectable", "alarm where the net is silent", "another error"):
        print(f"{sum(count for (_, verdict), count in counts.items() if verdict == other):5} {other}")


if __name__ == "__main__":
    main()
