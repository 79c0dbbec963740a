"""Sizes as formulas: Laurent polynomials over named atoms, so that `d_model / heads * heads` is `d_model` again.

Atoms are strings: `batch` is an axis name of the function under analysis, `i:cfg.d_model` an integer of the code known
only by its path, `?7:d_k` a flexible size that may still become anything, `#batch` either `batch` or 1.
"""

import itertools
from collections.abc import Callable, Iterable
from fractions import Fraction

Powers = tuple[tuple[str, int], ...]  # sorted (atom, power) pairs: one product


class Dim:
    """A sum of products of atoms with rational coefficients."""

    __slots__ = ("terms",)

    def __init__(self, terms: dict[Powers, Fraction]) -> None:
        self.terms = {powers: c for powers, c in terms.items() if c}

    @staticmethod
    def const(value: int | Fraction) -> "Dim":
        """A plain number."""
        return Dim({(): Fraction(value)})

    @staticmethod
    def atom(name: str, power: int = 1) -> "Dim":
        """One atom, to a power."""
        return Dim({((name, power),): Fraction(1)})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __add__(self, other: "Dim") -> "Dim":
        terms = dict(self.terms)
        for powers, c in other.terms.items():
            terms[powers] = terms.get(powers, Fraction(0)) + c
        return Dim(terms)

    def __neg__(self) -> "Dim":
        return Dim({powers: -c for powers, c in self.terms.items()})

    def __sub__(self, other: "Dim") -> "Dim":
        return self + -other

    def __mul__(self, other: "Dim") -> "Dim":
        terms: dict[Powers, Fraction] = {}
        for (p, c), (q, d) in itertools.product(self.terms.items(), other.terms.items()):
            merged = dict(p)
            for atom, k in q:
                merged[atom] = merged.get(atom, 0) + k
            powers = tuple(sorted((atom, k) for atom, k in merged.items() if k))
            terms[powers] = terms.get(powers, Fraction(0)) + c * d
        return Dim(terms)

    def over(self, other: "Dim") -> "Dim | None":
        """The quotient, where the divisor is a single product."""
        if len(other.terms) != 1:
            return None
        ((powers, c),) = other.terms.items()
        return self * Dim({tuple((atom, -k) for atom, k in powers): 1 / c})

    @property
    def value(self) -> int | None:
        """The integer that this is, if it is one."""
        if not self.terms:
            return 0
        c = self.terms.get(())
        return int(c) if c is not None and len(self.terms) == 1 and c.denominator == 1 else None

    @property
    def atoms(self) -> set[str]:
        """All atoms in the formula."""
        return {atom for powers in self.terms for atom, _ in powers}

    @property
    def single(self) -> str | None:
        """The atom that this is, if it is one."""
        if len(self.terms) == 1:
            ((powers, c),) = self.terms.items()
            if c == 1 and len(powers) == 1 and powers[0][1] == 1:
                return powers[0][0]
        return None

    def substitute(self, replace: Callable[[str], "Dim | None"], kept: bool = True) -> "Dim | None":
        """Put in what `replace` knows of each atom; what it does not know stays, or makes all unknown."""
        total = Dim({})
        for powers, c in self.terms.items():
            term = Dim.const(c)
            for atom, k in powers:
                new = replace(atom)
                if new is None:
                    if not kept:
                        return None
                    term = term * Dim.atom(atom, k)
                    continue
                for _ in range(abs(k)):
                    product = term * new if k > 0 else term.over(new)
                    if product is None:
                        return None
                    term = product
            total = total + term
        return total

    def __str__(self) -> str:
        text = ""
        for powers, c in sorted(self.terms.items(), key=lambda item: (not item[0], str(item[0]))):
            text += ("-" if c < 0 else "+" if text else "") + _product(powers, abs(c))
        return text or "0"


def _product(powers: Powers, c: Fraction) -> str:
    above = [spoken(atom) for atom, k in powers for _ in range(k)]
    below = [spoken(atom) for atom, k in powers for _ in range(-k)]
    if c.numerator != 1 or not above:
        above.insert(0, str(c.numerator))
    if c.denominator != 1:
        below.append(str(c.denominator))
    return "*".join(above) + "".join("/" + name for name in below)


def spoken(atom: str) -> str:
    """The learner's own name of an atom."""
    return atom.split(":", 1)[-1].removeprefix("self.")


def last_name(atom: str) -> str:
    """`d_model` of `i:self.config.d_model`."""
    return spoken(atom).rsplit(".", 1)[-1]


def is_flexible(atom: str) -> bool:
    """May this atom still become anything?"""
    return atom.startswith("?")


def may_be_one(atom: str) -> bool:
    """Is this an axis `#name` of an annotation, which may be 1 instead?"""
    return atom.startswith("#")


def is_int(atom: str) -> bool:
    """Is this atom an integer of the code, rather than the name of an axis?"""
    return atom.startswith("i:")


def integer(path: str) -> Dim:
    """The integer that the code calls `path`."""
    return Dim.atom("i:" + path)


_numbers = itertools.count(1)


def fresh(name: str) -> Dim:
    """A new flexible size."""
    return Dim.atom(f"?{next(_numbers)}:{name}")


def product(dims: Iterable[Dim | None]) -> Dim | None:
    """The product, unknown if a factor is."""
    total = ONE
    for dim in dims:
        if dim is None:
            return None
        total = total * dim
    return total


ZERO, ONE = Dim.const(0), Dim.const(1)
