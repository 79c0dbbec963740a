"""# The server

Several processes, a GPU each, train one model: each reads its own part of the data, and after every step all of them
hold the same parameters, those that one process would have got from all of the data:

    gradient = Σ over ranks Σ over tokens ∂ loss / ∂ weights  /  number of tokens on all ranks

Source: Li et al. 2020, PyTorch Distributed (2006.15704), §2–3; Zhao et al. 2023, PyTorch FSDP (2304.11277), §3.
"""

import os
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, parameters_to_vector

from spec.kit.close import assert_close
from spec.kit.draw import for_all, tokens
from spec.kit.elsewhere import in_another_process
from spec.kit.marks import many_devices, one_device, patience, rejects, robust
from spec.kit.probe import finite
from spec.kit.server import trials
from spec.kit.server.devices import Devices
from spec.kit.server.measure import closed_form, step_memory
from spec.kit.server.ranks import Ranks, group_of_one
from spec.kit.spies import Small, Spy, batch, gradient, pair
from spec.kit.weights import perturb


class Server(Protocol):
    """What an implementation of this chapter offers."""

    def shard(self, count: int, rank: int, world: int, epoch: int, seed: int) -> Int[Tensor, "position"]:
        """The sequences that a process reads in an epoch, in their order."""
        ...

    def distributed_step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Int[Tensor, "batch position"],
        targets: Int[Tensor, "batch position"],
        max_norm: float | None = None,
    ) -> float:
        """One update from the batches of all processes; the mean loss over all their tokens before it."""
        ...


class Whole(Server, Protocol):
    """What the requirements on devices need besides: the model of chapter 6."""

    def DecoderLM(
        self, vocab: int, max_length: int, d_model: int, layers: int, heads: int, *, dropout: float, positions: str
    ) -> nn.Module:
        """The model of chapter 6."""
        ...


SIZES: dict[str, int] = {"vocab": 13, "max_length": 12, "d_model": 16, "layers": 2, "heads": 2}
WORLDS = [2, 1, 3, 8]
POSITIONS = ["learned", "sinusoidal", "rotary", "alibi", "none"]


def shares(impl: Server, count: int, world: int, epoch: int = 0, seed: int = 0) -> list[Tensor]:
    """What each process reads."""
    return [impl.shard(count, rank, world, epoch, seed) for rank in range(world)]


@rejects("every_rank_reads_everything", "ranks_shuffle_differently", "the_rest_is_dropped", "the_rest_is_repeated")
@for_all(count=[23, 24, 40, 7], world=WORLDS, epoch=[0, 3])
def test_all_ranks_together_read_each_sequence_once(impl: Server, count: int, world: int, epoch: int) -> None:
    """No sequence is read by two ranks in an epoch, and none is lost.

    What two ranks read counts twice, and what is lost is never learned; the loss tells neither.

    Source: Li et al. 2020, §3.

    Hint: all ranks shuffle alike; `order[rank::world]` is one way to deal the cards.
    """
    assert_close(torch.cat(shares(impl, count, world, epoch)).sort().values, torch.arange(count))


@rejects("the_last_rank_gets_the_rest", "every_rank_reads_everything")
@for_all(count=[23, 22, 17, 40], world=WORLDS)
def test_the_shares_of_the_ranks_differ_by_one_at_most(impl: Server, count: int, world: int) -> None:
    """The shares of two ranks differ in length by at most one.

    All ranks wait for the slowest at every step, so the one with the most to read is how long an epoch takes.

    Hint: dealing cards one by one does it; blocks of `count // world` do not.
    """
    sizes = [len(share) for share in shares(impl, count, world)]
    assert_close(torch.tensor(sizes).sort().values, torch.tensor([(count + n) // world for n in range(world)]))


@rejects("never_shuffles", "shuffles_by_the_global_numbers")
@for_all(world=[1, 2])
def test_a_share_is_shuffled(impl: Server, world: int) -> None:
    """A rank does not read its sequences in the order of the text, and asking again gives the same order.

    Neighbouring sequences resemble each other; a batch of them says less than one from all over the text.

    Hint: `torch.randperm(count, generator=torch.Generator().manual_seed(…))`
    """
    share = impl.shard(40, 0, world, 0, 5)
    assert not torch.equal(share, share.sort().values)
    torch.manual_seed(1)  # whatever else was drawn
    assert_close(impl.shard(40, 0, world, 0, 5), share)


@rejects("shuffles_by_a_strings_hash", "shuffles_by_the_global_numbers")
@for_all(world=[1, 2])
def test_every_process_deals_alike(impl: Server, world: int) -> None:
    """Another process, with other hashes of strings and other random numbers, gives a rank the same sequences.

    Every rank is a process of its own. Python hashes strings anew in each of them.

    Hint: seed and epoch are whole numbers; make the generator's seed of them by arithmetic, not through a string.
    """
    share = impl.shard(40, 0, world, 2, 5)
    with in_another_process():
        assert_close(impl.shard(40, 0, world, 2, 5), share)


@rejects("the_epoch_is_ignored", "never_shuffles")
@for_all(world=[1, 2])
def test_every_epoch_is_another_order(impl: Server, world: int) -> None:
    """Another epoch is another order.

    Otherwise the same sequences meet in the same batch for ever.

    Hint: the generator's seed comes from seed and epoch.
    """
    orders = {tuple(impl.shard(40, 0, world, epoch, 5).tolist()) for epoch in range(4)}
    assert len(orders) == 4


@rejects("the_seed_is_ignored", "never_shuffles")
@for_all(world=[1, 2])
def test_every_seed_is_another_order(impl: Server, world: int) -> None:
    """Another seed is another order.

    Two runs that shall differ by chance must differ in what they read.

    Hint: the generator's seed comes from seed and epoch.
    """
    orders = {tuple(impl.shard(40, 0, world, 1, seed).tolist()) for seed in range(4)}
    assert len(orders) == 4


@robust
@rejects("every_rank_reads_everything", "the_rest_is_repeated")
@for_all(count=[3, 1], world=[5, 4])
def test_fewer_sequences_than_ranks_leave_some_without(impl: Server, count: int, world: int) -> None:
    """With fewer sequences than ranks some ranks have nothing to read.

    A repeated sequence would weigh more than the others.

    Hint: an empty share is a tensor of length 0.
    """
    assert sorted(len(share) for share in shares(impl, count, world)) == [0] * (world - count) + [1] * count


@rejects("gradients_stay_from_before", "returns_the_loss_after_the_step", "counts_the_padding")
@for_all(counted=[1, 7])
def test_a_group_of_one_takes_an_ordinary_step(impl: Server, counted: int) -> None:
    """Alone in its group, a process updates by the gradient of the mean loss, and returns that loss as a number.

    So one program serves a laptop and a server.

    Hint: it is chapter training's step, with sums over all ranks where that one has sums.
    """
    model, (inputs, targets) = Small(), batch("alone")
    targets.view(-1)[counted:] = -100
    expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    right, optimizer = gradient(model, inputs, targets), Spy(model)
    torch.autograd.backward(model(inputs).square().sum())  # something is left from before
    with group_of_one() as ranks:
        loss = impl.distributed_step(ranks.wrap(model, impl), optimizer, inputs, targets)  # type: ignore[arg-type]
    assert_close(optimizer.given[0], right, atol=1e-5, rtol=1e-4)
    assert abs(loss - expected) < 1e-4


@rejects("ranks_clip_up_as_well", "ranks_clip_each_parameter", "ranks_never_clip")
@for_all(limit=[0.01, 1e6])
def test_a_step_clips_the_norm_of_the_whole_gradient(impl: Server, limit: float) -> None:
    """max_norm limits the norm of all gradients together, and a smaller gradient is left as it is.

    Hint: `nn.utils.clip_grad_norm_` takes all parameters at once.
    """
    model, (inputs, targets) = Small(), batch("clipped")
    right, optimizer = gradient(model, inputs, targets), Spy(model, rate=0.0)
    with group_of_one() as ranks:
        impl.distributed_step(ranks.wrap(model, impl), optimizer, inputs, targets, max_norm=limit)  # type: ignore[arg-type]
    assert_close(optimizer.given[0], right * min(1.0, limit / right.norm().item()), atol=1e-5, rtol=1e-3)


@robust
@rejects("nothing_to_count_is_nan")
def test_a_step_without_targets_changes_nothing(impl: Server) -> None:
    """Where no target counts on any rank, the loss is 0 and the gradient too.

    Hint: 0/0 is NaN, and a NaN in one weight is a NaN in all of them after the next step.
    """
    model, (inputs, targets) = Small(), batch("empty")
    optimizer = Spy(model)
    with group_of_one() as ranks:
        wrapped, none = ranks.wrap(model, impl), torch.full_like(targets, -100)  # type: ignore[arg-type]
        assert impl.distributed_step(wrapped, optimizer, inputs, none, max_norm=1.0) == 0
    assert_close(optimizer.given[0], torch.zeros_like(optimizer.given[0]))


def parts(ranks: Ranks, rows: int, uneven: bool = False) -> list[tuple[Tensor, Tensor]]:
    """The batches of all ranks; in uneven ones each rank has another number of targets that count."""
    found = []
    for rank in range(ranks.world):
        inputs, targets = batch("rank", rank, rows=rows)
        if uneven:
            targets.view(-1)[1 + rank * (targets.numel() - 2) // ranks.world :] = -100
        found.append((inputs, targets))
    return found


def step(impl: Server, ranks: Ranks, each: list[tuple[Tensor, Tensor]], **settings: Any) -> tuple[Tensor, float]:
    """The gradient that this rank's optimizer was given, and the loss that was returned."""
    model = Small().to(ranks.device)
    optimizer = Spy(model, rate=0.0)
    inputs, targets = (part.to(ranks.device) for part in each[ranks.rank])
    loss = impl.distributed_step(ranks.wrap(model, impl), optimizer, inputs, targets, **settings)  # type: ignore[arg-type]
    return (optimizer.given or [torch.zeros(0)])[0].cpu(), loss


def whole(each: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The one batch that all ranks' make up."""
    return torch.cat([inputs for inputs, _ in each]), torch.cat([targets for _, targets in each])


@many_devices
@rejects("ranks_are_not_joined", "ranks_are_added_twice", "the_world_is_forgotten")
def test_the_gradient_of_many_is_that_of_the_whole_batch(impl: Server, ranks: Ranks) -> None:
    """The gradients of all ranks equal those of one process on the whole batch.

    This is all there is to data parallel training: the same update, computed in parts.

    Source: Li et al. 2020, §3.1.

    Hint: DDP averages over the ranks by itself; a plain model's gradients are to be all-reduced.
    """
    each = parts(ranks, rows=3)
    assert_close(step(impl, ranks, each)[0], gradient(Small(), *whole(each)), atol=1e-5, rtol=1e-4)


@many_devices
@rejects("averages_by_rank", "weighs_ranks_by_their_sequences")
def test_every_token_of_every_rank_weighs_the_same(impl: Server, ranks: Ranks) -> None:
    """Where ranks have different numbers of counted tokens, each token still weighs the same.

    DDP averages by rank. A rank with half the tokens would have each of them count double, and a run on two GPUs would
    learn something else than a run on one.

    Hint: all-reduce the number of counted tokens; the summed loss times world / that number, as DDP divides by world.
    """
    each = parts(ranks, rows=3, uneven=True)
    assert_close(step(impl, ranks, each)[0], gradient(Small(), *whole(each)), atol=1e-5, rtol=1e-4)


@many_devices
@rejects("returns_the_loss_of_its_own_rank", "averages_by_rank")
def test_every_rank_returns_the_loss_of_all(impl: Server, ranks: Ranks) -> None:
    """The returned loss is the mean over the tokens of all ranks, and the same on each.

    Hint: all-reduce the summed loss and the number of tokens, then divide.
    """
    each = parts(ranks, rows=3, uneven=True)
    inputs, targets = whole(each)
    expected = F.cross_entropy(Small()(inputs).flatten(0, 1), targets.flatten())
    losses = torch.tensor(ranks.gather(step(impl, ranks, each)[1]))
    assert_close(losses, expected.detach().expand(ranks.world), atol=1e-5, rtol=1e-4)


@many_devices
@rejects("averages_by_rank", "a_rank_without_targets_is_nan")
def test_a_rank_without_targets_adds_nothing(impl: Server, ranks: Ranks) -> None:
    """A rank whose targets do not count still takes part, and adds nothing.

    At the end of an epoch one rank has nothing left to read. If it stayed away the others would wait for ever.

    Hint: the sum of no losses is 0; it is the mean that is NaN.
    """
    each = parts(ranks, rows=2)
    each[-1][1].fill_(-100)
    given, loss = step(impl, ranks, each)
    assert_close(given, gradient(Small(), *whole(each)), atol=1e-5, rtol=1e-4)
    assert finite(torch.tensor(loss))


@many_devices
@rejects("clips_before_it_joins")
def test_the_norm_is_clipped_after_the_ranks_are_joined(impl: Server, ranks: Ranks) -> None:
    """max_norm limits the norm of the joined gradient, not that of each rank's own.

    The gradients of two ranks point in different directions; clipped before, their mean is shorter than it has to be.

    Hint: clip after the backward pass of DDP, or after the all-reduce.
    """
    each, model = parts(ranks, rows=3, uneven=True), Small()
    torch.autograd.backward(F.cross_entropy(model(whole(each)[0]).flatten(0, 1), whole(each)[1].flatten()))
    clip_grad_norm_(model.parameters(), 0.1)
    expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert_close(step(impl, ranks, each, max_norm=0.1)[0], expected, atol=1e-5, rtol=1e-3)


@many_devices
@rejects("ranks_are_not_joined")
def test_after_many_steps_all_ranks_hold_the_same_model(impl: Whole, ranks: Ranks) -> None:
    """After twenty steps the parameters are the same on all ranks, bit by bit.

    Nothing brings models together again that have parted: the gradients that they exchange would belong to others.

    Source: Li et al. 2020, §2.2.

    Hint: same start, same gradient, same optimizer state; where is anything this rank's own?
    """
    torch.manual_seed(3)
    model = ranks.wrap(impl.DecoderLM(**SIZES, dropout=0.1, positions="learned"), impl)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    torch.manual_seed(100 + ranks.rank)
    for number in range(20):
        both = tokens(13, 2, 9, key=(number, ranks.rank)).to(ranks.device)
        impl.distributed_step(model, optimizer, *pair(both), max_norm=0.5)
    mine = parameters_to_vector(list(model.parameters()))
    assert finite(mine)
    assert all(torch.equal(other, mine.cpu()) for other in ranks.gather(mine))


@many_devices
@rejects()
def test_the_same_seed_starts_the_same_model_on_every_rank(impl: Whole, ranks: Ranks) -> None:
    """A model that is made under the same seed is the same on every rank.

    Whatever depends on the rank besides (its number, its clock) parts the models before the first step, and only some
    wrappers put them together again.

    Hint: a model draws from torch's global generator, or from the one it is given, and asks nobody for its rank.
    """
    torch.manual_seed(3)
    start = parameters_to_vector(list(impl.DecoderLM(**SIZES, dropout=0.1, positions="learned").parameters()))
    assert all(torch.equal(other, start.detach()) for other in ranks.gather(start))


@many_devices
@rejects("dropout_is_the_same_on_every_rank")
def test_every_rank_drops_by_its_own_numbers(impl: Whole, ranks: Ranks) -> None:
    """Ranks that were seeded differently drop different numbers, and other ones in the next step.

    Dropout that is the same on all ranks is dropout of a batch that many times smaller: less noise than was asked for.

    Source: Srivastava et al. 2014, §4.

    Hint: neither the model nor the step sets a seed; the program does so once, with the rank in it.
    """
    torch.manual_seed(3)
    plain = impl.DecoderLM(**SIZES, dropout=0.5, positions="learned")
    seen: list[Tensor] = []
    plain.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits.detach().cpu()))
    model = ranks.wrap(plain, impl)  # type: ignore[arg-type]
    both = tokens(13, 2, 9).to(ranks.device)
    torch.manual_seed(100 + ranks.rank)
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        impl.distributed_step(model, optimizer, *pair(both))
    every = [logits for of_rank in ranks.gather(torch.stack(seen[-2:])) for logits in of_rank]
    assert not any(torch.equal(a, b) for number, a in enumerate(every) for b in every[:number])


@many_devices
@rejects("every_rank_reads_everything", "ranks_shuffle_differently", "the_rest_is_repeated", "the_rest_is_dropped")
def test_real_ranks_read_each_sequence_once(impl: Server, ranks: Ranks) -> None:
    """In processes of their own, too, no sequence is read twice in an epoch and none is lost.

    What a process finds in its surroundings (its seed, its environment) must not decide what it reads.

    Hint: rank and world are arguments; nothing else may tell two processes apart.
    """
    torch.manual_seed(100 + ranks.rank)
    mine = impl.shard(23 * ranks.world - 1, ranks.rank, ranks.world, 1, 7)
    assert_close(torch.cat(ranks.gather(mine)).sort().values, torch.arange(23 * ranks.world - 1))


@many_devices
@rejects("every_rank_saves_and_prints")
def test_no_rank_writes_or_prints_on_its_own(impl: Server, ranks: Ranks) -> None:
    """Neither a step nor a share writes a file or prints a line.

    Eight ranks that write one file tear it to pieces, and eight that print say everything eight times; what is to be
    kept, the program keeps on rank 0.

    Hint: return the loss, and let who called decide what becomes of it.
    """
    with trials.watched_files() as written:
        impl.shard(10, ranks.rank, ranks.world, 0, 0)
        step(impl, ranks, parts(ranks, rows=2))
    assert written == []


@robust
@many_devices
@rejects("reduces_shards_again")
def test_a_sharded_model_takes_the_same_step(impl: Server, ranks: Ranks) -> None:
    """A model whose parameters are spread over the ranks (`fully_shard`) takes the same step as a whole one.

    So a model that outgrows a GPU trains by the same code.

    Source: Zhao et al. 2023, §3.

    Hint: FSDP averages the gradients as DDP does; `clip_grad_norm_` knows parameters that are spread.
    """
    each = parts(ranks, rows=3, uneven=True)
    given, expected = trials.sharded_step(impl, ranks, each)
    assert_close(given, expected, atol=1e-5, rtol=1e-4)


@one_device
@rejects()
@for_all(positions=POSITIONS)
def test_logits_on_the_device_are_those_on_the_cpu(impl: Whole, device: torch.device, positions: str) -> None:
    """On the device the logits are those of the CPU: in float64 exactly, in float32 and bfloat16 to their rounding.

    The bounds are 1e-9, 2e-3 and a tenth of the largest logit; a wrong kernel or a mask in the wrong type is above.

    Hint: which step computes in another type than its input?
    """
    model = perturb(impl.DecoderLM(**SIZES, dropout=0.0, positions=positions)).eval().double()
    ids = tokens(13, 3, 9)
    right = model(ids)
    there = model.to(device)
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 2e-3), (torch.bfloat16, 0.1)):
        logits = there.to(dtype)(ids.to(device)).double().cpu()
        assert finite(logits)
        assert (logits - right).abs().max() < bound * right.abs().max()


@one_device
@rejects()
@for_all(positions=POSITIONS)
def test_a_model_on_the_device_asks_for_nothing_else(impl: Whole, device: torch.device, positions: str) -> None:
    """Masks and positions land on the model's device without an argument, and Python waits for no number of it.

    A tensor left on the CPU is an error on a GPU; a number that Python reads (`.item()`, `if tensor`) makes it wait
    until the GPU has caught up, at every layer. On the CPU the meta device stands in: it has no numbers to be read.

    Source: torch.cuda.set_sync_debug_mode.

    Hint: `device=tokens.device`; register_buffer for what is computed once.
    """
    stand_in = torch.device("meta") if device.type == "cpu" else device
    model = impl.DecoderLM(**SIZES, dropout=0.1, positions=positions).to(stand_in)
    ids = tokens(13, 3, 9).to(stand_in)
    assert trials.forward_without_waiting(model, ids).device.type == stand_in.type


@robust
@one_device
@rejects()
@patience(120)
@for_all(positions=POSITIONS)
def test_a_model_compiles_into_one_graph(impl: Whole, device: torch.device, positions: str) -> None:
    """`torch.compile(fullgraph=True)` takes the whole model without a break.

    At a break Python takes over for a moment, and the kernels around it cannot be fused.

    Hint: no branch on a tensor's values, no list that grows from call to call, no print.
    """
    model = trials.unwatched(impl, SIZES, positions).eval().to(device)
    ids = tokens(13, 3, 9).to(device)
    assert_close(trials.captured(model)(ids), model(ids), atol=1e-4, rtol=1e-4)


@one_device
@rejects()
@patience(120)
def test_the_reversal_is_learned_in_bfloat16(impl: Whole, device: torch.device, capfd: Any) -> None:
    """Under bfloat16 autocast the second halves of the reversal task are predicted exactly.

    Half the memory and many times the speed, if nothing in the model needs more than eight bits of precision.

    Source: Micikevicius et al. 2018, §3.

    Hint: norms, softmax and the loss compute in float32 inside.
    """
    with capfd.disabled():
        assert trials.reversal(impl, device) == 1.0


@one_device
@rejects()
@patience(120)
def test_the_memory_of_a_step_does_not_grow(impl: Whole, device: torch.device, capfd: Any) -> None:
    """The tenth training step needs no more memory than the third; what it needs is shown beside the closed form.

    What is kept from step to step (a graph behind a sum of losses, a list of logits) fills 24 GB in an hour.

    Hint: `loss.item()` or `.detach()` for what outlives the step.
    """
    sizes = {"vocab": 512, "max_length": 128, "d_model": 128, "layers": 4, "heads": 4}
    used = step_memory(impl, device, sizes, batch=8)
    with capfd.disabled():
        print(closed_form(sizes, batch=8).beside(used), file=sys.stdout)
    assert used.late <= used.early * 1.01


@many_devices
@rejects()
@pytest.mark.training
@patience(300)
def test_a_killed_run_ends_as_an_undisturbed_one(impl: Whole, devices: Devices, tmp_path: Path) -> None:
    """A run in which a worker is killed by SIGKILL is restarted, resumes, and ends with an undisturbed run's losses.

    Machines fail during long runs. Bit by bit on the CPU; on GPUs, whose sums come in another order, to rounding.

    Source: torchrun's elastic restarts; torch.distributed.checkpoint.

    Hint: a step must not remember anything outside of model and optimizer, nor a share anything but its arguments.
    """
    undisturbed, killed = trials.killed_and_undisturbed(impl, devices, tmp_path)
    assert_close(killed, undisturbed, atol=0 if devices.kind == "cpu" else 1e-3, rtol=0)


@many_devices
@rejects()
@pytest.mark.training
@patience(300)
def test_a_checkpoint_fits_any_number_of_ranks(impl: Whole, devices: Devices, tmp_path: Path) -> None:
    """A checkpoint that all ranks saved loads in one process, and one that one saved loads in all.

    The machine that goes on with a run need not be the one that began it.

    Source: torch.distributed.checkpoint.

    Hint: does the model, or the step, remember how many ranks there were?
    """
    many_then_one, one_then_many = trials.resumed_on_another_number(impl, devices, tmp_path)
    assert many_then_one
    assert one_then_many


@many_devices
@rejects()
@pytest.mark.training
@patience(300)
def test_many_devices_learn_the_reversal(impl: Whole, devices: Devices, capfd: Any, tmp_path: Path) -> None:
    """All devices together learn the reversal task: the second half exact, the first half still unknown.

    Hint: the requirements above say which part of a step is wrong; this one says that all of them together are right.
    """
    with capfd.disabled():
        accuracy, first = trials.reversal_on_all(impl, devices, tmp_path)
    assert accuracy == 1.0
    assert first > -0.05  # nats below ln(vocab): it would have seen the future


@many_devices
@rejects()
@pytest.mark.training
@patience(7200)
def test_many_devices_reach_the_loss_of_one(
    impl: Whole, devices: Devices, capfd: Any, request: pytest.FixtureRequest
) -> None:
    """On Shakespeare all devices together reach the validation loss of one process, in at most as many steps.

    Each device reads a batch of its own, so a step sees that many times the tokens. Tokens per second, the scaling
    efficiency, the model FLOP utilisation and the memory are shown and kept in the run's folder.

    Hint: if the loss stays above, the devices read the same data or their gradients are not joined.
    """
    if devices.kind == "cpu" and not os.environ.get("ATTEST_REHEARSE_SHAKESPEARE"):
        pytest.skip("Shakespeare on all devices takes long on CPUs; ATTEST_REHEARSE_SHAKESPEARE=1 asks for it")
    corpus = request.getfixturevalue("corpus")
    with capfd.disabled():
        result = trials.shakespeare_on_all(impl, devices, corpus, request.config)
    assert result.reached <= result.alone
    assert result.reached < result.bigram
    assert result.memory < 24 * 2**30  # an A5000's


@many_devices
@rejects()
@pytest.mark.training
@patience(600)
def test_many_devices_are_faster_than_one(impl: Whole, devices: Devices, capfd: Any, tmp_path: Path) -> None:
    """N GPUs read at least 0.85 · N times the tokens per second of one; on CPUs, and GPUs that are shared, it is shown.

    Below, the devices wait for each other or for Python most of the time.

    Source: Li et al. 2020, §5.

    Hint: one all-reduce of one number a step, not one a layer; no `.item()` between forward and backward.
    """
    with capfd.disabled():
        efficiency = trials.scaling(impl, devices, tmp_path)
    assert efficiency > (0.85 if devices.backend == "nccl" else 0.0)
