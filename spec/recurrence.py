"""# Recurrence, and the attention that was added to it

Before the Transformer a sequence was read word by word into a state of fixed size. What a reader could not keep there,
attention fetched from the source; then it turned out that attention was enough.

    c' = forget · c + input · candidate,    h' = output · tanh(c')
    score(query, key) = vᵀ tanh(W query + U key),    weights = softmax(scores),    context = Σ weight · key

Source: Hochreiter & Schmidhuber 1997; Gers et al. 2000; Bahdanau et al. 2015 (1409.0473); the Deep Learning Curriculum,
chapter 1, question 1.
"""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Protocol

import pytest
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit.close import assert_close
from spec.kit.draw import axis, booleans, doubles, for_all, generator, randn, tokens
from spec.kit.marks import patience, rejects, robust, same_weights
from spec.kit.probe import astray, finite, gradients_are_derivatives, steps_between
from spec.kit.weights import give, perturb, random_state

State = tuple[Tensor, Tensor]


class LSTMCellCall(Protocol):
    """How the cell is called."""

    def forward(
        self,
        x: Float[Tensor, "batch input_size"],
        state: tuple[Float[Tensor, "batch hidden_size"], Float[Tensor, "batch hidden_size"]],
    ) -> tuple[Float[Tensor, "batch hidden_size"], Float[Tensor, "batch hidden_size"]]:
        """One step: (h, c) becomes the next (h, c)."""
        ...


class BahdanauAttentionCall(Protocol):
    """How the attention is called."""

    def forward(
        self,
        query: Float[Tensor, "batch d_query"],
        keys: Float[Tensor, "batch key d_key"],
        mask: Bool[Tensor, "batch key"] | None = None,
    ) -> tuple[Float[Tensor, "batch d_key"], Float[Tensor, "batch key"]]:
        """The context and the weights."""
        ...


class Recurrence(Protocol):
    """What an implementation of this chapter offers."""

    def LSTMCell(self, input_size: int, hidden_size: int) -> Annotated[nn.Module, LSTMCellCall]:
        """One step of reading, with gates."""
        ...

    def BahdanauAttention(
        self, d_query: int, d_key: int, d_attention: int
    ) -> Annotated[nn.Module, BahdanauAttentionCall]:
        """A query looks over the words of a source."""
        ...


def _cell(make: Callable[..., Any], x: Tensor, h: Tensor) -> Any:
    """A cell of these sizes, off its start."""
    return perturb(make(input_size=x.shape[-1], hidden_size=h.shape[-1])).to(x.dtype)


def _attention(make: Callable[..., Any], query: Tensor, keys: Tensor, d_attention: int) -> Any:
    """An attention of these sizes, off its start."""
    made = make(d_query=query.shape[-1], d_key=keys.shape[-1], d_attention=d_attention)
    return perturb(made).to(query.dtype)


def _read(cell: Callable[..., State], words: Iterable[Float[Tensor, "batch input_size"]], state: State) -> list[State]:
    """The state after each word."""
    states = []
    for word in words:
        state = cell(word, state)
        states.append(state)
    return states


@rejects("returns_c_before_h", "cell_is_shown_unbent", "hidden_state_adds_up")
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size")
def test_h_is_never_larger_than_one(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """A step returns (h, c), and h stays between −1 and 1 however large the cell is.

    The cell c is a memory and may count far; h is what is shown of it, and the next layer can rely on its size.

    Source: Hochreiter & Schmidhuber 1997, §4.

    Hint: `h = output * torch.tanh(c)`, and h comes first.
    """
    h, _ = _cell(impl.LSTMCell, x, h)(x, (h, 20 * c))
    assert (h.abs() <= 1).all()


@rejects("takes_c_before_h", "candidate_is_not_bent")
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size")
def test_a_step_adds_at_most_one_to_a_cell(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """The new c is at most |c| + 1 in size, whatever comes in.

    Gates are between 0 and 1 and the candidate between −1 and 1: what is kept cannot grow, and
    what is written is small.

    Source: Gers et al. 2000, §2.

    Hint: a sigmoid bends the three gates, tanh the candidate.
    """
    _, after = _cell(impl.LSTMCell, x, h)(20 * x, (h, c))
    assert (after.abs() <= c.abs() + 1 + 1e-5).all()


@rejects("candidate_by_a_sigmoid")
@for_all(x="64 input_size", h="64 (4 hidden_size)", examples=4)
def test_a_cell_can_be_written_up_and_down(impl: Recurrence, x: Tensor, h: Tensor) -> None:
    """From an empty cell, some inputs lead to a positive c and others to a negative one.

    A memory that could only grow could never take anything back.

    Source: Hochreiter & Schmidhuber 1997, §4.

    Hint: the candidate is bent by tanh, which has both signs; only the gates are sigmoids.
    """
    _, c = _cell(impl.LSTMCell, x, h)(10 * x, (h, torch.zeros_like(h)))
    assert (c > 0).any()
    assert (c < 0).any()


@rejects(
    "gates_read_the_cell",
    "gates_peep_into_the_cell",
    "returns_c_before_h",
    "takes_c_before_h",
    "nothing_is_forgotten",
    "gates_by_tanh",
    "cell_is_bent_on_its_way",
    "changes_the_cell_in_place",
)
@for_all(x=doubles("batch input_size"), h=doubles("batch hidden_size"), c=doubles("batch hidden_size"))
def test_a_cell_is_kept_in_part(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """Of each number in c a share between 0 and 1 is kept; the share depends on x and h, and not on c.

    This is the forget gate. It lets a cell be emptied when a sentence ends, which the LSTM of 1997 could not.

    Source: Gers et al. 2000, §3.

    Hint: `forget * c + input * candidate`; the gates read x and h alone.
    """
    cell = _cell(impl.LSTMCell, x, h)
    empty, once, twice = (cell(x, (h, scale * c))[1] for scale in (0, 1, 2))
    share = (once - empty) / c
    assert (share > 0).all()
    assert (share < 1).all()
    assert_close(twice - empty, 2 * (once - empty))


@rejects(
    "returns_c_before_h",
    "everything_is_shown",
    "gates_by_tanh",
    "cell_is_shown_unbent",
    "shows_the_old_cell",
    "cell_is_bent_on_its_way",
    "hidden_state_adds_up",
)
@for_all(x=doubles("batch input_size"), h=doubles("batch hidden_size"), c=doubles("batch hidden_size"))
def test_h_shows_a_part_of_the_new_cell(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """Each number in h is a share between 0 and 1 of tanh(c), with c the new cell.

    This is the output gate: a cell may remember what it does not say yet.

    Source: Hochreiter & Schmidhuber 1997, §4.

    Hint: first the new c, then h from it.
    """
    h, c = _cell(impl.LSTMCell, x, h)(x, (h, c))
    share = h / c.tanh()
    assert (share > 0).all()
    assert (share < 1).all()


@rejects("hidden_state_is_not_read", "every_step_starts_anew", "gates_read_the_cell")
@for_all(x=doubles("batch input_size"), h=doubles("batch hidden_size"), c=doubles("batch hidden_size"))
def test_both_x_and_h_reach_the_gates(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """Another x gives another state, and so does another h.

    h is how a cell knows what it has read: a step that ignores it reads every word as if it were the first.

    Hint: two products, `x @ weight_ih.T` and `h @ weight_hh.T`, and their sum.
    """
    cell = _cell(impl.LSTMCell, x, h)
    before = torch.stack(cell(x, (h, c)))
    for after in (torch.stack(cell(x + 1, (h, c))), torch.stack(cell(x, (h + 1, c)))):
        assert ((after - before).abs().amax((0, 2)) > 1e-9).all()


@rejects("keeps_the_state_itself", "sequences_share_a_state")
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size")
def test_states_of_a_batch_are_independent(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """Each sequence of a batch gets the state that it would get alone.

    Hint: does anything in your step sum or average over the first axis?
    """
    cell = _cell(impl.LSTMCell, x, h)
    rows = zip(*(each.chunk(len(x)) for each in (x, h, c)), strict=True)
    alone = [torch.stack(cell(word, (shown, kept))) for word, shown, kept in rows]
    assert_close(torch.stack(cell(x, (h, c))), torch.cat(alone, 1))


@rejects("keeps_the_state_itself", "changes_the_cell_in_place")
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size")
def test_a_cell_keeps_nothing_to_itself(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """The same x and state give the same result, whatever was read between.

    The state comes in and goes out; a module that kept one would mix the sequences of today with those of yesterday.

    Hint: no `self.h = …` in forward.
    """
    cell = _cell(impl.LSTMCell, x, h)
    first = torch.stack(cell(x, (h, c)))
    cell(-x, (c, h))
    assert_close(torch.stack(cell(x, (h, c))), first)


@rejects("shows_the_old_cell", "cell_starts_at_zero")
@for_all(x="batch input_size", h="batch (2 hidden_size)", examples=4)
def test_units_start_different(impl: Recurrence, x: Tensor, h: Tensor) -> None:
    """The units of a new cell answer differently.

    Units that start alike get the same gradient and stay alike: hidden_size of them are then one.

    Hint: random weights, uniform between ±1/√hidden_size as in torch, or normal ones; not zeros.
    """
    cell = impl.LSTMCell(input_size=x.shape[-1], hidden_size=h.shape[-1])
    shown, _ = cell(x, (torch.zeros_like(h), torch.zeros_like(h)))
    assert (shown.std(-1) > 1e-5).all()


@rejects("one_bias_is_not_added", "hidden_state_is_not_read")
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size", examples=4)
def test_every_parameter_of_a_cell_learns(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """The tensors that a step's gradient reaches are the cell's `parameters()`, and none of the gradients is zero.

    Hint: `nn.Parameter` for each, and every one of them used, both biases included.
    """
    cell = _cell(impl.LSTMCell, x, h)
    out = torch.cat(cell(x, (h, c)))
    parameters = [p for p in cell.parameters() if p.requires_grad]
    assert astray(cell, out) == []
    assert all(gradient.any() for gradient in torch.autograd.grad((out * randn(*out.shape)).sum(), parameters))


def _shapes(inputs: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The canonical parameters of a cell."""
    return {
        "weight_ih": (4 * hidden, inputs),
        "weight_hh": (4 * hidden, hidden),
        "bias_ih": (4 * hidden,),
        "bias_hh": (4 * hidden,),
    }


@same_weights
@rejects("weights_are_stored_transposed")
@for_all(input_size=axis("input_size"), hidden_size=axis("hidden_size"), examples=3)
def test_a_cell_has_pytorchs_parameters(impl: Recurrence, input_size: int, hidden_size: int) -> None:
    """weight_ih maps x and weight_hh maps h to four times hidden_size numbers, each with a bias of its own.

    Four because there are three gates and a candidate; two biases where one would do, because torch has them so.

    Source: torch.nn.LSTMCell.

    Hint: `nn.Parameter(torch.empty(4 * hidden_size, input_size))`: rows are outputs, as in every layer of torch.
    """
    cell = impl.LSTMCell(input_size=input_size, hidden_size=hidden_size)
    give(cell, random_state(_shapes(input_size, hidden_size)))
    due = sum(math.prod(shape) for shape in _shapes(input_size, hidden_size).values())
    assert sum(p.numel() for p in cell.parameters()) in (
        due,
        due - 4 * hidden_size,
    )  # biases may be stored as their sum


@same_weights
@rejects(
    "gates_in_the_order_of_the_lecture",
    "one_bias_is_not_added",
    "hidden_state_is_not_read",
    "everything_is_written",
    "everything_is_shown",
    "writes_what_it_does_not_keep",
    "candidate_by_a_sigmoid",
    "sequences_share_a_state",
    "keeps_what_it_does_not_write",
    "forget_gate_gets_one_more",
)
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size")
def test_equals_torchs_lstm_cell(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """With the same weights it gives what `torch.nn.LSTMCell` gives.

    Source: torch.nn.LSTMCell.

    Hint: the rows of the weights are the input gate, the forget gate, the candidate and the output gate, in this order.
    """
    state = random_state(_shapes(x.shape[-1], h.shape[-1]), scale=0.7)
    cell, theirs = impl.LSTMCell(input_size=x.shape[-1], hidden_size=h.shape[-1]), nn.LSTMCell(x.shape[-1], h.shape[-1])
    give(cell, state)
    theirs.load_state_dict(state)
    for mine, due in zip(cell(x, (h, c)), theirs(x, (h, c)), strict=True):
        assert_close(mine, due)


GATES = ("input", "forget", "candidate", "output")  # in torch's order
OPEN, SHUT = 60.0, -60.0


def _with_gates(make: Callable[..., Any], x: Tensor, h: Tensor, recurrent: float = 0.3, **gates: float) -> Any:
    """A cell of random weights in which the named gates are held open or shut by their bias."""
    cell = make(input_size=x.shape[-1], hidden_size=h.shape[-1])
    state = random_state(_shapes(x.shape[-1], h.shape[-1]))
    state["weight_hh"] = state["weight_hh"] * recurrent / 0.3
    for name, value in gates.items():
        state["bias_ih"].view(4, -1)[GATES.index(name)] = value
    give(cell, state)
    return cell


@same_weights
@rejects(
    "forget_gate_comes_first",
    "gates_read_the_cell",
    "gates_peep_into_the_cell",
    "nothing_is_forgotten",
    "everything_is_written",
    "keeps_what_it_does_not_write",
)
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size", words="batch position input_size")
def test_the_forget_gate_keeps_or_empties(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor, words: Tensor) -> None:
    """With the forget gate open and the input gate shut, c stays for ever; with the forget gate shut, it is gone.

    Source: Gers et al. 2000, §3.

    Hint: the second quarter of the rows is the forget gate.
    """
    latch = _with_gates(impl.LSTMCell, x, h, input=SHUT, forget=OPEN)
    assert_close(_read(latch, words.unbind(1), (h, c))[-1][1], c)
    sieve = _with_gates(impl.LSTMCell, x, h, forget=SHUT)
    assert_close(torch.stack(sieve(x, (h, 10 * c))), torch.stack(sieve(x, (h, -10 * c))))


@same_weights
@rejects(
    "gates_in_the_order_of_the_lecture",
    "forget_gate_comes_first",
    "gates_are_interleaved",
    "everything_is_written",
    "writes_what_it_does_not_keep",
    "candidate_by_a_sigmoid",
    "candidate_is_not_bent",
)
@for_all(x="batch input_size", h="batch hidden_size")
def test_the_input_gate_lets_the_candidate_in(impl: Recurrence, x: Tensor, h: Tensor) -> None:
    """Into an empty cell an open input gate writes the candidate, ±1 at most, and a shut one writes nothing.

    Source: Hochreiter & Schmidhuber 1997, §4.

    Hint: the first quarter of the rows is the input gate, the third the candidate.
    """
    empty = torch.zeros_like(h)
    for gates, due in (
        ({"input": OPEN, "candidate": 60.0}, 1.0),
        ({"input": OPEN, "candidate": -60.0}, -1.0),
        ({"input": SHUT, "candidate": 60.0}, 0.0),
    ):
        assert_close(_with_gates(impl.LSTMCell, x, h, **gates)(x, (h, empty))[1], empty + due)


@same_weights
@rejects(
    "gates_in_the_order_of_the_lecture",
    "gates_are_interleaved",
    "weights_are_stored_transposed",
    "everything_is_shown",
    "cell_is_shown_unbent",
    "shows_the_old_cell",
    "cell_is_bent_on_its_way",
)
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size")
def test_the_output_gate_hides_and_does_not_change(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """With the output gate open h is tanh(c); with it shut h is 0, and c goes on all the same.

    Source: Hochreiter & Schmidhuber 1997, §4.

    Hint: the last quarter of the rows is the output gate; it multiplies tanh(c), the new one.
    """
    shown, hidden = (_with_gates(impl.LSTMCell, x, h, output=gate)(x, (h, c)) for gate in (OPEN, SHUT))
    assert_close(shown[0], shown[1].tanh())
    assert_close(hidden[0], torch.zeros_like(h))
    assert_close(hidden[1], shown[1])


@same_weights
@rejects(
    "forget_gate_comes_first",
    "gates_are_interleaved",
    "gates_peep_into_the_cell",
    "takes_c_before_h",
    "state_is_cut_from_the_graph",
    "cell_is_cut_from_the_graph",
)
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size", examples=3)
def test_an_open_cell_carries_its_error_on_unchanged(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """With the forget gate open, the gradient of c at step 100 with respect to c at step 0 is exactly 1.

    What is multiplied by a number below one at each step is nothing after a hundred. Along the cell nothing is
    multiplied and nothing bent, so an error comes back as it was sent: the constant error carousel. The price is a
    hundred steps, one after another.

    Source: Hochreiter & Schmidhuber 1997, §3.2 and §4; Gers et al. 2000, §2.

    Hint: no tanh on the way from c to c, and no .detach().
    """
    cell, c = _with_gates(impl.LSTMCell, x, h, recurrent=0.0, forget=OPEN), c.requires_grad_()
    after = _read(cell, randn(100, *x.shape), (h, c))[-1][1]
    assert_close(torch.autograd.grad(after.sum(), c, materialize_grads=True)[0], torch.ones_like(c))


@same_weights
@rejects("weights_are_stored_transposed", "nothing_is_forgotten", "gates_by_tanh", "hidden_state_adds_up")
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size", examples=3)
def test_a_gradient_through_h_alone_vanishes(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """With the forget gate shut only h connects the steps, and after a hundred of them no gradient is left.

    Such a cell is a plain recurrent network: each step multiplies the gradient by small weights and by the slopes of
    what bends. Nobody can learn from what happened a hundred words ago.

    Source: Bengio et al. 1994; Hochreiter & Schmidhuber 1997, §3.1.

    Hint: h is replaced at each step, not added to; c is kept by its forget gate alone.
    """
    cell, h, c = _with_gates(impl.LSTMCell, x, h, forget=SHUT), h.requires_grad_(), c.requires_grad_()
    after = torch.cat(_read(cell, randn(100, *x.shape), (h, c))[-1])
    arrived = torch.stack(torch.autograd.grad(after.sum(), (h, c), materialize_grads=True))
    assert_close(arrived, torch.zeros_like(arrived), atol=1e-6, rtol=0)


@rejects("state_is_cut_from_the_graph", "cell_is_cut_from_the_graph", "keeps_the_state_itself")
@for_all(x=doubles("batch input_size"), h=doubles("batch hidden_size"), c=doubles("batch hidden_size"), examples=3)
def test_gradients_pass_a_step(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """The gradients of x, h and c are the derivatives of the new state.

    Training sends its error back through every step; where the state is cut from the graph, a cell learns from its last
    word alone.

    Source: Werbos 1990.

    Hint: no .detach(), .data or torch.tensor(…) in the step.
    """
    cell = _cell(impl.LSTMCell, x, h)
    assert gradients_are_derivatives(lambda x, h, c: torch.cat(cell(x, (h, c))), x, h, c)


@rejects("state_is_cut_from_the_graph")
@for_all(x="batch input_size", h="batch hidden_size", examples=2)
def test_the_way_through_a_cell_grows_with_the_length(impl: Recurrence, x: Tensor, h: Tensor) -> None:
    """From the first word to the last state leads no way shorter than the sequence: each word adds as many steps.

    The steps are those that autograd remembers, and none can begin before the one in front of it has ended. So a
    sequence takes its length in time, on any number of processors, and a gradient has that far to go.

    Source: Vaswani et al. 2017, §4, table 1; the Deep Learning Curriculum, chapter 1, question 1.

    Hint: is the state cut from the graph somewhere?
    """
    cell, x, longest = _cell(impl.LSTMCell, x, h), x.requires_grad_(), []
    for length in (3, 6, 9):
        words = [x, *randn(length - 1, *x.shape)]
        fewest, most = steps_between(x, _read(cell, words, (h, h))[-1][0])
        longest.append(most)
        assert fewest >= length
    assert longest[2] - longest[1] == longest[1] - longest[0] > 0


@rejects("every_step_starts_anew")
@for_all(words=doubles("batch (3 position) d_model"), h="batch hidden_size", examples=2)
def test_attention_takes_one_pass_where_a_cell_takes_many(impl: Recurrence, words: Tensor, h: Tensor) -> None:
    """A causal model gives in one pass what it gives prefix by prefix; a cell cannot read all words at once.

    Under teacher forcing all words of the target are known before: a Transformer is trained on all of them in one pass,
    and only writes word by word. A cell needs the state that it does not have yet. That is question 1: what made
    attention the faster of the two?

    Source: Vaswani et al. 2017, §1; the Deep Learning Curriculum, chapter 1, question 1.

    Hint: is the state that comes in read at all? Words that are read at once, each from an empty state, must differ.
    """
    batch, length = words.shape[:2]
    cell, empty = _cell(impl.LSTMCell, words, h), words.new_zeros(batch * length, h.shape[-1])
    at_once = rearrange(
        cell(words.flatten(0, 1), (empty, empty))[0], "(batch position) h -> position batch h", batch=batch
    )
    read = torch.stack([shown for shown, _ in _read(cell, words.unbind(1), (empty[:batch], empty[:batch]))])
    assert_close(at_once[0], read[0])
    assert ((at_once - read)[1:].abs().amax(-1) > 1e-9).all()
    model = impl.DecoderLM(vocab=7, max_length=length, d_model=8, layers=2, heads=2)  # type: ignore[attr-defined]
    model, ids = perturb(model).eval(), tokens(7, batch, length)
    one_by_one = torch.stack([model(ids[:, : end + 1])[:, -1] for end in range(length)], 1)
    assert_close(model(ids), one_by_one, atol=1e-4, rtol=1e-4)


@rejects(
    "softmax_over_one_score",
    "softmax_over_the_sentences",
    "alignment_by_sigmoids",
    "scores_returned_as_weights",
    "weights_before_context",
)
@for_all(query="batch d_query", keys="batch key d_key", d_attention=axis("d_attention"))
def test_weights_are_shares_over_the_source(impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int) -> None:
    """The weights of a query are positive and sum to one over the words of its source.

    They are an alignment: how much of the next target word comes from each source word.

    Source: Bahdanau et al. 2015, §3.1, equation 6.

    Hint: `scores.softmax(-1)`, after the scores have lost their last axis.
    """
    _, weights = _attention(impl.BahdanauAttention, query, keys, d_attention)(query, keys)
    assert (weights >= 0).all()
    assert_close(weights.sum(-1), torch.ones(len(query)))


@rejects(
    "scores_returned_as_weights",
    "weights_before_context",
    "context_of_projected_keys",
    "context_is_the_mean",
    "context_is_divided_by_the_length",
)
@for_all(query="batch d_query", keys="batch key d_key", d_attention=axis("d_attention"))
def test_the_context_is_the_average_of_the_keys(
    impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int
) -> None:
    """The context is the sum of the keys, each times its weight; d_query, d_key and d_attention are free.

    What is compared is also what is fetched. The Transformer gave the two a matrix each: keys and values.

    Source: Bahdanau et al. 2015, §3.1, equation 5.

    Hint: the keys as they came in, d_key wide; their projection serves the scores alone.
    """
    context, weights = _attention(impl.BahdanauAttention, query, keys, d_attention)(query, keys)
    assert_close(context, einsum(weights, keys, "batch key, batch key d_key -> batch d_key"))


@rejects("earlier_words_weigh_more", "queries_are_dealt_to_the_words")
@for_all(query="batch d_query", keys="batch key d_key", d_attention=axis("d_attention"))
def test_the_order_of_the_source_does_not_matter(
    impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int
) -> None:
    """Reordering the keys reorders the weights and leaves the context as it is.

    Order is known to the keys themselves, which are states of a reader that came by in order.

    Hint: each score depends on the query and its own key alone.
    """
    attention, order = _attention(impl.BahdanauAttention, query, keys, d_attention), torch.arange(keys.shape[1]).roll(1)
    (context, weights), (same, moved) = attention(query, keys), attention(query, keys[:, order])
    assert_close(same, context)
    assert_close(moved, weights[:, order])


@rejects("source_scores_without_tanh", "bends_query_and_key_apart", "bends_by_relu", "the_query_is_not_asked")
@for_all(query=doubles("batch d_query"), keys=doubles("batch (2 key) d_key"), d_attention=axis("d_attention"))
def test_the_query_decides_where_to_look(impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int) -> None:
    """Another query gives other weights over the same keys.

    A query that were only added to the score would move all scores alike, and the softmax takes that off. The bend
    behind the sum is what lets the two meet.

    Source: Bahdanau et al. 2015, appendix A.1.2.

    Hint: tanh of the sum, `tanh(query + key)`, not the sum of two.
    """
    attention = _attention(impl.BahdanauAttention, query, keys, d_attention)
    moved = attention(query + 1, keys)[1] - attention(query, keys)[1]
    assert (moved.abs().amax(-1) > 1e-9).all()


@rejects("multiplies_query_and_key", "softmax_over_the_sentences")
@for_all(query=doubles("batch d_query"), keys=doubles("batch (2 key) d_key"), d_attention=axis("d_attention"))
def test_query_and_key_are_added(impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int) -> None:
    """A query of zeros still tells the keys apart.

    With a product it could not: all scores would be 0. The product came with Luong, and with the Transformer.

    Source: Bahdanau et al. 2015, appendix A.1.2; Luong et al. 2015, §3.1.

    Hint: additive attention adds: `query(q) + key(k)`.
    """
    _, weights = _attention(impl.BahdanauAttention, query, keys, d_attention)(0 * query, keys)
    assert (weights.amax(-1) - weights.amin(-1) > 1e-9).all()


@rejects("source_scores_without_tanh", "bends_by_relu", "scores_returned_as_weights")
@for_all(query=doubles("batch d_query"), keys=doubles("batch key d_key"), d_attention=axis("d_attention"))
def test_scores_are_bounded_by_tanh(impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int) -> None:
    """However large the keys are, every word keeps a weight, and larger ones change nothing any more.

    tanh ends at ±1, so a score is never above the sum of |v|. The scores of a product grow with their vectors, which
    is why the Transformer divides them by √d_k.

    Source: Bahdanau et al. 2015, appendix A.1.2.

    Hint: tanh stands between the sum and the last layer.
    """
    attention = _attention(impl.BahdanauAttention, query, keys, d_attention)
    _, weights = attention(query, 1e8 * keys)
    assert (weights > 0).all()
    assert_close(attention(query, 1e10 * keys)[1], weights, atol=1e-6, rtol=1e-5)


@rejects("d_attention_is_ignored")
@for_all(d_query=axis("d_query"), d_key=axis("d_key"), d_attention=axis("d_attention"), examples=3)
def test_d_attention_is_the_width_between(impl: Recurrence, d_query: int, d_key: int, d_attention: int) -> None:
    """One more in d_attention is always the same number of parameters more: d_query + d_key + 1 at least.

    It is how finely query and key are compared, and is free of both their sizes.

    Hint: two matrices into d_attention numbers, and one vector that takes these to a score.
    """
    counts = [
        sum(p.numel() for p in impl.BahdanauAttention(d_query=d_query, d_key=d_key, d_attention=width).parameters())
        for width in (d_attention, d_attention + 1, d_attention + 2)
    ]
    assert counts[2] - counts[1] == counts[1] - counts[0] >= d_query + d_key + 1


@same_weights
@rejects(
    "source_scores_without_tanh",
    "bends_query_and_key_apart",
    "bends_the_score",
    "bends_by_relu",
    "multiplies_query_and_key",
    "additive_scores_are_scaled",
    "alignment_by_sigmoids",
    "the_query_is_not_asked",
    "d_attention_is_ignored",
)
@for_all(query="batch d_query", keys="batch key d_key", d_attention=axis("d_attention"))
def test_scores_are_a_network_of_one_hidden_layer(
    impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int
) -> None:
    """The weights are softmax(score(tanh(query(q) + key(k)))): three layers, whose biases are free.

    The paper leaves the biases out of its formulas; where an implementation has them, they are zero here.

    Source: Bahdanau et al. 2015, appendix A.1.2.

    Hint: `nn.Linear(d_query, d_attention)` is `query`, `nn.Linear(d_key, d_attention)` `key`, `nn.Linear(d_attention,
    1)` `score`; nothing is divided.
    """
    attention = impl.BahdanauAttention(d_query=query.shape[-1], d_key=keys.shape[-1], d_attention=d_attention)
    state = random_state(
        {
            "query.weight": (d_attention, query.shape[-1]),
            "key.weight": (d_attention, keys.shape[-1]),
            "score.weight": (1, d_attention),
        },
        scale=1,
    )
    shifts = {name: torch.zeros_like(p) for name, p in attention.named_parameters() if name.endswith("bias")}
    give(attention, state | shifts)
    asked = F.linear(query, state["query.weight"])[:, None]
    scores = (asked + F.linear(keys, state["key.weight"])).tanh() @ state["score.weight"][0]
    assert_close(attention(query, keys)[1], scores.softmax(-1))


@rejects(
    "source_mask_is_ignored",
    "source_mask_is_inverted",
    "padding_scores_zero",
    "padding_is_hidden_after_the_softmax",
    "padding_is_made_unlikely",
    "context_is_divided_by_the_length",
    "weights_of_before_the_mask",
)
@for_all(
    query="batch d_query", keys="batch (2 key) d_key", other="batch (2 key) d_key", d_attention=axis("d_attention")
)
def test_padding_is_not_looked_at(
    impl: Recurrence, query: Tensor, keys: Tensor, other: Tensor, d_attention: int
) -> None:
    """A hidden source word has weight 0 and can be anything; the others share the whole, as if it were not there.

    Sentences of a batch differ in length, and what fills the shorter ones up is not a word.

    Hint: `scores.masked_fill(~mask, -math.inf)` before the softmax; a mask is True where the query may look.
    """
    attention, visible = (
        _attention(impl.BahdanauAttention, query, keys, d_attention),
        torch.arange(keys.shape[1]) % 2 == 0,
    )
    moved = torch.where(rearrange(visible, "key -> key 1"), keys, other)
    context, weights = attention(query, moved, mask=visible.expand(len(query), -1))
    expected, shares = attention(query, keys[:, visible])
    assert_close(weights[:, visible], shares)
    assert not weights[:, ~visible].any()
    assert_close(context, expected)


@rejects("softmax_over_the_sentences", "the_first_sentences_mask_for_all")
@for_all(query="batch d_query", keys="batch key d_key", mask=booleans("batch key"), d_attention=axis("d_attention"))
def test_each_sentence_has_its_own_mask(
    impl: Recurrence, query: Tensor, keys: Tensor, mask: Tensor, d_attention: int
) -> None:
    """Each sentence of a batch gets what it gets alone, with its own row of the mask.

    Hint: the mask is (batch, key), as the scores are: no axis of it is dropped or repeated.
    """
    attention, mask = (
        _attention(impl.BahdanauAttention, query, keys, d_attention),
        mask | (torch.arange(keys.shape[1]) == 0),
    )
    rows = zip(*(each.chunk(len(query)) for each in (query, keys, mask)), strict=True)
    alone = [attention(q, k, mask=seen) for q, k, seen in rows]
    context, weights = attention(query, keys, mask=mask)
    assert_close(weights, torch.cat([each[1] for each in alone]))
    assert_close(context, torch.cat([each[0] for each in alone]))


@rejects(
    "source_mask_is_ignored",
    "source_mask_is_inverted",
    "padding_scores_zero",
    "padding_is_hidden_after_the_softmax",
    "padding_is_made_unlikely",
)
@for_all(query="batch d_query", keys="batch (2 key) d_key", d_attention=axis("d_attention"))
def test_padding_gets_no_gradient(impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int) -> None:
    """No gradient reaches a hidden source word, and every visible one gets its own.

    Hint: a weight of exactly zero passes no gradient on; a small one does.
    """
    attention, visible = (
        _attention(impl.BahdanauAttention, query, keys, d_attention),
        torch.arange(keys.shape[1]) % 2 == 0,
    )
    context, weights = attention(query, keys.requires_grad_(), mask=visible.expand(len(query), -1))
    out = (context * randn(*context.shape)).sum() + (weights * randn(*weights.shape)).sum()
    (arrived,) = torch.autograd.grad(out, keys)
    assert_close(arrived.any(-1), visible.expand(len(query), -1))


@rejects("alignment_is_cut_from_the_graph", "keys_are_projected_without_gradients")
@for_all(query=doubles("batch d_query"), keys=doubles("batch key d_key"), d_attention=axis("d_attention"), examples=3)
def test_gradients_reach_query_and_source(impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int) -> None:
    """The gradients of the query and the keys are the derivatives of context and weights.

    Nobody tells the attention where to look: it finds alignments because the error flows back through its weights.

    Source: Bahdanau et al. 2015, §3.1.

    Hint: no .detach(), and no torch.tensor(…) around what was computed.
    """
    attention = _attention(impl.BahdanauAttention, query, keys, d_attention)
    assert gradients_are_derivatives(lambda query, keys: torch.cat(attention(query, keys), -1), query, keys)


@rejects("projected_keys_are_kept")
@for_all(query="batch d_query", keys="batch key d_key", d_attention=axis("d_attention"), examples=3)
def test_the_next_source_is_read_anew(impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int) -> None:
    """Another source of the same shape is answered as by an attention that has seen none before, without gradients too.

    A translator asks for one sentence after the other, and keeps what it made of a source no longer than the sentence.

    Source: Bahdanau et al. 2015, §3.1.

    Hint: store nothing on the module in `forward`.
    """
    used, fresh = (_attention(impl.BahdanauAttention, query, keys, d_attention) for _ in range(2))
    fresh.load_state_dict(used.state_dict())
    with torch.no_grad():
        used(query, keys)
        assert_close(used(query, 1 - 2 * keys), fresh(query, 1 - 2 * keys))


@rejects(
    "sequences_share_a_state",
    "source_mask_is_ignored",
    "source_mask_is_inverted",
    "padding_scores_zero",
    "padding_is_hidden_after_the_softmax",
    "the_first_sentences_mask_for_all",
)
@for_all(words="2 (2 position) d_model", hidden_size=axis("hidden_size"), d_attention=axis("d_attention"), examples=4)
def test_a_translation_step_does_not_see_the_padding(
    impl: Recurrence, words: Tensor, hidden_size: int, d_attention: int
) -> None:
    """Both parts together, a cell that reads and a query over its states: a shorter sentence is answered as if alone.

    This is a step of sequence to sequence: the source is read, the decoder's h asks, and the next state is made from
    the last target word and what came back.

    Source: Bahdanau et al. 2015, §3.

    Hint: the mask goes to the attention; the reader may run on over the padding, since nothing of it is fetched.
    """
    short, empty = words.shape[1] // 2, torch.zeros(2, hidden_size)
    reader = _cell(impl.LSTMCell, words, empty)
    attention = _attention(impl.BahdanauAttention, empty, empty, d_attention)
    writer = _cell(impl.LSTMCell, torch.zeros(2, words.shape[-1] + hidden_size), empty)
    seen = torch.arange(words.shape[1]) < torch.tensor([[words.shape[1]], [short]])

    def step(source: Tensor, mask: Tensor | None) -> State:
        start = torch.zeros(len(source), hidden_size)
        keys = torch.stack([h for h, _ in _read(reader, source.unbind(1), (start, start))], 1)
        asks = keys[:, 0]
        context, _ = attention(asks, keys, mask=mask)
        after: State = writer(torch.cat([source[:, 0], context], -1), (asks, start))
        return after

    together, alone = step(words, seen), step(words[1:, :short], None)
    for mine, due in zip(together, alone, strict=True):
        assert_close(mine[1:], due)


@rejects("state_in_float32", "gates_in_float32")
@for_all(
    x="batch input_size",
    h="batch hidden_size",
    keys="batch key d_key",
    dtype=[torch.float64, torch.bfloat16],
    examples=3,
)
def test_recurrent_modules_keep_the_dtype(
    impl: Recurrence, x: Tensor, h: Tensor, keys: Tensor, dtype: torch.dtype
) -> None:
    """Moved to float64 or bfloat16, cell and attention return what came in.

    Hint: `x.new_zeros(…)` or `zeros_like` keep the type, `torch.zeros(…)` does not.
    """
    x, h, keys = x.to(dtype), h.to(dtype), keys.to(dtype)
    state = _cell(impl.LSTMCell, x, h)(x, (h, h))
    context, weights = _attention(impl.BahdanauAttention, h, keys, 5)(
        h, keys, mask=torch.ones(keys.shape[:2], dtype=torch.bool)
    )
    assert all(each.dtype == dtype for each in (*state, context, weights))


@rejects("tanh_by_exponentials")
@for_all(x="batch input_size", h="batch hidden_size", c="batch hidden_size")
def test_large_inputs_do_not_overflow_a_cell(impl: Recurrence, x: Tensor, h: Tensor, c: Tensor) -> None:
    """Inputs of ±10,000 give a finite state and finite gradients.

    exp(100) is already too large for float32, and ∞/∞ is not a number.

    Hint: `torch.sigmoid` and `torch.tanh` instead of exponentials of your own.
    """
    cell = _cell(impl.LSTMCell, x, h)
    state = cell(1e4 * x, (h, c))
    assert finite(*state)
    assert finite(*torch.autograd.grad(torch.cat(state).sum(), list(cell.parameters()), materialize_grads=True))


class _Translator(nn.Module):
    """A reader, a writer and an attention between them, with what it takes to read and write tokens.

    The writer starts empty: all that it knows of the source came through its attention.
    """

    def __init__(
        self, cell: Callable[..., Any], attention: Callable[..., Any], vocab: int, hidden: int = 32, d_model: int = 16
    ) -> None:
        super().__init__()
        self.hidden, self.start = hidden, vocab
        self.words = nn.Embedding(vocab + 1, d_model)
        self.reader = cell(input_size=d_model, hidden_size=hidden)
        self.attention = attention(d_query=hidden, d_key=hidden, d_attention=16)
        self.writer = cell(input_size=d_model + hidden, hidden_size=hidden)
        self.head = nn.Linear(2 * hidden, vocab)

    def forward(
        self, source: Int[Tensor, "batch key"], target: Int[Tensor, "batch position"] | None = None
    ) -> Float[Tensor, "batch position vocab"]:
        """Logits under teacher forcing, or after its own words where there is no target."""
        empty = torch.zeros(len(source), self.hidden)
        keys = torch.stack([h for h, _ in _read(self.reader, self.words(source).unbind(1), (empty, empty))], 1)
        state, word, logits = (empty, empty), torch.full((len(source),), self.start), []
        for position in range(source.shape[1]):
            context, _ = self.attention(state[0], keys)
            state = self.writer(torch.cat([self.words(word), context], -1), state)
            logits.append(self.head(torch.cat([state[0], context], -1)))
            word = logits[-1].argmax(-1) if target is None else target[:, position]
        return torch.stack(logits, 1)


@pytest.mark.training
@patience(60)
@rejects("every_step_starts_anew")
def test_a_translator_learns_to_reverse(impl: Recurrence) -> None:
    """Two cells and an attention between them learn to write four words backwards, on sequences that they never saw.

    The writer starts from an empty state, so that everything comes through the attention: the first word that it writes
    is the last one that was read. It is taught with the right words before it, and examined on its own.

    Source: Bahdanau et al. 2015, §3; Sutskever et al. 2014, §3.3.

    Hint: every part holds alone? Then look at what connects them: gradients through the state and the weights.
    """
    model = _Translator(impl.LSTMCell, impl.BahdanauAttention, vocab=8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = 1.7 if name == "words.weight" else 0.25
            parameter.copy_(torch.empty_like(parameter).uniform_(-size, size, generator=generator("start", name)))
    optimizer, fresh = torch.optim.Adam(model.parameters(), 0.01), tokens(8, 200, 4, key="fresh")
    for part in range(6):  # most need two
        for number in range(50):
            source = tokens(8, 32, 4, key=(part, number))
            loss = F.cross_entropy(model(source, source.flip(1)).flatten(0, 1), source.flip(1).flatten())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            right = (model(fresh).argmax(-1) == fresh.flip(1)).all(-1).float().mean()
        if right >= 0.9:
            break
    assert right >= 0.9


@robust
@rejects("padding_is_made_unlikely", "nan_for_an_empty_source", "padding_scores_minus_1e9")
@for_all(query="batch d_query", keys="batch key d_key", d_attention=axis("d_attention"))
def test_a_source_that_is_all_padding_gives_zeros(
    impl: Recurrence, query: Tensor, keys: Tensor, d_attention: int
) -> None:
    """A query that may look at no source word gets zeros as weights and context, with finite gradients.

    Such rows fill up a batch. A softmax over −∞ alone is NaN, and one NaN spoils every weight of the model.

    Hint: fill the weights with 0 where the mask is False, after the softmax as well.
    """
    attention, mask = (
        _attention(impl.BahdanauAttention, query, keys, d_attention),
        torch.ones(keys.shape[:2], dtype=torch.bool),
    )
    mask[0] = False
    context, weights = attention(query.requires_grad_(), keys.requires_grad_(), mask=mask)
    assert not weights[0].any()
    assert not context[0].any()
    inputs = (query, keys, *attention.parameters())
    assert finite(*torch.autograd.grad((context.sum(-1) * weights.sum(-1)).sum(), inputs, materialize_grads=True))


@robust
@rejects("state_in_float32", "padding_scores_minus_1e9")
@for_all(x="batch input_size", h="batch hidden_size", keys="batch (2 key) d_key", examples=3)
def test_recurrent_modules_work_in_float16(impl: Recurrence, x: Tensor, h: Tensor, keys: Tensor) -> None:
    """In float16 cell and attention give finite numbers, with padding too.

    float16 ends at 65,504: −1e9 in place of a hidden score does not fit into it.

    Hint: −math.inf by masked_fill, or `torch.finfo(scores.dtype).min`.
    """
    x, h, keys = x.half(), h.half(), keys.half()
    mask = (torch.arange(keys.shape[1]) % 2 == 0).expand(len(keys), -1)
    state, found = (
        _cell(impl.LSTMCell, x, h)(x, (h, h)),
        _attention(impl.BahdanauAttention, h, keys, 5)(h, keys, mask=mask),
    )
    assert all(each.dtype == torch.float16 and finite(each) for each in (*state, *found))


@robust
@rejects("looks_at_one_word_after_another", "keys_are_projected_without_gradients")
@for_all(q="batch d_k", v="batch d_v", d_attention=axis("d_attention"), examples=2)
def test_the_way_through_attention_does_not_grow(impl: Recurrence, q: Tensor, v: Tensor, d_attention: int) -> None:
    """From the first word to an answer it is as many steps in a long source as in a short one.

    All words are looked at side by side: this is what attention has over a cell, and additive attention had it already.

    Source: Vaswani et al. 2017, §4, table 1; the Deep Learning Curriculum, chapter 1, question 1.

    Hint: one product over all positions, no loop over them.
    """
    additive, v = _attention(impl.BahdanauAttention, q, v, d_attention), v.requires_grad_()
    ways = []
    for length in (4, 8, 16):
        source = torch.stack([v, *randn(length - 1, *v.shape)], 1)
        product = impl.attention(q[:, None], randn(len(q), length, q.shape[-1]), source)  # type: ignore[attr-defined]
        ways.append([steps_between(v, out) for out in (*additive(q, source), product)])
    assert ways[0] == ways[1] == ways[2]
    assert all(fewest > 0 for fewest, _ in ways[0])


@robust
@rejects("asks_whether_the_state_is_empty", "source_mask_on_the_cpu")
@for_all(x="batch input_size", h="batch hidden_size", keys="batch key d_key", mask=booleans("batch key"), examples=3)
def test_recurrent_modules_stay_on_their_device(
    impl: Recurrence, x: Tensor, h: Tensor, keys: Tensor, mask: Tensor
) -> None:
    """Cell and attention stay on their inputs' device, and no value is read back by Python.

    The meta device has shapes and no numbers: a tensor made on the CPU does not fit, `if mask.any()` has no answer.

    Hint: parameters move with the module; other tensors need `device=x.device`.
    """
    cell, attention = _cell(impl.LSTMCell, x, h).to("meta"), _attention(impl.BahdanauAttention, h, keys, 5).to("meta")
    x, h, keys, mask = x.to("meta"), h.to("meta"), keys.to("meta"), mask.to("meta")
    assert all(each.device.type == "meta" for each in (*cell(x, (h, h)), *attention(h, keys, mask=mask)))
