"""What holds of an epoch, whatever order was drawn: two that differ by chance alone agree in it."""

from collections.abc import Sequence
from itertools import chain, combinations, pairwise
from typing import Any

from torch import Tensor

from spec.kit.record import Call

MANY = 8  # sequences: fewer are in their own order too often by chance
FOREIGN = -1  # the number of a row that is not in the data


def in_pairs(batches: Any) -> bool:
    """Whether batches are what they should be: pairs of tensors."""
    return isinstance(batches, list) and all(
        isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
        for batch in batches
    )


def facts(inputs: Tensor, targets: Tensor, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """How large the batches are and, of enough sequences for it to be no chance, what is in them and how it lies."""
    first, second = (_numbers(data, [batch[side] for batch in batches]) for side, data in enumerate((inputs, targets)))
    found: dict[str, Any] = {
        "sizes": list(map(len, first)),
        "types": [[part.dtype for part in pair] for pair in batches],
    }
    if len(inputs) >= MANY:
        order, whole = [list(chain.from_iterable(side)) for side in (first, second)], list(range(len(inputs)))
        found["each once"] = sorted(order[0]) == whole
        found["with its targets"] = first == second
        found["as they stood"] = [side == whole for side in order]
        found["in pieces"] = all(max(batch) - min(batch) < len(batch) for batch in first if batch)
        found["with neighbours"] = all(two == one + 1 for batch in first for one, two in pairwise(batch))
    return found


def _numbers(data: Tensor, batches: list[Tensor]) -> list[list[int]]:
    """Which row of the data each row of a batch is."""
    known = {str(row): number for number, row in enumerate(data.tolist())}
    return [[known.get(str(row), FOREIGN) for row in batch.tolist()] for batch in batches]


def share(part: Tensor) -> dict[str, Any]:
    """How large a rank's share of an epoch is, and whether it lies as the data does."""
    numbers = part.tolist()
    return {
        "size": len(numbers),
        "type": part.dtype,
        "as it stood": len(numbers) >= MANY and numbers == sorted(numbers),
    }


def together(calls: Sequence[Call]) -> list[Any]:
    """What holds of several calls: which gave one order, and whether an epoch's shares are all of it and are apart."""
    orders = [(number, _order(call)) for number, call in enumerate(calls)]
    alike = [(one, two) for (one, before), (two, after) in combinations(orders, 2) if before == after != ""]
    epochs: dict[tuple[int, ...], list[int]] = {}
    for call in calls:
        if call.name == "shard" and isinstance(call.result, Tensor):
            key = tuple(call.arguments[name] for name in ("count", "world", "epoch", "seed"))
            epochs.setdefault(key, []).extend(call.result.tolist())
    return [alike, [(len(set(dealt)) == key[0], len(dealt) == len(set(dealt))) for key, dealt in epochs.items()]]


def _order(call: Call) -> str:
    """The order that a call gave; nothing where there are so few sequences that others come in it as well."""
    sizes = {"batches": lambda: len(call.arguments["inputs"]), "shard": lambda: len(call.result)}
    enough = call.name in sizes and call.error is None and sizes[call.name]() >= MANY
    return str(call.result) if enough else ""
