"""einops patterns: words, groups, and where in the pattern they stand."""

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"\.\.\.|…|[()]|[^\s()]+?(?=\.\.\.|…|[\s()]|$)")


class PatternError(ValueError):
    """A pattern that is wrong whatever the tensor is, and which part of it."""

    def __init__(self, why: str, start: int, end: int) -> None:
        super().__init__(why)
        self.start, self.end = start, end


@dataclass(frozen=True)
class Word:
    """One axis name, a number, `...` or `*`."""

    text: str
    start: int
    end: int

    @property
    def number(self) -> int | None:
        """The size that it states."""
        return int(self.text) if self.text.isdigit() else None


@dataclass(frozen=True)
class Group:
    """Words in parentheses: one axis."""

    words: tuple[Word, ...]
    start: int
    end: int

    @property
    def text(self) -> str:
        """As it is written."""
        return f"({' '.join(word.text for word in self.words)})"


@dataclass(frozen=True)
class Side:
    """One side of a pattern, or one input of it."""

    parts: tuple[Word | Group, ...]
    start: int
    end: int

    @property
    def text(self) -> str:
        """As it is written."""
        return " ".join(part.text for part in self.parts)

    @property
    def words(self) -> list[Word]:
        """All words, those in groups too."""
        return [word for part in self.parts for word in (part.words if isinstance(part, Group) else (part,))]

    @property
    def names(self) -> dict[str, Word]:
        """The named axes, `...` among them."""
        return {word.text: word for word in self.words if word.number is None}


def parse_side(text: str, offset: int = 0, again: bool = False) -> Side:
    """Read one side, which begins at this offset of the pattern; may a name stand there `again`?"""
    parts: list[Word | Group] = []
    group: list[Word] | None = None
    opened = 0
    seen: set[str] = set()
    for match in _TOKEN.finditer(text):
        token, start, end = match.group(), match.start() + offset, match.end() + offset
        if token in "()":
            if (token == "(") != (group is None):
                raise PatternError("its parentheses do not pair", start, end)
            if group is None:
                group, opened = [], start
            else:
                parts.append(Group(tuple(group), opened, end))
                group = None
            continue
        word = Word("..." if token == "…" else token, start, end)
        if not (word.text in ("...", "*") or word.text.isidentifier() or word.number is not None):
            raise PatternError(f'"{token}" is not the name of an axis', start, end)
        if word.number is None and word.text in seen and not again:
            raise PatternError(f'axis "{token}" stands twice on one side', start, end)
        seen.add(word.text)
        (parts if group is None else group).append(word)
    if group is not None:
        raise PatternError("its parentheses do not pair", opened, offset + len(text))
    lead = len(text) - len(text.lstrip())
    return Side(tuple(parts), offset + lead, offset + max(len(text.rstrip()), lead))


def parse_pattern(text: str, diagonals: bool = False) -> tuple[list[Side], Side]:
    """The inputs (several for einsum, where a name may stand twice in one) and the output."""
    if text.count("->") != 1:
        raise PatternError('it needs exactly one "->"', 0, len(text))
    left, right = text.split("->")
    inputs, offset = [], 0
    for part in left.split(","):
        inputs.append(parse_side(part, offset, diagonals))
        offset += len(part) + 1
    return inputs, parse_side(right, len(left) + 2)


def letters(equation: str) -> str | None:
    """A torch.einsum equation as a pattern; None where it says more than a pattern can."""
    text = equation.replace(" ", "")
    if text.count("->") != 1:
        return None
    return re.sub(r"(?<=[\w.])(?=\w)|(?<=\w)(?=\.)|(?<=[,>])|(?=[,-])", " ", text).replace("  ", " ")
