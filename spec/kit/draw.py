"""Random cases for a requirement: `@for_all(q="batch query d_k", k="batch key d_k")`.

Only sizes are drawn, each axis another size, and the values follow from a seed: so the smallest failing case has small
shapes and ordinary numbers, and no two axes have one size by accident. The cases that decide are drawn here, by seeds:
every machine and every order of tests sees the same ones. Hypothesis looks for the smallest of the failing ones, when
one has failed; what it draws depends on its version and on the modules that are loaded, so no verdict may hang on it.
"""

import functools
import inspect
import itertools
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spec.kit.record import Log
from spec.kit.verdict import Broken, CannotCheck, NotOffered

LEAST = {"heads": 2, "d_model": 2, "d_k": 2, "vocab": 5}  # sizes below which an axis says nothing; others start at 1
MOST = 7
SLOW = 1.0  # seconds of computing: a failing case that takes longer is shown as it is, and no smaller one is looked for
COMBINATIONS = 16  # cases of a requirement that draws no sizes, where it asks for no other number


@dataclass
class Options:
    """How cases are drawn in this process: the plugin sets it once."""

    examples: int = 5
    shrink: bool = True
    seed: int = 0
    pulse: Callable[[], None] = lambda: None  # called before every case: whoever waits for this process sees it live


options = Options()


@dataclass(frozen=True)
class Axis:
    """The size of an axis as a number: `heads=axis("heads")`."""

    name: str


@dataclass(frozen=True)
class Values:
    """A tensor's axes and what it is filled with."""

    axes: str
    kind: str = "normal"
    below: str | int = 2
    scale: float = 1.0
    dtype: torch.dtype = torch.float32


def axis(name: str) -> Any:
    """The size of an axis, as a number."""
    return Axis(name)


def integers(axes: str, below: str | int) -> Any:
    """Integers from 0 to `below` − 1; `below` may be an axis: `integers("batch position", below="vocab")`."""
    return Values(axes, "integers", below, dtype=torch.long)


def booleans(axes: str) -> Any:
    """True and False by chance."""
    return Values(axes, "booleans", dtype=torch.bool)


def normal(axes: str, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Any:
    """Normal numbers of another size or type."""
    return Values(axes, scale=scale, dtype=dtype)


def doubles(axes: str) -> Any:
    """Normal numbers in float64, for derivatives and tight comparisons."""
    return Values(axes, dtype=torch.float64)


def _factors(axes: str) -> list[list[str]]:
    """`batch (heads d_k)` as [[batch], [heads, d_k]]; digits are sizes."""
    groups: list[list[str]] = []
    inside = False
    for word in axes.replace("(", " ( ").replace(")", " ) ").split():
        if word in "()":
            inside = word == "("
            groups += [[]] if inside else []
        elif inside:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def axes_of(pattern: Any) -> list[str]:
    """The names of the axes whose sizes an argument needs."""
    if isinstance(pattern, str):
        pattern = Values(pattern)
    if isinstance(pattern, Axis):
        return [pattern.name]
    if isinstance(pattern, Values):
        names = [name for group in _factors(pattern.axes) for name in group if not name.isdigit()]
        return names + ([pattern.below] if isinstance(pattern.below, str) else [])
    return []


def _fill(argument: str, pattern: Values, sizes: dict[str, int]) -> Tensor:
    shape = [_product(group, sizes) for group in _factors(pattern.axes)]
    source = generator(argument, *shape)
    if pattern.kind == "integers":
        below = sizes[pattern.below] if isinstance(pattern.below, str) else pattern.below
        return torch.randint(below, shape, generator=source)
    if pattern.kind == "booleans":
        return torch.rand(shape, generator=source) < 0.5
    return torch.randn(shape, generator=source, dtype=pattern.dtype) * pattern.scale


def _product(group: Sequence[str], sizes: dict[str, int]) -> int:
    size = 1
    for name in group:
        size *= int(name) if name.isdigit() else sizes[name]
    return size


def generator(*key: object) -> torch.Generator:
    """A source of random numbers of its own, the same for the same key; requirements never use the global one."""
    return torch.Generator().manual_seed(zlib.crc32(repr((options.seed, *key)).encode()))


def randn(*shape: int, key: object = "", dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers that are the same every time: for the body of a requirement."""
    return torch.randn(shape, generator=generator("randn", key, *shape), dtype=dtype)


def tokens(vocab: int, *shape: int, key: object = "") -> Tensor:
    """Token ids that are the same every time: for the body of a requirement."""
    return torch.randint(vocab, shape, generator=generator("tokens", key, vocab, *shape))


def deciding(patterns: dict[str, Any], examples: int | None = None) -> list[dict[str, Any]]:
    """The cases of a requirement, about as many as `examples`.

    First come small ones in which every item of every list stands beside the first items of the others: no option is
    left to chance. Then the smallest sizes, the smallest ones counted from the last axis, and sizes by chance; where
    nothing has a size, other combinations of the lists' items.
    """
    names, items = _names(patterns), _items(patterns)
    count = examples or (options.examples if names else COMBINATIONS)
    stars = [[n if place == at else 0 for at in range(len(items))] for place, of in enumerate(items) for n in range(of)]
    first = list(map(list, dict.fromkeys(map(tuple, stars)))) if max(items) > 1 or not names else []
    drawn = [(_middle(names), star) for star in first]
    for number in range(max(count - len(first), 3) if names else 0):
        source = generator("case", number, *names)
        sizes: dict[str, int] = {}
        for name in reversed(names) if number == 1 else names:
            left = free(name, names, sizes)
            sizes[name] = left[0 if number < 2 else int(torch.randint(len(left), (), generator=source))]
        drawn.append((sizes, [int(torch.randint(of, (), generator=source)) for of in items]))
    if not names and count > len(first):
        others = [list(choose) for choose in itertools.product(*map(range, items)) if list(choose) not in first]
        order = torch.randperm(len(others), generator=generator("others", len(others))).tolist()
        drawn += [({}, others[n]) for n in order[: count - len(first)]]
    return [case_of(patterns, *one) for one in drawn]


def combinations(patterns: dict[str, Any]) -> list[dict[str, Any]]:
    """Small cases with the other combinations of the lists' items: for what does not offer the first items of all."""
    sizes = _middle(_names(patterns))
    every = itertools.product(*map(range, _items(patterns)))
    return [case_of(patterns, sizes, choose) for choose in every if sum(map(bool, choose)) > 1]


def _names(patterns: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for pattern in patterns.values() for name in axes_of(pattern)))


def _items(patterns: dict[str, Any]) -> list[int]:
    return [len(pattern) if isinstance(pattern, list) else 1 for pattern in patterns.values()]


def _middle(names: list[str]) -> dict[str, int]:
    """Sizes at which every axis says something, no two alike."""
    return dict(zip(names, itertools.count(4), strict=False))


def free(name: str, names: Sequence[str], taken: dict[str, int]) -> list[int]:
    """The sizes that an axis can have beside the others."""
    return [n for n in range(LEAST.get(name, 1), MOST + len(names)) if n not in taken.values()][:MOST]


def more_cases(patterns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Other cases of a requirement than those that decide, of larger and other sizes."""
    names, cases = _names(patterns), []
    for number in range(count):
        source = generator("more", number, *names)
        sizes = (2 + torch.randperm(max(MOST, len(names)), generator=source)).tolist()
        choose = [int(n) for n in torch.randint(2**20, (len(patterns),), generator=source)]
        cases.append(case_of(patterns, dict(zip(names, sizes, strict=False)), choose))
    return cases


def case_of(patterns: dict[str, Any], sizes: dict[str, int], choose: Sequence[int]) -> dict[str, Any]:
    """The arguments of one case; `choose` picks from the lists."""
    case: dict[str, Any] = {}
    for (argument, pattern), number in zip(patterns.items(), choose, strict=True):
        if isinstance(pattern, list):
            case[argument] = pattern[number % len(pattern)]
        elif isinstance(pattern, Axis):
            case[argument] = sizes[pattern.name]
        else:
            values = Values(pattern) if isinstance(pattern, str) else pattern
            case[argument] = _fill(argument, values, sizes)
    return case


def begin(log: Log, body: Callable[..., None], case: dict[str, Any]) -> None:
    """An empty log, and global random numbers that do not depend on what ran before."""
    options.pulse()
    number = zlib.crc32(repr((body.__qualname__, options.seed)).encode())
    torch.default_generator.manual_seed(number)
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)
    log.begin(body, case)


def run_case(log: Log, body: Callable[..., None], case: dict[str, Any], impl: Any) -> None:
    """One case from a clean start: nothing of the case before is left, and the random numbers are its own."""
    begin(log, body, case)
    body(impl, **{name: value.clone() if isinstance(value, Tensor) else value for name, value in case.items()})


def for_all(*, examples: int | None = None, **patterns: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs the requirement on many small cases.

    A string names the axes of a tensor of normal numbers, `integers` `booleans` `normal` `doubles` other values,
    `axis("heads")` is the size of an axis as a number, a list is one of its items. Equal names are equal sizes, other
    names other sizes; `(heads d_k)` is a product, a digit a fixed size.
    """

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(body)
        def test(impl: Any, **fixtures: Any) -> None:
            missing: list[str] = []
            ran: list[bool] = []

            def example(case: dict[str, Any]) -> None:
                try:
                    run_case(impl.log, body, {**case, **fixtures}, impl)
                    ran.append(True)
                except NotOffered as option:
                    missing.append(str(option))

            def rest() -> Iterator[dict[str, Any]]:
                yield from combinations(patterns) if missing else []

            for case in itertools.chain(deciding(patterns, examples), rest()):
                begun = time.process_time()
                try:
                    example(case)
                except (NotImplementedError, Broken):
                    raise  # no smaller case would say more
                except Exception:
                    if options.shrink and time.process_time() - begun < SLOW:
                        from spec.kit.shrink import smallest  # Hypothesis takes a while to load

                        smallest(example, body.__name__, patterns)
                        example(case)
                    raise
            if missing and not ran:
                raise CannotCheck(f"not offered: {missing[0]}")

        signature = inspect.signature(body)
        kept = [p for name, p in signature.parameters.items() if name not in patterns]
        test.patterns = patterns  # type: ignore[attr-defined]
        test.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return test

    return decorate
