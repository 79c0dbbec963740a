"""# Training

A model learns from its mistakes: the loss measures them, its gradient says which way each weight has to move, and the
optimizer moves it a little. This is done thousands of times, and most of what can go wrong goes wrong silently:

    loss = −mean log softmax(logits)[target],   weights ← weights − rate · AdamW(∂ loss / ∂ weights)

Source: the Deep Learning Curriculum, chapter 1; Vaswani et al. 2017, §5; Loshchilov & Hutter 2019 (AdamW).
"""

import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pytest
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from spec.kit.close import assert_close
from spec.kit.draw import for_all, integers, randn, tokens
from spec.kit.marks import patience, rejects, robust
from spec.kit.probe import finite, full_disk, refuses
from spec.kit.shakespeare import learned
from spec.kit.spies import Small, Spy, batch, gradient

Batch = tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]]  # inputs, targets


class Options(Protocol):
    """What `Settings(…)` makes."""

    steps: int
    peak: float
    warmup: int
    floor: float
    weight_decay: float
    max_norm: float | None
    evaluate_every: int
    checkpoint: str | os.PathLike[str] | None
    resume: bool
    seed: int


class Record(Protocol):
    """What `train` returns: an entry an evaluation."""

    steps: list[int]
    train_loss: list[float]
    validation_loss: list[float]


class Training(Protocol):
    """What an implementation of this chapter offers."""

    def language_model_loss(
        self,
        logits: Float[Tensor, "batch position vocab"],
        targets: Int[Tensor, "batch position"],
        ignore: int = -100,
        label_smoothing: float = 0.0,
    ) -> Float[Tensor, ""]:
        """The mean cross-entropy of the targets that count."""
        ...

    def noam(self, step: int, d_model: int, warmup: int) -> float:
        """The learning rate of the original Transformer."""
        ...

    def warmup_cosine(self, step: int, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
        """A line up, half a cosine down."""
        ...

    def parameter_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """The parameters that decay, and those that do not."""
        ...

    def train_step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        micro_batches: list[Batch],
        max_norm: float | None = None,
    ) -> float:
        """One update; the loss before it."""
        ...

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> float:
        """The mean loss of all batches."""
        ...

    def Settings(
        self,
        steps: int,
        peak: float,
        warmup: int,
        floor: float,
        weight_decay: float,
        max_norm: float | None,
        evaluate_every: int,
        checkpoint: str | os.PathLike[str] | None,
        resume: bool,
        seed: int,
    ) -> Options:
        """What `train` is told."""
        ...

    def train(
        self,
        model: nn.Module,
        train_batches: Callable[[int], Iterable[Batch]],
        validation_batches: Iterable[Batch],
        settings: Options,
    ) -> Record:
        """A whole run, which can be interrupted and resumed."""
        ...


class Whole(Training, Protocol):
    """What the two trials of the whole thing need besides."""

    def DecoderLM(
        self, vocab: int, max_length: int, d_model: int, layers: int, heads: int, *, positions: str
    ) -> nn.Module:
        """The model of chapter 6."""
        ...


class Slope(nn.Module):
    """One weight with a nearly constant gradient, so that each of AdamW's updates is as large as the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.path: list[Tensor] = []

    def forward(self, inputs: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position 2"]:
        """Two logits: the weight, and 0."""
        if self.training:
            self.path.append(self.bias.detach().clone())
        return torch.stack([self.bias.expand(inputs.shape), torch.zeros(inputs.shape)], -1)


class Idle(Slope):
    """Parameters of all kinds that have no influence: their gradients are zero, and weight decay alone moves them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm, self.up = nn.Embedding(4, 3), nn.LayerNorm(3), nn.Linear(3, 5)

    def forward(self, inputs: Int[Tensor, "batch position"]) -> Float[Tensor, "batch position 2"]:
        """As before, plus nothing."""
        return super().forward(inputs) + 0 * parameters_to_vector(self.parameters()).sum()


class Interrupted(Exception):
    """The machine went down."""


def epoch_of_four(epoch: int) -> Iterator[Batch]:
    """The same four batches whenever the same epoch is asked for."""
    return (batch(epoch, number) for number in range(4))


def until(count: int, train_batches: Callable[[int], Iterable[Batch]]) -> Callable[[int], Iterable[Batch]]:
    """The same batches, but after `count` of them the machine goes down."""
    left = iter(range(count))

    def give(epoch: int) -> Iterator[Batch]:
        for each in train_batches(epoch):
            if next(left, None) is None:
                raise Interrupted
            yield each

    return give


def vector(model: nn.Module) -> Tensor:
    """All parameters, one after another."""
    return parameters_to_vector(model.parameters()).detach().clone()


class Gain(nn.Module):
    """A norm of your own has a vector, and no module of torch's holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


HELD_OUT = [batch("held out", rows=rows) for rows in (3, 1)]
SHORT: dict[str, Any] = {
    "steps": 10, "peak": 0.02, "warmup": 0, "floor": 0.02, "weight_decay": 0.1, "max_norm": 1.0, "evaluate_every": 2,
    "checkpoint": None, "resume": False, "seed": 5,
}  # fmt: skip


@rejects(
    "loss_is_a_sum",
    "loss_in_bits",
    "loss_of_probabilities",
    "softmax_over_the_positions",
    "targets_are_moved_again",
    "class_0_is_ignored",
)
@for_all(logits="batch position vocab", targets=integers("batch position", below="vocab"))
def test_the_loss_is_the_mean_surprise(impl: Training, logits: Tensor, targets: Tensor) -> None:
    """The loss is the mean of −log p(target), where p is the softmax of the logits.

    It is how surprised the model was by what came next, in nats a token; a model cannot lower it by guessing at random.

    Hint: `F.cross_entropy` takes logits of shape (tokens, vocab) and targets of shape (tokens,).
    """
    expected = -logits.log_softmax(-1).gather(-1, rearrange(targets, "... -> ... 1")).mean()
    assert_close(impl.language_model_loss(logits, targets), expected)


@rejects("loss_is_a_sum", "loss_in_bits", "targets_are_moved_again")
@for_all(targets=integers("batch position", below="vocab"), logits="batch position vocab")
def test_knowing_nothing_costs_ln_vocab(impl: Training, targets: Tensor, logits: Tensor) -> None:
    """Equal logits cost ln(vocab), whatever the targets are.

    It is the first thing to look at when training starts: a loss far above it means that the start is wrong.

    Hint: natural logarithms, and a mean over the tokens, not a sum.
    """
    loss = impl.language_model_loss(torch.full_like(logits, 3.0), targets)
    assert_close(loss, torch.tensor(math.log(logits.shape[-1])))


@rejects("loss_is_detached")
@for_all(logits="batch position vocab", targets=integers("batch position", below="vocab"))
def test_the_gradient_of_the_loss_is_p_minus_the_target(impl: Training, logits: Tensor, targets: Tensor) -> None:
    """The gradient of a logit is its probability, less one for the target, divided by the number of tokens.

    So a right and certain answer teaches nothing, and a wrong and certain one the most.

    Hint: leave the softmax to the loss, and detach nothing.
    """
    logits = logits.requires_grad_()
    (slope,) = torch.autograd.grad(impl.language_model_loss(logits, targets), logits)
    assert_close(slope, (logits.softmax(-1) - F.one_hot(targets, logits.shape[-1])).detach() / targets.numel())


@rejects("log_of_the_softmax", "probabilities_are_padded")
@for_all(logits="batch position vocab", targets=integers("batch position", below="vocab"))
def test_certainty_is_finite(impl: Training, logits: Tensor, targets: Tensor) -> None:
    """Logits of ±10,000 cost 0 where they are right and 20,000 where they are wrong, with finite gradients.

    The probability of the wrong answer is 0 in float32, and log 0 is −∞; log-softmax never makes that number.

    Hint: `log_softmax`, not `softmax(…).log()`.
    """
    right = F.one_hot(targets, logits.shape[-1]) * 2e4 - 1e4
    assert_close(impl.language_model_loss(right, targets), torch.tensor(0.0))
    wrong = right.roll(1, -1).requires_grad_()
    loss = impl.language_model_loss(wrong, targets)
    assert_close(loss, torch.tensor(2e4))
    assert finite(*torch.autograd.grad(loss, wrong))


@rejects("loss_over_all_positions", "ignores_nothing", "always_ignores_minus_100", "averages_each_sequence_first")
@for_all(logits="batch (2 position) vocab", targets=integers("batch (2 position)", below="vocab"), ignore=[-100, 2])
def test_targets_to_ignore_do_not_count(impl: Training, logits: Tensor, targets: Tensor, ignore: int) -> None:
    """A target equal to `ignore` adds nothing, neither to the sum nor to the number that divides it.

    Padding is no text: a batch with more of it would seem easier, and would teach less.

    Hint: divide by the number of counted targets, not by all.
    """
    targets = torch.where(torch.arange(targets.shape[1]) % 2 == 0, ignore, targets)
    counted = targets != ignore
    logits = logits.requires_grad_()
    loss = (
        impl.language_model_loss(logits, targets, ignore) if ignore >= 0 else impl.language_model_loss(logits, targets)
    )
    if counted.any():
        assert_close(loss, F.cross_entropy(logits[counted], targets[counted]))
    assert not torch.autograd.grad(loss, logits)[0][~counted].any()


@rejects(
    "softmax_over_the_positions",
    "ignores_nothing",
    "nan_where_nothing_counts",
    "constant_where_nothing_counts",
    "chooses_zero_after_dividing",
)
@for_all(logits="batch position vocab")
def test_nothing_to_count_costs_nothing(impl: Training, logits: Tensor) -> None:
    """Where no target counts, the loss is 0 and so is its gradient.

    A mean over nothing is 0/0: one such batch, and every weight is NaN.

    Hint: sum the losses, and divide by `count.clamp_min(1)`.
    """
    logits = logits.requires_grad_()
    loss = impl.language_model_loss(logits, torch.full(logits.shape[:2], -100))
    assert_close(loss.detach(), torch.tensor(0.0))
    assert loss.requires_grad
    assert_close(torch.autograd.grad(loss, logits)[0], torch.zeros_like(logits))


@rejects(
    "loss_over_all_positions",
    "smoothing_is_ignored",
    "smoothing_spares_the_target",
    "smoothing_counts_the_ignored",
    "smoothing_by_the_divergence",
)
@for_all(logits="batch position vocab", targets=integers("batch position", below="vocab"), share=[0.1, 0.5])
def test_label_smoothing_shares_out_a_part(impl: Training, logits: Tensor, targets: Tensor, share: float) -> None:
    """Label smoothing ε takes ε of the target's share and spreads it over all classes, ε/vocab each.

    The model is asked not to be too sure; the target itself gets a part back, 1 − ε + ε/vocab in all.

    Source: Szegedy et al. 2016, §7; Vaswani et al. 2017, §5.4.

    Hint: `F.cross_entropy(…, label_smoothing=…)` does it, with `ignore_index` together.
    """
    targets[:, -1:] = -100 if targets.shape[1] > 1 else targets[:, -1:]
    counted = targets != -100
    log_p, kept = logits[counted].log_softmax(-1), targets[counted]
    shares = share / logits.shape[-1] + (1 - share) * F.one_hot(kept, logits.shape[-1])
    assert_close(impl.language_model_loss(logits, targets, label_smoothing=share), -(shares * log_p).sum(-1).mean())


@rejects("loss_of_probabilities")
@for_all(
    logits="batch position vocab", targets=integers("batch position", below="vocab"),
    dtype=[torch.float64, torch.bfloat16, torch.float16],
)  # fmt: skip
def test_logits_of_every_precision_have_a_loss(
    impl: Training, logits: Tensor, targets: Tensor, dtype: torch.dtype
) -> None:
    """float64, bfloat16 and float16 logits give the loss that they say, to their own precision.

    What is computed inside may be more exact, and the loss may be returned so.

    Hint: `F.cross_entropy` does it; by hand, use log_softmax and not the logarithm of a softmax.
    """
    given = logits.to(dtype)
    loss = impl.language_model_loss(given, targets)
    assert_close(loss.double(), F.cross_entropy(given.double().flatten(0, 1), targets.flatten()), atol=0.05, rtol=0.02)


@rejects("noam_never_falls", "noam_takes_the_larger")
@for_all(d_model=[16, 512], warmup=[5, 40])
def test_noam_is_a_line_and_then_an_inverse_root(impl: Training, d_model: int, warmup: int) -> None:
    """The rate grows in proportion to the step up to `warmup`, and falls in proportion to 1/√step after it.

    Adam's averages are wrong at first, and a Transformer with norms after its sublayers breaks under large early steps.

    Source: Vaswani et al. 2017, §5.3.

    Hint: the smaller of step^−0.5 and step · warmup^−1.5.
    """
    rate = [impl.noam(step, d_model, warmup) for step in range(1, 3 * warmup)]
    grown = [each / step for step, each in enumerate(rate[:warmup], 1)]
    fallen = [each * math.sqrt(step) for step, each in enumerate(rate[warmup - 1 :], warmup)]
    assert grown == pytest.approx([grown[0]] * len(grown))
    assert fallen == pytest.approx([fallen[0]] * len(fallen))


@rejects("noam_without_d_model")
@for_all(d_model=[16, 512], warmup=[5, 40])
def test_noam_peaks_at_warmup(impl: Training, d_model: int, warmup: int) -> None:
    """At step `warmup` the rate is 1/√(d_model · warmup), its largest.

    Wider models sum more terms, so each of their weights has to move less.

    Source: Vaswani et al. 2017, §5.3, equation 3.

    Hint: do not forget d_model^−0.5.
    """
    assert impl.noam(warmup, d_model, warmup) == pytest.approx((d_model * warmup) ** -0.5)


@rejects("noam_counts_from_0")
def test_noam_has_no_step_0(impl: Training) -> None:
    """Steps count from 1, and step 0 is a clear error.

    0^−0.5 is infinite, and a rate of 0 would quietly waste an update.

    Hint: `if step < 1: raise ValueError(…)`, and name the step.
    """
    assert refuses(lambda: impl.noam(0, 512, 4000))


@rejects(
    "no_warmup_at_all",
    "warmup_begins_at_step_1",
    "warmup_begins_at_the_floor",
    "floor_is_added",
    "cosine_counts_the_warmup",
    "warmup_counts_one_step_more",
)
@for_all(peak=[1.0, 3e-4], warmup=[1, 4, 10])
def test_warmup_is_a_line_from_0_to_the_peak(impl: Training, peak: float, warmup: int) -> None:
    """The rate is 0 at step 0, `peak` at step `warmup`, and a line between.

    Hint: peak · step / warmup.
    """
    rate = [impl.warmup_cosine(step, peak, warmup, 50, peak / 10) for step in range(warmup + 1)]
    assert rate == pytest.approx([peak * step / warmup for step in range(warmup + 1)])


@rejects("falls_in_a_line", "whole_cosine", "floor_is_added", "floor_is_ignored", "cosine_counts_the_warmup")
@for_all(warmup=[0, 4, 10], floor=[0.0, 0.2])
def test_the_rate_falls_along_half_a_cosine(impl: Training, warmup: int, floor: float) -> None:
    """From the peak at `warmup` to the floor at `total` the rate follows half a cosine.

    It stays long near the peak, where the model learns fast, and long near the floor, where it settles.

    Source: Loshchilov & Hutter 2017, §3.

    Hint: floor + (peak − floor) · (1 + cos(π · done)) / 2, with done from 0 to 1 after the warm-up.
    """
    rate = [impl.warmup_cosine(warmup + step, 2.0, warmup, warmup + 12, floor) for step in range(13)]
    assert rate == pytest.approx([1 + floor / 2 + (1 - floor / 2) * math.cos(math.pi * n / 12) for n in range(13)])


@rejects("warmup_0_divides_by_0", "whole_cosine", "cosine_rises_again", "floor_is_ignored")
@for_all(warmup=[0, 4], floor=[0.0, 0.2])
def test_the_rate_stays_at_the_floor(impl: Training, warmup: int, floor: float) -> None:
    """From `total` on the rate is the floor, which is 0 where none is given.

    A cosine would rise again: whoever trains a little longer than planned would lose what was learned.

    Hint: `min(1, done)`.
    """
    rate = [impl.warmup_cosine(step, 1.0, warmup, 20, floor) for step in range(20, 45)]
    assert rate == pytest.approx([floor] * 25)
    assert impl.warmup_cosine(30, 1.0, warmup, 20) == pytest.approx(0, abs=1e-12)


@rejects("warmup_0_divides_by_0")
def test_no_warmup_begins_at_the_peak(impl: Training) -> None:
    """With a `warmup` of 0, step 0 has the peak.

    Hint: step / warmup would divide by 0; ask `step < warmup` first.
    """
    assert impl.warmup_cosine(0, 0.5, 0, 20) == pytest.approx(0.5)


@rejects(
    "biases_are_forgotten",
    "shared_parameters_are_listed_twice",
    "bare_parameters_are_forgotten",
    "bare_vectors_are_forgotten",
)
def test_each_parameter_is_in_one_group_once(impl: Training) -> None:
    """The groups hold every parameter of the model, each once: one that two modules share, and one in your own class.

    A parameter that is forgotten never learns; one that is listed twice is an error in torch, or moves twice.

    Hint: `model.parameters()` lists a shared parameter once; walking over the modules does not.
    """
    tied = Small()
    tied.head.weight = tied.tokens.weight
    for model in (tied, nn.ModuleDict({"positions": LearnedPositions(), "norm": Gain(), "up": nn.Linear(3, 4)})):
        grouped = [id(parameter) for group in impl.parameter_groups(model, 0.1) for parameter in group["params"]]
        assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@rejects(
    "everything_decays",
    "nothing_decays",
    "embeddings_decay",
    "biases_decay",
    "groups_are_upside_down",
    "gains_decay",
    "all_but_embeddings_decay",
)
def test_only_matrices_decay(impl: Training) -> None:
    """Matrices decay; norms, biases and embeddings do not.

    A matrix that is too large amplifies everything that passes; a norm's gain, a bias and a token's vector are where
    they are for a reason, and rare tokens would fade away.

    Source: Loshchilov & Hutter 2019; Radford et al. 2019.

    Hint: one axis or two? And is the parameter's module an `nn.Embedding`?
    """
    model = Small()
    optimizer = torch.optim.AdamW(impl.parameter_groups(model, 0.3), lr=0.1, weight_decay=0.7)
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {
        "tokens.weight": 0, "norm.weight": 0, "norm.bias": 0, "up.weight": 0.3, "up.bias": 0, "head.weight": 0.3
    }  # fmt: skip


@rejects("tied_matrix_decays")
def test_a_tied_matrix_is_an_embedding(impl: Training) -> None:
    """A matrix that the embedding and the head share does not decay.

    It holds a vector a token, and the rare ones would fade away, whatever else it is used for.

    Hint: collect the embeddings' parameters first; what is among them is no matrix.
    """
    model = Small()
    model.head.weight = model.tokens.weight
    groups = impl.parameter_groups(model, 0.1)
    decayed = {id(p) for group in groups if group.get("weight_decay", 1) for p in group["params"]}
    assert [name for name, p in model.named_parameters() if id(p) in decayed] == ["up.weight"]


@rejects("gradients_are_cleared_before_the_step", "climbs_the_hill")
def test_a_step_lowers_the_loss(impl: Training) -> None:
    """One small step on a batch lowers the loss on that batch.

    This is what a gradient is; if it does not hold, nothing else matters.

    Hint: forward, loss, backward, `optimizer.step()`.
    """
    model, both = Small(), batch("lower")
    before = impl.train_step(model, Spy(model, 0.01), [both])
    assert impl.train_step(model, Spy(model, 0.01), [both]) < before


@rejects("steps_for_each_micro_batch", "loss_after_the_update", "loss_stays_a_tensor")
def test_a_step_returns_the_loss_before_it(impl: Training) -> None:
    """What comes back is the loss before the update, as a Python number.

    It costs nothing, as it was computed anyway; a tensor would keep its whole graph in memory.

    Hint: `loss.item()`.
    """
    model, (inputs, targets) = Small(), batch("before")
    expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    loss = impl.train_step(model, Spy(model), [(inputs, targets)])
    assert isinstance(loss, float)
    assert_close(loss, expected, atol=1e-4, rtol=1e-4)


@rejects("gradients_are_cleared_before_the_step", "steps_for_each_micro_batch", "climbs_the_hill")
def test_the_optimizer_steps_once_on_the_gradient(impl: Training) -> None:
    """The optimizer takes one step, and finds the gradient of the mean loss of the counted targets.

    Hint: one `backward()` a micro-batch, one `step()` for all.
    """
    model, (inputs, targets) = Small(), batch("gradient")
    targets = targets.masked_fill(torch.arange(3) == 1, -100)
    optimizer, expected = Spy(model), gradient(model, inputs, targets)
    impl.train_step(model, optimizer, [(inputs, targets)])
    assert len(optimizer.given) == 1
    assert_close(optimizer.given[0], expected, atol=1e-5, rtol=1e-4)


@rejects("gradients_are_not_cleared", "gradients_are_cleared_after_the_step")
def test_old_gradients_never_leak_in(impl: Training) -> None:
    """Gradients from before, whoever left them, are gone when the optimizer steps.

    `backward()` adds to what is there; without clearing, each step is taken in the direction of all before it.

    Hint: `optimizer.zero_grad()` before the first `backward()`, not only after the step.
    """
    model, (inputs, targets) = Small(), batch("clean")
    optimizer = Spy(model, rate=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    expected = gradient(model, inputs, targets)
    impl.train_step(model, optimizer, [(inputs, targets)])
    impl.train_step(model, optimizer, [(inputs, targets)])
    assert_close(torch.stack(optimizer.given), torch.stack([expected, expected]), atol=1e-5, rtol=1e-4)


@rejects(
    "gradients_are_cleared_in_between",
    "micro_batches_weigh_the_same",
    "micro_batches_are_summed",
    "loss_after_the_update",
    "loss_of_the_last_micro_batch",
    "micro_batches_weigh_by_all_positions",
)
def test_micro_batches_weigh_as_much_as_they_count(impl: Training) -> None:
    """Micro-batches give the gradient and the loss of the one batch that they make up, however the tokens are spread.

    A batch that does not fit into memory is cut into pieces. The pieces' means do not average to the whole's mean where
    one piece has more padding than another: each weighs as much as it has counted tokens.

    Hint: count the tokens of all micro-batches first, then weigh each loss by its share.
    """
    model, (inputs, targets) = Small(), batch("micro", rows=6)
    targets[0, :2] = targets[1] = -100
    targets[5, 0] = -100
    pieces = [(inputs[rows], targets[rows]) for rows in (slice(0, 2), slice(2, 3), slice(3, 6))]
    optimizer, expected = Spy(model), gradient(model, inputs, targets)
    before = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    loss = impl.train_step(model, optimizer, pieces)
    assert_close(optimizer.given[0], expected, atol=1e-5, rtol=1e-4)
    assert_close(loss, before, atol=1e-4, rtol=1e-4)


@rejects(
    "gradients_are_cleared_in_between",
    "clips_each_parameter",
    "clips_each_number",
    "clips_each_micro_batch",
    "clips_the_sum",
)
def test_large_gradients_are_clipped_as_one_vector(impl: Training) -> None:
    """A gradient longer than `max_norm` is scaled down to that length, all of it by one factor.

    Its direction stays. Clipping each parameter by itself would turn it, and one wild batch can still not throw the
    model far away.

    Source: Pascanu et al. 2013, §3.2.

    Hint: `nn.utils.clip_grad_norm_(model.parameters(), max_norm)`, after all backward passes, before the step.
    """
    model, (inputs, targets) = Small(), batch("large")
    optimizer, whole = Spy(model), gradient(model, inputs, targets)
    halves = [(inputs[:1], targets[:1]), (inputs[1:], targets[1:])]
    impl.train_step(model, optimizer, halves, max_norm=float(whole.norm()) / 3)
    assert_close(optimizer.given[0], whole / 3, atol=1e-5, rtol=1e-4)


@rejects("gradients_are_scaled_up")
def test_small_gradients_are_never_scaled_up(impl: Training) -> None:
    """A gradient shorter than `max_norm` stays as it is.

    Near a minimum the gradient is small because little is left to learn; blown up, it would throw the model out again.

    Hint: the factor is min(1, max_norm / norm).
    """
    model, (inputs, targets) = Small(), batch("small")
    optimizer, whole = Spy(model), gradient(model, inputs, targets)
    impl.train_step(model, optimizer, [(inputs, targets)], max_norm=float(whole.norm()) * 3)
    assert_close(optimizer.given[0], whole, atol=1e-5, rtol=1e-4)


@rejects("mean_of_the_batches_means", "weighs_by_sequences", "first_batch_alone")
def test_evaluation_weighs_tokens_not_batches(impl: Training) -> None:
    """The result is the mean over all counted tokens of all batches, whatever their sizes.

    The last batch is often smaller: a mean of the batches' means gives its tokens too much weight.

    Hint: sum the losses times the counts, and divide once, at the end.
    """
    model, pieces = Small(), [batch("a", rows=4), batch("b", rows=1), batch("c", rows=2)]
    pieces[2][1][1] = -100
    inputs, targets = (torch.cat([piece[n] for piece in pieces]) for n in (0, 1))
    expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    assert_close(impl.evaluate(model, iter(pieces)), expected, atol=1e-4, rtol=1e-4)


@rejects("evaluates_in_training_mode")
def test_evaluation_is_in_eval_mode(impl: Training) -> None:
    """The model is in eval mode while it is evaluated, and dropout is off.

    Dropout makes the loss larger and another one each time; two models could not be compared.

    Hint: `model.eval()`
    """
    model = Small(dropout=0.5)
    first, second = impl.evaluate(model, HELD_OUT), impl.evaluate(model, HELD_OUT)
    assert first == second
    assert not model.trained_on


@rejects("stays_in_eval_mode", "always_wakes_the_model_up", "only_the_whole_wakes_up")
@for_all(training=[True, False])
def test_evaluation_restores_the_mode(impl: Training, training: bool) -> None:
    """A model that was training is training again afterwards, and one that was not is not.

    A model that stays in eval mode goes on without dropout, and nobody notices.

    Hint: remember `model.training` first.
    """
    model = Small().train(training)
    impl.evaluate(model, HELD_OUT)
    assert [module.training for module in model.modules()] == [training] * len(list(model.modules()))


@rejects("evaluates_in_training_mode", "records_the_evaluation")
def test_evaluation_records_no_gradients(impl: Training) -> None:
    """Nothing is recorded for a backward pass, and no gradient is left.

    The graph of a whole validation set would fill the memory, for nothing.

    Hint: `with torch.no_grad():`
    """
    model = Small()
    assert isinstance(impl.evaluate(model, HELD_OUT), float)
    assert model.recorded
    assert not any(model.recorded)
    assert all(parameter.grad is None for parameter in model.parameters())


@rejects("max_norm_is_lost")
def test_settings_hold_what_they_are_given(impl: Training) -> None:
    """Settings are made by name, and every field can be read again.

    A run is its settings: written down in one place, they can be printed, saved and repeated.

    Hint: a `@dataclass` writes `__init__` by itself.
    """
    settings = impl.Settings(**SHORT)
    assert {name: getattr(settings, name) for name in SHORT} == SHORT


@rejects(
    "one_epoch_again_and_again", "epochs_count_from_1", "one_step_too_many", "dropout_ends_with_the_first_evaluation"
)
def test_training_takes_the_batches_as_they_come(impl: Training) -> None:
    """`train` makes `steps` updates, on the batches of epoch 0, then of epoch 1, and so on, in their order.

    Every text is read once before any is read again, and the last epoch ends where the steps do.

    Hint: `train_batches(epoch)` is called anew for each epoch, with 0 first.
    """
    model = Small()
    impl.train(model, epoch_of_four, HELD_OUT, impl.Settings(**SHORT))
    expected = [inputs for epoch in range(3) for inputs, _ in epoch_of_four(epoch)]
    assert_close(torch.cat(model.trained_on), torch.cat(expected[:10]))


@rejects("trains_by_plain_descent", "evaluates_at_the_end_only")
def test_training_lowers_the_loss(impl: Training) -> None:
    """After training, the loss on what was trained on is far lower than before.

    Hint: does the optimizer hold the model's own parameters?
    """
    model, (inputs, targets) = Small(), batch("again")
    settings = impl.Settings(**SHORT | {"steps": 60, "evaluate_every": 30, "weight_decay": 0.0})
    losses = impl.train(model, lambda _: [(inputs, targets)], [(inputs, targets)], settings).validation_loss
    assert losses[-1] < 1
    assert losses[-1] < losses[0]


@rejects(
    "biases_are_forgotten",
    "gradients_are_not_cleared",
    "rate_stays_constant",
    "trains_by_plain_descent",
    "train_forgets_the_floor",
)
def test_training_uses_the_schedule(impl: Training) -> None:
    """Each update is made at the rate that `warmup_cosine` gives for its step.

    With a constant gradient an AdamW update is as large as the rate, so that the schedule can be read off a weight.

    Hint: set `group["lr"]` of every parameter group before each step.
    """
    model, both = Slope(), (torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long))
    schedule: dict[str, Any] = {"peak": 1e-3, "warmup": 8, "floor": 3e-4}
    impl.train(model, lambda _: [both], [both], impl.Settings(**SHORT | schedule | {"steps": 24, "max_norm": None}))
    moved = torch.cat([*model.path, model.bias.detach()]).diff().abs()
    rates = torch.tensor([impl.warmup_cosine(step, total=24, **schedule) for step in range(25)])
    assert (moved > rates.unfold(0, 2, 1).amin(-1) - 5e-5).all()  # whether the first update is step 0 or step 1
    assert (moved < rates.unfold(0, 2, 1).amax(-1) + 5e-5).all()


@rejects("biases_decay", "adam_without_the_w", "decays_all_parameters")
def test_training_decays_matrices_by_the_rate(impl: Training) -> None:
    """In each step a matrix shrinks by rate · weight_decay of itself, whatever its gradient; nothing else does.

    This is the W of AdamW: decay that goes through the gradient, as in Adam, would be normalised away with it.

    Source: Loshchilov & Hutter 2019, algorithm 2.

    Hint: `torch.optim.AdamW(parameter_groups(model, settings.weight_decay))`
    """
    model = Idle()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name != "bias"}
    constant = {"steps": 2, "peak": 0.1, "floor": 0.1, "warmup": 0, "weight_decay": 0.5}
    both = (torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long))
    impl.train(model, lambda _: [both], [both], impl.Settings(**SHORT | constant))
    for name, then in before.items():
        assert_close(dict(model.named_parameters())[name].detach(), then * (0.95**2 if name == "up.weight" else 1.0))


@rejects("max_norm_is_ignored", "clips_after_the_step", "max_norm_is_lost", "train_never_clips")
def test_training_clips_the_gradient(impl: Training) -> None:
    """`max_norm` reaches every step.

    AdamW does not see the length of a gradient, except next to its small ε: clipped to almost nothing, nothing moves.

    Hint: pass `settings.max_norm` on to `train_step`.
    """
    model, free = Small(), Small()
    options = SHORT | {"weight_decay": 0.0, "steps": 4}
    impl.train(model, epoch_of_four, HELD_OUT, impl.Settings(**options | {"max_norm": 1e-20}))
    assert_close(vector(model), vector(Small()), atol=1e-5, rtol=0)
    impl.train(free, epoch_of_four, HELD_OUT, impl.Settings(**options | {"max_norm": None}))
    assert (vector(free) - vector(Small())).abs().max() > 1e-2


@rejects("evaluates_at_the_end_only", "training_loss_of_every_step")
def test_training_evaluates_as_often_as_asked(impl: Training) -> None:
    """Every `evaluate_every` steps the history gets an entry: the step, the training loss, the validation loss.

    Two curves tell the story: both falling is learning, the second one rising is learning by heart.

    Hint: after the update, `if step % settings.evaluate_every == 0`, with steps counted from 1.
    """
    history = impl.train(Small(), epoch_of_four, HELD_OUT, impl.Settings(**SHORT | {"steps": 9, "evaluate_every": 3}))
    assert {3, 6, 9} <= set(history.steps)
    assert list(history.steps) == sorted(set(history.steps))
    assert len(history.steps) == len(history.train_loss) == len(history.validation_loss)


@rejects("evaluates_on_the_training_batches", "trains_a_copy")
def test_the_history_holds_the_validation_loss(impl: Training) -> None:
    """The validation loss on record is what `evaluate` gives at that step, on the validation batches.

    A loss on the training batches says how well they are remembered, not what has been understood.

    Hint: `evaluate(model, validation_batches)`, after the update.
    """
    model = Small(dropout=0.3)
    history = impl.train(model, epoch_of_four, HELD_OUT, impl.Settings(**SHORT))
    assert_close(history.validation_loss[-1], impl.evaluate(model, HELD_OUT), atol=1e-5, rtol=1e-5)


@rejects("training_loss_is_a_sum")
def test_the_history_holds_the_training_loss(impl: Training) -> None:
    """The training loss on record is that of the steps since the entry before, of the last one or their mean.

    Hint: `train_step` returns it.
    """
    model, both = Small(), batch("same")
    slow = impl.Settings(**SHORT | {"peak": 1e-6, "floor": 1e-6, "weight_decay": 0.0})
    history = impl.train(model, lambda _: [both], HELD_OUT, slow)
    assert_close(history.train_loss[-1], impl.evaluate(model, [both]), atol=1e-2, rtol=1e-2)


@rejects("one_step_too_many", "dropout_ends_with_the_first_evaluation")
def test_dropout_is_active_in_every_step(impl: Training) -> None:
    """All steps are made in training mode, those after an evaluation too, whatever mode the model came in.

    Hint: `model.train()` at the start, and an `evaluate` that restores the mode.
    """
    model = Small(dropout=0.3).eval()
    impl.train(model, epoch_of_four, HELD_OUT, impl.Settings(**SHORT))
    assert sum(len(inputs) for inputs in model.trained_on) == 20


@rejects("seed_is_ignored", "seed_is_fixed", "trains_a_copy")
def test_the_seed_decides_the_run(impl: Training) -> None:
    """A run with the same settings ends at the same weights, bit for bit; another seed gives another one.

    What cannot be repeated cannot be understood: with one seed, a change of the result comes from a change of the code.

    Hint: `torch.manual_seed(settings.seed)`, once, at the start.
    """
    first, second, other = Small(dropout=0.3), Small(dropout=0.3), Small(dropout=0.3)
    impl.train(first, epoch_of_four, HELD_OUT, impl.Settings(**SHORT))
    impl.train(second, epoch_of_four, HELD_OUT, impl.Settings(**SHORT))
    impl.train(other, epoch_of_four, HELD_OUT, impl.Settings(**SHORT | {"seed": 6}))
    assert_close(vector(second), vector(first), atol=0, rtol=0)
    assert not torch.equal(vector(other), vector(first))


@rejects(
    "seed_is_ignored",
    "optimizer_starts_anew",
    "random_state_is_forgotten",
    "place_in_the_epoch_is_forgotten",
    "epoch_is_forgotten",
    "step_is_forgotten",
    "model_is_not_loaded",
)
def test_an_interrupted_run_resumes_bit_for_bit(impl: Training) -> None:
    """A run that was interrupted and resumed ends at exactly the weights of one that never was.

    So nothing may be missing in a checkpoint: the model, AdamW's averages and count, the step, the epoch and the place
    in it, and torch's random state.

    Hint: `model.state_dict()`, `optimizer.state_dict()`, `torch.get_rng_state()`, and numbers for the rest.
    """
    whole, resumed = Small(dropout=0.3), Small(dropout=0.3)
    expected = impl.train(whole, epoch_of_four, HELD_OUT, impl.Settings(**SHORT))
    with TemporaryDirectory() as folder:
        options = SHORT | {"checkpoint": Path(folder, "run")}
        with suppress(Interrupted):
            impl.train(Small(dropout=0.3), until(7, epoch_of_four), HELD_OUT, impl.Settings(**options))
        history = impl.train(resumed, epoch_of_four, HELD_OUT, impl.Settings(**options | {"resume": True}))
    assert_close(vector(resumed), vector(whole), atol=0, rtol=0)
    assert history.validation_loss[-1] == expected.validation_loss[-1]


@rejects("schedule_begins_again")
def test_a_resumed_run_goes_on_in_the_schedule(impl: Training) -> None:
    """After a resumption the learning rate is that of the step which was reached.

    A second warm-up in the middle would be the schedule of no run at all.

    Hint: the step is in the checkpoint; count on from it.
    """
    whole, resumed, schedule = Small(), Small(), {"warmup": 3, "floor": 0.001}
    impl.train(whole, epoch_of_four, HELD_OUT, impl.Settings(**SHORT | schedule))
    with TemporaryDirectory() as folder:
        options = SHORT | schedule | {"checkpoint": Path(folder, "run")}
        with suppress(Interrupted):
            impl.train(Small(), until(7, epoch_of_four), HELD_OUT, impl.Settings(**options))
        impl.train(resumed, epoch_of_four, HELD_OUT, impl.Settings(**options | {"resume": True}))
    assert_close(vector(resumed), vector(whole), atol=0, rtol=0)


@rejects("resume_is_lost", "step_is_forgotten", "resume_is_ignored", "always_resumes")
def test_a_resumed_run_does_not_begin_again(impl: Training) -> None:
    """A resumed run makes the steps that are left, and no others; without `resume`, all are made.

    Hours of work are in a checkpoint.

    Hint: save at every evaluation, and where `settings.resume` is set and the file is there, load it first.
    """
    resumed, fresh = Small(), Small()
    with TemporaryDirectory() as folder:
        options = SHORT | {"checkpoint": Path(folder, "run")}
        with suppress(Interrupted):
            impl.train(Small(), until(7, epoch_of_four), HELD_OUT, impl.Settings(**options))
        impl.train(resumed, epoch_of_four, HELD_OUT, impl.Settings(**options | {"resume": True}))
        impl.train(fresh, epoch_of_four, HELD_OUT, impl.Settings(**options))
    assert len(resumed.trained_on) < len(fresh.trained_on) == 10


@rejects(
    "resume_is_lost",
    "evaluates_on_the_training_batches",
    "optimizer_starts_anew",
    "place_in_the_epoch_is_forgotten",
    "model_is_not_loaded",
    "resume_is_ignored",
    "writes_over_the_old_checkpoint",
    "removes_the_old_checkpoint_first",
)
def test_a_write_that_fails_leaves_the_old_checkpoint(impl: Training) -> None:
    """When the disk is full in the middle of a checkpoint, the one before can still be resumed from.

    A write can fail at any byte: a full disk, a power cut, a quota. There is always one complete checkpoint.

    Hint: the old file stays untouched until the new one is complete.
    """
    whole, resumed = Small(width=50), Small(width=50)
    impl.train(whole, epoch_of_four, HELD_OUT, impl.Settings(**SHORT))
    with TemporaryDirectory() as folder:
        options = SHORT | {"checkpoint": Path(folder, "run")}
        with suppress(Interrupted):
            impl.train(Small(width=50), until(5, epoch_of_four), HELD_OUT, impl.Settings(**options))
        with suppress(Exception), full_disk(8192):
            impl.train(Small(width=50), epoch_of_four, HELD_OUT, impl.Settings(**options | {"resume": True}))
        impl.train(resumed, epoch_of_four, HELD_OUT, impl.Settings(**options | {"resume": True}))
    assert_close(vector(resumed), vector(whole), atol=0, rtol=0)
    assert len(resumed.trained_on) < 10


@rejects("loads_any_pickle")
def test_loading_a_checkpoint_runs_no_code(impl: Training) -> None:
    """Where a file holds code instead of a checkpoint, resuming does not run it.

    A pickle is a program, and whoever loads it runs it. Checkpoints are passed from hand to hand.

    Hint: `torch.load(path, weights_only=True)`, or safetensors and JSON.
    """
    with TemporaryDirectory() as folder:
        path, ran = Path(folder, "run"), Path(folder, "the code was run")
        settings = impl.Settings(**SHORT | {"checkpoint": path, "resume": True})
        for write in (torch.save, lambda trap, file: Path(file).write_bytes(pickle.dumps(trap, 2))):
            write({"model": Trap(ran), "step": 2}, path)
            with suppress(Exception):
                impl.train(Small(), epoch_of_four, HELD_OUT, settings)
            assert not ran.exists()


class Trap:
    """Whoever unpickles it makes a folder."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.ran),)


@pytest.mark.training
@patience(120)
@rejects("climbs_the_hill")
def test_reversal_is_learned_and_the_future_is_not_seen(impl: Whole) -> None:
    """Your model learns to write a sequence backwards: the second half is exact, and the first half stays a guess.

    The second half mirrors the first, so all of it can be known; the first half is random, so no model can beat
    ln(vocab) there. One that does has seen what it was to predict: somewhere the future leaks.

    Hint: accuracy too low: does every part of the model learn? First half below ln(vocab): look at the causal mask.
    """
    model = impl.DecoderLM(vocab=10, max_length=12, d_model=32, layers=2, heads=4, positions="learned")
    fresh, guess = mirrored(400, "fresh"), math.log(10)
    options = {"steps": 100, "peak": 0.01, "warmup": 10, "floor": 0.001, "evaluate_every": 100}
    for part in range(8):  # most need one part; the budget is 800 steps
        impl.train(model, mirrored_epoch(part), [shifted(fresh)], impl.Settings(**SHORT | options))
        first, second = halves_of(model, fresh)
        if second == 1 and first < guess + 0.1:
            break
    assert_close(second, 1.0)
    assert guess - 0.05 < first < guess + 0.1


def mirrored(rows: int, *key: object) -> Int[Tensor, "batch position"]:
    """Random halves of six out of ten tokens, and behind each its mirror image."""
    half = tokens(10, rows, 6, key=key)
    return torch.cat([half, half.flip(1)], 1)


def mirrored_epoch(part: int) -> Callable[[int], list[Batch]]:
    """A hundred batches, others for each part."""
    batches = [shifted(mirrored(32, part, number)) for number in range(100)]
    return lambda _: batches


def shifted(rows: Int[Tensor, "batch length"]) -> Batch:
    """Inputs, and what comes next."""
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def halves_of(model: nn.Module, fresh: Int[Tensor, "batch position"]) -> tuple[float, float]:
    """The loss on the first half, and the accuracy on the second."""
    logits = model.eval()(fresh[:, :-1])
    loss = F.cross_entropy(logits[:, :5].flatten(0, 1), fresh[:, 1:6].flatten())
    return loss.item(), (logits[:, 5:].argmax(-1) == fresh[:, 6:]).double().mean().item()


@pytest.mark.shakespeare
@patience(3600)
@rejects()
def test_shakespeare_is_read_better_than_by_counting_pairs(impl: Whole, corpus: str, capfd: Any) -> None:
    """Trained on Shakespeare, your model predicts the last tenth better than a unigram and a Kneser-Ney bigram model.

    Both count in the first nine tenths what follows what, the second one with everything that fifty years of smoothing
    had to teach. A small Transformer passes them within minutes.

    Source: the Deep Learning Curriculum, chapter 1; Kneser & Ney 1995.

    Hint: watch the live loss: it passes the unigram line after seconds and the bigram line within minutes.
    """
    with capfd.disabled():
        result = learned(impl, corpus, impl.DecoderLM, impl.train)
    assert result.loss < result.unigram
    assert result.loss < result.bigram


@robust
@rejects("writes_over_the_old_checkpoint")
def test_a_checkpoint_replaces_the_old_one_whole(impl: Training) -> None:
    """A new checkpoint takes the old one's place in one move; the old file is never written over.

    Whoever opens the file for writing has destroyed the old one before the new one is there. The second name that is
    given to the old file here still shows what became of it.

    Hint: write to another file in the same folder, then `os.replace(new, old)`.
    """
    with TemporaryDirectory() as folder:
        path, second_name = Path(folder, "run"), Path(folder, "old")
        options = SHORT | {"checkpoint": path}
        with suppress(Interrupted):
            impl.train(Small(), until(5, epoch_of_four), HELD_OUT, impl.Settings(**options))
        os.link(path, second_name)
        before = path.read_bytes()
        impl.train(Small(), epoch_of_four, HELD_OUT, impl.Settings(**options | {"resume": True}))
        assert second_name.read_bytes() == before
        assert path.read_bytes() != before


@robust
@rejects("everything_decays", "nothing_decays", "embeddings_decay", "groups_are_upside_down", "bare_tables_decay")
def test_a_learned_table_of_positions_does_not_decay(impl: Training) -> None:
    """A table of positions is an embedding too, also where it is a bare parameter of a module of its own.

    Hint: what the curriculum calls `positions.weight` and `tokens.weight` are tables, whatever class holds them.
    """
    model = nn.ModuleDict({"positions": LearnedPositions(), "up": nn.Linear(3, 4)})
    optimizer = torch.optim.AdamW(impl.parameter_groups(model, 0.3), lr=0.1)
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decay[id(model["positions"].weight)] == 0
    assert decay[id(model["up"].weight)] == 0.3


class LearnedPositions(nn.Module):
    """A row a position, as a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 3))


@robust
@rejects("log_of_the_softmax", "probabilities_are_padded", "nan_where_nothing_counts", "sums_in_half_precision")
@for_all(share=[0.0, 0.1])
def test_many_half_precision_tokens_do_not_overflow(impl: Training, share: float) -> None:
    """The mean loss of 30,000 float16 tokens is right, though their sum is more than float16 can hold.

    float16 ends at 65,504, and beyond 2,048 it cannot count; so the loss is summed in float32.

    Hint: `logits.float()` first, `.to(logits.dtype)` last.
    """
    logits, targets = randn(30, 1000, 8).half(), tokens(8, 30, 1000)
    expected = F.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), label_smoothing=share)
    loss = impl.language_model_loss(logits, targets, label_smoothing=share)
    assert_close(loss.double(), expected, atol=5e-3, rtol=5e-3)


@robust
@rejects("noam_counts_from_0")
def test_step_0_is_named_in_the_error(impl: Training) -> None:
    """The error of `noam` names the step that it refuses.

    Hint: `raise ValueError(f"step={step}: …")`
    """
    assert refuses(lambda: impl.noam(-3, 512, 4000), -3)


@robust
@rejects(
    "max_norm_is_ignored",
    "clips_each_parameter",
    "clips_each_number",
    "clips_after_the_step",
    "stumbles_over_missing_gradients",
)
def test_parameters_without_a_gradient_do_no_harm(impl: Training) -> None:
    """A parameter that takes no part in the loss is left alone, and clipping works without its gradient.

    Frozen or unused parts are common; their gradient is None.

    Hint: `if parameter.grad is not None`
    """
    model, (inputs, targets) = Small(), batch("frozen")
    whole = gradient(model, inputs, targets)
    optimizer = Spy(model)
    model.unused = nn.Linear(2, 3)
    optimizer.param_groups[0]["params"] += list(model.unused.parameters())
    impl.train_step(model, optimizer, [(inputs, targets)], max_norm=float(whole.norm()) / 2)
    assert_close(optimizer.given[0], whole / 2, atol=1e-5, rtol=1e-4)


@robust
@rejects("micro_batches_weigh_the_same", "nan_from_padding", "mean_of_the_batches_means", "weighs_by_sequences")
def test_a_micro_batch_of_padding_changes_nothing(impl: Training) -> None:
    """A micro-batch in which no target counts adds neither loss nor gradient; nor does it in an evaluation.

    Hint: 0/0 is NaN, and NaN · 0 is NaN.
    """
    model, (inputs, targets) = Small(), batch("padded")
    empty = (inputs, torch.full_like(targets, -100))
    targets = torch.where(torch.arange(targets.numel()).view_as(targets) == 1, targets, -100)  # one token counts
    optimizer, expected = Spy(model, rate=0.0), gradient(model, inputs, targets)
    loss = impl.train_step(model, optimizer, [empty, (inputs, targets)])
    assert_close(optimizer.given[0], expected, atol=1e-5, rtol=1e-4)
    assert_close(impl.evaluate(model, [(inputs, targets), empty]), loss, atol=1e-4, rtol=1e-4)


@robust
@rejects("stays_in_eval_mode", "always_wakes_the_model_up", "wakes_up_frozen_parts")
def test_a_frozen_part_keeps_its_own_mode(impl: Training) -> None:
    """A part of the model that was put into eval mode by itself is still in it after an evaluation.

    Freezing a part, its dropout off, is common in fine-tuning; `model.train()` would wake it up.

    Hint: remember the mode of every module, not of the model alone.
    """
    model = Small().train()
    model.dropout.eval()
    impl.evaluate(model, HELD_OUT)
    assert model.training
    assert not model.dropout.training


@robust
@rejects("all_warmup_divides_by_0")
def test_a_schedule_that_is_all_warmup_ends_at_the_floor(impl: Training) -> None:
    """Where `warmup` is as long as the run, the rate after it is the floor.

    A short trial run keeps the warm-up of the long one; it must not end in a division by 0.

    Hint: ask `step >= total` first, or divide by max(1, total − warmup).
    """
    assert impl.warmup_cosine(21, 1.0, 20, 20, 0.25) == pytest.approx(0.25)
    assert impl.warmup_cosine(20, 1.0, 19, 20, 0.25) == pytest.approx(0.25)


@robust
@rejects("waits_for_batches_forever")
@patience(5)
def test_an_epoch_without_batches_is_an_error(impl: Training) -> None:
    """Training on nothing ends in a clear error instead of never.

    An empty folder, a stream that is too short: the loop over epochs would go round forever.

    Hint: count the batches of an epoch.
    """
    assert refuses(lambda: impl.train(Small(), lambda _: [], HELD_OUT, impl.Settings(**SHORT)))


@robust
@pytest.mark.shakespeare
@patience(3600)
@rejects()
def test_shakespeare_is_read_better_than_by_counting_triples(impl: Whole, corpus: str, capfd: Any) -> None:
    """The same model predicts Shakespeare better than a Kneser-Ney trigram model.

    Three words of context hold most of what a few minutes of training can find; from here on, attention has to look
    further back.

    Source: Chen & Goodman 1999, §4.1.

    Hint: it takes longer than the bigram; a learning rate that is too small or too large shows here.
    """
    with capfd.disabled():
        result = learned(impl, corpus, impl.DecoderLM, impl.train)
    assert result.loss < result.trigram
