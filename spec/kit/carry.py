"""Carries a learner's weights into another module of the same exercise, whatever the learner has called them.

A requirement never guesses: where it needs weights by name, PARAMETERS says the names. A diagnosis may: it names a
mistake only if every result agrees, and with a wrong guess none does.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from spec.kit.names import canonical
from spec.kit.telling import GATES, OUTPUT, SHIFT, asked, gate, place_of

Kinds = set[tuple[str, tuple[int, ...]]]
PARTS = (3, 2)  # query, key and value, or key and value, in one matrix


@dataclass(frozen=True)
class Learned:
    """A parameter: what it is for (matrix, bias, gain or shift) and its numbers."""

    name: str
    role: str
    value: Tensor

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """Parameters of one kind can stand for each other."""
        return self.role, tuple(self.value.shape)


def carry(state: Mapping[str, Tensor], giver: nn.Module, taker: nn.Module) -> None:
    """Loads a state of `giver`, by canonical names, into `taker`; raises LookupError where they cannot be matched.

    What has the same name and shape in both is the same. The rest is matched kind by kind (matrices, biases, gains and
    shifts of one shape) in the order of registration, after what the giver keeps in one matrix, in one per head or
    transposed has been brought into the taker's form, and query, key and value into their order. A bias that the taker
    alone has is zero, as are those that it has more of; one that the giver alone has is added to the taker's layer. A
    gain that the taker alone has is one.
    """
    due = taker.state_dict()
    loaded = {name: value for name, value in state.items() if name in due and value.shape == due[name].shape}
    wanted = _learned(taker, due, set(loaded), due)
    found = _learned(giver, canonical(giver, giver.state_dict()), set(loaded), state)
    kinds = {each.kind for each in wanted}
    found = _flattened(_turned(found, giver, kinds), kinds)
    found = _cut(found, wanted)  # before and after: heads may have matrices of all three as well
    found = _in_order(_cut(_joined(_of_gates(found, wanted), kinds), wanted))
    layers: dict[str, list[str]] = {}  # of the giver, and where they go: one that holds three goes to three
    for name in loaded:
        layers.setdefault(_layer(name), []).append(_layer(name))
    for kind in sorted(kinds | {each.kind for each in found}, reverse=True):  # matrices first: biases belong to them
        given, taken = ([each for each in side if each.kind == kind] for side in (found, wanted))
        if kind[0] == "bias" and taken and len(given) <= len(taken):
            loaded |= {place.name: torch.zeros_like(place.value) for place in taken}
            loaded |= _beside_their_matrices(given, [place.name for place in taken], layers)
        elif not given and kind[0] in ("gain", "shift"):
            loaded |= {place.name: torch.full_like(place.value, float(kind[0] == "gain")) for place in taken}
        elif not taken and kind[0] == "bias":
            for each in given:
                _add_bias(taker, layers.get(_layer(each.name), [""])[0], each.value)
        elif len(given) != len(taken):
            raise LookupError(f"{len(given)} parameters of the kind {kind}, {len(taken)} are due")
        else:
            for place, each in zip(taken, given, strict=True):
                loaded[place.name] = each.value
                layers.setdefault(_layer(each.name), []).append(_layer(place.name))
    taker.load_state_dict(loaded, strict=False)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _beside_their_matrices(
    given: list[Learned], free: list[str], layers: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Each bias to the layer that has its matrix; those of no such layer to what is left, in order."""
    left, placed, over = list(free), {}, []
    for each in given:
        due = [f"{layer}.bias" for layer in layers.get(_layer(each.name), [])]
        name = next((name for name in due if name in left), "")
        if name:
            left.remove(name)
            placed[name] = each.value
        else:
            over.append(each.value)
    return placed | dict(zip(left, over, strict=False))


def _add_bias(taker: nn.Module, name: str, value: Tensor) -> None:
    """Gives a layer a bias that it does without in ours."""
    layer = dict(taker.named_modules()).get(name)
    if not isinstance(layer, nn.Linear) or layer.bias is not None:
        raise LookupError(f"no layer takes the bias of {name or 'a layer'}")
    layer.bias = nn.Parameter(value.clone())


def _learned(
    module: nn.Module, own: Mapping[str, Tensor], known: set[str], values: Mapping[str, Tensor]
) -> list[Learned]:
    """What is not known yet by its name, each parameter once, in the order of registration."""
    left = Counter(parameter.data_ptr() for parameter in module.parameters())  # several may lie on one memory
    matrices = [name for name, value in own.items() if value.ndim > 1 and left[value.data_ptr()]]
    with_a_matrix = {name.rpartition(".")[0] for name in matrices}
    left.subtract(value.data_ptr() for name, value in own.items() if name in known)
    found = []
    for name, value in own.items():
        if left[value.data_ptr()] > 0 and name not in known:
            left[value.data_ptr()] -= 1
            path, _, last = name.rpartition(".")
            beside = "bias" if path in with_a_matrix else "shift"
            role = beside if SHIFT.fullmatch(last) else "matrix" if value.ndim > 1 else "gain"
            found.append(Learned(name, role, values[name]))
    return found


def _flattened(found: list[Learned], kinds: Kinds) -> list[Learned]:
    """A matrix with an axis of heads gets two axes: (head, d_model, d_k), (d_model, head, d_k) or (head, d_k, d_model),
    and (head, d_v, d_model) for the output; a bias of (head, d_k) gets one. A vector may be a matrix of one row.
    """
    return [
        replace(each, role="matrix", value=each.value[None])
        if each.role == "gain" and each.kind not in kinds and ("matrix", (1, *each.value.shape)) in kinds
        else replace(each, value=_flat(each, kinds))
        for each in found
    ]


def _flat(each: Learned, kinds: Kinds) -> Tensor:
    """The first form that the taker has a place for; the value itself where there is none."""
    last = each.name.removesuffix(".weight").rpartition(".")[2]
    if each.role == "bias" and each.value.ndim > 1:
        forms = ["... -> (...)"]
    elif each.role == "matrix" and each.value.ndim == 3:
        forms = ["h m k -> (h k) m", "m h k -> (h k) m", "h k m -> (h k) m"]
        forms = ["h v m -> m (h v)", *forms] if OUTPUT.fullmatch(last) else forms
    else:
        return each.value
    flat = [rearrange(each.value, form) for form in forms]
    return next((value for value in flat if (each.role, tuple(value.shape)) in kinds), each.value)


def _turned(found: list[Learned], giver: nn.Module, kinds: Kinds) -> list[Learned]:
    """Matrices that belong to no layer of torch's: x @ W has its axes the other way round than nn.Linear."""
    bare = {
        f"{path}.{name}".lstrip(".")
        for path, part in giver.named_modules()
        if type(part).__module__.partition(".")[0] != "torch"
        for name, _ in part.named_parameters(recurse=False)
    }
    return [
        replace(each, value=each.value.T)
        if each.name in bare and each.value.ndim == 2 and ("matrix", tuple(each.value.T.shape)) in kinds
        else each
        for each in found
    ]


def _of_gates(found: list[Learned], wanted: list[Learned]) -> list[Learned]:
    """A layer for each gate of an LSTM becomes one of all: input, forget, candidate, output, as their names tell."""
    tall = {(each.role, each.value.shape[0]) for each in wanted if each.value.ndim}
    groups: dict[object, list[Learned]] = {}
    for each in found:
        if each.value.ndim and (each.role, len(GATES) * each.value.shape[0]) in tall:
            groups.setdefault((place_of(each.name)[0], each.kind), []).append(each)
    result = list(found)
    for group in groups.values():
        gates = [[each for each in group if gate(each.name) == one] for one in GATES]
        if all(len(each) * len(GATES) == len(group) for each in gates):
            start = next(number for number, each in enumerate(result) if each is group[0])
            result = [each for each in result if not any(each is part for part in group)]
            fours = zip(*gates, strict=True)
            result[start:start] = [replace(four[0], value=torch.cat([each.value for each in four])) for four in fours]
    return result


def _in_order(found: list[Learned]) -> list[Learned]:
    """Query, key, value and output of an attention in this order, whichever was registered first."""
    groups: dict[object, list[int]] = {}
    for number, each in enumerate(found):
        if asked(each.name):
            groups.setdefault((place_of(each.name)[0], each.kind), []).append(number)
    result = list(found)
    for numbers in groups.values():
        parts = {asked(found[number].name): found[number] for number in numbers}
        if len(parts) == len(numbers):
            for number, part in zip(numbers, sorted(parts, key="qkvo".index), strict=True):
                result[number] = parts[part]
    return result


def _joined(found: list[Learned], kinds: Kinds) -> list[Learned]:
    """One matrix per head, `heads.0.query` and so on, becomes one of all heads."""
    groups: dict[str, list[Learned]] = {}
    for each in found:
        groups.setdefault(each.name if each.kind in kinds else _of_all(each.name), []).append(each)
    return [
        replace(group[0], name=name, value=torch.cat([each.value for each in group])) if len(group) > 1 else group[0]
        for name, group in groups.items()
    ]


def _of_all(name: str) -> str:
    """The name with its last number left open."""
    return re.sub(r"(.*(?:^|\.))\d+\.", r"\1N.", name, count=1)


def _cut(found: list[Learned], wanted: list[Learned]) -> list[Learned]:
    """A matrix of query, key and value together becomes three; one that reads two inputs side by side becomes two."""
    result: list[Learned] = []
    kinds = {each.kind for each in wanted}
    for each in found:
        rows, rest = each.value.shape[0] if each.value.ndim else 1, each.value.shape[1:]
        parts = [n for n in PARTS if rows % n == 0 and (each.role, (rows // n, *rest)) in kinds]
        if each.kind in kinds:
            result.append(each)
        elif parts:
            result += [replace(each, value=part) for part in each.value.chunk(parts[0])]
        else:
            columns = enumerate(torch.split(each.value, _widths(each, wanted), dim=-1))
            result += [replace(each, name=each.name + "+" * n, value=part) for n, part in columns]
    return result


def _widths(each: Learned, wanted: list[Learned]) -> list[int]:
    """How many columns two neighbours of the taker have that together have as many as this one; else its own."""
    width = each.value.shape[-1] if each.value.ndim else 1
    matrices = [other.value.shape for other in wanted if other.value.ndim == 2]
    for one, two in pairwise(matrices):
        if each.value.ndim == 2 and one[0] == two[0] == each.value.shape[0] and one[1] + two[1] == width:
            return [one[1], two[1]]
    return [width]
