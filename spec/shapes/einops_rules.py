"""Rules for einops: a pattern meets its tensor."""

import ast
from dataclasses import dataclass, field

from .dims import ONE, Dim, fresh, product
from .elementwise import broadcast
from .operations import Call
from .patterns import Group, PatternError, Side, Word, letters, parse_pattern, parse_side
from .values import UNKNOWN, Axis, Int, Items, Layer, Many, Plain, Shape, Star, Tensor, Value


class MisfitError(Exception):
    """A pattern that certainly does not fit."""

    def __init__(self, message: str, start: int, end: int, code: str = "einops") -> None:
        super().__init__(message)
        self.start, self.end, self.code = start, end, code


@dataclass
class Binding:
    """What the words of a pattern stand for."""

    call: Call
    who: str
    sizes: dict[str, Dim | None]
    dims: dict[str, Dim | None] = field(default_factory=dict)
    dots: Shape | None = None

    def show(self, dim: Dim | None) -> str:
        """A size in the learner's names."""
        return self.call.run.solver.show(dim)

    def match(self, side: Side, shape: Shape | None, tensor: str) -> None:
        """One side of a pattern against the shape of its tensor."""
        if shape is None:
            for name in side.names:
                self.dims.setdefault(name, self.sizes.get(name) or fresh(name))
            return
        parts = side.parts
        dots = next((i for i, part in enumerate(parts) if isinstance(part, Word) and part.text == "..."), None)
        fixed = len(parts) - (dots is not None)
        least = len(shape.dims)
        too_few = shape.rank is not None and (least < fixed if dots is not None else least != fixed)
        if too_few or (dots is None and least > fixed):
            have = f"{'at least ' if shape.rank is None else ''}{least}: {self.call.show(shape)}"
            message = f'{self.who}: "{side.text}" has {fixed} axes, but {tensor} has {have}'
            raise MisfitError(message, side.start, side.end)
        head = parts if dots is None else parts[:dots]
        tail = parts if dots is None else parts[dots + 1 :]
        front, back = shape.front, shape.back if shape.star is not None else shape.axes
        if shape.rank is not None and dots is None:
            tail = ()
        pairs = [*zip(head, front, strict=False), *reversed(list(zip(tail[::-1], back[::-1], strict=False)))]
        if dots is not None:
            fits = len(head) <= len(front) and len(tail) <= len(back)
            self._dots(side, Shape(shape.axes[len(head) : len(shape.axes) - len(tail)]) if fits else None)
        for part, axis in pairs:
            dim = None if isinstance(axis, Star) else axis
            if isinstance(part, Group):
                self._group(part, dim, shape)
            else:
                self._word(part, dim, shape, side, tensor)
        for name in side.names:
            if name != "...":
                self.dims.setdefault(name, self.sizes.get(name) or fresh(name))

    def _dots(self, side: Side, rest: Shape | None) -> None:
        if "..." in self.dims and self.dots is not None and rest is not None:
            wider, why = broadcast(self.call, self.dots, rest)
            if why:
                raise MisfitError(f'{self.who}: the axes of "..." do not broadcast, {why}', side.start, side.end)
            rest = wider
        self.dots = rest if rest is not None else None
        self.dims["..."] = None

    def _word(self, word: Word, dim: Dim | None, shape: Shape, side: Side, tensor: str) -> None:
        solver, text = self.call.run.solver, word.text
        if word.number is not None:
            if not solver.unify(Dim.const(word.number), dim):
                message = (
                    f'{self.who}: "{text}" in "{side.text}" meets the axis {self.show(dim)} of {self.call.show(shape)}'
                )
                raise MisfitError(message, word.start, word.end)
            return
        if text in self.sizes and not solver.unify(self.sizes[text], dim):
            message = f"{self.who}: {text}={self.show(self.sizes[text])}, but that axis of {self.call.show(shape)}"
            raise MisfitError(f"{message} is {self.show(dim)}", word.start, word.end)
        if text in self.dims:
            old, new = solver.resolve(self.dims[text]), solver.resolve(dim)
            if self.who.endswith("einsum") and ONE in (old, new):
                self.dims[text] = new if old == ONE else old
            elif not solver.unify(old, new):
                message = (
                    f'{self.who}: axis "{text}" is {self.show(old)} in one tensor, but {self.show(new)} in {tensor}'
                )
                raise MisfitError(f"{message} {self.call.show(shape)}", word.start, word.end)
            return
        self.dims[text] = fresh(text) if dim is None else dim
        found = solver.resolve(dim)
        other = found.single if found is not None else None
        if len(text) > 1 and text in solver.axes and other in solver.axes and other != text:
            message = (
                f'{self.who}: the pattern calls this axis "{text}", but it is "{other}" in {self.call.show(shape)}'
            )
            raise MisfitError(message, word.start, word.end, "einops-name")

    def _group(self, group: Group, dim: Dim | None, shape: Shape) -> None:
        solver, names = self.call.run.solver, [word.text for word in group.words]
        if "..." in names:
            return
        sizes = {word.text: self._size(word) for word in group.words}
        unknown = [name for name in names if not name.isdigit() and name not in self.sizes and name not in self.dims]
        if len(unknown) > 1:
            message = f'{self.who}: the sizes of {", ".join(unknown)} in "{group.text}" cannot be told apart'
            raise MisfitError(f"{message}: give all but one as keyword arguments", group.start, group.end)
        self.dims |= {name: size for name, size in sizes.items() if name in self.sizes and name not in self.dims}
        known = product(solver.resolve(size) for name, size in sizes.items() if name not in unknown)
        if unknown:
            whole = solver.resolve(dim)
            part = whole.over(known) if whole is not None and known is not None else None
            self.dims[unknown[0]] = fresh(unknown[0]) if part is None else part
        elif not solver.unify(known, dim):
            message = f'{self.who}: "{group.text}" is {self.show(known)}, but the axis of {self.call.show(shape)}'
            raise MisfitError(f"{message} is {self.show(dim)}", group.start, group.end)

    def _size(self, word: Word) -> Dim | None:
        if word.number is not None:
            return Dim.const(word.number)
        return self.sizes[word.text] if word.text in self.sizes else self.dims.get(word.text)

    def build(self, side: Side) -> Shape | None:
        """The shape of the output."""
        axes: list[Axis] = []
        for part in side.parts:
            if isinstance(part, Word) and part.text == "...":
                if self.dots is None:
                    return None
                axes += self.dots.axes
            elif isinstance(part, Word):
                axes.append(self._size(part))
            else:
                flat: list[Axis] = []
                for word in part.words:
                    flat += (
                        [None]
                        if word.text == "..." and self.dots is None
                        else (self.dots.axes if word.text == "..." and self.dots is not None else [self._size(word)])
                    )
                dims = [None if isinstance(axis, Star) else self.call.run.solver.resolve(axis) for axis in flat]
                axes.append(product(dims))
        return Shape(tuple(axes)) if sum(isinstance(axis, Star) for axis in axes) < 2 else None


def complain(call: Call, text: str, error: MisfitError | PatternError) -> Tensor:
    """Report at the part of the pattern that is wrong."""
    literal = find_literal(call, text)
    where = f'{call.name}: "{text}" is no pattern: ' if isinstance(error, PatternError) else ""
    code = "einops" if isinstance(error, PatternError) else error.code
    return call.run.fail(
        literal or call.node, f"{where}{error}", code, (text, error.start, error.end) if literal else None
    )


def find_literal(call: Call, text: str) -> ast.expr | None:
    """The pattern, where it is written in the call itself."""
    if not isinstance(call.node, ast.Call):
        return None
    args = [*call.node.args, *(keyword.value for keyword in call.node.keywords)]
    return next((a for a in args if isinstance(a, ast.Constant) and a.value == text), None)


def pattern_of(value: Value | None) -> str | None:
    """A pattern whose text is known."""
    return value.const if isinstance(value, Plain) and isinstance(value.const, str) else None


def rearrange(call: Call) -> Value:
    """rearrange, reduce and repeat."""
    kw = dict(call.kw)
    tensor = call.args[0] if call.args else kw.pop("tensor", UNKNOWN)
    text = pattern_of(call.args[1] if len(call.args) > 1 else kw.pop("pattern", UNKNOWN))
    kw.pop("reduction", None)
    if text is None:
        return Tensor()
    shape, dtype = input_of(call, tensor)
    binding = Binding(call, call.name, {name: call.run.size(value) for name, value in kw.items()})
    try:
        inputs, output = parse_pattern(text)
        check_names(call.name, inputs, output, set(kw), text)
        binding.match(inputs[0], shape, "the tensor")
        return Tensor(binding.build(output), dtype, tuple(part.text for part in output.parts))
    except (MisfitError, PatternError) as error:
        return complain(call, text, error)


def input_of(call: Call, tensor: Value) -> tuple[Shape | None, str | None]:
    """The shape of what is rearranged: a list of tensors has one axis more."""
    if isinstance(tensor, Items | Many):
        first = call.run.item(tensor)
        if not isinstance(first, Tensor) or first.shape is None:
            return None, None
        count = Dim.const(len(tensor.items)) if isinstance(tensor, Items) else None
        return Shape((count, *first.shape.axes)), first.dtype
    return (tensor.shape, tensor.dtype) if isinstance(tensor, Tensor) else (None, None)


def check_names(name: str, inputs: list[Side], output: Side, sizes: set[str], text: str) -> None:
    """What einops demands of the names alone."""
    left, right = inputs[0].names, output.names
    if len(inputs) > 1:
        raise PatternError("it takes one tensor", 0, len(text))
    lost = [word for n, word in left.items() if n not in right]
    new = [word for n, word in right.items() if n not in left]
    if lost and name in ("rearrange", "repeat"):
        raise PatternError(f'axis "{lost[0].text}" is not on the right', lost[0].start, lost[0].end)
    bad = [word for word in new if name != "repeat" or word.text not in sizes]
    if bad:
        need = "needs a size" if name == "repeat" else "is not on the left"
        raise PatternError(f'axis "{bad[0].text}" {need}', bad[0].start, bad[0].end)
    extra = sizes - left.keys() - right.keys()
    if extra:
        raise PatternError(f'"{min(extra)}" is given a size, but is not in it', 0, len(text))


def einsum(call: Call) -> Value:
    """einops.einsum, the pattern last."""
    text = pattern_of(call.args[-1] if call.args else None)
    return Tensor() if text is None else contracted(call, call.args[:-1], text, text)


def torch_einsum(call: Call) -> Value:
    """torch.einsum: the pattern first, one letter an axis."""
    text = pattern_of(call.args[0] if call.args else None)
    pattern = letters(text) if text is not None else None
    tensors = call.args[1:]
    if len(tensors) == 1 and isinstance(tensors[0], Items | Many):
        tensors = tensors[0].items if isinstance(tensors[0], Items) else []
    if text is None or pattern is None or not tensors:
        return Tensor()
    return contracted(call, tensors, pattern, text)


def contracted(call: Call, tensors: list[Value], pattern: str, text: str) -> Tensor:
    """Several tensors in one pattern."""
    binding = Binding(call, "einsum", {})
    try:
        inputs, output = parse_pattern(pattern, diagonals=True)
        missing = [word for name, word in output.names.items() if not any(name in side.names for side in inputs)]
        if missing and missing[0].text != "...":
            raise PatternError(f'axis "{missing[0].text}" is in no tensor', missing[0].start, missing[0].end)
        if len(inputs) != len(tensors):
            raise PatternError(f"it has {len(inputs)} inputs, but there are {len(tensors)} tensors", 0, len(pattern))
        if any(isinstance(part, Group) for side in (*inputs, output) for part in side.parts):
            raise PatternError("einsum takes no parentheses", 0, len(pattern))
        for i, (side, tensor) in enumerate(zip(inputs, tensors, strict=True), start=1):
            shape = tensor.shape if isinstance(tensor, Tensor) else None
            binding.match(side, shape, f"tensor {i}")
        return Tensor(binding.build(output), "f", tuple(part.text for part in output.parts))
    except (MisfitError, PatternError) as error:
        if pattern != text:  # the positions are those of another spelling
            error.start, error.end = 0, len(text)
        return complain(call, text, error)


def pack(call: Call) -> Value:
    """Tensors along one axis, and what they had there."""
    tensors, text = call.arg(0, "tensors"), pattern_of(call.arg(1, "pattern"))
    if text is None or not isinstance(tensors, Items):
        return Items([Tensor(), UNKNOWN])
    binding, widths, packed = Binding(call, "pack", {}), [], []
    try:
        side, before = packing(text)
        after = len(side.parts) - before - 1
        for i, tensor in enumerate(tensors.items, start=1):
            shape = tensor.shape if isinstance(tensor, Tensor) else None
            if shape is None or shape.rank is None:
                return Items([Tensor(), UNKNOWN])
            if shape.rank < before + after:
                raise MisfitError(
                    f'pack: "{text}" needs {before + after} axes or more, but tensor {i} is {call.show(shape)}',
                    0,
                    len(text),
                )
            dims, end = shape.dims, shape.rank - after
            kept = Side(side.parts[:before] + side.parts[before + 1 :], side.start, side.end)
            binding.match(kept, Shape(dims[:before] + dims[end:]), f"tensor {i}")
            widths.append(product(call.run.solver.resolve(dim) for dim in dims[before:end]))
            packed.append(Items([Int(dim) for dim in dims[before:end]]))
    except (MisfitError, PatternError) as error:
        return Items([complain(call, text, error), UNKNOWN])
    known = [width for width in widths if width is not None]
    width = sum(known[1:], known[0]) if known and len(known) == len(widths) else None
    axes = [width if i == before else binding.dims.get(part.text) for i, part in enumerate(side.parts)]
    return Items([Tensor(Shape(tuple(axes))), Items(list(packed))])


def packing(text: str) -> tuple[Side, int]:
    """A pattern of pack or unpack, and where its star is."""
    side = parse_side(text)
    stars = [i for i, part in enumerate(side.parts) if part.text == "*"]
    if len(stars) != 1:
        raise PatternError('it needs exactly one "*"', 0, len(text))
    return side, stars[0]


def unpack(call: Call) -> Value:
    """The tensors that were packed."""
    x, shapes, text = call.tensor(0, "tensor"), call.arg(1, "packed_shapes"), pattern_of(call.arg(2, "pattern"))
    if text is None:
        return UNKNOWN
    try:
        side, before = packing(text)
        if x.shape is not None and x.shape.rank is not None and x.shape.rank != len(side.parts):
            raise MisfitError(
                f'unpack: "{text}" has {len(side.parts)} axes, but the tensor is {call.show(x.shape)}', 0, len(text)
            )
    except (MisfitError, PatternError) as error:
        return complain(call, text, error)
    if x.shape is None or x.shape.rank is None or not isinstance(shapes, Items):
        return UNKNOWN
    dims = x.shape.dims
    sizes = [call.run.dims(item) for item in shapes.items]
    return Items(
        [Tensor(None if new is None else Shape((*dims[:before], *new, *dims[before + 1 :])), x.dtype) for new in sizes]
    )


def parse_shape(call: Call) -> Value:
    """Only the number of axes is checked: the result is a dictionary."""
    x, text = call.tensor(0, "x"), pattern_of(call.arg(1, "pattern"))
    if text is not None and x.shape is not None:
        try:
            Binding(call, "parse_shape", {}).match(parse_side(text), x.shape, "the tensor")
        except (MisfitError, PatternError) as error:
            complain(call, text, error)
    return UNKNOWN


EINOPS = {"rearrange": rearrange, "reduce": rearrange, "repeat": rearrange, "einsum": einsum, "pack": pack}
EINOPS |= {"unpack": unpack, "parse_shape": parse_shape}


def einops_layer(call: Call, layer: Layer) -> Value:
    """A layer of einops.layers.torch, called."""
    pattern = layer.inside or UNKNOWN
    return rearrange(Call(call.run, call.node, layer.kind.lower(), [call.arg(0) or UNKNOWN, pattern], layer.options))
