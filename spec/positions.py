"""# Positions

Attention sees a set; a position tells it where a token stands. Three ways: add a row to each token (fixed sinusoids or
learned), turn queries and keys by an angle (rotary), or make far keys less visible (ALiBi):

    P[p, 2i] = sin(p / 10000^(2i/d_model)),  P[p, 2i+1] = cos(p / 10000^(2i/d_model))

Source: Vaswani et al. 2017, §3.5; Su et al. 2021; Press et al. 2022.
"""

from collections.abc import Callable
from typing import Annotated, Protocol

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit.close import assert_close
from spec.kit.draw import axis, doubles, for_all, randn
from spec.kit.marks import rejects, robust, same_weights
from spec.kit.probe import finite, gradients_are_derivatives, refuses
from spec.kit.weights import give, perturb


class LearnedPositionsCall(Protocol):
    """How a table of learned positions is asked."""

    def forward(self, length: int, offset: int = 0) -> Float[Tensor, "position d_model"]:
        """The rows of the positions offset … offset + length − 1."""
        ...


class Positions(Protocol):
    """What an implementation of this chapter offers."""

    def sinusoidal_positions(
        self, length: int, d_model: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "position d_model"]:
        """Sines and cosines of the position, from fast to slow."""
        ...

    def LearnedPositions(self, max_length: int, d_model: int) -> Annotated[nn.Module, LearnedPositionsCall]:
        """A trainable row for each position."""
        ...

    def rotary(
        self, x: Float[Tensor, "*batch position d_k"], offset: int = 0, base: float = 10000.0
    ) -> Float[Tensor, "*batch position d_k"]:
        """Each pair of channels, turned by an angle that grows with the position."""
        ...

    def alibi_bias(
        self, heads: int, length: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "head query key"]:
        """Minus the distance, times a slope for each head."""
        ...


def _frequencies(size: int, base: float = 10000.0) -> Tensor:
    return base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)


def _tells_order(attend: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether reordering the tokens does more to the outputs than reordering them."""
    order = torch.arange(x.shape[1]).roll(1)
    return not torch.allclose(attend(x[:, order]), attend(x)[:, order], atol=1e-3)


@rejects("sines_then_cosines", "cosines_first", "only_sines", "sinusoids_count_from_one")
@for_all(length=axis("position"), d_model=[2, 4, 6, 10])
def test_position_zero_is_zero_one_zero_one(impl: Positions, length: int, d_model: int) -> None:
    """The sinusoids of position 0 are zeros and ones in turn.

    Positions count from zero, and sin 0 = 0 and cos 0 = 1 for every frequency; sines and cosines alternate.

    Source: Vaswani et al. 2017, §3.5.

    Hint: even columns are sines, odd columns are cosines, and the first position is 0.
    """
    expected = torch.tensor([0.0, 1.0]).repeat(d_model // 2)
    assert_close(impl.sinusoidal_positions(length, d_model)[0], expected)


@rejects(
    "exponent_without_two",
    "exponent_with_four",
    "exponent_by_floor_division",
    "multiplies_by_the_wavelength",
    "wavelengths_up_to_a_thousand",
    "positions_as_shares_of_the_length",
    "sinusoids_reach_the_base",
)
@for_all(length=[1, 3, 9, 128], d_model=[2, 4, 6, 10, 16])
def test_sinusoids_follow_the_formula(impl: Positions, length: int, d_model: int) -> None:
    """Columns 2i and 2i+1 are sine and cosine of position / 10000^(2i/d_model).

    The wavelengths are a geometric progression from 2π to nearly 10000 · 2π: fast columns tell neighbours apart, slow
    ones tell where in the text a token stands.

    Source: Vaswani et al. 2017, §3.5.

    Hint: `torch.arange(0, d_model, 2) / d_model` are the exponents 2i/d_model; `//` would make them all zero.
    """
    angles = torch.outer(torch.arange(length, dtype=torch.float64), _frequencies(d_model))
    expected = rearrange(torch.stack([angles.sin(), angles.cos()]), "two position pair -> position (pair two)")
    assert_close(impl.sinusoidal_positions(length, d_model), expected.float(), atol=1e-4, rtol=0)


@rejects(
    "exponent_without_two",
    "exponent_with_four",
    "exponent_by_floor_division",
    "multiplies_by_the_wavelength",
    "wavelengths_up_to_a_thousand",
    "angles_in_half_precision",
    "sinusoids_reach_the_base",
)
def test_far_positions_stay_exact(impl: Positions) -> None:
    """At position 2,000 the sinusoids are still right to a thousandth.

    An angle of 2,000 needs more than three digits: half-precision positions are wrong long before.

    Source: Vaswani et al. 2017, §3.5.

    Hint: compute angles in float32 or float64, and convert the finished table.
    """
    angles = torch.outer(torch.arange(1900, 2001, dtype=torch.float64), _frequencies(12))
    expected = rearrange(torch.stack([angles.sin(), angles.cos()]), "two position pair -> position (pair two)")
    assert_close(impl.sinusoidal_positions(2001, 12)[1900:], expected.float(), atol=1e-3, rtol=0)


@rejects("exponent_of_its_own_for_each_column", "exponent_column_doubled", "only_sines", "sinusoids_in_float64")
@for_all(length=axis("position"), d_model=[2, 4, 8, 14])
def test_every_row_has_the_same_norm(impl: Positions, length: int, d_model: int) -> None:
    """Every row of the sinusoids has the squared norm d_model / 2.

    sin² + cos² = 1 for each of the d_model / 2 pairs: no position is louder than another.

    Hint: sine and cosine of one pair share one angle, so the exponent is 2i/d_model for both.
    """
    table = impl.sinusoidal_positions(length, d_model)
    assert_close(table.square().sum(-1), torch.full((length,), d_model / 2))


@rejects(
    "exponent_of_its_own_for_each_column",
    "exponent_column_doubled",
    "sines_then_cosines",
    "cosines_first",
    "sinusoids_count_from_one",
)
@for_all(shift=[1, 2, 7, 30], d_model=[2, 4, 10])
def test_a_shift_is_one_rotation_for_all_positions(impl: Positions, shift: int, d_model: int) -> None:
    """Moving on by k positions turns every pair by the same angle, wherever it starts.

    So P[p + k] is a fixed linear map of P[p], the same for all p. The authors chose sinusoids for this: a relative
    distance is easy to learn.

    Source: Vaswani et al. 2017, §3.5.

    Hint: sin(a + b) = sin a · cos b + cos a · sin b, where row k of your own table holds sin b and cos b.
    """
    table = impl.sinusoidal_positions(40, d_model)
    sin, cos = table[:, 0::2], table[:, 1::2]
    here, there = slice(0, 40 - shift), slice(shift, 40)
    assert_close(sin[here] * cos[shift] + cos[here] * sin[shift], sin[there], atol=1e-4, rtol=0)
    assert_close(cos[here] * cos[shift] - sin[here] * sin[shift], cos[there], atol=1e-4, rtol=0)


@rejects("one_row_for_all_positions", "angles_in_half_precision")
@for_all(d_model=[8, 12, 16], examples=3)
def test_no_two_rows_are_equal(impl: Positions, d_model: int) -> None:
    """No two of the first 500 positions have the same sinusoids.

    A position that looks like another one cannot be told from it.

    Hint: the angle of row p is p times a frequency; count p in float32 or more, not in half precision.
    """
    rows = impl.sinusoidal_positions(500, d_model)
    assert torch.unique(rows, dim=0).shape == (500, d_model)
    assert torch.cdist(rows, rows).add(torch.eye(500)).min() > 1e-3


@rejects("positions_as_shares_of_the_length", "random_rows")
@for_all(length=[1, 4, 9], d_model=[2, 6, 8])
def test_a_longer_table_begins_with_the_shorter(impl: Positions, length: int, d_model: int) -> None:
    """A row depends on its position alone, not on how many rows there are.

    Else the same token at the same place would look different in a longer text.

    Hint: nothing is divided by the length.
    """
    longer = impl.sinusoidal_positions(length + 5, d_model)
    assert_close(longer[:length], impl.sinusoidal_positions(length, d_model))


@rejects("sinusoids_are_trained", "random_rows")
@for_all(length=axis("position"), d_model=[2, 6, 8])
def test_sinusoids_are_fixed(impl: Positions, length: int, d_model: int) -> None:
    """The sinusoids have nothing to train, and come out alike every time.

    They are a formula: that is what makes them reach any length.

    Source: Vaswani et al. 2017, §3.5.

    Hint: return a plain tensor, not an nn.Parameter.
    """
    table = impl.sinusoidal_positions(length, d_model)
    assert not table.requires_grad
    assert torch.equal(table, impl.sinusoidal_positions(length, d_model))


@rejects("odd_d_model_is_cut", "odd_d_model_loses_a_cosine")
def test_odd_d_model_is_an_error(impl: Positions) -> None:
    """An odd d_model is an error for sinusoids.

    Sines and cosines come in pairs; a table that silently loses or adds a column fails much later.

    Hint: `raise ValueError(…)` where `d_model % 2` is 1, with the number in the message.
    """
    assert refuses(lambda: impl.sinusoidal_positions(5, 7))
    assert finite(impl.sinusoidal_positions(5, 6))


@rejects("one_row_for_all_positions")
def test_sinusoids_let_attention_tell_order(impl: Positions) -> None:
    """Attention over tokens plus sinusoids notices when tokens change places; over tokens alone it does not.

    Without positions a Transformer is permutation equivariant: reordering its inputs reorders its outputs and nothing
    else, so 'dog bites man' is 'man bites dog'.

    Hint: two positions whose rows are equal may be exchanged unnoticed.
    """
    x, rows = randn(2, 6, 8), impl.sinusoidal_positions(6, 8)
    assert not _tells_order(lambda x: F.scaled_dot_product_attention(x, x, x), x)
    assert _tells_order(lambda x: F.scaled_dot_product_attention(x + rows, x + rows, x + rows), x)


@rejects("learned_rows_from_the_end", "learned_rows_are_all_returned")
@for_all(max_length=[9, 12], d_model=axis("d_model"), length=[1, 4, 9])
def test_learned_rows_belong_to_positions(impl: Positions, max_length: int, d_model: int, length: int) -> None:
    """Learned positions are one row of d_model numbers each, the same whatever length is asked for.

    A table of max_length rows serves every shorter sequence with its first rows.

    Hint: `self.weight[:length]`
    """
    learned = perturb(impl.LearnedPositions(max_length=max_length, d_model=d_model))
    rows = learned(max_length)
    assert rows.shape == (max_length, d_model)
    assert_close(learned(length), rows[:length])


@rejects(
    "learned_rows_ignore_the_offset",
    "learned_rows_from_the_end",
    "learned_rows_are_all_returned",
    "learned_rows_end_at_the_length",
)
@for_all(d_model=axis("d_model"), length=[1, 3, 5], offset=[0, 1, 4])
def test_learned_rows_continue_at_an_offset(impl: Positions, d_model: int, length: int, offset: int) -> None:
    """With an offset, learned positions start at that row.

    A decoder that remembers what it has read asks for the next position alone.

    Hint: `self.weight[offset : offset + length]`
    """
    learned = perturb(impl.LearnedPositions(max_length=9, d_model=d_model))
    assert_close(learned(length, offset=offset), learned(9)[offset : offset + length])


@rejects("learned_row_for_all_positions", "learned_rows_are_frozen")
@for_all(d_model=axis("d_model"), position=[0, 2, 6])
def test_a_learned_row_is_trained_alone(impl: Positions, d_model: int, position: int) -> None:
    """Training one position moves its row, and no other.

    Each position has numbers of its own, and a gradient reaches them.

    Hint: the table is an nn.Parameter (or nn.Embedding) with max_length rows.
    """
    learned = perturb(impl.LearnedPositions(max_length=9, d_model=d_model))
    before = learned(7).detach().clone()
    assert_close(learned(7).requires_grad, True)
    (learned(7)[position] * randn(d_model)).sum().backward()
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter -= 0 if parameter.grad is None else parameter.grad
    assert_close((learned(7) != before).any(-1), torch.arange(7) == position)


@rejects("learned_row_for_all_positions")
def test_learned_rows_differ(impl: Positions) -> None:
    """No two learned positions share a row.

    One vector for all positions moves every token alike, and tells nothing about order.

    Hint: index the table by position, not by batch element.
    """
    learned = perturb(impl.LearnedPositions(max_length=9, d_model=5))
    assert torch.unique(learned(9), dim=0).shape == (9, 5)


@rejects(
    "learned_rows_wrap_around",
    "learned_rows_are_cut_short",
    "learned_rows_forget_the_offsets_end",
    "learned_rows_repeat_the_last",
)
def test_positions_beyond_max_length_are_an_error(impl: Positions) -> None:
    """Asking a table of learned positions for more than max_length is an error, with an offset as well.

    There is no row for them. Rows that wrap around or stop silently make far tokens look like near ones.

    Hint: a slice beyond the end is cut without a word: compare offset + length with max_length yourself.
    """
    learned = impl.LearnedPositions(max_length=7, d_model=4)
    assert learned(7).shape == (7, 4)
    assert learned(3, offset=4).shape == (3, 4)
    assert refuses(lambda: learned(8))
    assert refuses(lambda: learned(3, offset=5))
    assert refuses(lambda: learned(1, offset=7))


@rejects("learned_rows_in_float32")
@for_all(dtype=[torch.float64, torch.float32, torch.bfloat16, torch.float16], examples=4)
def test_learned_rows_have_the_modules_dtype(impl: Positions, dtype: torch.dtype) -> None:
    """A table of learned positions gives rows in the dtype that it was turned into.

    A row in another dtype turns the sum with the tokens into another dtype too.

    Hint: return rows of the parameter as they are.
    """
    assert impl.LearnedPositions(max_length=5, d_model=4).to(dtype)(3).dtype == dtype


@same_weights
@rejects("learned_rows_ignore_the_offset", "learned_rows_are_added_twice")
@for_all(weight="max_length d_model", length=[1, 2])
def test_learned_rows_are_the_parameter(impl: Positions, weight: Tensor, length: int) -> None:
    """The learned rows are the parameter `weight` itself, (max_length, d_model) numbers and no more.

    Nothing is scaled, added or normed: what is stored is what is added to the tokens.

    Hint: name the parameter `weight`, as nn.Embedding does.
    """
    max_length, d_model = weight.shape
    learned = impl.LearnedPositions(max_length=max_length, d_model=d_model)
    give(learned, {"weight": weight})
    assert_close(learned(max_length), weight)
    assert_close(learned(1, offset=max_length - 1), weight[-1:])
    assert sum(p.numel() for p in learned.parameters()) == weight.numel()


@rejects(
    "rotary_mixes_pairings",
    "rotary_forgets_the_minus",
    "rotary_adds_sinusoids",
    "rotary_reads_what_it_has_written",
    "rotary_mixes_pairings_the_other_way",
)
@for_all(x="batch position (2 pair)", offset=[0, 5, 30])
def test_rotary_keeps_the_norm(impl: Positions, x: Tensor, offset: int) -> None:
    """A rotation does not change how long a vector is.

    Each pair of channels is turned in its plane; only directions carry the position.

    Source: Su et al. 2021, §3.2.2.

    Hint: (a, b) becomes (a cos − b sin, a sin + b cos); both channels of a pair need the same angle.
    """
    assert_close(impl.rotary(x, offset=offset).norm(dim=-1), x.norm(dim=-1))


@rejects("rotary_counts_from_one", "rotary_mirrors", "rotary_returns_the_halves", "rotary_returns_neighbours")
@for_all(x="batch position (2 pair)")
def test_rotary_leaves_position_zero(impl: Positions, x: Tensor) -> None:
    """At position 0 nothing is turned.

    The angle is the position times a frequency, and positions count from zero.

    Source: Su et al. 2021, §3.2.2.

    Hint: `torch.arange(length)`, not `torch.arange(1, length + 1)`; and is one sign wrong?
    """
    assert_close(impl.rotary(x)[:, 0], x[:, 0])


@rejects(
    "rotary_mixes_pairings",
    "rotary_forgets_the_minus",
    "rotary_reads_what_it_has_written",
    "rotary_mixes_pairings_the_other_way",
)
@for_all(q="batch 1 (2 pair)", k="batch 1 (2 pair)", offset=[1, 3, 40])
def test_rotary_scores_depend_on_the_distance_alone(impl: Positions, q: Tensor, k: Tensor, offset: int) -> None:
    """A rotated query times a rotated key depends on how far apart they stand, not on where.

    Positions are absolute going in and relative coming out: this is the point of rotary positions.

    Source: Su et al. 2021, equation 16.

    Hint: whichever channels you pair (neighbours, or the two halves), do it alike for both channels and all positions.
    """
    q, k = (repeat(x, "batch 1 d_k -> batch position d_k", position=6) for x in (q, k))
    scores = impl.rotary(q) @ impl.rotary(k).mT
    assert_close(scores[:, 1:, 1:], scores[:, :-1, :-1], atol=2e-3, rtol=0)
    assert_close(impl.rotary(q, offset=offset) @ impl.rotary(k, offset=offset).mT, scores, atol=2e-3, rtol=0)


@rejects("rotary_turns_nothing", "rotary_turns_half_the_channels")
@for_all(x="batch 1 (2 pair)")
def test_rotary_turns_every_position_differently(impl: Positions, x: Tensor) -> None:
    """The same vector points elsewhere at each of the first positions.

    If it did not, the distance between two tokens would not show in their score.

    Hint: is the angle multiplied by the position, along the axis before the last?
    """
    turned = impl.rotary(x.expand(-1, 6, -1))
    apart = torch.cdist(turned, turned) / x.norm(dim=-1, keepdim=True)
    assert_close(apart > 1e-4, ~torch.eye(6, dtype=torch.bool).expand(x.shape[0], -1, -1))


@rejects(
    "rotary_counts_from_one",
    "rotary_ignores_the_offset",
    "rotary_ignores_the_base",
    "rotary_exponent_without_two",
    "rotary_has_one_frequency",
    "rotary_mirrors",
    "rotary_turns_half_the_channels",
    "rotary_returns_the_halves",
    "rotary_returns_neighbours",
    "rotary_adds_the_offset_to_the_angles",
)
@for_all(d_k=[2, 4, 10, 16], base=[10000.0, 500.0], offset=[0, 3])
def test_rotary_frequencies_follow_the_formula(impl: Positions, d_k: int, base: float, offset: int) -> None:
    """Pair i is turned by position / base^(2i/d_k).

    Fast pairs tell neighbours apart, slow ones reach over the whole text. The trace of the rotation is the sum of
    2 cos(angle) over all pairs, however channels are paired and whichever way they turn.

    Source: Su et al. 2021, §3.2.2.

    Hint: `base ** (-torch.arange(0, d_k, 2) / d_k)` are the frequencies, d_k / 2 of them.
    """
    units = repeat(torch.eye(d_k), "channel d_k -> channel position d_k", position=7)
    trace = impl.rotary(units, offset=offset, base=base).diagonal(dim1=0, dim2=2).sum(-1)
    angles = torch.outer(torch.arange(offset, offset + 7, dtype=torch.float64), _frequencies(d_k, base))
    assert_close(trace, 2 * angles.cos().sum(-1).float(), atol=1e-4, rtol=0)


@rejects("rotary_adds_sinusoids", "rotary_in_place")
@for_all(x="batch position (2 pair)", y="batch position (2 pair)")
def test_rotary_is_linear(impl: Positions, x: Tensor, y: Tensor) -> None:
    """Rotating a sum gives the sum of the rotated, and zero stays zero.

    The angle depends on the position only, never on what stands there; nothing is added.

    Hint: rotary multiplies; sinusoids are what is added.
    """
    assert_close(impl.rotary(2 * x - 3 * y), 2 * impl.rotary(x) - 3 * impl.rotary(y), atol=1e-4, rtol=1e-4)


@rejects("rotary_ignores_the_offset", "rotary_along_the_wrong_axis", "rotary_adds_the_offset_to_the_angles")
@for_all(x="batch position (2 pair)", start=[1, 2, 5])
def test_rotary_continues_at_an_offset(impl: Positions, x: Tensor, start: int) -> None:
    """With an offset, a piece of a sequence is turned as it is within the whole.

    A decoder that remembers its keys turns only the new ones, as the positions that they are.

    Hint: positions are `offset + torch.arange(length)`.
    """
    x = torch.cat([x, x + 1, x * 2, x - 1, -x, x / 2], 1)
    assert_close(impl.rotary(x[:, start:], offset=start), impl.rotary(x)[:, start:], atol=1e-4, rtol=1e-4)


@rejects("rotary_along_the_wrong_axis", "rotary_takes_axis_one_of_four")
@for_all(x="batch heads position (2 pair)")
def test_rotary_carries_leading_axes_along(impl: Positions, x: Tensor) -> None:
    """Any leading axes are carried along: positions are the axis before the last.

    Queries come as (batch, head, position, d_k); counting along heads instead is wrong and has the right shape.

    Hint: `x.shape[-2]` is the length.
    """
    out = impl.rotary(x)
    assert_close(impl.rotary(x[0]), out[0])
    assert_close(impl.rotary(x[0, 0]), out[0, 0])


@rejects("rotary_in_float32")
@for_all(x="batch position (2 pair)", dtype=[torch.float64, torch.bfloat16, torch.float16])
def test_rotary_keeps_the_dtype(impl: Positions, x: Tensor, dtype: torch.dtype) -> None:
    """float64, bfloat16 and float16 come back from rotary as what went in.

    Angles may be computed in float32, but queries and keys go on in the model's dtype.

    Hint: `.to(x.dtype)` at the end.
    """
    assert impl.rotary(x.to(dtype), offset=2).dtype == dtype


@rejects("rotary_in_place")
@for_all(x="batch position (2 pair)")
def test_rotary_leaves_its_input_alone(impl: Positions, x: Tensor) -> None:
    """The tensor that is rotated is the same afterwards.

    Writing `x[..., 0::2] = …` changes the caller's queries, and the second line then reads what the first has written.

    Hint: build the result by torch.stack or torch.cat.
    """
    before = x.clone()
    impl.rotary(x, offset=1)
    assert torch.equal(x, before)


@rejects("rotary_is_detached")
@for_all(x=doubles("batch position (2 pair)"), examples=4)
def test_gradients_pass_through_rotary(impl: Positions, x: Tensor) -> None:
    """The gradient of a rotation is its derivative.

    The projections of queries and keys learn through it.

    Hint: stay in tensors from input to output: no .detach(), .data, numpy or torch.tensor.
    """
    assert gradients_are_derivatives(impl.rotary, x)


@rejects("rotary_turns_nothing")
def test_rotary_lets_attention_tell_order(impl: Positions) -> None:
    """Attention with rotated queries and keys notices when tokens change places.

    Nothing is added to the tokens: the order shows in the scores alone.

    Hint: both queries and keys are turned, each by its own position.
    """
    attend = F.scaled_dot_product_attention
    assert _tells_order(lambda x: attend(impl.rotary(x), impl.rotary(x), x), randn(2, 6, 8))


@rejects(
    "alibi_counts_distance_from_one",
    "alibi_by_key_position",
    "alibi_by_query_position",
    "alibi_in_float64",
    "alibi_grows_with_the_key",
    "alibi_from_the_last_position",
)
@for_all(heads=[1, 2, 4, 8], length=axis("position"))
def test_alibi_is_zero_at_the_query_itself(impl: Positions, heads: int, length: int) -> None:
    """ALiBi's bias is zero where a query looks at its own position.

    The distance to oneself is zero.

    Source: Press et al. 2022, §3.

    Hint: the bias depends on query position − key position.
    """
    own = impl.alibi_bias(heads, length).diagonal(dim1=-2, dim2=-1)
    assert_close(own, torch.zeros(heads, length))


@rejects(
    "alibi_favours_far_keys",
    "alibi_squares_the_distance",
    "alibi_counts_distance_from_one",
    "alibi_by_key_position",
    "alibi_from_the_last_position",
    "alibi_spares_the_past",
)
@for_all(heads=[1, 2, 4, 8], length=axis("position"))
def test_alibi_falls_linearly_with_distance(impl: Positions, heads: int, length: int) -> None:
    """Each step back takes the same amount off ALiBi's bias.

    Far keys get less visible, at a rate that each head has for its own.

    Source: Press et al. 2022, §3.

    Hint: minus slope times distance; no square, no exponential.
    """
    bias = impl.alibi_bias(heads, length + 1)
    step = bias[:, 1, 0]
    assert (step < 0).all()
    distance = (torch.arange(length + 1)[:, None] - torch.arange(length + 1)).tril().float()  # the past alone
    assert_close(bias.tril(), einsum(step, distance, "head, query key -> head query key"))


@rejects(
    "alibi_slopes_from_one", "alibi_slopes_do_not_scale_with_heads", "alibi_has_one_slope", "alibi_slopes_in_reverse"
)
@for_all(heads=[1, 2, 4, 8, 16], length=[2, 5])
def test_alibi_slopes_are_powers_of_two(impl: Positions, heads: int, length: int) -> None:
    """The slope of head h, counted from 1, is 2^(−8h/heads).

    For 8 heads they are 1/2, 1/4, … 1/256: some heads look near, others far.

    Source: Press et al. 2022, §3.

    Hint: h runs from 1 to heads, so the last slope is 2⁻⁸ for any number of heads.
    """
    slopes = torch.tensor([2 ** (-8 * h / heads) for h in range(1, heads + 1)])
    assert_close(-impl.alibi_bias(heads, length)[:, 1, 0], slopes)


@rejects("alibi_by_query_position")
def test_alibi_lets_attention_tell_order(impl: Positions) -> None:
    """Attention with ALiBi's bias notices when tokens change places.

    Only the visibility of keys changes; the tokens themselves stay as they are.

    Source: Press et al. 2022, §3.

    Hint: a bias that is the same for all keys disappears in the softmax.
    """
    bias = impl.alibi_bias(2, 6)
    assert _tells_order(lambda x: F.scaled_dot_product_attention(x, x, x, bias), randn(2, 6, 8))


@rejects("sinusoids_in_float64", "alibi_in_float64")
@for_all(length=[1, 4])
def test_tables_are_float32_on_the_cpu(impl: Positions, length: int) -> None:
    """Sinusoids and ALiBi's bias are float32 on the CPU when nothing else is said.

    A float64 table silently makes everything that it is added to float64.

    Hint: numpy and `torch.float64` need a `.float()` at the end.
    """
    for table in (impl.sinusoidal_positions(length, 4), impl.alibi_bias(2, length)):
        assert (table.dtype, table.device.type) == (torch.float32, "cpu")


@robust
@rejects("sinusoids_always_on_the_cpu")
@for_all(length=[1, 4])
def test_tables_take_a_device_and_a_dtype(impl: Positions, length: int) -> None:
    """Sinusoids and ALiBi's bias are made with the device and the dtype that are asked for.

    On a GPU, a table that is made on the CPU waits for a copy at every step.

    Hint: take `device=None, dtype=None` and pass them on; the meta device stands for any other here.
    """
    for table in (impl.sinusoidal_positions, impl.alibi_bias):
        assert table(2, 4, device="meta").device.type == "meta"
        assert table(2, 4, dtype=torch.float64).dtype == torch.float64
    assert impl.LearnedPositions(max_length=5, d_model=4).to("meta")(length).device.type == "meta"


@robust
@rejects("rotary_counts_in_the_inputs_dtype")
@for_all(x="batch position (2 pair)", examples=3)
def test_rotary_angles_keep_their_precision(impl: Positions, x: Tensor) -> None:
    """In bfloat16 position 1001 is still turned otherwise than position 1000.

    bfloat16 has 8 bits: 1000 and 1001 are the same number in it, so angles need float32.

    Hint: compute the angles in float32, whatever dtype x has; only the result goes back.
    """
    x = x.bfloat16()
    assert_close(impl.rotary(x, offset=1001).float(), impl.rotary(x.float(), offset=1001), atol=0.1, rtol=0)


@robust
@rejects("alibi_favours_far_keys", "alibi_has_a_signed_distance", "alibi_grows_with_the_key")
@for_all(heads=[1, 2, 8], length=axis("position"))
def test_alibi_never_favours_a_key(impl: Positions, heads: int, length: int) -> None:
    """ALiBi's bias is nowhere positive, for later keys neither.

    A distance has no sign. Where no causal mask hides the future, a signed one makes the farthest key the most visible.

    Source: Press et al. 2022, §3.

    Hint: `.abs()`
    """
    assert (impl.alibi_bias(heads, length) <= 0).all()


@robust
@rejects("rotary_on_the_cpu")
def test_rotary_runs_where_its_input_is(impl: Positions) -> None:
    """Rotary stays on its input's device.

    An angle that is made on the CPU does not fit a query on a GPU.

    Hint: `torch.arange(…, device=x.device)`
    """
    assert impl.rotary(randn(2, 3, 4).to("meta"), offset=1).device.type == "meta"


@robust
@rejects(
    "odd_d_model_is_cut",
    "odd_d_model_raises_without_numbers",
    "learned_rows_wrap_around",
    "learned_rows_are_cut_short",
    "learned_rows_forget_the_offsets_end",
    "learned_rows_raise_without_numbers",
    "odd_d_model_loses_a_cosine",
    "learned_rows_repeat_the_last",
)
def test_position_errors_name_the_numbers(impl: Positions) -> None:
    """Errors about positions name the size that does not fit.

    Whoever reads 'd_model=7 is odd' need not search for what was odd.

    Hint: an f-string with the number.
    """
    learned = impl.LearnedPositions(max_length=13, d_model=4)
    assert refuses(lambda: impl.sinusoidal_positions(5, 7), 7)
    assert refuses(lambda: learned(17), 13)
    assert refuses(lambda: learned(4, offset=11), 13)
