"""Random cases for a requirement: `@for_all(q="batch query d_k", k="batch key d_k")`.

Only sizes are drawn, each axis another size, and the values follow from a seed: so the smallest failing case has small
shapes and ordinary numbers, and no two axes have one size by accident.
"""

import functools
import inspect
import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as reseed
from hypothesis import strategies as st
from torch import Tensor

from spec.kit.record import Log
from spec.kit.verdict import Broken, CannotCheck, NotOffered

LEAST = {"heads": 2, "d_model": 2, "d_k": 2, "vocab": 5}  # sizes below which an axis says nothing; others start at 1
MOST = 7


@dataclass
class Options:
    """How cases are drawn in this process: the plugin sets it once."""

    examples: int = 6
    shrink: bool = True
    seed: int = 0


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


def _axes_of(pattern: Any) -> list[str]:
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


def _covering(patterns: dict[str, Any]) -> list[dict[str, Any]]:
    """Small cases in which every item of every list occurs: no option is left to chance."""
    sizes: dict[str, int] = {}
    for name in dict.fromkeys(name for pattern in patterns.values() for name in _axes_of(pattern)):
        sizes[name] = next(n for n in itertools.count(4) if n not in sizes.values())
    longest = max((len(pattern) for pattern in patterns.values() if isinstance(pattern, list)), default=0)
    return [_case(patterns, sizes, range(number, number + len(patterns))) for number in range(longest)]


def more_cases(patterns: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Other cases of a requirement than those that Hypothesis came by, of larger and other sizes."""
    names = list(dict.fromkeys(name for pattern in patterns.values() for name in _axes_of(pattern)))
    cases = []
    for number in range(count):
        source = generator("more", number, *names)
        free = (2 + torch.randperm(max(MOST, len(names)), generator=source)).tolist()
        choose = [int(n) for n in torch.randint(2**20, (len(patterns),), generator=source)]
        cases.append(_case(patterns, dict(zip(names, free, strict=False)), choose))
    return cases


def _case(patterns: dict[str, Any], sizes: dict[str, int], choose: Sequence[int]) -> dict[str, Any]:
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


@st.composite
def _cases(draw: st.DrawFn, patterns: dict[str, Any]) -> dict[str, Any]:
    names = dict.fromkeys(name for pattern in patterns.values() for name in _axes_of(pattern))
    sizes: dict[str, int] = {}
    for name in names:
        free = [n for n in range(LEAST.get(name, 1), MOST + len(names)) if n not in sizes.values()]
        sizes[name] = draw(st.sampled_from(free[:MOST]))
    lists = [pattern if isinstance(pattern, list) else [0] for pattern in patterns.values()]
    return _case(patterns, sizes, [draw(st.integers(0, len(items) - 1)) for items in lists])


class _Settled(BaseException):
    """What no smaller case can change: not written, or not to be imported. Hypothesis is not to shrink it."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def run_case(log: Log, body: Callable[..., None], case: dict[str, Any], impl: Any) -> None:
    """One case from a clean start: nothing of the case before is left, and the random numbers are its own."""
    torch.default_generator.manual_seed(zlib.crc32(repr((body.__qualname__, options.seed)).encode()))
    log.begin(body, case)
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
                except (NotImplementedError, Broken) as error:
                    raise _Settled(error) from error

            phases = [Phase.generate, Phase.shrink] if options.shrink else [Phase.generate]
            covering = _covering(patterns)
            count = max((examples or options.examples) - len(covering), 3)
            example.__name__ = body.__name__  # Hypothesis derives its choices from it
            quiet = settings(
                max_examples=count, phases=phases, deadline=None, derandomize=options.seed == 0, database=None,
                report_multiple_bugs=False, verbosity=Verbosity.quiet, suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            drawn = quiet(given(case=_cases(patterns))(example))
            try:
                for case in covering:
                    example(case)
                (reseed(options.seed)(drawn) if options.seed else drawn)()
            except _Settled as settled:
                raise settled.reason from None
            if missing and not ran:
                raise CannotCheck(f"not offered: {missing[0]}")

        signature = inspect.signature(body)
        kept = [p for name, p in signature.parameters.items() if name not in patterns]
        test.patterns = patterns  # type: ignore[attr-defined]
        test.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
        return test

    return decorate
