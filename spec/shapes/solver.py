"""What is known about the sizes of one function: which are equal, and which certainly are not."""

import re
from collections.abc import Collection, Iterable
from fractions import Fraction
from itertools import combinations

from .dims import ONE, Dim, Powers, is_flexible, is_int, last_name, may_be_one, product

# Sizes that depend on the data: never a product or a multiple of the sizes that a model is built from.
_DATA = """batch query key position vocab queries keys positions seq sequence time token tokens source target src tgt
    pos length seq_len batch_size b t s l B T S L"""
INDEPENDENT = frozenset(_DATA.split())
LONGEST = re.compile(
    r"max_\w+|n_ctx|n_positions|block_size|context_(length|size|len)|ctx_len"
)  # what data may not reach
BATCH = frozenset(("batch", "b", "B"))
FEATURE = re.compile(
    r"d|d_\w+|\w*(head|emb|hidden|dim|feat|vocab|model)\w*|\w*channels?|width|h|C|D|E|H|experts|classes"
)


def names_of(axis: str) -> set[str]:
    """The integers that are called after an axis: `heads` and `num_heads` after "head"."""
    stem = axis.removesuffix("s")
    if stem == "position":  # n_positions is the longest length, not the length
        return {axis}
    several = stem[:-1] + "ies" if stem.endswith("y") and stem != "key" else stem + "s"
    return {axis, several, f"n_{several}", f"num_{several}", f"n_{stem}", f"num_{stem}"}


class Solver:
    """Equations between sizes, learned from the code and then held against it."""

    def __init__(
        self,
        axes: Iterable[str] = (),
        integers: Collection[str] = (),
        fixed: Iterable[str] = (),
        free: Iterable[str] = (),
    ) -> None:
        self.axes = set(axes)
        self.integers = {*integers, *fixed}  # integers by name, of which a class's constructor has fixed some
        self.fixed, self.free = set(fixed), set(free)
        self.told = {axis for axis in self.axes if names_of(axis) & set(integers)}  # by an argument
        self.known: dict[str, Dim] = {}
        self.apart: set[frozenset[str]] = set()
        self.axis_of = {name: axis for axis in self.axes for name in names_of(axis) if name not in self.axes}
        self.axis_of |= {axis: axis for axis in self.axes}

    def replacement(self, atom: str) -> Dim | None:
        """What is known to equal this atom."""
        if atom in self.known:
            return self.known[atom]
        axis = self.axis_of.get(last_name(atom)) if is_int(atom) else None
        return Dim.atom(axis) if axis is not None else None

    def resolve(self, dim: Dim | None) -> Dim | None:
        """The formula with all that is known put in."""
        for _ in range(20):  # an equation never contains itself, so this ends long before
            if dim is None or all(self.replacement(atom) is None for atom in dim.atoms):
                return dim
            dim = dim.substitute(self.replacement)
        return None

    def show(self, dim: Dim | None) -> str:
        """A size in the learner's own names."""
        found = self.resolve(dim)
        return "?" if found is None else str(found)

    def note(self, dims: Iterable[Dim | None]) -> None:
        """The axes of one tensor have different sizes, unless they have one name."""
        names = {core(found) for dim in dims if (found := self.resolve(dim)) is not None}
        for a, b in combinations([name for name in names if name and not may_be_one(name)], 2):
            both = {last_name(a), last_name(b)}
            if not any(map(is_flexible, (a, b))) and (both <= self.fixed or is_int(a) != is_int(b)):
                self.apart.add(frozenset((a, b)))

    def assume(self, a: Dim | None, b: Dim | None) -> None:
        """The code itself asks whether two sizes are equal: from here on they are."""
        a, b = self.resolve(a), self.resolve(b)
        if a is None or b is None or a == b or loose(a, b):
            return
        for one, other in ((a, b), (b, a)):
            if one.single and one.single not in other.atoms:
                self.known[one.single] = other
                return

    def unify(self, a: Dim | None, b: Dim | None) -> bool:
        """Make two sizes equal. False: they certainly differ. True: equal now, or nothing is known."""
        a, b = self.resolve(a), self.resolve(b)
        if a is None or b is None or a == b or loose(a, b):
            return True
        for one, other in ((a, b), (b, a)):
            if one.single and is_flexible(one.single) and one.single not in other.atoms:
                self.known[one.single] = other
                return True
        if self.differ(a, b):
            return False
        self._learn(a, b)
        return True

    def _learn(self, a: Dim, b: Dim) -> None:
        """Solve a = b for an atom: a flexible one if possible, else an integer of the code, else an axis."""
        parts = ratio(a, b)
        if parts is None:
            return
        c, above, below = parts
        for kind in (is_flexible, is_int, lambda atom: atom not in INDEPENDENT):
            for atom, power in (*above, *((atom, -k) for atom, k in below)):
                if kind(atom) and abs(power) == 1:
                    rest = Dim(
                        {tuple(sorted((x, k) for x, k in (*above, *((y, -j) for y, j in below)) if x != atom)): c}
                    )
                    solved = ONE.over(rest) if power == 1 else rest
                    if solved is not None and atom not in solved.atoms:
                        self.known[atom] = solved
                    return

    def differ(self, a: Dim | None, b: Dim | None) -> bool:
        """Are two sizes certainly different?"""
        a, b = self.resolve(a), self.resolve(b)
        if a is None or b is None or a == b or loose(a, b):
            return False
        difference = a - b
        if any(is_flexible(atom) for atom in difference.atoms):
            return False
        signs = {c > 0 for c in difference.terms.values()}
        if len(signs) == 1 and all(
            not is_int(x) or (x in a.atoms and x in b.atoms) or self._settled(x) for x in difference.atoms
        ):
            return True  # 3 and 4, d and 3*d, position and position+1; but an offset may be zero
        for one, other in ((a, b), (b, a)):
            if one.single in self.told and other.value is not None and other.value > 1:
                return True  # a written number where an argument tells the size
        parts = ratio(a, b)
        if parts is None:
            return self._unrelated(difference.atoms)
        c, above, below = parts
        if not above or not below:  # heads*d and d: only where heads is 1; but any size may be a written number
            written = c != 1 and (a.value is not None or b.value is not None)
            return not written and any(not is_int(x) or self._settled(x) for x, _ in above + below)
        if len(above) == len(below) == 1 and above[0][1] == below[0][1] == 1:
            pair = above[0][0], below[0][0]
            if frozenset(pair) in self.apart or c == 1:
                return self._names_differ(*pair)
        names = {x for x, _ in above + below}
        squared = any(k > 1 for _, k in above + below) and all(map(self._settled, names))  # d_model = heads*heads?
        chosen = any(last_name(x) in self.free for x in names) and all(map(self._settled, names))
        return squared or chosen or self._unrelated(names)

    def _unrelated(self, names: set[str]) -> bool:
        """Sizes of the data on one hand, of the model on the other: nothing makes them equal."""
        return bool(names & INDEPENDENT) and all(self._settled(x) for x in names)

    def _settled(self, atom: str) -> bool:
        """Is this a size whose kind its name tells: one of the data, or one of the model?"""
        if not is_int(atom):
            return atom in INDEPENDENT or FEATURE.fullmatch(atom) is not None
        name = last_name(atom)
        return name in self.integers and (name in INDEPENDENT or FEATURE.fullmatch(name) is not None)

    def _names_differ(self, a: str, b: str) -> bool:
        if not is_int(a) and not is_int(b):
            return True
        names = {last_name(a), last_name(b)}
        if len(names) == 1:
            return False
        if is_int(a) and is_int(b):  # what a constructor takes apart from each other, in code that names its axes
            return frozenset((a, b)) in self.apart or (names <= self.fixed and bool(self.axes))
        batch = bool(names & BATCH) and bool(names & self.fixed) and not any("batch" in name for name in names - BATCH)
        longest = bool(names & INDEPENDENT) and any(LONGEST.fullmatch(name) and name in self.fixed for name in names)
        return frozenset((a, b)) in self.apart or names <= self.integers or batch or longest

    def broadcast(self, a: Dim | None, b: Dim | None) -> tuple[Dim | None, bool]:
        """The size that two axes broadcast to, and whether they may."""
        a, b = self.resolve(a), self.resolve(b)
        if a == ONE or b == ONE:
            return (b if a == ONE else a), True
        if a == b:
            return a, True
        for one, other in ((a, b), (b, a)):
            if one is not None and one.single and may_be_one(one.single):
                if other is None or (other.single and may_be_one(other.single)):
                    wide = other is not None and self.differ(strict(one), strict(other))
                    return None, not wide
                return (None, False) if self.differ(strict(one), other) else (other, True)
        if a is None or b is None:
            return (b if a is None else a), True
        if self.differ(a, b):
            return None, False
        gives_way = any(is_flexible(x) or is_int(x) for x in a.atoms)  # a flexible size may be 1, and gives way
        return (b if gives_way else a), True


def loose(*dims: Dim) -> bool:
    """Is one of them an axis that may be 1 instead?"""
    return any(may_be_one(atom) for dim in dims for atom in dim.atoms)


def strict(dim: Dim) -> Dim:
    """`batch` of `#batch`: what it is where it is not 1."""
    return Dim.atom((dim.single or "").removeprefix("#"))


def kind(name: str) -> str | None:
    """Does a name tell that it is a size of the data, of the model, or of the vocabulary?"""
    if len(name) < 2:
        return None
    return (
        "vocab" if "vocab" in name else "data" if name in INDEPENDENT else "model" if FEATURE.fullmatch(name) else None
    )


def core(dim: Dim) -> str | None:
    """The atom of a size that is a multiple of one."""
    atoms = dim.atoms
    return atoms.pop() if len(dim.terms) == len(atoms) == 1 and max(k for p in dim.terms for _, k in p) == 1 else None


def ratio(a: Dim, b: Dim) -> tuple[Fraction, list[tuple[str, int]], list[tuple[str, int]]] | None:
    """a / b of two products: the coefficient, the atoms above, the atoms below."""
    quotient = a.over(b) if len(a.terms) == 1 else None
    if quotient is None:
        return None
    powers: Powers
    ((powers, c),) = quotient.terms.items()
    return c, [(x, k) for x, k in powers if k > 0], [(x, -k) for x, k in powers if k < 0]


def total(dims: Iterable[Dim | None], solver: Solver) -> Dim | None:
    """The number of elements."""
    return product(solver.resolve(dim) for dim in dims)
