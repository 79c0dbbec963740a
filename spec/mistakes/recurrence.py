"""What goes wrong in recurrent cells, and in the attention that was added to them."""

import math

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from reference.recurrence import BahdanauAttention, LSTMCell
from spec.mistakes import instead_of

State = tuple[Tensor, Tensor]
Maybe = Tensor | None


def _both(cell: LSTMCell, x: Tensor, h: Tensor) -> Tensor:
    return F.linear(x, cell.weight_ih, cell.bias_ih) + F.linear(h, cell.weight_hh, cell.bias_hh)


def _step(both: Tensor, c: Tensor) -> State:
    """The right step, from what goes into the gates."""
    write, keep, candidate, show = both.chunk(4, -1)
    c = keep.sigmoid() * c + write.sigmoid() * candidate.tanh()
    return show.sigmoid() * c.tanh(), c


@instead_of(LSTMCell)
class gates_in_the_order_of_the_lecture(LSTMCell):  # noqa: N801
    """The rows are read as input, forget, output, candidate. torch's order is input, forget, candidate, output."""

    def forward(self, x: Tensor, state: State) -> State:
        """i, f, o, g."""
        write, keep, show, candidate = _both(self, x, state[0]).chunk(4, -1)
        return _step(torch.cat([write, keep, candidate, show], -1), state[1])


@instead_of(LSTMCell)
class forget_gate_comes_first(LSTMCell):  # noqa: N801
    """The first quarter of the rows is taken as the forget gate, the second as the input gate: it is the other way."""

    def forward(self, x: Tensor, state: State) -> State:
        """f, i, g, o."""
        keep, write, candidate, show = _both(self, x, state[0]).chunk(4, -1)
        return _step(torch.cat([write, keep, candidate, show], -1), state[1])


@instead_of(LSTMCell)
class gates_are_interleaved(LSTMCell):  # noqa: N801
    """The four numbers of a unit are taken from neighbouring rows. A gate is a whole quarter of the rows."""

    def forward(self, x: Tensor, state: State) -> State:
        """(hidden gate) instead of (gate hidden)."""
        both = rearrange(_both(self, x, state[0]), "batch (hidden gate) -> batch (gate hidden)", gate=4)
        return _step(both, state[1])


@instead_of(LSTMCell)
class weights_are_stored_transposed(LSTMCell):  # noqa: N801
    """The weights are stored as (inputs, outputs). torch stores (outputs, inputs), and multiplies by the transpose."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(self.weight_ih.detach().T.clone())
        self.weight_hh = nn.Parameter(self.weight_hh.detach().T.clone())

    def forward(self, x: Tensor, state: State) -> State:
        """Without a transpose."""
        return _step(x @ self.weight_ih + self.bias_ih + state[0] @ self.weight_hh + self.bias_hh, state[1])


@instead_of(LSTMCell)
class one_bias_is_not_added(LSTMCell):  # noqa: N801
    """bias_hh is a parameter and is not added. torch has two biases, and both count."""

    def forward(self, x: Tensor, state: State) -> State:
        """One bias alone."""
        return _step(F.linear(x, self.weight_ih, self.bias_ih) + F.linear(state[0], self.weight_hh), state[1])


@instead_of(LSTMCell)
class hidden_state_is_not_read(LSTMCell):  # noqa: N801
    """The gates read x alone. They read x and h, each by its own weights."""

    def forward(self, x: Tensor, state: State) -> State:
        """Without h."""
        return _step(F.linear(x, self.weight_ih, self.bias_ih) + self.bias_hh, state[1])


@instead_of(LSTMCell)
class every_step_starts_anew(LSTMCell):  # noqa: N801
    """The state that comes in is not used: every step starts from zeros. It starts from what was read so far."""

    def forward(self, x: Tensor, state: State) -> State:
        """From an empty state."""
        return super().forward(x, (torch.zeros_like(state[0]), torch.zeros_like(state[1])))


@instead_of(LSTMCell)
class gates_read_the_cell(LSTMCell):  # noqa: N801
    """The gates are computed from x and c. They read x and h, which is what the cell shows of itself."""

    def forward(self, x: Tensor, state: State) -> State:
        """c in the place of h."""
        return _step(_both(self, x, state[1]), state[1])


@instead_of(LSTMCell)
class gates_peep_into_the_cell(LSTMCell):  # noqa: N801
    """c is added to what goes into the gates. That is the LSTM with peepholes; this one has gates of x and h alone."""

    def forward(self, x: Tensor, state: State) -> State:
        """As Gers & Schmidhuber did in 2000, without weights."""
        return _step(_both(self, x, state[0]) + state[1].repeat(1, 4), state[1])


@instead_of(LSTMCell)
class returns_c_before_h(LSTMCell):  # noqa: N801
    """The state is returned as (c, h). It is (h, c), as it came in."""

    def forward(self, x: Tensor, state: State) -> State:
        """Swapped."""
        return super().forward(x, state)[::-1]


@instead_of(LSTMCell)
class takes_c_before_h(LSTMCell):  # noqa: N801
    """The state that comes in is unpacked as (c, h). It is (h, c), as it goes out."""

    def forward(self, x: Tensor, state: State) -> State:
        """Swapped on its way in."""
        return super().forward(x, state[::-1])


@instead_of(LSTMCell)
class nothing_is_forgotten(LSTMCell):  # noqa: N801
    """c is kept whole: c + input · candidate. That is the LSTM of 1997; here the forget gate multiplies c."""

    def forward(self, x: Tensor, state: State) -> State:
        """Without a forget gate."""
        write, _, candidate, show = _both(self, x, state[0]).chunk(4, -1)
        c = state[1] + write.sigmoid() * candidate.tanh()
        return show.sigmoid() * c.tanh(), c


@instead_of(LSTMCell)
class everything_is_written(LSTMCell):  # noqa: N801
    """The candidate is added whole: forget · c + candidate. The input gate multiplies it."""

    def forward(self, x: Tensor, state: State) -> State:
        """Without an input gate."""
        _, keep, candidate, show = _both(self, x, state[0]).chunk(4, -1)
        c = keep.sigmoid() * state[1] + candidate.tanh()
        return show.sigmoid() * c.tanh(), c


@instead_of(LSTMCell)
class everything_is_shown(LSTMCell):  # noqa: N801
    """h is tanh(c) whole. The output gate multiplies it."""

    def forward(self, x: Tensor, state: State) -> State:
        """Without an output gate."""
        _, c = super().forward(x, state)
        return c.tanh(), c


@instead_of(LSTMCell)
class writes_what_it_does_not_keep(LSTMCell):  # noqa: N801
    """c is forget · c + (1 − forget) · candidate. That is a GRU's way; an LSTM has an input gate of its own."""

    def forward(self, x: Tensor, state: State) -> State:
        """One gate for both."""
        _, keep, candidate, show = _both(self, x, state[0]).chunk(4, -1)
        c = torch.lerp(candidate.tanh(), state[1], keep.sigmoid())
        return show.sigmoid() * c.tanh(), c


@instead_of(LSTMCell)
class keeps_what_it_does_not_write(LSTMCell):  # noqa: N801
    """c is (1 − input) · c + input · candidate, and the forget gate's rows do nothing. Each gate has its own rows."""

    def forward(self, x: Tensor, state: State) -> State:
        """The input gate for both."""
        write, _, candidate, show = _both(self, x, state[0]).chunk(4, -1)
        c = torch.lerp(state[1], candidate.tanh(), write.sigmoid())
        return show.sigmoid() * c.tanh(), c


@instead_of(LSTMCell)
class forget_gate_gets_one_more(LSTMCell):  # noqa: N801
    """1 is added to the forget gate before its sigmoid, as TensorFlow did. torch adds nothing: start its bias at 1."""

    def forward(self, x: Tensor, state: State) -> State:
        """sigmoid(f + 1)."""
        write, keep, candidate, show = _both(self, x, state[0]).chunk(4, -1)
        return _step(torch.cat([write, keep + 1, candidate, show], -1), state[1])


@instead_of(LSTMCell)
class candidate_by_a_sigmoid(LSTMCell):  # noqa: N801
    """The candidate is bent by a sigmoid, so that a cell can only grow. It is bent by tanh."""

    def forward(self, x: Tensor, state: State) -> State:
        """Four sigmoids."""
        write, keep, candidate, show = _both(self, x, state[0]).sigmoid().chunk(4, -1)
        c = keep * state[1] + write * candidate
        return show * c.tanh(), c


@instead_of(LSTMCell)
class candidate_is_not_bent(LSTMCell):  # noqa: N801
    """The candidate is written as it is, of any size. It is bent by tanh first."""

    def forward(self, x: Tensor, state: State) -> State:
        """Without the first tanh."""
        write, keep, candidate, show = _both(self, x, state[0]).chunk(4, -1)
        c = keep.sigmoid() * state[1] + write.sigmoid() * candidate
        return show.sigmoid() * c.tanh(), c


@instead_of(LSTMCell)
class gates_by_tanh(LSTMCell):  # noqa: N801
    """The gates are bent by tanh and can be negative. A gate is a share between 0 and 1: a sigmoid."""

    def forward(self, x: Tensor, state: State) -> State:
        """Four times tanh."""
        write, keep, candidate, show = _both(self, x, state[0]).tanh().chunk(4, -1)
        c = keep * state[1] + write * candidate
        return show * c.tanh(), c


@instead_of(LSTMCell)
class cell_is_shown_unbent(LSTMCell):  # noqa: N801
    """h is output · c and grows with the cell. It is output · tanh(c)."""

    def forward(self, x: Tensor, state: State) -> State:
        """Without the last tanh."""
        show = _both(self, x, state[0]).chunk(4, -1)[3].sigmoid()
        _, c = super().forward(x, state)
        return show * c, c


@instead_of(LSTMCell)
class shows_the_old_cell(LSTMCell):  # noqa: N801
    """h is made from the c that came in. It shows the new one."""

    def forward(self, x: Tensor, state: State) -> State:
        """One step late."""
        show = _both(self, x, state[0]).chunk(4, -1)[3].sigmoid()
        return show * state[1].tanh(), super().forward(x, state)[1]


@instead_of(LSTMCell)
class cell_is_bent_on_its_way(LSTMCell):  # noqa: N801
    """The tanh of c is returned as the new c, and so it is bent at every step. c itself goes on."""

    def forward(self, x: Tensor, state: State) -> State:
        """The bent cell goes on."""
        h, c = super().forward(x, state)
        return h, c.tanh()


@instead_of(LSTMCell)
class hidden_state_adds_up(LSTMCell):  # noqa: N801
    """The new h is added to the old one. It takes its place: the sum belongs to c."""

    def forward(self, x: Tensor, state: State) -> State:
        """A skip through time."""
        h, c = super().forward(x, state)
        return state[0] + h, c


@instead_of(LSTMCell)
class state_is_cut_from_the_graph(LSTMCell):  # noqa: N801
    """The state is detached, and no error reaches the steps before. Detach between batches, if at all."""

    def forward(self, x: Tensor, state: State) -> State:
        """Learns from the last word alone."""
        return super().forward(x, (state[0].detach(), state[1].detach()))


@instead_of(LSTMCell)
class cell_is_cut_from_the_graph(LSTMCell):  # noqa: N801
    """c is detached, so that the gradient has only the way through h, and vanishes on it."""

    def forward(self, x: Tensor, state: State) -> State:
        """Without the carousel."""
        return super().forward(x, (state[0], state[1].detach()))


@instead_of(LSTMCell)
class keeps_the_state_itself(LSTMCell):  # noqa: N801
    """The module stores h and c and goes on from them. The state comes in as an argument and goes out as the result."""

    held: State | None = None

    def forward(self, x: Tensor, state: State) -> State:
        """On from its own memory, where that fits."""
        if self.held is not None and self.held[0].shape == state[0].shape and self.held[0].device == x.device:
            state = self.held
        h, c = super().forward(x, state)
        self.held = h.detach(), c.detach()
        return h, c


@instead_of(LSTMCell)
class changes_the_cell_in_place(LSTMCell):  # noqa: N801
    """`c *= forget` changes the caller's c. Write `c = forget * c + …`, which makes a new one."""

    def forward(self, x: Tensor, state: State) -> State:
        """The old cell is gone."""
        keep = _both(self, x, state[0]).chunk(4, -1)[1].sigmoid()
        out = super().forward(x, state)
        state[1].detach().mul_(keep.detach())
        return out


@instead_of(LSTMCell)
class sequences_share_a_state(LSTMCell):  # noqa: N801
    """h is averaged over the batch, so that its sequences read each other. Every row has a state of its own."""

    def forward(self, x: Tensor, state: State) -> State:
        """One h for all."""
        return super().forward(x, (state[0].mean(0, keepdim=True).expand_as(state[0]), state[1]))


@instead_of(LSTMCell)
class cell_starts_at_zero(LSTMCell):  # noqa: N801
    """All weights start at zero: every unit is the same, gets the same gradient, and stays the same."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


@instead_of(LSTMCell)
class tanh_by_exponentials(LSTMCell):  # noqa: N801
    """tanh is computed as (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ), which is ∞/∞ from 90 on. `torch.tanh` is not."""

    def forward(self, x: Tensor, state: State) -> State:
        """By the book of formulas."""
        write, keep, candidate, show = _both(self, x, state[0]).chunk(4, -1)
        up, down = candidate.exp(), (-candidate).exp()
        c = keep.sigmoid() * state[1] + write.sigmoid() * (up - down) / (up + down)
        return show.sigmoid() * c.tanh(), c


@instead_of(LSTMCell)
class state_in_float32(LSTMCell):  # noqa: N801
    """The new state is made in float32 whatever came in. It has the dtype of the old one."""

    def forward(self, x: Tensor, state: State) -> State:
        """Two tensors that forget their type."""
        h, c = super().forward(x, state)
        return h.float(), c.float()


@instead_of(LSTMCell)
class gates_in_float32(LSTMCell):  # noqa: N801
    """The gates are computed in float32 and so is the state: float64 loses digits, half precision goes in and float32
    comes out. Turn the new state back into the dtype of the old one.
    """

    def forward(self, x: Tensor, state: State) -> State:
        """From the sums on."""
        return _step(_both(self, x, state[0]).float(), state[1].float())


@instead_of(LSTMCell)
class asks_whether_the_state_is_empty(LSTMCell):  # noqa: N801
    """Python asks for a tensor's value (`if not h.any():`), and a GPU has to stop for the answer."""

    def forward(self, x: Tensor, state: State) -> State:
        """A question that no step needs."""
        return super().forward(x, state if state[0].any() else (state[0], state[1]))


def _scores(attention: BahdanauAttention, query: Tensor, keys: Tensor) -> Tensor:
    hidden = torch.tanh(attention.query(query)[:, None] + attention.key(keys))
    scores: Tensor = attention.score(hidden)[..., 0]
    return scores


def _answer(scores: Tensor, keys: Tensor, mask: Maybe) -> State:
    """The right answer, from the scores."""
    weights = scores.softmax(-1)
    if mask is not None:
        weights = scores.masked_fill(~mask, -math.inf).softmax(-1).masked_fill(~mask, 0.0)
    return einsum(weights, keys, "batch key, batch key d_key -> batch d_key"), weights


@instead_of(BahdanauAttention)
class source_scores_without_tanh(BahdanauAttention):  # noqa: N801
    """There is no tanh: the query moves all scores alike, and the softmax takes that off. tanh bends their sum."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Linear all through."""
        return _answer(self.score(self.query(query)[:, None] + self.key(keys))[..., 0], keys, mask)


@instead_of(BahdanauAttention)
class bends_query_and_key_apart(BahdanauAttention):  # noqa: N801
    """Query and key are bent each for itself, so that they never meet. tanh acts on their sum."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """tanh + tanh."""
        return _answer(self.score(self.query(query).tanh()[:, None] + self.key(keys).tanh())[..., 0], keys, mask)


@instead_of(BahdanauAttention)
class bends_the_score(BahdanauAttention):  # noqa: N801
    """tanh acts on the finished score. It acts on the d_attention numbers before the last layer."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Too late."""
        return _answer(self.score(self.query(query)[:, None] + self.key(keys))[..., 0].tanh(), keys, mask)


@instead_of(BahdanauAttention)
class bends_by_relu(BahdanauAttention):  # noqa: N801
    """The hidden layer is bent by ReLU, so that scores grow with the keys. Bahdanau's attention has tanh."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Another bend."""
        return _answer(self.score((self.query(query)[:, None] + self.key(keys)).relu())[..., 0], keys, mask)


@instead_of(BahdanauAttention)
class multiplies_query_and_key(BahdanauAttention):  # noqa: N801
    """Query and key are multiplied. That is Luong's attention; Bahdanau's adds them."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """A product in the place of the sum."""
        return _answer(self.score((self.query(query)[:, None] * self.key(keys)).tanh())[..., 0], keys, mask)


@instead_of(BahdanauAttention)
class additive_scores_are_scaled(BahdanauAttention):  # noqa: N801
    """The scores are divided by √d_attention. A product of vectors needs that; a sum under a tanh does not."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Scaled as in a Transformer."""
        return _answer(_scores(self, query, keys) / math.sqrt(self.score.in_features), keys, mask)


@instead_of(BahdanauAttention)
class softmax_over_one_score(BahdanauAttention):  # noqa: N801
    """The softmax runs over the last axis of (batch, key, 1), so every weight is 1. Drop that axis, then softmax."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Over an axis of size 1."""
        weights = _scores(self, query, keys)[..., None].softmax(-1)[..., 0]
        weights = weights if mask is None else weights.masked_fill(~mask, 0.0)
        return einsum(weights, keys, "batch key, batch key d_key -> batch d_key"), weights


@instead_of(BahdanauAttention)
class softmax_over_the_sentences(BahdanauAttention):  # noqa: N801
    """The softmax runs over the batch. It runs over the source words of each sentence."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """dim=0."""
        scores = _scores(self, query, keys)
        weights = (scores if mask is None else scores.masked_fill(~mask, -1e9)).softmax(0)
        return einsum(weights, keys, "batch key, batch key d_key -> batch d_key"), weights


@instead_of(BahdanauAttention)
class queries_are_dealt_to_the_words(BahdanauAttention):  # noqa: N801
    """The queries are repeated along the batch and then cut into sentences, `query.repeat(n, 1).view(batch, n, -1)`: so
    words are scored with other sentences' queries. Repeat along an axis of its own: `query[:, None]`.
    """

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Of one size and of another order."""
        asked = self.query(query).repeat(keys.shape[1], 1).view(*keys.shape[:2], -1)
        return _answer(self.score(torch.tanh(asked + self.key(keys)))[..., 0], keys, mask)


@instead_of(BahdanauAttention)
class alignment_by_sigmoids(BahdanauAttention):  # noqa: N801
    """Each weight is a sigmoid of its score, and they sum to anything. A softmax makes them shares of one whole."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Every word for itself."""
        weights = _scores(self, query, keys).sigmoid()
        weights = weights if mask is None else weights.masked_fill(~mask, 0.0)
        return einsum(weights, keys, "batch key, batch key d_key -> batch d_key"), weights


@instead_of(BahdanauAttention)
class scores_returned_as_weights(BahdanauAttention):  # noqa: N801
    """The second result is the scores. It is the weights, after the softmax."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Before the softmax."""
        scores = _scores(self, query, keys)
        return _answer(scores, keys, mask)[0], scores


@instead_of(BahdanauAttention)
class weights_before_context(BahdanauAttention):  # noqa: N801
    """The results are (weights, context). They are (context, weights)."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Swapped."""
        return super().forward(query, keys, mask)[::-1]


@instead_of(BahdanauAttention)
class context_of_projected_keys(BahdanauAttention):  # noqa: N801
    """The context is made of the projected keys, d_attention wide. It is made of the keys as they came in."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """What the scores are made of."""
        return _answer(_scores(self, query, keys), self.key(keys), mask)


@instead_of(BahdanauAttention)
class projected_keys_are_kept(BahdanauAttention):  # noqa: N801
    """Without gradients the projected keys are kept for the next call, and another sentence of the same shape is scored
    by them. Keep nothing, or keep it with the keys that it belongs to.
    """

    _kept: Tensor | None = None

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Scores of the first sentence."""
        if torch.is_grad_enabled() or self._kept is None or self._kept.shape[:2] != keys.shape[:2]:
            self._kept = None if torch.is_grad_enabled() else self.key(keys)
        projected = self.key(keys) if self._kept is None else self._kept
        scores = self.score(torch.tanh(self.query(query)[:, None] + projected))[..., 0]
        return _answer(scores, keys, mask)


@instead_of(BahdanauAttention)
class context_is_the_mean(BahdanauAttention):  # noqa: N801
    """The context is the plain mean of the visible keys: the weights are computed and not used."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Wherever the query looks."""
        scores = _scores(self, query, keys)
        return _answer(0 * scores, keys, mask)[0], _answer(scores, keys, mask)[1]


@instead_of(BahdanauAttention)
class context_is_divided_by_the_length(BahdanauAttention):  # noqa: N801
    """The weighted keys are averaged and not added: the context is too small by the length. The weights sum to one."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """mean instead of sum."""
        context, weights = super().forward(query, keys, mask)
        return context / keys.shape[1], weights


@instead_of(BahdanauAttention)
class the_query_is_not_asked(BahdanauAttention):  # noqa: N801
    """The scores are made of the keys alone: every query looks at the same words."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Without the query."""
        return _answer(self.score(self.key(keys).tanh())[..., 0], keys, mask)


@instead_of(BahdanauAttention)
class earlier_words_weigh_more(BahdanauAttention):  # noqa: N801
    """A score depends on where its word stands. It depends on the query and the key alone."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """A little less for each place."""
        return _answer(_scores(self, query, keys) - 0.1 * torch.arange(keys.shape[1]).to(keys), keys, mask)


@instead_of(BahdanauAttention)
class d_attention_is_ignored(BahdanauAttention):  # noqa: N801
    """The hidden layer is as wide as the query, whatever d_attention is."""

    def __init__(self, d_query: int, d_key: int, d_attention: int) -> None:
        super().__init__(d_query, d_key, d_query)


@instead_of(BahdanauAttention)
class source_mask_is_ignored(BahdanauAttention):  # noqa: N801
    """The mask is taken as an argument and not used."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """All words count."""
        return super().forward(query, keys)


@instead_of(BahdanauAttention)
class source_mask_is_inverted(BahdanauAttention):  # noqa: N801
    """The mask is read the wrong way round: it is True where the query may look, and that is what was hidden."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Looks at the padding."""
        return super().forward(query, keys, None if mask is None else ~mask)


@instead_of(BahdanauAttention)
class padding_scores_zero(BahdanauAttention):  # noqa: N801
    """A hidden word gets the score 0, and exp(0) is 1. It needs −∞, which gives 0."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Multiplied by the mask."""
        scores = _scores(self, query, keys)
        return _answer(scores if mask is None else scores * mask, keys, None)


@instead_of(BahdanauAttention)
class padding_is_hidden_after_the_softmax(BahdanauAttention):  # noqa: N801
    """Hidden weights are set to 0 after the softmax, and the others no longer sum to one. Hide the scores before it."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """A share is missing."""
        weights = _scores(self, query, keys).softmax(-1)
        weights = weights if mask is None else weights.masked_fill(~mask, 0.0)
        return einsum(weights, keys, "batch key, batch key d_key -> batch d_key"), weights


@instead_of(BahdanauAttention)
class weights_of_before_the_mask(BahdanauAttention):  # noqa: N801
    """The context is right; the weights that come with it are those of before the mask. They are one and the same."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """One mask too few."""
        context, _ = super().forward(query, keys, mask)
        return context, _scores(self, query, keys).softmax(-1)


@instead_of(BahdanauAttention)
class padding_is_made_unlikely(BahdanauAttention):  # noqa: N801
    """A hidden word gets the score −10, which leaves it a little weight. It needs −∞."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Nearly hidden."""
        scores = _scores(self, query, keys)
        return _answer(scores if mask is None else scores.masked_fill(~mask, -10.0), keys, None)


@instead_of(BahdanauAttention)
class the_first_sentences_mask_for_all(BahdanauAttention):  # noqa: N801
    """Every sentence is hidden by the first one's row of the mask."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """mask[0]."""
        return super().forward(query, keys, None if mask is None else mask[:1].expand(len(keys), -1))


@instead_of(BahdanauAttention)
class alignment_is_cut_from_the_graph(BahdanauAttention):  # noqa: N801
    """The weights are detached before they weigh the keys, so that nothing learns where to look."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Fixed shares."""
        _, weights = super().forward(query, keys, mask)
        return einsum(weights.detach(), keys, "batch key, batch key d_key -> batch d_key"), weights


@instead_of(BahdanauAttention)
class keys_are_projected_without_gradients(BahdanauAttention):  # noqa: N801
    """The keys are projected under `torch.no_grad()`, and their matrix never learns. Ahead of time is fine."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """U h without a history."""
        projected = self.key(keys).detach()
        return _answer(self.score(torch.tanh(self.query(query)[:, None] + projected))[..., 0], keys, mask)


@instead_of(BahdanauAttention)
class nan_for_an_empty_source(BahdanauAttention):  # noqa: N801
    """A query that may look at nothing gets NaN: a softmax over −∞ alone. Fill the weights with 0 where hidden."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """Without the second fill."""
        scores = _scores(self, query, keys)
        return _answer(scores if mask is None else scores.masked_fill(~mask, -math.inf), keys, None)


@instead_of(BahdanauAttention)
class padding_scores_minus_1e9(BahdanauAttention):  # noqa: N801
    """A hidden score is −1e9: too large for float16, and where all are hidden each gets an equal share instead of 0."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """A number for infinity."""
        scores = _scores(self, query, keys)
        return _answer(scores if mask is None else scores.masked_fill(~mask, -1e9), keys, None)


@instead_of(BahdanauAttention)
class looks_at_one_word_after_another(BahdanauAttention):  # noqa: N801
    """The context is summed in a loop over the source. The sum is right, and each word waits for the one before."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """A chain as long as the source."""
        _, weights = super().forward(query, keys, mask)
        context = torch.zeros_like(keys[:, 0])
        for weight, key in zip(weights.unbind(1), keys.unbind(1), strict=True):
            context = context + weight[:, None] * key
        return context, weights


@instead_of(BahdanauAttention)
class source_mask_on_the_cpu(BahdanauAttention):  # noqa: N801
    """The fill for hidden scores is a tensor made on the CPU. `masked_fill` takes a plain number."""

    def forward(self, query: Tensor, keys: Tensor, mask: Maybe = None) -> State:
        """A tensor that forgets its device."""
        scores = _scores(self, query, keys)
        if mask is not None:
            scores = scores + torch.zeros(scores.shape, dtype=scores.dtype)
        return _answer(scores, keys, mask)
