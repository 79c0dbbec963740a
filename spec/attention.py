"""# Scaled dot-product attention

Every query looks at all keys and takes an average of their values, weighted by how well query and key agree:

    attention(q, k, v) = softmax(q kᵀ / √d_k + bias) v

Source: Vaswani et al. 2017, §3.2.1, equation 1; the Deep Learning Curriculum, chapter 1, question 2.
"""

import math
from typing import Protocol

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from spec.kit.close import assert_close
from spec.kit.draw import booleans, doubles, for_all, randn
from spec.kit.marks import rejects, robust
from spec.kit.probe import finite, gradients_are_derivatives, leaves


class Attention(Protocol):
    """What an implementation of this chapter offers."""

    def attention_weights(
        self,
        q: Float[Tensor, "*batch query d_k"],
        k: Float[Tensor, "*batch key d_k"],
        mask: Bool[Tensor, "*#batch #query #key"] | None = None,
        bias: Float[Tensor, "*#batch #query #key"] | None = None,
    ) -> Float[Tensor, "*batch query key"]:
        """softmax(q kᵀ / √d_k + bias) over the visible keys."""
        ...

    def attention(
        self,
        q: Float[Tensor, "*batch query d_k"],
        k: Float[Tensor, "*batch key d_k"],
        v: Float[Tensor, "*batch key d_v"],
        mask: Bool[Tensor, "*#batch #query #key"] | None = None,
        bias: Float[Tensor, "*#batch #query #key"] | None = None,
    ) -> Float[Tensor, "*batch query d_v"]:
        """The values, averaged with these weights."""
        ...


@rejects(
    "softmax_over_queries", "sigmoid_weights", "weights_without_softmax", "softmax_over_batch", "scales_after_softmax"
)
@for_all(q="batch query d_k", k="batch key d_k")
def test_weights_are_shares_over_the_keys(impl: Attention, q: Tensor, k: Tensor) -> None:
    """The weights of one query are positive and sum to one over the keys.

    They say how a query divides its attention, so each query has exactly one unit to give away.

    Source: Vaswani et al. 2017, §3.2.1.

    Hint: softmax needs the axis of the keys, which is the last one.
    """
    weights = impl.attention_weights(q, k)
    assert (weights >= 0).all()
    assert_close(weights.sum(-1), torch.ones(q.shape[:-1]))


@rejects(
    "does_not_scale",
    "divides_by_d_k",
    "scales_by_length",
    "scales_after_softmax",
    "scales_by_a_fixed_number",
    "scale_is_rounded",
)
@for_all(q="batch query d_k", k="batch key d_k")
def test_scores_are_divided_by_sqrt_d_k(impl: Attention, q: Tensor, k: Tensor) -> None:
    """Scores are q·k divided by √d_k, where d_k is the size of one query.

    Without it the variance of a score grows with d_k, and the softmax saturates.

    Source: Vaswani et al. 2017, §3.2.1, footnote 4.

    Hint: `q.shape[-1]` is d_k.
    """
    scores = einsum(q, k, "batch query d_k, batch key d_k -> batch query key") / math.sqrt(q.shape[-1])
    assert_close(impl.attention_weights(q, k), scores.softmax(-1))


@rejects("does_not_scale", "divides_by_d_k", "scales_by_a_fixed_number", "scales_by_length", "multiplies_by_sqrt_d_k")
@for_all(d_k=[4, 16, 64, 256])
def test_the_variance_of_scores_does_not_grow_with_d_k(impl: Attention, d_k: int) -> None:
    """The scores of random queries and keys have variance 1, whatever d_k is.

    A sum of d_k products of unit-variance numbers has variance d_k; the square root takes it back to 1, so that the
    softmax starts where it still has a gradient.

    Source: Vaswani et al. 2017, §3.2.1, footnote 4.

    Hint: the logarithm of the weights is the scores up to a constant a row; measure its variance for two sizes.
    """
    q, k = randn(200, d_k, key="q"), randn(1000, d_k, key="k")
    scores = impl.attention_weights(q, k).clamp_min(1e-38).log()
    assert 0.8 < scores.var(-1).mean() < 1.2


@rejects("scales_by_d_v", "softmax_over_queries", "values_are_not_weighted", "scale_is_rounded", "scales_once_more")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v")
def test_each_output_is_the_weighted_sum_of_the_values(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """An output is the sum of the values, each times its weight; d_v and the number of queries are free.

    Attention is two products with a softmax between: the first finds where to look, the second fetches.

    Source: Vaswani et al. 2017, §3.2.1, equation 1.

    Hint: `einsum(weights, v, "... query key, ... key d_v -> ... query d_v")`
    """
    scores = einsum(q, k, "batch query d_k, batch key d_k -> batch query key") / math.sqrt(q.shape[-1])
    expected = einsum(scores.softmax(-1), v, "batch query key, batch key d_v -> batch query d_v")
    assert_close(impl.attention(q, k, v), expected)


@rejects("softmax_over_queries", "mean_over_the_batch", "sums_instead_of_averaging", "keys_are_returned")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v")
def test_equal_values_come_back(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """When all values are equal, that value comes back, wherever the queries look.

    An average of equal things is that thing: this holds for all scores, so it tests the average alone.

    Hint: over which axis do your weights sum to one, queries or keys?
    """
    same = v[:, :1].expand_as(v)
    assert_close(impl.attention(q, k, same), same[:, :1].expand(-1, q.shape[1], -1))


@rejects("adds_the_query", "keys_are_returned")
@for_all(q="batch query d_k", k="batch 1 d_k", v="batch 1 d_v")
def test_a_single_key_gives_its_value(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """With one key, every query gets that key's value.

    There is nothing else to look at, however badly the two agree.

    Hint: softmax over one number is 1.
    """
    assert_close(impl.attention(q, k, v), v.expand(-1, q.shape[1], -1))


@rejects("bias_is_ignored", "bias_before_the_scale", "bias_after_softmax")
@for_all(q="batch query d_k", k="batch key d_k", bias="batch query key")
def test_bias_is_added_to_the_scaled_scores(impl: Attention, q: Tensor, k: Tensor, bias: Tensor) -> None:
    """A bias is added to the scores after they are scaled, before the softmax.

    ALiBi uses it to make far keys less visible; scaling it too would make its slope depend on d_k.

    Source: Press et al. 2022, §3.

    Hint: the order is product, scale, bias, mask, softmax.
    """
    biased = impl.attention_weights(q, k, bias=bias)
    expected = (impl.attention_weights(q, k).log() + bias).softmax(-1)
    assert_close(biased, expected)


@rejects(
    "mask_is_inverted",
    "mask_is_ignored",
    "masked_score_is_zero",
    "mask_after_softmax",
    "masked_by_a_small_number",
    "mask_for_the_first_sequence",
    "mask_gets_an_axis_too_many",
)
@for_all(q="batch query d_k", k="batch key d_k", mask=booleans("batch query key"))
def test_hidden_keys_get_no_weight(impl: Attention, q: Tensor, k: Tensor, mask: Tensor) -> None:
    """A hidden key has weight 0, and the visible keys share the whole; a mask is True where a query may look.

    Scores of hidden keys become −∞ before the softmax, so the others are weighed as if the hidden ones were not there.

    Hint: `scores.masked_fill(~mask, -math.inf)`, before the softmax.
    """
    mask = mask | torch.eye(k.shape[1], dtype=torch.bool)[torch.arange(q.shape[1]) % k.shape[1]]  # each row sees one
    free = impl.attention_weights(q, k) * mask
    assert_close(impl.attention_weights(q, k, mask), free / free.sum(-1, keepdim=True))


@rejects(
    "mask_is_inverted",
    "mask_is_ignored",
    "masked_score_is_zero",
    "mask_by_query_rows",
    "sums_instead_of_averaging",
    "drops_the_mask",
    "values_in_reverse",
    "hides_by_zero_values",
)
@for_all(q="batch query d_k", k="batch (2 pair) d_k", v="batch (2 pair) d_v", other="batch (2 pair) d_v")
def test_hidden_keys_have_no_influence(impl: Attention, q: Tensor, k: Tensor, v: Tensor, other: Tensor) -> None:
    """What stands behind a hidden key can be anything: nothing moves.

    This is what a mask is for. The future and the padding must not be seen at all, not even a little.

    Hint: compare with attention over the visible keys and values alone.
    """
    visible = torch.arange(k.shape[1]) % 2 == 0
    mask = visible.expand(q.shape[0], q.shape[1], -1)
    moved = torch.where(rearrange(visible, "key -> key 1"), v, other)
    assert_close(impl.attention(q, k, moved, mask), impl.attention(q, k[:, visible], v[:, visible]))


@rejects(
    "mask_is_ignored",
    "masked_score_is_zero",
    "mask_after_softmax",
    "scores_are_detached",
    "keys_are_detached",
    "values_are_detached",
    "weights_are_detached",
    "values_in_reverse",
    "hides_by_zero_values",
)
@for_all(q="batch query d_k", k="batch (2 pair) d_k", v="batch (2 pair) d_v")
def test_hidden_keys_get_no_gradient(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """No gradient reaches a hidden key or its value, and the visible ones get theirs.

    What may not be seen may not be learned from either.

    Hint: a weight of exactly zero passes no gradient on.
    """
    visible = torch.arange(k.shape[1]) % 2 == 0
    mask = visible.expand(q.shape[1], -1)
    q, k, v = q.requires_grad_(), k.requires_grad_(), v.requires_grad_()
    reached = leaves(impl.attention_weights(q, k, mask))
    assert [each in reached for each in (q, k)] == [True, True]
    out = impl.attention(q, k, v, mask)
    of_k, of_v = torch.autograd.grad((out * randn(*out.shape)).sum(), (k, v), allow_unused=True)
    assert of_k is not None
    assert of_v is not None
    assert not of_k[:, ~visible].any()
    assert not of_v[:, ~visible].any()
    assert of_v[:, visible].any()


@rejects(
    "scales_q_in_place",
    "mask_gets_an_axis_too_many",
    "needs_a_batch_axis",
    "transposes_fixed_axes",
    "mask_for_the_first_sequence",
    "mask_gets_an_axis_for_the_heads",
)
@for_all(q="batch heads query d_k", k="batch heads key d_k", v="batch heads key d_v", mask=booleans("heads query key"))
def test_masks_broadcast(impl: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> None:
    """A mask broadcasts against (*batch, query, key): one picture serves every batch element and head.

    A causal mask has no batch axis; a padding mask has one query row for all.

    Hint: `masked_fill` broadcasts by itself; do not repeat, slice or reshape the mask.
    """
    mask = mask | (torch.arange(k.shape[-2]) == 0)
    for narrow in (mask, mask[0], mask[:1], mask[0, :1]):
        wide = narrow.expand(*q.shape[:-1], -1)
        assert_close(impl.attention(q, k, v, narrow), impl.attention(q, k, v, wide))


@rejects("query_order_lost", "causal_where_no_mask_is_given")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v")
def test_permuting_queries_permutes_outputs(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Reordering the queries reorders the outputs in the same way, and changes nothing else.

    Each query is answered on its own; queries do not see each other.

    Hint: nothing but the keys' axis may be summed, averaged or normalised over.
    """
    order = torch.arange(q.shape[1]).flip(0)
    assert_close(impl.attention(q[:, order], k, v), impl.attention(q, k, v)[:, order])


@rejects("position_matters", "queries_attend_to_themselves", "causal_where_no_mask_is_given", "keys_are_reshaped")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v")
def test_order_of_keys_does_not_matter(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Reordering keys together with their values changes nothing.

    Keys and values are a set of pairs: attention alone cannot tell order, which is why positions exist.

    Hint: is there anything in your code that depends on where a key stands?
    """
    order = torch.arange(k.shape[1]).roll(1)
    assert_close(impl.attention(q, k[:, order], v[:, order]), impl.attention(q, k, v))


@rejects("mean_over_the_batch", "softmax_over_batch")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v")
def test_batch_elements_are_independent(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Each batch element gets what it would get alone.

    A sequence's result must not depend on which other sequences it happens to travel with.

    Hint: negative axes (`-1`, `-2`) keep working when leading axes are added.
    """
    alone = [impl.attention(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i in range(q.shape[0])]
    assert_close(impl.attention(q, k, v), torch.cat(alone))


@rejects("needs_a_batch_axis", "transposes_fixed_axes", "softmax_over_axis_one")
@for_all(q="batch heads query d_k", k="batch heads key d_k", v="batch heads key d_v")
def test_any_number_of_leading_axes(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Any leading axes are carried along: none, a batch, or a batch of heads.

    The same function then serves one sequence at a desk and every head of a model.

    Hint: `...` in einsum, or `transpose(-2, -1)` rather than `transpose(1, 2)`.
    """
    out, weights = impl.attention(q, k, v), impl.attention_weights(q, k)
    for each in (0, (0, 0)):
        assert_close(impl.attention(q[each], k[each], v[each]), out[each])
        assert_close(impl.attention_weights(q[each], k[each]), weights[each])


@rejects("does_not_subtract_the_maximum", "clamps_the_scores", "values_are_not_weighted")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v")
def test_large_scores_do_not_overflow(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Scores of ±10,000 give finite weights that still sum to one.

    exp(100) already overflows float32; subtracting the largest score first changes nothing else.

    Hint: torch's softmax does this for you; exp(x) / exp(x).sum() does not.
    """
    far = k * 1e4 / einsum(q, k, "batch query d_k, batch key d_k -> batch query key").abs().max()
    out = impl.attention(q, far * math.sqrt(q.shape[-1]), v)
    scores = einsum(q.double(), far.double(), "batch query d_k, batch key d_k -> batch query key")
    assert finite(out)
    assert_close(out, (scores.softmax(-1) @ v.double()).float(), atol=1e-2, rtol=1e-2)


@rejects("masked_by_adding_10000")
@for_all(q="batch query d_k", k="batch (2 pair) d_k", v="batch (2 pair) d_v")
def test_a_hidden_key_stays_hidden_however_well_it_fits(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Hidden keys whose scores reach 1e5 have no influence.

    What is hidden may fit best of all: a number that is only taken off its score can be too small.

    Hint: replace the hidden scores, by −∞ or the smallest number there is, before the softmax.
    """
    visible = torch.arange(k.shape[1]) % 2 == 0
    loud = torch.where(rearrange(visible, "key -> key 1"), k, 1e5 * k)
    expected = impl.attention(q, k[:, visible], v[:, visible])
    assert_close(impl.attention(q, loud, v, visible.expand(q.shape[1], -1)), expected)


@rejects("subtracts_one_maximum_for_all", "softmax_over_axis_one", "one_maximum_makes_nan")
@for_all(q="batch (2 query) d_k", k="batch key d_k")
def test_a_row_does_not_depend_on_the_size_of_the_others(impl: Attention, q: Tensor, k: Tensor) -> None:
    """A query with scores of 10,000 leaves the weights of the other queries as they are.

    The largest score is subtracted so that exp does not overflow. It has to be the largest of the row: beside the
    largest of all, every score of a modest row gives exp(−10,000) = 0, and its weights are 0 or 0/0.

    Hint: `scores.amax(-1, keepdim=True)`; torch's softmax does it for you.
    """
    loud = torch.arange(q.shape[1]) % 2 == 0
    q = torch.where(loud[:, None], 1e4 * q, q)
    assert_close(impl.attention_weights(q, k)[:, ~loud], impl.attention_weights(q[:, ~loud], k))


@rejects(
    "weights_are_detached", "scores_are_detached", "keys_are_detached", "values_are_detached", "computes_in_float32"
)
@for_all(q=doubles("batch query d_k"), k=doubles("batch key d_k"), v=doubles("batch key d_v"), examples=4)
def test_gradients_reach_queries_keys_and_values(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """The gradients of q, k and v are the derivatives of the output.

    Where a tensor is detached or rebuilt by torch.tensor, the code runs and looks right, and never learns.

    Hint: stay in tensors from input to output: no .detach(), .data, .item(), numpy or torch.tensor.
    """
    assert gradients_are_derivatives(impl.attention, q, k, v)


@rejects("weights_ignore_the_keys", "queries_attend_to_themselves", "keys_are_reshaped")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v")
def test_weights_depend_on_the_input(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """A query that turns toward one key draws the output to that key's value.

    A linear layer mixes positions with weights that are fixed after training; attention makes its weights anew for
    every input.

    Hint: the weights come from q and k, not from parameters or positions.
    """
    toward = 30 * math.sqrt(q.shape[-1]) * k[:, -1:] / k.square().sum(-1, keepdim=True).amax(1, keepdim=True)
    away = torch.cat([-k[:, :-1].abs(), k[:, -1:].abs()], 1)
    weights = impl.attention_weights(toward.abs(), away)
    assert_close(weights.argmax(-1), torch.full(weights.shape[:-1], k.shape[1] - 1))


@rejects(
    "scales_by_d_v",
    "mask_is_inverted",
    "bias_is_ignored",
    "bias_gets_the_mask_in_place",
    "drops_the_bias",
    "scales_once_more",
)
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v", mask=booleans("query key"), bias="query key")
def test_agrees_with_torch(impl: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, bias: Tensor) -> None:
    """The result is that of torch's `F.scaled_dot_product_attention`, with mask and bias together.

    Its mask has the same meaning as ours: True may look. `nn.MultiheadAttention` means the opposite.

    Hint: with both, a hidden key stays hidden whatever its bias is.
    """
    mask = mask | (torch.arange(k.shape[1]) == 0)
    both = bias.masked_fill(~mask, -math.inf)
    assert_close(impl.attention(q, k, v, mask, bias), F.scaled_dot_product_attention(q, k, v, both))


@rejects("output_in_float32", "computes_in_float32")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v", dtype=[torch.float64, torch.bfloat16])
def test_output_has_the_inputs_dtype(impl: Attention, q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype) -> None:
    """float64 and bfloat16 come back as what went in.

    A hidden conversion costs memory and speed, or accuracy, and breaks the next layer.

    Hint: `torch.zeros(…)` makes float32; `x.new_zeros(…)` or `masked_fill` keep the type.
    """
    mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
    assert impl.attention(q.to(dtype), k.to(dtype), v.to(dtype), mask).dtype == dtype


@rejects("scales_q_in_place", "bias_gets_the_mask_in_place", "mask_gets_an_axis_too_many")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v", bias="query key")
def test_inputs_are_not_modified(impl: Attention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> None:
    """The tensors that come in are the same afterwards.

    `q /= …` changes the caller's tensor; the next use of it is wrong, far away from here.

    Hint: `scores = scores + bias` makes a new tensor, `scores += bias` does not.
    """
    before = [x.clone() for x in (q, k, v, bias)]
    impl.attention(q, k, v, torch.ones(q.shape[1], k.shape[1], dtype=torch.bool), bias)
    for now, then in zip((q, k, v, bias), before, strict=True):
        assert torch.equal(now, then)


@robust
@rejects(
    "nan_where_nothing_is_visible",
    "masked_by_a_small_number",
    "uniform_where_nothing_is_visible",
    "drops_the_mask",
)
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v")
def test_nothing_visible_gives_zeros(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """A query that may see nothing gets zero weights and a zero output, with finite gradients.

    Such rows are real: the padding rows of a batch. A softmax over −∞ alone is NaN, and one NaN spoils every weight.

    Hint: fill the weights with 0 where the mask is False, after the softmax as well.
    """
    mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
    mask[0] = False
    q, k, v = q.requires_grad_(), k.requires_grad_(), v.requires_grad_()
    assert not impl.attention_weights(q, k, mask)[:, 0].any()
    out = impl.attention(q, k, v, mask)
    assert not out[:, 0].any()
    assert finite(*torch.autograd.grad(out.square().sum(), (q, k, v), materialize_grads=True))


@robust
@rejects("masked_by_subtraction")
@for_all(q="batch query d_k", k="batch (2 pair) d_k", v="batch (2 pair) d_v")
def test_huge_hidden_keys_have_no_influence(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """A hidden key and value of 1e30 change nothing, in value or gradient.

    Memory that was never written may hold anything; 0 · 1e30 is 0, but 1e30 − 1e30 is not what it was.

    Hint: replace hidden scores (masked_fill), do not multiply them or subtract a large number.
    """
    visible = torch.arange(k.shape[1]) % 2 == 0
    fill = rearrange(~visible, "key -> key 1")
    q = q.requires_grad_()
    out = impl.attention(q, k.masked_fill(fill, 1e30), v.masked_fill(fill, 1e30), visible.expand(q.shape[1], -1))
    expected = impl.attention(q, k[:, visible], v[:, visible])
    assert_close(out, expected)
    sums = (each.square().sum() + 0 * q.sum() for each in (out, expected))  # one key alone does not ask the query
    assert_close(*(torch.autograd.grad(each, q)[0] for each in sums))


@robust
@rejects(
    "does_not_subtract_the_maximum",
    "multiplies_by_sqrt_d_k",
    "scores_before_the_scale_overflow",
    "masked_by_1e9_in_float16",
    "one_maximum_makes_nan",
)
@for_all(q="batch query d_k", k="batch (2 pair) d_k", v="batch (2 pair) d_v")
def test_float16_scores_stay_finite(impl: Attention, q: Tensor, k: Tensor, v: Tensor) -> None:
    """In float16, scores of ±10,000 and a mask give finite results.

    float16 ends at 65,504: a mask value of −1e9 is already −∞ there, or an error.

    Hint: `torch.finfo(scores.dtype).min`, or −math.inf by masked_fill.
    """
    scale = 1e4 / einsum(q, k, "batch query d_k, batch key d_k -> batch query key").abs().max()
    mask = (torch.arange(k.shape[1]) % 2 == 0).expand(q.shape[1], -1)
    q, k, v = (q * scale.sqrt()).half(), (k * scale.sqrt()).half(), v.half()
    assert finite(impl.attention_weights(q, k, mask), impl.attention(q, k, v, mask))


@robust
@rejects("mask_on_the_cpu", "asks_the_host")
@for_all(q="batch query d_k", k="batch key d_k", v="batch key d_v", mask=booleans("query key"))
def test_runs_on_any_device_without_asking_it(impl: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> None:
    """Everything stays on the inputs' device, and no value is read back by Python.

    The meta device has shapes and no numbers: a tensor made on the CPU does not fit there, and `if mask.any()` has no
    answer. On a GPU the first is an error, and the second makes it wait.

    Hint: `device=q.device`, `q.new_…`; no `.item()`, no `if` on a tensor.
    """
    q, k, v, mask = (x.to("meta") for x in (q, k, v, mask))
    assert impl.attention(q, k, v, mask).device.type == "meta"
