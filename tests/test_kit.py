"""The small parts of the machinery, each held to its word."""

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spec.kit import diagnose, draw, fresh, loose, manners, story, symptom, weights
from spec.kit import limit as limits
from spec.kit.carry import carry
from spec.kit.catalogue import ROOT, exercises, requirements
from spec.kit.limit import limit
from spec.kit.plug import Implementation, UnknownPlace, place
from spec.kit.probe import astray, idle, lower_triangle, refuses, who_sees_whom
from spec.kit.record import Call, Log, guarded, watched
from spec.kit.returns import check
from spec.kit.story import picture
from spec.kit.trial import attempt
from spec.kit.verdict import Broken, CannotCheck, Endless, Misbehaved, NotOffered


def test_axes_of_other_names_have_other_sizes() -> None:
    """No two axes agree by accident, products and fixed sizes included."""
    seen = []

    @draw.for_all(x="batch query (heads d_k) 2", y="batch key", heads=draw.axis("heads"), examples=30)
    def body(impl: object, x: torch.Tensor, y: torch.Tensor, heads: int) -> None:
        batch, query, wide, two = x.shape
        assert (y.shape[0], two, wide % heads) == (batch, 2, 0)
        sizes = [batch, query, y.shape[1], heads, wide // heads]
        assert len(set(sizes)) == len(sizes)
        seen.append(tuple(sizes))

    body(Implementation("reference", ROOT))
    assert len(set(seen)) > 5


def test_cases_are_the_same_every_time_and_shrink_to_the_smallest() -> None:
    """Two runs draw the same values; a failure is reported at the smallest sizes that fail."""
    drawn: list[list[float]] = [[], []]
    for run in drawn:

        @draw.for_all(x="batch d_k")
        def body(impl: object, x: torch.Tensor, run: list[float] = run) -> None:
            run.append(float(x.sum()))

        body(Implementation("reference", ROOT))
    assert drawn[0] == drawn[1]

    @draw.for_all(x="query key", examples=50)
    def fails(impl: object, x: torch.Tensor) -> None:
        assert x.shape[1] < 4

    impl = Implementation("reference", ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw.options, "shrink", True)
        with pytest.raises(AssertionError):
            fails(impl)
    assert tuple(impl.log.case["x"].shape) == (1, 4)


def test_a_loop_is_ended_and_located(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file and line that was running."""
    monkeypatch.setattr("spec.kit.limit.pace", 1.0)

    def spin() -> None:
        while True:
            pass

    with pytest.raises(Endless, match=r"test_kit\.py:\d+ in spin"), limit(0.05, "spin", str(ROOT)):
        spin()
    with limits.unhurried():
        limits.hurry()
    assert limits.pace == limits.HURRIED  # of the first loop; one that we try ourselves changes nothing
    monkeypatch.setattr("spec.kit.limit.pace", 1.0)
    with limits.unhurried():
        limits.hurry()
    assert limits.pace == 1.0


def test_a_call_that_waits_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sleep and a lock take no computing, and the clock ends them."""
    for name, value in (("pace", 1.0), ("ASLEEP", 0.1), ("PATIENCE", 0.0)):
        monkeypatch.setattr(f"spec.kit.limit.{name}", value)
    with pytest.raises(Endless, match="What does it wait for"), limit(10.0, "sleep"):
        time.sleep(60)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: torch.manual_seed(7), "global random seed"),
        (lambda: torch.set_default_dtype(torch.float64), "default dtype"),
        (lambda: torch.set_grad_enabled(False), "gradients"),
        (lambda: exit(), "ends the program"),
    ],
)
def test_the_world_is_put_back(act: object, said: str) -> None:
    """What a call changes around it is named and undone."""
    before = torch.initial_seed(), torch.get_default_dtype(), torch.is_grad_enabled()
    with pytest.raises(Misbehaved, match=said):
        guarded("it", "", Log(), act)  # type: ignore[arg-type]
    assert (torch.initial_seed(), torch.get_default_dtype(), torch.is_grad_enabled()) == before


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "returned None"),
        ((torch.ones(2), torch.ones(2)), "a tuple of 2 values"),
        (torch.ones(2, 3, 4), r"2 × 3 × 4; .* is due, that is 2 × 3 × 5"),
        (torch.ones(2, 3, 5, dtype=torch.long), "floating-point numbers are due"),
    ],
)
def test_results_are_held_to_the_annotation(result: object, said: str) -> None:
    """Kind and shape, with the sizes that the arguments have."""
    contract = exercises("attention")["attention"].contract
    arguments = {"q": torch.ones(2, 3, 4), "k": torch.ones(2, 6, 4), "v": torch.ones(2, 6, 5)}
    with pytest.raises(Misbehaved, match=said):
        check("attention", contract, arguments, result)
    check("attention", contract, arguments, torch.ones(2, 3, 5))


def test_who_sees_whom() -> None:
    """The picture of a running sum is the lower triangle; of a total, full."""
    x = torch.randn(1, 4, 3)
    assert torch.equal(who_sees_whom(lambda y: y.cumsum(1), x), lower_triangle(4))
    assert who_sees_whom(lambda y: y + y.sum(1, keepdim=True), x).all()
    assert picture(lower_triangle(2, 3)) == "■ ■ ·\n■ ■ ■"


def test_refusal_is_any_error_but_the_stubs() -> None:
    """An error that names the numbers is a clear one."""

    def fail(message: str) -> None:
        raise ValueError(message)

    assert refuses(lambda: fail("d_model=7, heads=2"), 7, 2)
    assert not refuses(lambda: fail("no"), 7)
    assert not refuses(lambda: None)
    for verdict in (NotImplementedError, NotOffered):
        with pytest.raises(verdict):
            refuses(lambda verdict=verdict: (_ for _ in ()).throw(verdict()))  # type: ignore[misc]


def test_weights_by_canonical_name() -> None:
    """Mapped names load, foreign ones cannot be checked, other shapes are wrong."""

    class Mapped(nn.Module):
        PARAMETERS = {"weight": "gain"}  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

    module = Mapped()
    weights.give(module, {"weight": torch.full((3,), 2.0)})
    assert module.gain.tolist() == [2, 2, 2]
    with pytest.raises(AssertionError, match="gain has shape"):
        weights.give(module, {"weight": torch.ones(4)})
    with pytest.raises(CannotCheck, match="PARAMETERS"):
        weights.give(nn.Linear(2, 2), {"weight": torch.ones(2, 2), "offset": torch.ones(2)})


def test_a_shared_matrix_may_be_registered_under_either_name() -> None:
    """PyTorch lists it once, by the name that came first."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(2, 3, bias=False)
            self.first = nn.Embedding(3, 2)
            self.first.weight = self.last.weight

    model = Tied()
    weights.give(model, {"first.weight": torch.full((3, 2), 2.0)})
    assert model.last.weight.eq(2).all()


class _Canonical(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.output, self.norm = nn.Linear(4, 6), nn.LayerNorm(4)


class _Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 6)
        self.register_buffer("mask", torch.ones(2, 2))


class _Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.per_head = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(4, 2) for name in ("q", "k", "v")}) for _ in range(2)
        )
        self.w_out, self.b = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))
        self.norm = nn.LayerNorm(4)


class _Axes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_Q, self.W_K, self.W_V = (nn.Parameter(torch.randn(2, 4, 2)) for _ in range(3))
        self.b_Q, self.b_K, self.b_V = (nn.Parameter(torch.randn(2, 1, 2)) for _ in range(3))
        self.W_O, self.b_O = nn.Parameter(torch.randn(2, 2, 6)), nn.Parameter(torch.randn(6))
        self.norm = nn.LayerNorm(4)


@pytest.mark.parametrize("make", [_Fused, _Heads, _Axes])
def test_weights_are_carried_over_whatever_their_names(make: type[nn.Module]) -> None:
    """Three matrices in one, one per head or transposed find their places; what cannot be matched is an error."""
    mine: Any = make()
    taker = _Canonical()
    state = {name: value.clone() for name, value in mine.state_dict().items()}
    carry(state, mine, taker)
    x = torch.randn(3, 4)
    if isinstance(mine, _Fused):
        query, key, value = mine.qkv(x).chunk(3, -1)
        output, gain = mine.out(x), mine.gamma
    elif isinstance(mine, _Axes):
        query, key, value = (
            (
                torch.einsum("xm,hmk->xhk", x, mine.get_parameter(f"W_{name}")) + mine.get_parameter(f"b_{name}")[:, 0]
            ).flatten(1)
            for name in "QKV"
        )
        output, gain = torch.einsum("xhv,hvm->xm", x.view(3, 2, 2), mine.W_O) + mine.b_O, mine.norm.weight
    else:
        query, key, value = (torch.cat([head[name](x) for head in mine.per_head], -1) for name in "qkv")
        output, gain = x @ mine.w_out + mine.b, mine.norm.weight
    for due, layer in ((query, taker.query), (key, taker.key), (value, taker.value), (output, taker.output)):
        torch.testing.assert_close(layer(x), due)
    assert torch.equal(taker.norm.weight, gain)
    with pytest.raises(LookupError, match="are due"):
        carry(nn.Linear(4, 5).state_dict(), nn.Linear(4, 5), taker)


def test_gates_find_their_places_by_their_names() -> None:
    """A layer for each gate, in any order and with one bias where ours has two, is what one matrix of all is."""

    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.forget_gate, self.cell, self.W_i, self.out = (nn.Linear(3 + 2, 2) for _ in range(4))

    mine, taker = Gates(), nn.LSTMCell(3, 2)
    carry(mine.state_dict(), mine, taker)
    x, h, c = torch.randn(4, 3), torch.randn(4, 2), torch.randn(4, 2)
    both = torch.cat([x, h], 1)
    kept = mine.forget_gate(both).sigmoid() * c + mine.W_i(both).sigmoid() * mine.cell(both).tanh()
    torch.testing.assert_close(taker(x, (h, c)), (mine.out(both).sigmoid() * kept.tanh(), kept))


def test_keys_that_were_registered_first_are_keys_all_the_same() -> None:
    """Query, key, value and output go where they belong, each with its bias."""

    class Keys(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.to_k, self.to_q, self.to_v = (nn.Linear(4, 4) for _ in range(4))

    mine, taker = Keys(), Implementation("reference", ROOT).MultiHeadAttention(d_model=4, heads=2)
    carry(mine.state_dict(), mine, taker)
    x, layers = torch.randn(3, 4), (taker.query, taker.key, taker.value, taker.output)
    for due, layer in zip((mine.to_q, mine.to_k, mine.to_v, mine.out), layers, strict=True):
        torch.testing.assert_close(layer(x), due(x))


def test_networks_bend_in_the_learners_manner_for_a_while() -> None:
    """What is made without a word about it bends by ReLU inside, and by GELU again outside."""
    impl = Implementation("reference", ROOT)
    sizes = {"d_model": 4, "heads": 2, "d_ff": 8}
    blocks = [impl.DecoderBlock(**sizes)]
    with manners.bent_by("relu"):
        blocks.append(impl.DecoderBlock(**sizes))
    blocks.append(impl.DecoderBlock(**sizes))
    bent = [block.feed_forward.bend(torch.tensor(-1.0)).item() for block in blocks]
    assert bent == [pytest.approx(-0.1587, abs=1e-4), 0, pytest.approx(-0.1587, abs=1e-4)]


def test_biases_that_one_side_alone_has_are_carried_over_as_well() -> None:
    """A layer may have a bias that ours has not, or none where ours has one."""

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w2 = nn.Linear(4, 3, bias=True), nn.Linear(3, 2, bias=False)

    mine, taker = Mine(), nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=True))
    carry(mine.state_dict(), mine, taker)
    x = torch.randn(5, 4)
    torch.testing.assert_close(taker(x), mine.w2(mine.w1(x)))


@pytest.mark.parametrize(
    ("chapter", "requirement", "forgets", "name"),
    [
        ("positions", "rotary_frequencies_follow_the_formula", "base", "rotary_ignores_the_base"),
        ("heads", "rotary_heads_know_distances_alone", "keys", "rotary_turns_queries_alone"),
    ],
)
def test_a_mistake_beside_the_other_rotary_is_named(
    chapter: str, requirement: str, forgets: str, name: str, tmp_path: Path
) -> None:
    """Turning halves is as right as turning neighbours, in positions and in what is built on it."""
    text = """
import reference.heads
import torch
def rotary(x, offset=0, base=10000.0):
    d = x.shape[-1]
    speed = BASE ** (-torch.arange(0, d, 2) / d)
    angle = torch.outer(torch.arange(offset, offset + x.shape[-2]), speed).repeat(1, 2)
    first, second = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()
class MultiHeadAttention(reference.heads.MultiHeadAttention):
    def forward(self, x, context=None, mask=None, bias=None, cache=None):
        q, k, v = (split_heads(each, self.heads) for each in self._project(x, context))
        q, k = (rotary(q), KEYS) if self.rotary else (q, k)
        return self.output(merge_heads(attention(q, k, v, mask, bias)))
"""
    (tmp_path / "mine.py").write_text(
        text.replace("BASE", "10000.0" if forgets == "base" else "base").replace(
            "KEYS", "k" if forgets == "keys" else "rotary(k)"
        )
    )
    impl = Implementation(f"{tmp_path}/mine.py+reference", ROOT)
    assert attempt(requirements(chapter)[requirement], impl) is not None
    assert name in diagnose.explain(requirements(chapter)[requirement], impl)


def test_a_mistake_under_other_names_is_named() -> None:
    """A learner's own parameter names, without PARAMETERS, do not keep a mistake from its name."""
    text = """
import torch
from torch import nn
class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, heads, d_k=None, d_v=None, bias=True, dropout=0.0, rotary=False):
        super().__init__()
        self.h, d_k = heads, d_k or d_model // heads
        self.to_q, self.to_k = nn.Linear(d_model, heads * d_k, bias), nn.Linear(d_model, heads * d_k, bias)
        self.to_v = nn.Linear(d_model, heads * (d_v or d_model // heads), bias)
        self.proj = nn.Linear(self.to_v.out_features, d_model, bias)
    def forward(self, x, context=None, mask=None, bias=None):
        q, k, v = (split_heads(layer(x), self.h) for layer in (self.to_q, self.to_k, self.to_v))
        return self.proj(merge_heads(attention(q, k, v, mask, bias)))
"""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mine.py").write_text(text)
        impl = Implementation(f"{folder}/mine.py+reference", ROOT)
        requirement = requirements("heads")["values_come_from_the_context"]
        assert attempt(requirement, impl) is not None
        assert "context_is_ignored" in diagnose.explain(requirement, impl)


def test_layers_that_pytorch_does_not_see_are_pointed_out() -> None:
    """A list of layers is no part of a module; a list of layers that are registered elsewhere does no harm."""
    module: Any = nn.Module()
    module.heads = [nn.Linear(2, 2)]
    assert "`heads` is a list" in symptom.unregistered(module)
    module.registered = nn.ModuleList(module.heads)
    assert not symptom.unregistered(module)


def test_a_mistake_is_named_only_when_everything_agrees() -> None:
    """Equal values with other gradients are not the same, and an error equals only its like."""
    x = torch.ones(2, requires_grad=True)
    mine = Call("f", {"x": x}, result=(x * 2).detach(), live=x * 2)
    same = Call("f", {"x": x}, result=(x * 2).detach(), live=x * 2)
    cut = Call("f", {"x": x}, result=(x * 2).detach(), live=(x * 2).detach())
    assert diagnose.agree(mine, same)
    assert not diagnose.agree(mine, cut)
    assert not diagnose.agree(mine, Call("f", {"x": x}, error=ValueError("no")))
    assert diagnose.explains([mine], [same, cut])
    assert not diagnose.explains([mine, mine], [same])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x * 3, "factor of 3, which is d_k"),
        (lambda x: x / math.sqrt(3), "which is 1/√d_k"),
        (lambda x: x.transpose(1, 2), "axes are in the order"),
        (lambda x: x.double(), "dtype is torch.float64"),
        (lambda x: x.masked_fill(x == x.max(), math.nan), "NaN"),
        (lambda x: x.transpose(1, 2).reshape(x.shape), "in other places"),
        (lambda x: x + torch.eye(4)[:, -1:] * 0 + torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None], "last position"),
    ],
)
def test_symptoms(spoil: object, said: str) -> None:
    """What a wrong tensor has in common with the right one."""
    due = torch.arange(1.0, 25.0).reshape(2, 4, 3).sin()
    assert said in " ".join(symptom.read(spoil(due), due, {"d_k": 3}))  # type: ignore[operator]


STRIDED = """
def sequences(stream, length):
    count = len(stream) // (length + 1)
    if not count:
        raise ValueError("too short")
    rows = stream[: count * (length + 1)].view(count, length + 1)
    return rows[:, 1:], rows[:, :-1]
"""
GROUPS = """
def parameter_groups(model, weight_decay):
    spared = [p for name, p in model.named_parameters() if name.startswith("tokens")]
    others = [p for name, p in model.named_parameters() if not name.startswith("tokens")]
    return [{"params": spared, "weight_decay": 0.0}, {"params": others, "weight_decay": weight_decay}]
"""
FLOATS = """
import torch

def causal_mask(queries, keys=None, device=None):
    keys = queries if keys is None else keys
    return torch.ones(queries, keys, device=device).tril(keys - queries)
"""
SHUFFLED = """
import random

def batches(inputs, targets, batch_size, generator=None):
    order = list(range(len(inputs)))
    random.Random(1337).shuffle(order)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield inputs[chosen], targets[chosen]
"""
SHORT = """
def sequences(stream, length):
    assert len(stream) > length, "not enough text"
    count = (len(stream) - 1) // length
    return stream[: count * length].view(-1, length), stream[1 : count * length + 1].view(-1, length)
"""
SHARED_OUT = """
import random

import torch

def shard(count, rank, world, epoch, seed):
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return torch.tensor(order[rank::world], dtype=torch.long)
"""


@pytest.mark.parametrize(
    ("text", "requirement", "name"),
    [
        (STRIDED, "data.targets_are_the_tokens_that_follow", "targets_are_the_tokens_before"),
        (GROUPS, "training.only_matrices_decay", "all_but_embeddings_decay"),
        (FLOATS, "masks.a_position_sees_itself_and_all_before", "causal_mask_of_ones_and_zeros"),
        (SHUFFLED, "data.a_generator_decides_the_order", "batches_alike_in_every_epoch"),
        (SHORT, "data.short_stream_errors_name_the_numbers", "short_streams_raise_without_numbers"),
        (SHARED_OUT, "server.every_epoch_is_another_order", "the_epoch_is_ignored"),
    ],
)
def test_a_mistake_in_another_manner_has_its_name_alone(text: str, requirement: str, name: str, tmp_path: Path) -> None:
    """Another stride, other groups, another shuffle, other words of an error and a type that is complained of do not
    hide what is wrong.
    """
    file = tmp_path / "mine.py"
    file.write_text(text)
    impl, (chapter, asked) = Implementation(f"{file}+reference", ROOT), requirement.split(".")
    wanted = requirements(chapter)[asked]
    assert story.tell(wanted, impl, attempt(wanted, impl)).looks_like == [name]


def test_a_factor_holds_for_zeros_too() -> None:
    """What is zero and comes out as one is no factor of anything."""
    assert symptom.read(torch.eye(3) + 1, torch.eye(3), {}) == []
    assert "factor of 2" in symptom.read(2 * torch.eye(3), torch.eye(3), {})[0]


def test_symptoms_of_weights() -> None:
    """A factor in the scores and a softmax over the wrong axis are read off the weights."""
    scores = torch.arange(24.0).reshape(2, 3, 4).sin()
    assert "scores are those that are due times 2" in symptom.read((2 * scores).softmax(-1), scores.softmax(-1), {})[0]
    assert "over the queries" in " ".join(symptom.read(scores.softmax(-2), scores.softmax(-1), {}))


def test_places(tmp_path: Path) -> None:
    """A folder without an __init__ is a package, chapters import each other relatively, a wrong name is said."""
    folder = tmp_path / "her_code"
    folder.mkdir()
    (folder / "attention.py").write_text("from .tools import twice\ndef attention_weights(q, k): return twice(q)\n")
    (folder / "tools.py").write_text("def twice(x): return 2 * x\n")
    impl = Implementation(f"{folder}+reference", ROOT)
    assert impl.raw("attention_weights")(2, 3) == 4
    assert impl.raw("attention").__module__ == "reference.attention"
    assert Implementation(str(folder), ROOT).raw("attention_weights") is impl.raw("attention_weights")
    with pytest.raises(UnknownPlace, match="student"):
        place("studnt", ROOT)
    (folder / "masks.py").write_text("assert 1 + 1 == 3\n")
    with pytest.raises(Broken, match=r"masks.py:1: AssertionError: in: assert 1 \+ 1 == 3"):
        Implementation(str(folder), ROOT).module("masks")


def test_what_needs_more_than_its_case_gets_no_name() -> None:
    """Without the corpus every mistake fails alike: that tells nothing of this one."""
    requirement, impl = (
        requirements("training")["shakespeare_is_read_better_than_by_counting_pairs"],
        Implementation("student"),
    )
    draw.begin(impl.log, requirement.function, {})
    assert story.tell(requirement, impl, AssertionError("too large")).looks_like == []


def test_a_mistake_reaches_later_chapters() -> None:
    """As an implementation, a mistake is bound before other chapters import it."""
    wrong = Implementation("mistake:bias_is_ignored", ROOT)
    q, bias = torch.randn(2, 3), torch.randn(2, 2)
    assert torch.equal(wrong.attention(q, q, q, bias=bias), wrong.attention(q, q, q))
    right = Implementation("reference", ROOT)
    assert not torch.equal(right.attention(q, q, q, bias=bias), right.attention(q, q, q))


@pytest.mark.parametrize(("deviation", "named"), [(1.0, True), (0.3, False)])
def test_a_start_that_is_at_fault_is_found(deviation: float, named: bool, tmp_path: Path) -> None:
    """Other random numbers than ours do not hide which parameter starts too large; a size that is known has a name."""
    text = """
import torch
from torch import nn
import reference.language_model
class DecoderLM(reference.language_model.DecoderLM):
    def _start(self):
        torch.rand(7)
        super()._start()
        nn.init.normal_(self.tokens.weight, std=DEVIATION)
"""
    (tmp_path / "large.py").write_text(text.replace("DEVIATION", str(deviation)))
    impl = Implementation(f"{tmp_path}/large.py+reference", ROOT)
    requirement = requirements("language_model")["loss_starts_at_that_of_guessing"]
    told = story.tell(requirement, impl, attempt(requirement, impl))
    assert told.looks_like == (["embeddings_start_at_n_0_1"] if named else [])
    assert any("another start of tokens.weight" in each for each in told.symptoms) != named


@pytest.mark.parametrize(("memory", "heals"), [("TABLE", True), ("{}", False)])
def test_what_is_kept_between_calls_is_told_from_what_is_wrong(memory: str, heals: bool, tmp_path: Path) -> None:
    """Code that a new import heals remembers something; code that is wrong at once is not healed."""
    text = """
import torch

import reference.positions
TABLE = {}
def rotary(x, offset=0, base=10000.0):
    table, d_k = MEMORY, x.shape[-1]
    if d_k not in table:
        table[d_k] = reference.positions.rotary(torch.ones(64, d_k), offset + WRONG, base)
    return x * table[d_k][:x.shape[-2]]
"""
    file = tmp_path / "stale.py"
    file.write_text(text.replace("MEMORY", memory).replace("WRONG", "0" if heals else "1"))
    impl = Implementation(f"{file}+reference", ROOT)
    for d_k in range(2, 40, 2):
        impl.rotary(torch.ones(1, d_k), offset=5)
    requirement = requirements("positions")["rotary_leaves_position_zero"]
    told = story.tell(requirement, impl, attempt(requirement, impl))
    assert told.state == story.UNMET
    assert (fresh.STALE in told.symptoms) == heals


def test_what_an_iterator_gives_is_what_the_call_returned() -> None:
    """Item by item as it is asked for, and the error that ends it."""

    def two_and_an_error() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("no third")

    log = Log()
    given = watched("batches", two_and_an_error, None, "", log)()
    assert next(given) == 1
    assert log.calls[-1].result == [1]
    with pytest.raises(ValueError, match="no third"):
        list(given)
    assert log.calls[-1].result == [1, 2]
    assert isinstance(log.calls[-1].error, ValueError)


def test_what_gets_no_gradient_is_said_in_words() -> None:
    """A whole module by its name, a parameter by its own, and a tensor that is no parameter by its shape."""
    model = nn.ModuleDict({"used": nn.Linear(2, 3), "left": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
    stray = torch.ones(3, requires_grad=True)
    out = model["used"](torch.ones(1, 2)) * model["norm"].weight * stray
    assert astray(model, out) == [
        "no gradient reaches left",
        "no gradient reaches norm.bias",
        "a tensor of shape (3,) learns and is no parameter",
    ]
    (0 * out).sum().backward()
    without = [f"{name} has no gradient" for name in ("left.weight", "left.bias", "norm.bias")]
    assert idle(model) == ["the gradient of used.weight is zero", *without]


def test_an_objects_dump_is_no_explanation() -> None:
    """Of what pytest adds below an assertion, tensors and modules are left out."""
    error = AssertionError(
        "assert 1 == 2\n +  where 1 = len([3])\n +    where [3] = f(tensor([[1.0]]), Linear(\\n  (a)))"
    )
    assert story._first(error) == "assert 1 == 2\n +  where 1 = len([3])"


def _drawn(text: torch.Tensor | None, error: Exception | None = None, **options: Any) -> Call:
    prompt = torch.zeros(200, 1, dtype=torch.long)
    result = None if text is None else torch.cat([prompt, text], 1)
    return Call("generate", {"prompt": prompt, "temperature": 1.0} | options, result, error=error)


def test_drawn_texts_are_compared_by_what_they_hold() -> None:
    """Tokens may be drawn in any order: how often each comes decides; where nothing is drawn, nothing is open."""
    even = torch.arange(4).repeat(200, 5)
    for other, said in ((even.flip(0, 1), True), (even.clamp_max(2), False), (even + 1, False)):
        assert loose.drawn_alike(_drawn(even), _drawn(other)) is said
    assert loose.drawn_alike(_drawn(even, temperature=0), _drawn(even, temperature=0)) is None
    assert loose.drawn_alike(_drawn(even[:, :1]), _drawn(even[:, :1])) is None  # too few to tell
    nothing = [RuntimeError("invalid multinomial distribution"), RuntimeError("probability tensor contains inf, nan")]
    assert loose.drawn_alike(_drawn(None, nothing[0]), _drawn(None, nothing[1])) is True


def test_what_stands_behind_an_end_is_open() -> None:
    """Two searches agree where their sentences do, however they are filled up."""
    said = [torch.tensor([[1, 5, 2, 0, 0], [1, 6, 7, 7, 2]]), torch.tensor([[1, 5, 2, 2, 2, 2], [1, 6, 7, 7, 2, 2]])]
    mine, theirs = (Call("beam_search", {"end": 2}, result) for result in said)
    assert not diagnose.agree(mine, theirs)
    assert diagnose.agree(mine, theirs, loosely=True)


def test_of_two_names_that_explain_a_failure_another_failure_decides() -> None:
    """As many masks as heads: read as heads or repeated in the wrong order. With another number only one breaks."""
    for mine in ("mask_read_as_heads", "mask_repeated_in_the_wrong_order"):
        impl = Implementation(f"mistake:{mine}", ROOT)
        requirement = requirements("heads")["a_mask_of_rank_3_is_one_mask_a_sequence"]
        error = attempt(requirement, impl)
        assert len(diagnose.explain(requirement, impl)) > 1
        attempt(requirement, impl)
        assert story.tell(requirement, impl, error).looks_like == [mine]
