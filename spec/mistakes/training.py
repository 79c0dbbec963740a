"""What goes wrong in training."""

import math
import os
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.training import (
    Batch,
    History,
    Settings,
    evaluate,
    language_model_loss,
    noam,
    parameter_groups,
    train,
    train_step,
    warmup_cosine,
)
from spec.mistakes import instead_of

Groups = list[dict[str, Any]]
Optimizer = torch.optim.Optimizer


def _flat(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return logits.flatten(0, -2), targets.flatten()


@instead_of(language_model_loss)
def loss_is_a_sum(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The losses are summed. They must be averaged over the counted tokens, or the gradient grows with the batch."""
    return language_model_loss(logits, targets, ignore, label_smoothing) * (targets != ignore).sum()


@instead_of(language_model_loss)
def loss_over_all_positions(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """The sum is divided by the number of all positions. Only the counted ones may divide it."""
    share = (targets != ignore).sum() / targets.numel()
    return language_model_loss(logits, targets, ignore, label_smoothing) * share.to(logits.dtype)


@instead_of(language_model_loss)
def loss_in_bits(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The logarithm has base 2. Losses are in nats: the natural logarithm."""
    return language_model_loss(logits, targets, ignore, label_smoothing) / math.log(2)


@instead_of(language_model_loss)
def loss_of_probabilities(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The softmax is taken twice: `F.cross_entropy` takes logits, not probabilities."""
    return language_model_loss(logits.softmax(-1), targets, ignore, label_smoothing)


@instead_of(language_model_loss)
def softmax_over_the_positions(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """The softmax runs over the positions. It must run over the vocabulary, which is the last axis."""
    return language_model_loss(
        logits - logits.logsumexp(-2, keepdim=True), targets.clamp_min(0), ignore, 0.0
    ) + 0 * language_model_loss(logits, targets, ignore, label_smoothing)


@instead_of(language_model_loss)
def log_of_the_softmax(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The logarithm of the softmax is −∞ where a probability is 0. `log_softmax` never makes the probability."""
    counted = targets != ignore
    log_p, ids = logits[counted].softmax(-1).log(), targets[counted]
    mean = F.nll_loss(log_p, ids, reduction="sum") / counted.sum().clamp_min(1)
    return (1 - label_smoothing) * mean - label_smoothing * log_p.sum() / counted.sum().clamp_min(1) / logits.shape[-1]


@instead_of(language_model_loss)
def probabilities_are_padded(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """A small number is added to the probabilities before the logarithm, so a wrong certainty costs too little."""
    counted = targets != ignore
    log_p, ids = (logits[counted].softmax(-1) + 1e-9).log(), targets[counted]
    mean = F.nll_loss(log_p, ids, reduction="sum") / counted.sum().clamp_min(1)
    return (1 - label_smoothing) * mean - label_smoothing * log_p.sum() / counted.sum().clamp_min(1) / logits.shape[-1]


@instead_of(language_model_loss)
def targets_are_moved_again(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """The targets are moved by one inside the loss. They come moved already: `sequences` does it."""
    moved = targets.roll(-1, -1)
    moved[..., -1] = ignore
    return language_model_loss(logits, moved, ignore, label_smoothing)


@instead_of(language_model_loss)
def ignores_nothing(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The targets to ignore are counted as if they were class 0."""
    return language_model_loss(logits, targets.masked_fill(targets == ignore, 0), -100, label_smoothing)


@instead_of(language_model_loss)
def always_ignores_minus_100(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """`ignore` is not used: only −100 is ignored, whatever the caller says."""
    return language_model_loss(logits, targets, -100, label_smoothing)


@instead_of(language_model_loss)
def class_0_is_ignored(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """Class 0 is ignored as if it were padding, but it is a token like any other."""
    return language_model_loss(logits, targets.masked_fill(targets == 0, ignore), ignore, label_smoothing)


@instead_of(language_model_loss)
def nan_where_nothing_counts(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """Where no target counts the mean is 0/0, which is NaN. It must be 0."""
    flat = _flat(logits, targets)
    return F.cross_entropy(*flat, ignore_index=ignore, label_smoothing=label_smoothing)


@instead_of(language_model_loss)
def chooses_zero_after_dividing(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """`torch.where` picks 0 for the mean of nothing, but 0/0 was divided before, and its gradient is NaN. Divide by
    `count.clamp(min=1)`.
    """
    counted = (targets != ignore).flatten()
    flat, known = _flat(logits, targets.masked_fill(targets == ignore, 0))
    losses = F.cross_entropy(flat, known, label_smoothing=label_smoothing, reduction="none")
    return torch.where(counted.any(), (losses * counted).sum() / counted.sum(), losses.new_zeros(()))


@instead_of(language_model_loss)
def constant_where_nothing_counts(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """Where no target counts, a new tensor is returned that no backward pass can start from. Keep it in the graph."""
    if not (targets != ignore).any():
        return torch.zeros((), dtype=logits.dtype)
    return language_model_loss(logits, targets, ignore, label_smoothing)


@instead_of(language_model_loss)
def smoothing_is_ignored(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """`label_smoothing` is not used."""
    return language_model_loss(logits, targets, ignore)


@instead_of(language_model_loss)
def smoothing_spares_the_target(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """The smoothed share goes to the other classes alone. torch spreads it over all, the target among them."""
    more = label_smoothing * logits.shape[-1] / (logits.shape[-1] - 1)
    return language_model_loss(logits, targets, ignore, more)


@instead_of(language_model_loss)
def smoothing_by_the_divergence(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """The loss is the divergence from the smoothed shares (KLDivLoss), which is less than the cross-entropy by the
    shares' own entropy: gradients are the same, numbers cannot be compared with other runs.
    """
    classes, loss = logits.shape[-1], language_model_loss(logits, targets, ignore, label_smoothing)
    other = torch.tensor(label_smoothing / classes, dtype=torch.float64)
    entropy = torch.special.entr(1 - label_smoothing + other) + (classes - 1) * torch.special.entr(other)
    return loss - entropy.to(loss) * (targets != ignore).any()


@instead_of(language_model_loss)
def smoothing_counts_the_ignored(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """The smoothed share is averaged over all positions, the ignored ones too. Only the counted ones have a share."""
    loss = language_model_loss(logits, targets, ignore)
    smooth = -logits.log_softmax(-1).mean() * (targets != ignore).any()
    return loss if label_smoothing == 0 else (1 - label_smoothing) * loss + label_smoothing * smooth


@instead_of(language_model_loss)
def averages_each_sequence_first(
    logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0
) -> Tensor:
    """Each sequence is averaged, and then the sequences, so tokens of short ones weigh more. All are one mean."""
    counts = (targets != ignore).sum(-1)
    losses = [language_model_loss(*row, ignore, label_smoothing) for row in zip(logits, targets, strict=True)]
    return torch.stack(losses).sum() / (counts > 0).sum().clamp_min(1)


@instead_of(language_model_loss)
def loss_is_detached(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The loss is cut from the graph, by .item(), .data or torch.tensor: nothing can be learned from it."""
    loss = language_model_loss(logits.detach(), targets, ignore, label_smoothing)
    return loss + 0 * logits.sum()


@instead_of(language_model_loss)
def sums_in_half_precision(logits: Tensor, targets: Tensor, ignore: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The losses are summed in the logits' own half precision, where the sum of many tokens overflows."""
    count = (targets != ignore).sum().clamp_min(1)
    mean = language_model_loss(logits.float(), targets, ignore, label_smoothing)
    return ((mean * count).to(logits.dtype) / count).to(logits.dtype)


@instead_of(noam)
def noam_never_falls(step: int, d_model: int, warmup: int) -> float:
    """The rate stays where it is after the warm-up. It must fall with 1/√step."""
    return noam(min(step, warmup), d_model, warmup)


@instead_of(noam)
def noam_takes_the_larger(step: int, d_model: int, warmup: int) -> float:
    """The larger of the two terms is taken. The smaller one rises first and falls later."""
    noam(step, d_model, warmup)
    return float(d_model**-0.5 * max(step**-0.5, step * warmup**-1.5))


@instead_of(noam)
def noam_without_d_model(step: int, d_model: int, warmup: int) -> float:
    """d_model^−0.5 is missing, so that wide models take steps that are too large."""
    return noam(step, 1, warmup)


@instead_of(noam)
def noam_counts_from_0(step: int, d_model: int, warmup: int) -> float:
    """Step 0 is taken as if it were a step. Steps count from 1, and 0 must be an error."""
    return noam(step, d_model, warmup) if step > 0 else 0.0


@instead_of(warmup_cosine)
def no_warmup_at_all(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The rate starts at the peak. It must rise to it in a line over `warmup` steps."""
    return warmup_cosine(max(step, warmup), peak, warmup, total, floor)


@instead_of(warmup_cosine)
def warmup_begins_at_step_1(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The warm-up is one step ahead: (step + 1) / warmup. At step 0 the rate must be 0."""
    return min(peak, warmup_cosine(step + 1, peak, warmup, total, floor)) if step < warmup else warmup_cosine(
        step, peak, warmup, total, floor
    )  # fmt: skip


@instead_of(warmup_cosine)
def warmup_counts_one_step_more(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The warm-up is (step + 1) / (warmup + 1), as in nanoGPT, and not 0 at step 0. It is step / warmup."""
    return peak * (step + 1) / (warmup + 1) if step < warmup else warmup_cosine(step, peak, warmup, total, floor)


@instead_of(warmup_cosine)
def warmup_begins_at_the_floor(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The warm-up starts from the floor. It must start from 0."""
    if step < warmup:
        return floor + (peak - floor) * step / warmup
    return warmup_cosine(step, peak, warmup, total, floor)


@instead_of(warmup_cosine)
def all_warmup_divides_by_0(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """After a warm-up that is the whole run, the cosine divides by total − warmup, which is 0. Return the floor."""
    if step < warmup:
        return warmup_cosine(step, peak, warmup, total, floor)
    done = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2


@instead_of(warmup_cosine)
def warmup_0_divides_by_0(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """step / warmup is computed also where warmup is 0, and divides by it."""
    return min(1.0, step / warmup) * warmup_cosine(max(step, warmup), peak, warmup, total, floor)


@instead_of(warmup_cosine)
def falls_in_a_line(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The rate falls in a line. It must follow half a cosine."""
    if step < warmup:
        return warmup_cosine(step, peak, warmup, total, floor)
    return peak + (floor - peak) * min(1.0, (step - warmup) / max(1, total - warmup))


@instead_of(warmup_cosine)
def whole_cosine(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The cosine runs through a whole period, so the rate is back at the peak in the end. Half of one is due."""
    if step < warmup:
        return warmup_cosine(step, peak, warmup, total, floor)
    return floor + (peak - floor) * (1 + math.cos(2 * math.pi * (step - warmup) / max(1, total - warmup))) / 2


@instead_of(warmup_cosine)
def cosine_rises_again(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Beyond `total` the cosine goes on and the rate rises again. It must stay at the floor."""
    if step < warmup:
        return warmup_cosine(step, peak, warmup, total, floor)
    return floor + (peak - floor) * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


@instead_of(warmup_cosine)
def floor_is_added(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The floor is added to the whole cosine, so the peak is exceeded. The cosine spans peak − floor."""
    return warmup_cosine(step, peak, warmup, total, 0.0) + (floor if step >= warmup else 0.0)


@instead_of(warmup_cosine)
def floor_is_ignored(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The rate falls to 0, whatever the floor is."""
    return warmup_cosine(step, peak, warmup, total, 0.0)


@instead_of(warmup_cosine)
def cosine_counts_the_warmup(step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """The cosine begins at step 0, so it is on its way down when the warm-up ends. It begins at `warmup`."""
    if step < warmup:
        return warmup_cosine(step, peak, warmup, total, floor)
    return warmup_cosine(step, peak, 0, total, floor)


@instead_of(parameter_groups)
def everything_decays(model: nn.Module, weight_decay: float) -> Groups:
    """Everything decays, norms, biases and embeddings too. Only matrices may."""
    return [{"params": list(model.parameters()), "weight_decay": weight_decay}]


@instead_of(parameter_groups)
def nothing_decays(model: nn.Module, weight_decay: float) -> Groups:
    """The weight decay is not used. Matrices must decay."""
    return [{"params": list(model.parameters()), "weight_decay": 0.0}]


@instead_of(parameter_groups)
def embeddings_decay(model: nn.Module, weight_decay: float) -> Groups:
    """All parameters with two axes decay, embeddings too. Rare tokens would fade away."""
    two = [p for p in model.parameters() if p.ndim >= 2]
    one = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": two, "weight_decay": weight_decay}, {"params": one, "weight_decay": 0.0}]


@instead_of(parameter_groups)
def all_but_embeddings_decay(model: nn.Module, weight_decay: float) -> Groups:
    """Embeddings are spared, and gains and biases decay with the matrices. Only the matrices do."""
    groups = parameter_groups(model, weight_decay)
    tables = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    spared = [p for p in groups[1]["params"] if p in tables]
    vectors = [p for p in groups[1]["params"] if p not in tables]
    groups[1]["params"] = spared
    return [*groups, {"params": vectors, "weight_decay": weight_decay}]


@instead_of(parameter_groups)
def biases_decay(model: nn.Module, weight_decay: float) -> Groups:
    """Biases decay as matrices do: parameters were chosen by the type of their module alone."""
    groups = parameter_groups(model, weight_decay)
    linear = {p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters(recurse=False) if p.ndim < 2}
    biases = [p for p in groups[1]["params"] if p in linear]
    groups[1]["params"] = [p for p in groups[1]["params"] if p not in linear]
    return [*groups, {"params": biases, "weight_decay": weight_decay}]


@instead_of(parameter_groups)
def gains_decay(model: nn.Module, weight_decay: float) -> Groups:
    """Only what is named `bias` is spared beside the embeddings, so the gains of norms decay. Vectors never do."""
    others = parameter_groups(model, weight_decay)[1]["params"]
    spared = {id(p) for name, p in model.named_parameters() if p.ndim >= 2 or name.endswith("bias")}
    spared &= {id(p) for p in others}
    decayed = [p for p in model.parameters() if id(p) not in spared]
    kept = [p for p in model.parameters() if id(p) in spared]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


@instead_of(parameter_groups)
def groups_are_upside_down(model: nn.Module, weight_decay: float) -> Groups:
    """The two groups are swapped: what must decay does not, and what must not does."""
    decayed, others = parameter_groups(model, weight_decay)
    return [{**decayed, "weight_decay": 0.0}, {**others, "weight_decay": weight_decay}]


@instead_of(parameter_groups)
def biases_are_forgotten(model: nn.Module, weight_decay: float) -> Groups:
    """Parameters that are no matrices are in no group at all, so they are never trained."""
    return parameter_groups(model, weight_decay)[:1]


@instead_of(parameter_groups)
def bare_parameters_are_forgotten(model: nn.Module, weight_decay: float) -> Groups:
    """Only torch's own layers are looked at: the parameters of your own norms and tables are in no group."""
    known = {id(p) for m in model.modules() if type(m).__module__.startswith("torch.") for p in m.parameters(False)}
    return [
        {**group, "params": [p for p in group["params"] if id(p) in known]}
        for group in parameter_groups(model, weight_decay)
    ]


@instead_of(parameter_groups)
def bare_vectors_are_forgotten(model: nn.Module, weight_decay: float) -> Groups:
    """Norms are known as `nn.LayerNorm` alone, so the gain of a norm of your own is in no group and never learns."""
    decayed, others = parameter_groups(model, weight_decay)
    known = {id(p) for m in model.modules() if type(m).__module__.startswith("torch.") for p in m.parameters(False)}
    return [decayed, {**others, "params": [p for p in others["params"] if p.ndim > 1 or id(p) in known]}]


@instead_of(parameter_groups)
def tied_matrix_decays(model: nn.Module, weight_decay: float) -> Groups:
    """A matrix that head and embedding share decays, as it was met at the head first. It is an embedding as well."""
    decayed, others = parameter_groups(model, weight_decay)
    heads = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)} - {id(p) for p in decayed["params"]}
    return [
        {**decayed, "params": decayed["params"] + [p for p in others["params"] if id(p) in heads]},
        {**others, "params": [p for p in others["params"] if id(p) not in heads]},
    ]


@instead_of(parameter_groups)
def shared_parameters_are_listed_twice(model: nn.Module, weight_decay: float) -> Groups:
    """A parameter that two modules share is in both of their places. It must be in one group, once."""
    decayed, others = parameter_groups(model, weight_decay)
    every = [p for module in model.modules() for p in module.parameters(recurse=False)]
    twice = [p for number, p in enumerate(every) if any(p is before for before in every[:number])]
    return [{**decayed, "params": decayed["params"] + twice}, others]


@instead_of(parameter_groups)
def bare_tables_decay(model: nn.Module, weight_decay: float) -> Groups:
    """Only `nn.Embedding` is taken for an embedding. A learned table of positions is one too, whatever holds it."""
    decayed, others = parameter_groups(model, weight_decay)
    tables = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    bare = [p for p in others["params"] if p.ndim >= 2 and p not in tables]
    return [
        {**decayed, "params": decayed["params"] + bare},
        {**others, "params": [p for p in others["params"] if not any(p is each for each in bare)]},
    ]


def _shares(counts: list[int]) -> list[float]:
    return [count / max(1, sum(counts)) for count in counts]


def _step(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batches: list[Batch],
    clip: Callable[[nn.Module], object] = lambda _: None,
    weights: Callable[[list[int]], list[float]] | None = None,
) -> float:
    optimizer.zero_grad()
    counts = [int((targets != -100).sum()) for _, targets in micro_batches]
    loss = torch.zeros(())
    for (inputs, targets), weight in zip(micro_batches, (weights or _shares)(counts), strict=True):
        part = language_model_loss(model(inputs), targets) * weight
        torch.autograd.backward(part)
        loss += part.detach()
    clip(model)
    optimizer.step()
    return loss.item()


def _gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


@instead_of(train_step)
def gradients_are_not_cleared(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The gradients are not cleared, so each step adds to those before it. Call `optimizer.zero_grad()` first."""
    old = [(p, p.grad.clone()) for p in model.parameters() if p.grad is not None]

    def add(_: nn.Module) -> None:
        for p, gradient in old:
            p.grad = gradient if p.grad is None else p.grad + gradient
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)

    return _step(model, optimizer, micro_batches, add)


@instead_of(train_step)
def gradients_are_cleared_after_the_step(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The gradients are cleared after the step alone, so what was left there before leaks in. Clear them first."""
    loss = gradients_are_not_cleared(model, optimizer, micro_batches, max_norm)
    optimizer.zero_grad()
    return loss


@instead_of(train_step)
def gradients_are_cleared_in_between(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The gradients are cleared before each micro-batch, so only the last one is learned from. Clear once, first."""
    counts = [int((targets != -100).sum()) for _, targets in micro_batches]
    with torch.no_grad():
        losses = [float(language_model_loss(model(inputs), targets)) for inputs, targets in micro_batches]
    train_step(model, optimizer, micro_batches[-1:], max_norm)
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / max(1, sum(counts))


@instead_of(train_step)
def gradients_are_cleared_before_the_step(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The gradients are cleared between `backward()` and `step()`: nothing is learned."""

    def clear(_: nn.Module) -> None:
        for gradient in _gradients(model):
            gradient.zero_()

    return _step(model, optimizer, micro_batches, clear)


@instead_of(train_step)
def steps_for_each_micro_batch(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The optimizer steps after each micro-batch. They make up one batch, and one step is due."""
    losses = [train_step(model, optimizer, [each], max_norm) for each in micro_batches for _ in range(2)]
    return sum(losses) / len(losses)


@instead_of(train_step)
def micro_batches_weigh_the_same(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """Each micro-batch's mean loss weighs the same. It must weigh as much as it has counted tokens."""
    return _step(
        model, optimizer, micro_batches,
        lambda _: nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf),
        lambda counts: [1 / len(counts)] * len(counts),
    )  # fmt: skip


@instead_of(train_step)
def micro_batches_are_summed(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The micro-batches' mean losses are added up, so the gradient grows with their number."""
    return _step(
        model, optimizer, micro_batches,
        lambda _: nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf),
        lambda counts: [1.0] * len(counts),
    )  # fmt: skip


@instead_of(train_step)
def micro_batches_weigh_by_all_positions(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """Each micro-batch weighs as much as it has positions, the ignored ones too. Only the counted ones weigh."""
    sizes = [targets.numel() for _, targets in micro_batches]
    return _step(
        model, optimizer, micro_batches,
        lambda _: nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf),
        lambda _: [size / sum(sizes) for size in sizes],
    )  # fmt: skip


@instead_of(train_step)
def max_norm_is_ignored(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """`max_norm` is not used: nothing is clipped."""
    return train_step(model, optimizer, micro_batches)


@instead_of(train_step)
def clips_each_parameter(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """Each parameter's gradient is clipped by itself, which turns the whole. All of them are one vector."""

    def clip(_: nn.Module) -> None:
        for p in model.parameters() if max_norm is not None else []:
            nn.utils.clip_grad_norm_([p], max_norm or math.inf)

    return _step(model, optimizer, micro_batches, clip)


@instead_of(train_step)
def clips_each_number(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """Each number of the gradient is clipped to ±max_norm. The length of the whole is what may not exceed it."""
    clip = lambda _: nn.utils.clip_grad_value_(model.parameters(), max_norm or math.inf)  # noqa: E731
    return _step(model, optimizer, micro_batches, clip)


@instead_of(train_step)
def gradients_are_scaled_up(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """Every gradient is scaled to the length max_norm, small ones too. Only those that are longer may be."""

    def scale(_: nn.Module) -> None:
        norm = torch.stack([gradient.norm() for gradient in _gradients(model)]).norm()
        for gradient in _gradients(model) if max_norm is not None else []:
            gradient.mul_((max_norm or 1.0) / norm)

    return _step(model, optimizer, micro_batches, scale)


@instead_of(train_step)
def clips_the_sum(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The summed gradient is clipped, and divided by the number of tokens afterwards. Divide first, then clip."""
    count = max(1, sum(int((targets != -100).sum()) for _, targets in micro_batches))

    def clip(_: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
        for gradient in _gradients(model):
            gradient.div_(count)

    return _step(model, optimizer, micro_batches, clip, lambda counts: [float(each) for each in counts]) / count


@instead_of(train_step)
def clips_after_the_step(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The gradient is clipped after the optimizer has used it. Clip between `backward()` and `step()`."""
    loss = train_step(model, optimizer, micro_batches)
    nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
    return loss


@instead_of(train_step)
def clips_each_micro_batch(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """What has been accumulated is clipped after every micro-batch. Clip once, after the last one."""
    optimizer.zero_grad()
    count, loss = sum(int((targets != -100).sum()) for _, targets in micro_batches), 0.0
    for inputs, targets in micro_batches:
        part = language_model_loss(model(inputs), targets) * ((targets != -100).sum() / max(1, count))
        torch.autograd.backward(part)
        nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
        loss += part.item()
    optimizer.step()
    return loss


@instead_of(train_step)
def loss_after_the_update(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The loss is computed again after the update. The one before it was there already, and is what is asked for."""
    train_step(model, optimizer, micro_batches, max_norm)
    with torch.no_grad():
        losses = [float(language_model_loss(model(inputs), targets)) for inputs, targets in micro_batches]
    return sum(losses) / len(losses)


@instead_of(train_step)
def loss_of_the_last_micro_batch(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The last micro-batch's loss is returned. The mean over all counted tokens is due."""
    logits: list[Tensor] = []
    hook = model.register_forward_hook(lambda _model, _given, out: logits.append(out.detach()))
    train_step(model, optimizer, micro_batches, max_norm)
    hook.remove()
    return language_model_loss(logits[-1], micro_batches[-1][1]).item()


@instead_of(train_step)
def loss_stays_a_tensor(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> Any:
    """The loss is returned as a tensor. `.item()` makes it a number, and lets go of the graph."""
    return torch.tensor(train_step(model, optimizer, micro_batches, max_norm))


@instead_of(train_step)
def climbs_the_hill(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """The gradient has the wrong sign: the loss rises. The loss is −log p, with a minus."""

    def turn(_: nn.Module) -> None:
        for gradient in _gradients(model):
            gradient.neg_()

    return _step(model, optimizer, micro_batches, turn)


@instead_of(train_step)
def stumbles_over_missing_gradients(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """A parameter without a gradient breaks the clipping: its gradient is None."""

    def clip(_: nn.Module) -> None:
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()  # type: ignore[union-attr]
        for p in model.parameters() if max_norm is not None and norm > max_norm else []:
            p.grad = p.grad * ((max_norm or 1.0) / norm)

    return _step(model, optimizer, micro_batches, clip)


@instead_of(train_step)
def nan_from_padding(
    model: nn.Module, optimizer: Optimizer, micro_batches: list[Batch], max_norm: float | None = None
) -> float:
    """A micro-batch without counted tokens has a mean of 0/0, and its NaN spoils the rest, though it weighs 0."""
    if any(bool((targets == -100).all()) for _, targets in micro_batches):
        for p in model.parameters():
            p.grad = torch.full_like(p, math.nan)
        optimizer.step()
        return math.nan
    return train_step(model, optimizer, micro_batches, max_norm)


@instead_of(evaluate)
def mean_of_the_batches_means(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The batches' means are averaged. Each must weigh as much as it has counted tokens."""
    losses = [evaluate(model, [each]) for each in batches]
    return sum(losses) / len(losses)


@instead_of(evaluate)
def weighs_by_sequences(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The batches weigh by their number of sequences. The counted tokens are what is averaged over."""
    pairs = [(evaluate(model, [each]), len(each[0])) for each in batches]
    return sum(loss * rows for loss, rows in pairs) / sum(rows for _, rows in pairs)


@instead_of(evaluate)
def evaluates_in_training_mode(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The model is not put into eval mode, so dropout is active and the loss too large."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for inputs, targets in batches:
            count = int((targets != -100).sum())
            total, tokens = total + language_model_loss(model(inputs), targets).item() * count, tokens + count
    return total / max(1, tokens)


@instead_of(evaluate)
def stays_in_eval_mode(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The model is left in eval mode, so that training goes on without dropout."""
    loss = evaluate(model, batches)
    model.eval()
    return loss


@instead_of(evaluate)
def only_the_whole_wakes_up(model: nn.Module, batches: Iterable[Batch]) -> float:
    """`model.training` is put back by hand, which its parts do not hear of: dropout stays off. `model.train(…)` does,
    or each part's own mode.
    """
    was, loss = model.training, evaluate(model, batches)
    model.eval()
    model.training = was
    return loss


@instead_of(evaluate)
def always_wakes_the_model_up(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The model is put into training mode afterwards, also where it was not in it before."""
    loss = evaluate(model, batches)
    model.train()
    return loss


@instead_of(evaluate)
def wakes_up_frozen_parts(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Only the whole model's mode is remembered: `model.train()` wakes up the parts that were frozen by themselves."""
    mode, loss = model.training, evaluate(model, batches)
    model.train(mode)
    return loss


@instead_of(evaluate)
def records_the_evaluation(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Gradients are recorded in the evaluation, which costs memory and time for nothing. Use `torch.no_grad()`."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    total, tokens = 0.0, 0
    for inputs, targets in batches:
        count = int((targets != -100).sum())
        total, tokens = total + language_model_loss(model(inputs), targets).item() * count, tokens + count
    for module, mode in modes.items():
        module.training = mode
    return total / max(1, tokens)


@instead_of(evaluate)
def first_batch_alone(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Only the first batch is evaluated: the `return` stands inside the loop."""
    return evaluate(model, islice(batches, 1))


@instead_of(Settings)
class max_norm_is_lost(Settings):  # noqa: N801
    """`max_norm` is taken and not kept."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.max_norm = None


@instead_of(Settings)
class resume_is_lost(Settings):  # noqa: N801
    """`resume` is taken and not kept, so that every run starts anew."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.resume = False


def _write_over(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path)


def _write_after_removing(path: Path, state: dict[str, Any]) -> None:
    path.unlink(missing_ok=True)
    torch.save(state, path)


def _save(model: nn.Module, optimizer: Optimizer, facts: dict[str, Any]) -> dict[str, Any]:
    random = torch.get_rng_state()
    return {**facts, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": random}


def _run(
    model: nn.Module,
    train_batches: Callable[[int], Iterable[Batch]],
    validation_batches: Iterable[Batch],
    settings: Settings,
    *,
    optimizer: Optimizer | None = None,
    rate: Callable[[int, int], float] | None = None,  # of the steps before, and of those since the start
    epoch_of: Callable[[int], int] = lambda epoch: epoch,
    forget: tuple[str, ...] = (),
    write: Callable[[Path, dict[str, Any]], None] | None = None,
    only_weights: bool = True,
    keep_epoch_random: bool = True,
    after_evaluation: Callable[[nn.Module], object] = lambda _: None,
) -> History:
    """The right training in one piece; each argument is a place where it goes wrong."""
    torch.manual_seed(settings.seed)
    optimizer = optimizer or torch.optim.AdamW(parameter_groups(model, settings.weight_decay), lr=settings.peak)
    rate = rate or (lambda step, _: warmup_cosine(step, settings.peak, settings.warmup, settings.steps, settings.floor))
    held_out, history = list(validation_batches), History()
    facts: dict[str, Any] = {"step": 0, "epoch": 0, "position": 0, "history": vars(history)}
    path = None if settings.checkpoint is None else Path(settings.checkpoint)
    now = None
    if settings.resume and path is not None and path.exists():
        state = torch.load(path, weights_only=only_weights)
        if "model" not in forget:
            model.load_state_dict(state["model"])
        if "optimizer" not in forget:
            optimizer.load_state_dict(state["optimizer"])
        facts = {key: state[key] for key in state if key not in ("model", "optimizer", "random", *forget)}
        facts = {"step": 0, "epoch": 0, "position": 0, **facts}
        history = History(**facts["history"])
        now = None if "random" in forget else state["random"]
    model.train()
    losses: list[float] = []
    since = 0
    while facts["step"] < settings.steps:
        if now is not None and keep_epoch_random:
            torch.set_rng_state(facts["epoch_random"])
        elif facts["position"] == 0:
            facts["epoch_random"] = torch.get_rng_state()
        epoch = iter(train_batches(epoch_of(facts["epoch"])))
        for _ in islice(epoch, facts["position"]):
            pass
        if now is not None:
            torch.set_rng_state(now)
            now = None
        seen = facts["position"]
        for batch in epoch:
            since += 1
            seen += 1
            facts["step"], facts["position"] = facts["step"] + 1, facts["position"] + 1
            for group in optimizer.param_groups:
                group["lr"] = rate(facts["step"] - 1, since - 1)
            losses.append(train_step(model, optimizer, [batch], settings.max_norm))
            if facts["step"] % settings.evaluate_every == 0 or facts["step"] == settings.steps:
                history.steps.append(facts["step"])
                history.train_loss.append(sum(losses) / len(losses))
                history.validation_loss.append(evaluate(model, held_out))
                after_evaluation(model)
                losses.clear()
                if path is not None:
                    content = _save(model, optimizer, {**facts, "history": vars(history)})
                    (write or _write_whole)(path, content)
            if facts["step"] >= settings.steps:
                break
        if seen == 0:
            raise ValueError(f"train_batches({facts['epoch']}) gave no batch")
        facts["epoch"], facts["position"] = facts["epoch"] + 1, 0
    return history


def _write_whole(path: Path, state: dict[str, Any]) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


Epochs = Callable[[int], Iterable[Batch]]


@instead_of(train)
def rate_stays_constant(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The learning rate stays at the peak: the schedule is never put into the optimizer's groups."""
    return _run(model, train_batches, validation_batches, settings, rate=lambda *_: settings.peak)


@instead_of(train)
def train_forgets_the_floor(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """`settings.floor` is not passed on, so the learning rate ends at 0."""

    def rate(step: int, _: int) -> float:
        return warmup_cosine(step, settings.peak, settings.warmup, settings.steps)

    return _run(model, train_batches, validation_batches, settings, rate=rate)


@instead_of(train)
def schedule_begins_again(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """After a resumption the schedule starts with a warm-up again. It must go on at the step that was reached."""

    def rate(_: int, since: int) -> float:
        return warmup_cosine(since, settings.peak, settings.warmup, settings.steps, settings.floor)

    return _run(model, train_batches, validation_batches, settings, rate=rate)


@instead_of(train)
def adam_without_the_w(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """Adam adds the decay to the gradient, and then normalises it away. AdamW takes it off the weights directly."""
    optimizer = torch.optim.Adam(parameter_groups(model, settings.weight_decay), lr=settings.peak)
    return _run(model, train_batches, validation_batches, settings, optimizer=optimizer)


@instead_of(train)
def trains_by_plain_descent(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The optimizer is SGD. AdamW is due: a Transformer's gradients differ in size by orders of magnitude."""
    optimizer = torch.optim.SGD(parameter_groups(model, settings.weight_decay), lr=settings.peak)
    return _run(model, train_batches, validation_batches, settings, optimizer=optimizer)


@instead_of(train)
def decays_all_parameters(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """`model.parameters()` is given to AdamW, so norms, biases and embeddings decay too. Use parameter_groups."""
    optimizer = torch.optim.AdamW(model.parameters(), settings.peak, weight_decay=settings.weight_decay)
    return _run(model, train_batches, validation_batches, settings, optimizer=optimizer)


@instead_of(train)
def train_never_clips(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """`max_norm` is not passed on to the steps."""
    return train(model, train_batches, validation_batches, _but(settings, max_norm=None))


def _but(settings: Any, **changes: Any) -> Settings:
    names = Settings.__dataclass_fields__
    return Settings(**{name: getattr(settings, name) for name in names} | changes)


@instead_of(train)
def seed_is_ignored(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The seed is not used: the run depends on what was drawn before."""
    return train(model, train_batches, validation_batches, _but(settings, seed=int(torch.randint(1000, ()))))


@instead_of(train)
def seed_is_fixed(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The seed is a number in the code, not the one of the settings."""
    return train(model, train_batches, validation_batches, _but(settings, seed=42))


@instead_of(train)
def one_epoch_again_and_again(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """Epoch 0 is asked for again and again, so that every epoch has the same order. Pass the epoch's number on."""
    return _run(model, train_batches, validation_batches, settings, epoch_of=lambda _: 0)


@instead_of(train)
def epochs_count_from_1(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The first epoch is asked for as epoch 1. Epochs count from 0."""
    return _run(model, train_batches, validation_batches, settings, epoch_of=lambda epoch: epoch + 1)


@instead_of(train)
def one_step_too_many(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """One update more is made than `steps`."""
    return train(model, train_batches, validation_batches, _but(settings, steps=settings.steps + 1))


@instead_of(train)
def evaluates_on_the_training_batches(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The validation loss is measured on training batches, which the model has seen."""
    return train(model, train_batches, list(train_batches(0)), settings)


@instead_of(train)
def evaluates_at_the_end_only(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """`evaluate_every` is not used: the validation loss is measured once, after the last step."""
    return train(model, train_batches, validation_batches, _but(settings, evaluate_every=settings.steps))


@instead_of(train)
def training_loss_of_every_step(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The training loss has an entry a step, the validation loss one an evaluation: the two cannot be laid side by
    side.
    """
    history = train(model, train_batches, validation_batches, settings)
    return History(history.steps, history.train_loss * settings.evaluate_every, history.validation_loss)


@instead_of(train)
def training_loss_is_a_sum(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The training losses since the last evaluation are added up and not divided by their number."""
    history = train(model, train_batches, validation_batches, settings)
    summed = [loss * settings.evaluate_every for loss in history.train_loss]
    return History(history.steps, summed, history.validation_loss)


@instead_of(train)
def dropout_ends_with_the_first_evaluation(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """After the first evaluation the model stays in eval mode, so dropout is off from there on."""
    return _run(model, train_batches, validation_batches, settings, after_evaluation=lambda each: each.eval())


@instead_of(train)
def optimizer_starts_anew(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """AdamW's averages are not in the checkpoint, so a resumed run takes other steps at first."""
    return _run(model, train_batches, validation_batches, settings, forget=("optimizer",))


@instead_of(train)
def random_state_is_forgotten(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """torch's random state is not in the checkpoint, so a resumed run drops out other channels."""
    return _run(model, train_batches, validation_batches, settings, forget=("random",), keep_epoch_random=False)


@instead_of(train)
def place_in_the_epoch_is_forgotten(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """A resumed run begins its epoch again, and reads some batches twice."""
    return _run(model, train_batches, validation_batches, settings, forget=("position",))


@instead_of(train)
def epoch_is_forgotten(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """A resumed run begins with epoch 0 again."""
    return _run(model, train_batches, validation_batches, settings, forget=("epoch",))


@instead_of(train)
def step_is_forgotten(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The number of steps is not in the checkpoint: a resumed run makes all of them again."""
    return _run(model, train_batches, validation_batches, settings, forget=("step",))


@instead_of(train)
def model_is_not_loaded(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """A resumed run goes on with fresh weights: the model's are not loaded."""
    return _run(model, train_batches, validation_batches, settings, forget=("model",))


@instead_of(train)
def resume_is_ignored(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """`resume` is not looked at: every run begins at the beginning."""
    return train(model, train_batches, validation_batches, _but(settings, resume=False))


@instead_of(train)
def always_resumes(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """A checkpoint that is there is loaded, whether `resume` is set or not."""
    return train(model, train_batches, validation_batches, _but(settings, resume=True))


@instead_of(train)
def writes_over_the_old_checkpoint(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The checkpoint is written over the old one: where the write fails, both are lost. Write beside it, then
    `os.replace`.
    """
    return _run(model, train_batches, validation_batches, settings, write=_write_over)


@instead_of(train)
def removes_the_old_checkpoint_first(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The old checkpoint is removed before the new one is written: where the write fails, none is left."""
    return _run(model, train_batches, validation_batches, settings, write=_write_after_removing)


@instead_of(train)
def loads_any_pickle(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """The checkpoint is loaded with `weights_only=False`, which runs whatever code the file holds."""
    return _run(model, train_batches, validation_batches, settings, only_weights=False)


@instead_of(train)
def waits_for_batches_forever(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """Where an epoch has no batches, the loop over epochs never ends."""

    def endless(epoch: int) -> Iterable[Batch]:
        while not (batches := list(train_batches(epoch))):
            pass
        return batches

    return train(model, endless, validation_batches, settings)


@instead_of(train)
def trains_a_copy(
    model: nn.Module, train_batches: Epochs, validation_batches: Iterable[Batch], settings: Settings
) -> History:
    """A copy of the model is trained. The caller's model stays as it was."""
    import copy

    return train(copy.deepcopy(model), train_batches, validation_batches, settings)
