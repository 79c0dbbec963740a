"""Compares calls in what the curriculum settles, where it leaves something open.

Open is of which steps `train_loss` tells, how many groups parameters come in, what a search writes behind the end of a
sentence, and what is made of random numbers: how a token is taken by its probability (from all tokens or from the kept
ones, in their order or in that of their ids) and an epoch's order. Equal generators then draw other tokens, as often.
"""

from typing import Any

import torch
from torch import Tensor, nn

from spec.kit import epoch
from spec.kit.record import Call

SEARCHES = ("greedy_search", "beam_search")
OPEN = ("train", "generate", "parameter_groups", "batches", "shard", *SEARCHES)  # the exercises that this is about
ENOUGH = 500  # drawn tokens: fewer do not tell how likely each was
APART = 0.06  # shares that are more apart are not the same: six standard deviations of 2,400 draws
NOTHING_TO_DRAW = ("multinomial distribution", "probability tensor")  # torch's words for it


def settled(call: Call) -> Any:
    """What a call returned, without what is open."""
    value = call.result
    if call.name in SEARCHES and isinstance(value, Tensor) and value.ndim == 2:
        return [_up_to(row, call.arguments.get("end")) for row in value.tolist()]
    if call.name == "parameter_groups" and isinstance(value, list):
        return _decays(call.arguments["model"], call.live)
    if call.name == "batches" and epoch.in_pairs(value):
        return epoch.facts(call.arguments["inputs"], call.arguments["targets"], value)
    if call.name == "shard" and isinstance(value, Tensor):
        return epoch.share(value)
    named = fields(value)
    return {name: kept for name, kept in named.items() if name != "train_loss"} if "train_loss" in named else value


def _decays(model: nn.Module, groups: list[dict[str, Any]]) -> list[list[Any]]:
    """For each parameter of the model the decay of every group that it is in."""
    held = [({id(each) for each in group["params"]}, group.get("weight_decay")) for group in groups]
    return [[decay for inside, decay in held if id(parameter) in inside] for parameter in model.parameters()]


def fields(value: Any) -> dict[str, Any]:
    """What an object holds by name, a named tuple's fields included."""
    return dict(value._asdict()) if hasattr(value, "_asdict") else dict(getattr(value, "__dict__", {}))


def _up_to(row: list[int], end: Any) -> list[int]:
    """A sentence, its end included."""
    return row[: row.index(end) + 1] if end in row else row


def drawn_alike(mine: Call, theirs: Call) -> bool | None:
    """Whether two calls of `generate` drew the same tokens about as often; None where nothing, or little, was drawn."""
    if mine.name != "generate" or mine.arguments.get("temperature") == 0:
        return None
    if mine.error is not None and theirs.error is not None:
        return True if _nothing_left(mine.error) and _nothing_left(theirs.error) else None
    prompt, texts = mine.arguments.get("prompt"), (mine.result, theirs.result)
    if not all(isinstance(text, Tensor) and text.ndim == 2 for text in texts) or not isinstance(prompt, Tensor):
        return None
    begun = prompt.shape[1]
    new = [text[:, begun:] for text in texts]
    if new[0].shape != new[1].shape or new[0].numel() < ENOUGH:
        return None
    if not torch.equal(texts[0][:, :begun], texts[1][:, :begun]):
        return False
    size = 1 + int(max(prompt.max(), *(tokens.max() for tokens in new)))
    shares = [_shares(prompt[:, :1], tokens, size) for tokens in new]
    return torch.equal(shares[0] > 0, shares[1] > 0) and bool((shares[0] - shares[1]).abs().max() < APART)


def _nothing_left(error: BaseException) -> bool:
    """Whether torch found nothing that could be drawn."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NOTHING_TO_DRAW)


def _shares(first: Tensor, new: Tensor, size: int) -> Tensor:
    """How often each token was drawn after each first token, as a share of all."""
    pairs = (first * size + new).flatten()
    return torch.bincount(pairs, minlength=size * size) / pairs.numel()
