"""# Multi-head attention

Several attentions side by side: each head looks in a projection of its own, and a last layer mixes what they found.

    head h = attention(x Q_h, c K_h, c V_h),    output = concat(head 1 … head n) O,    c the context, or x itself

Source: Vaswani et al. 2017, §3.2.2; the Deep Learning Curriculum, chapter 1.
"""

import functools
import math
from typing import Annotated, Any, Protocol

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from spec.kit.close import assert_close, nearest
from spec.kit.draw import axis, booleans, doubles, for_all, randn
from spec.kit.marks import rejects, robust, same_weights
from spec.kit.probe import finite, gradients_are_derivatives, idle, lower_triangle, refuses, who_sees_whom
from spec.kit.weights import count, give, perturb, random_state


class MultiHeadAttentionCall(Protocol):
    """How the module is called."""

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        context: Float[Tensor, "batch key d_model"] | None = None,
        mask: Bool[Tensor, "#query #key"]
        | Bool[Tensor, "#batch #query #key"]
        | Bool[Tensor, "#batch #head #query #key"]
        | None = None,
        bias: Float[Tensor, "*#head #query #key"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Queries from x, keys and values from the context, or from x where there is none."""
        ...


class Heads(Protocol):
    """What an implementation of this chapter offers."""

    def split_heads(
        self, x: Float[Tensor, "*batch position channels"], heads: int
    ) -> Float[Tensor, "*batch heads position d"]:
        """Every head's own slice of the channels."""
        ...

    def merge_heads(self, x: Float[Tensor, "*batch head position d"]) -> Float[Tensor, "*batch position channels"]:
        """The inverse of split_heads."""
        ...

    def MultiHeadAttention(
        self,
        d_model: int,
        heads: int,
        d_k: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rotary: bool = False,
    ) -> Annotated[nn.Module, MultiHeadAttentionCall]:
        """Several heads in one module, with its four matrices."""
        ...


@rejects("splits_by_view", "deals_channels_like_cards", "divides_the_positions")
@for_all(x="batch position (heads d)", heads=axis("heads"))
def test_a_head_reads_its_own_slice(impl: Heads, x: Tensor, heads: int) -> None:
    """Head h gets the h-th slice of the channels, of every position.

    The channels are divided, not copied: what one head reads, no other does.

    Source: Vaswani et al. 2017, §3.2.2.

    Hint: `rearrange(x, "... position (head d) -> ... head position d", head=heads)`
    """
    slices = list(impl.split_heads(x, heads).unbind(1))
    for mine, expected in zip(slices, x.chunk(heads, -1), strict=True):
        assert_close(mine, expected, rtol=0, atol=0)


@rejects("splits_by_view", "divides_the_positions")
@for_all(x="batch position (heads d)", heads=axis("heads"), other="batch 1 (heads d)")
def test_a_position_stays_a_position(impl: Heads, x: Tensor, heads: int, other: Tensor) -> None:
    """Changing the last position changes the last position of every head, and nothing else.

    A reshape without a transpose has the right shape and mixes heads with positions: the future leaks through it.

    Hint: `view(batch, position, heads, d).transpose(1, 2)`: the channels' axis is split first, then moved.
    """
    moved = torch.cat([x[:, :-1], other], 1)
    differs = (impl.split_heads(moved, heads) != impl.split_heads(x, heads)).any(-1)
    assert_close(differs, (torch.arange(x.shape[1]) == x.shape[1] - 1).expand_as(differs))


@rejects("deals_channels_like_cards", "merges_by_view", "merges_d_before_the_heads", "merges_the_last_head_first")
@for_all(x="batch position (heads d)", heads=axis("heads"))
def test_merging_undoes_splitting(impl: Heads, x: Tensor, heads: int) -> None:
    """Split, then merged, everything is back where it was.

    Hint: merge in the opposite order: move the heads' axis back, then flatten it with d.
    """
    assert_close(impl.merge_heads(impl.split_heads(x, heads)), x, rtol=0, atol=0)


@rejects("merges_by_view", "merges_d_before_the_heads", "merges_the_last_head_first")
@for_all(x="batch heads position d")
def test_splitting_undoes_merging(impl: Heads, x: Tensor) -> None:
    """Merged, then split, every head is back where it was.

    Hint: the heads stand before d in the channels: `(head d)`, not `(d head)`.
    """
    merged = impl.merge_heads(x)
    assert_close(merged[..., : x.shape[-1]], x[:, 0], rtol=0, atol=0)
    assert_close(impl.split_heads(merged, x.shape[1]), x, rtol=0, atol=0)


@rejects("splits_axes_by_number", "merges_axes_by_number")
@for_all(x="layer batch position (heads d)", heads=axis("heads"))
def test_heads_split_under_any_leading_axes(impl: Heads, x: Tensor, heads: int) -> None:
    """No leading axis, one or two: the last two axes alone are split and merged.

    Hint: `...` in einops; with `transpose`, negative axes.
    """
    split = impl.split_heads(x, heads)
    assert_close(split[0, 0], impl.split_heads(x[0, 0], heads))
    assert_close(split[0], impl.split_heads(x[0], heads))
    assert_close(impl.merge_heads(split), x)
    assert_close(impl.merge_heads(split[0, 0]), x[0, 0])


@rejects("cuts_the_rest_off", "heads_need_not_divide_d_model")
@for_all(x="batch position (heads d)", heads=axis("heads"))
def test_channels_that_heads_do_not_divide_are_an_error(impl: Heads, x: Tensor, heads: int) -> None:
    """Channels that cannot be divided among the heads are an error.

    Leaving the rest out would train a model of another size than the one that was asked for.

    Hint: einops and `view` raise by themselves; `//` alone cuts the rest off.
    """
    more = torch.cat([x, x[..., :1]], -1)
    assert refuses(lambda: impl.split_heads(more, heads))
    assert refuses(lambda: impl.MultiHeadAttention(d_model=more.shape[-1], heads=heads)(more))


@rejects(
    "split_is_cut_off",
    "context_is_ignored",
    "queries_from_the_context",
    "context_reshaped_by_the_querys_length",
    "cuts_the_context_to_the_querys_length",
    "values_from_x",
)
@for_all(x="batch query (heads d)", context="batch key (heads d)", heads=axis("heads"), examples=5)
def test_source_and_target_may_differ_in_length(impl: Heads, x: Tensor, context: Tensor, heads: int) -> None:
    """With a context there is one output for each query, and every context token is looked at.

    A translation is rarely as long as its original; cross-attention has two lengths.

    Source: Vaswani et al. 2017, §3.2.3.

    Hint: keys and values get their length from the context, not from x.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    context = context.requires_grad_()
    out = attention(x, context)
    assert out.shape == x.shape
    (moved,) = torch.autograd.grad((out * randn(*out.shape)).sum(), context, allow_unused=True)
    assert moved is not None
    assert (moved.abs().sum(-1) > 0).all()


@rejects("context_is_ignored", "softmax_over_heads", "skip_inside_attention", "batch_read_as_positions")
@for_all(x="batch query (heads d)", context="batch 1 (heads d)", heads=axis("heads"), examples=5)
def test_values_come_from_the_context(impl: Heads, x: Tensor, context: Tensor, heads: int) -> None:
    """With one context token, the output depends on it and not on x.

    x only asks: what is fetched stands in the context.

    Hint: `value(context)`, and no skip inside the module.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    out = attention(x, context)
    assert_close(attention(x + 1, context), out)
    assert_close(attention(x[:, :1], context), out[:, :1])  # as long as the context, and no self-attention for that
    assert not torch.allclose(attention(x, context + 1), out, atol=1e-3)


@rejects("every_head_gets_all_channels", "self_attention_is_always_causal")
@for_all(x="batch position (heads d)", heads=axis("heads"), examples=5)
def test_without_a_context_a_sequence_attends_to_itself(impl: Heads, x: Tensor, heads: int) -> None:
    """Self-attention is cross-attention whose context is the sequence itself.

    Hint: `context = x if context is None else context`
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    assert_close(attention(x), attention(x, x))


@rejects("cuts_the_context_to_the_querys_length")
@for_all(x="batch query (heads d)", context="batch key (heads d)", heads=axis("heads"), examples=5)
def test_heads_see_a_set(impl: Heads, x: Tensor, context: Tensor, heads: int) -> None:
    """Reordering the context changes nothing; reordering x reorders the outputs alike.

    Attention has no order of its own, with many heads as with one.

    Hint: do heads and positions get mixed when you split or merge?
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    out = attention(x, context)
    assert_close(attention(x, context.flip(1)), out)
    assert_close(attention(x.roll(1, 1), context), out.roll(1, 1))


@rejects("every_head_gets_all_channels", "sequences_and_heads_unfold_wrongly", "batch_read_as_positions")
@for_all(x="batch position (heads d)", heads=axis("heads"), examples=5)
def test_sequences_of_a_batch_do_not_meet(impl: Heads, x: Tensor, heads: int) -> None:
    """Each sequence gets what it would get alone.

    Hint: which axes does your reshape merge with the batch?
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    assert_close(attention(x), torch.cat([attention(each) for each in x.chunk(len(x))]))


@rejects("first_querys_mask_for_all", "mask_is_not_handed_on", "mask_hides_what_it_should_show")
@for_all(x="1 position (heads d)", heads=axis("heads"), examples=6)
def test_a_causal_output_sees_its_past_alone(impl: Heads, x: Tensor, heads: int) -> None:
    """Under a causal mask, an output depends on its own position and all before it, and on no later token.

    With one head many mistakes hide; with two and more, a head that is cut wrongly reads other positions.

    Source: Vaswani et al. 2017, §3.2.3.

    Hint: perturb the last token: which outputs move? First look at split_heads, then at the mask.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    past = lower_triangle(x.shape[1])
    assert_close(who_sees_whom(lambda x: attention(x, mask=past), x), past)


@rejects("mask_is_not_handed_on", "mask_hides_what_it_should_show", "scales_by_sqrt_length")
@for_all(x="batch (start position) (heads d)", heads=axis("heads"), start=axis("start"), examples=5)
def test_a_prefix_gives_the_prefix_of_the_whole(impl: Heads, x: Tensor, heads: int, start: int) -> None:
    """Under a causal mask, the first tokens alone give what they give at the head of a longer sequence.

    So a model may be trained on whole sequences and write one token at a time.

    Hint: does anything in your code depend on the length, as a scale of √length does?
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    whole = attention(x, mask=lower_triangle(x.shape[1]))
    assert_close(attention(x[:, :start], mask=lower_triangle(start)), whole[:, :start])


@rejects("mask_is_not_handed_on", "mask_hides_what_it_should_show", "scales_by_sqrt_length", "context_drops_the_mask")
@for_all(
    x="batch query (heads d)",
    context="batch (2 key) (heads d)",
    heads=axis("heads"),
    other="batch (2 key) 1",
    examples=5,
)
def test_a_mask_hides_from_all_heads(impl: Heads, x: Tensor, context: Tensor, heads: int, other: Tensor) -> None:
    """A mask (query, key) hides its keys from every head of every sequence; True means 'may look'.

    Hint: hand the mask on to attention; `nn.MultiheadAttention` takes the opposite, `~mask`.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    visible = torch.arange(context.shape[1]) % 2 == 0
    mask = visible.expand(x.shape[1], -1)
    moved = torch.where(rearrange(visible, "key -> key 1"), context, context + other)
    assert_close(attention(x, moved, mask=mask), attention(x, context[:, visible]))


@rejects(
    "mask_read_as_heads",
    "first_sequences_mask_for_all",
    "sequences_and_heads_unfold_wrongly",
    "mask_repeated_in_the_wrong_order",
)
@for_all(x="2 query (2 d)", context="2 key (2 d)", mask=booleans("2 query key"), examples=5)
def test_a_mask_of_rank_3_is_one_mask_a_sequence(impl: Heads, x: Tensor, context: Tensor, mask: Tensor) -> None:
    """A mask (batch, query, key) gives each sequence its own, for all its heads.

    With as many sequences as heads, plain broadcasting reads the batch as heads: no error, and wrong.

    Hint: give a mask of rank 3 its axis of heads: `rearrange(mask, "batch query key -> batch 1 query key")`.
    """
    mask = mask | (torch.arange(context.shape[1]) == 0)
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=2)).eval()
    alone = [attention(x[i : i + 1], context[i : i + 1], mask=mask[i]) for i in range(2)]
    assert_close(attention(x, context, mask=mask), torch.cat(alone))


@rejects("mask_read_as_heads", "mask_repeated_in_the_wrong_order", "first_sequences_mask_for_all")
@for_all(x="3 query (2 d)", mask=booleans("3 query query"), examples=3)
def test_a_mask_of_rank_3_fits_any_number_of_sequences(impl: Heads, x: Tensor, mask: Tensor) -> None:
    """Three sequences have a mask each where there are two heads.

    Hint: the axis of heads stands between batch and query: `mask[:, None]`.
    """
    mask = mask | torch.eye(x.shape[1], dtype=torch.bool)
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=2)).eval()
    alone = [attention(x[i : i + 1], mask=mask[i]) for i in range(3)]
    assert_close(attention(x, mask=mask), torch.cat(alone))


@rejects("padding_mask_is_reshaped", "mask_repeated_in_the_wrong_order")
@for_all(x="2 query (2 d)", context="2 key (2 d)", mask=booleans("2 1 key"), examples=5)
def test_a_padding_mask_serves_all_queries(impl: Heads, x: Tensor, context: Tensor, mask: Tensor) -> None:
    """A mask (batch, 1, key) hides the same keys from all queries of a sequence; any axis may be 1.

    Hint: broadcast, do not `view` or slice the mask to a size.
    """
    mask = mask | (torch.arange(context.shape[1]) == 0)
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=2)).eval()
    expected = attention(x, context, mask=mask.expand(-1, x.shape[1], -1))
    assert_close(attention(x, context, mask=mask), expected)
    assert_close(attention(x[:1], context[:1], mask=mask[0]), expected[:1])


@rejects("first_heads_mask_for_all", "context_drops_the_mask")
@for_all(x="batch query (2 d)", context="batch (2 key) (2 d)", examples=5)
def test_a_mask_of_rank_4_is_one_mask_a_head(impl: Heads, x: Tensor, context: Tensor) -> None:
    """A mask (batch, head, query, key) gives each head its own, and the heads' shares add up in the output.

    So changing one head's mask makes the same difference whatever the other head sees.

    Hint: a mask of rank 4 broadcasts as it is.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=2)).eval()
    even = (torch.arange(context.shape[1]) % 2 == 0).expand(len(x), x.shape[1], -1)
    masks = [[torch.stack([first, second], 1) for second in (even, ~even)] for first in (even, ~even)]
    (a, b), (c, d) = ([attention(x, context, mask=mask) for mask in row] for row in masks)
    assert_close(b - a, d - c, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(b, a, atol=1e-4)
    assert not torch.allclose(c, a, atol=1e-4)
    assert_close(attention(x, context, mask=even[:, None]), a)


@rejects("first_heads_mask_for_all", "bias_is_not_handed_on", "bias_read_as_batch", "softmax_over_heads")
@for_all(x="2 query (2 d)", context="2 key (2 d)", mask=booleans("2 query key"), examples=5)
def test_a_bias_is_added_in_every_head(impl: Heads, x: Tensor, context: Tensor, mask: Tensor) -> None:
    """A bias (head, query, key) is added to each head's own scores: −10,000 hides as well as a mask does.

    ALiBi needs this: each of its heads has another slope, the same for all sequences.

    Source: Press et al. 2022, §3.

    Hint: the first axis of a bias of rank 3 is the heads' one, unlike a mask's.
    """
    mask = mask | (torch.arange(context.shape[1]) == 0)
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=2)).eval()
    bias = torch.where(mask, 0.0, -1e4)
    assert_close(attention(x, context, bias=bias), attention(x, context, mask=mask[None].expand(2, -1, -1, -1)))
    assert_close(attention(x, context, bias=bias[0]), attention(x, context, mask=mask[0]))


@rejects("mask_forgotten_beside_a_bias")
@for_all(
    x="batch query (heads d)",
    context="batch (2 key) (heads d)",
    heads=axis("heads"),
    bias="heads query (2 key)",
    examples=5,
)
def test_mask_and_bias_act_together(impl: Heads, x: Tensor, context: Tensor, heads: int, bias: Tensor) -> None:
    """With a mask and a bias, hidden keys stay hidden and the visible ones keep their bias.

    Hint: add the bias first, then fill what is hidden with −∞.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    visible = torch.arange(context.shape[1]) % 2 == 0
    both = attention(x, context, mask=visible.expand(x.shape[1], -1), bias=bias)
    assert_close(both, attention(x, context[:, visible], bias=bias[..., visible]))


@rejects("values_from_the_query_projection", "output_layer_is_missing", "heads_must_divide_d_model_always")
@for_all(
    x="batch query d_model", context="batch key d_model", heads=[2, 3], d_k=axis("d_k"), d_v=axis("d_v"), examples=5
)
def test_d_k_and_d_v_are_free(impl: Heads, x: Tensor, context: Tensor, heads: int, d_k: int, d_v: int) -> None:
    """The sizes of a head's queries and values can be chosen, whether or not the heads divide d_model.

    d_model / heads is a habit: it keeps the work of all heads equal to that of one. The formula does not ask for it.

    Source: Vaswani et al. 2017, §3.2.2.

    Hint: the projections have heads · d_k, heads · d_k and heads · d_v outputs.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, d_k=d_k, d_v=d_v)).eval()
    out = attention(x, context)
    assert out.shape == x.shape
    assert finite(out)


@rejects("values_follow_the_queries_size")
@for_all(x="batch position (heads d)", heads=axis("heads"), chosen=[1, 9], examples=4)
def test_one_chosen_size_leaves_the_other(impl: Heads, x: Tensor, heads: int, chosen: int) -> None:
    """Where d_k alone is chosen d_v stays d_model / heads, and the other way round.

    Hint: each of the two has its own `if … is None`.
    """
    make = functools.partial(impl.MultiHeadAttention, d_model=x.shape[-1], heads=heads)
    one, other, d = make(d_k=chosen), make(d_v=chosen), x.shape[-1] // heads
    assert one(x).shape == other(x).shape == x.shape
    assert count(one) == count(make(d_k=chosen, d_v=d))
    assert count(other) == count(make(d_k=d, d_v=chosen))


@rejects("heads_share_one_projection", "averages_the_heads", "heads_share_keys_and_values")
@for_all(heads=[2, 3], d=[2, 3, 4], examples=5)
def test_the_heads_together_carry_all_channels(impl: Heads, heads: int, d: int) -> None:
    """One token can move the output in d_model directions, since each head has a value projection of its own.

    Heads that share one projection can say only d_model / heads things, however many they are.

    Source: Vaswani et al. 2017, §3.2.2.

    Hint: the value projection maps d_model to heads · d_v, not to d_v.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=heads * d, heads=heads)).eval().double()
    tokens = rearrange(torch.eye(heads * d, dtype=torch.float64), "batch d_model -> batch 1 d_model")
    moved = (attention(tokens) - attention(torch.zeros_like(tokens))).detach()
    assert torch.linalg.matrix_rank(moved[:, 0], rtol=1e-9) == heads * d


@rejects("output_keeps_its_bias")
@for_all(x="batch position (heads d)", heads=axis("heads"), examples=5)
def test_without_biases_zero_stays_zero(impl: Heads, x: Tensor, heads: int) -> None:
    """With bias=False there are no shifts: zeros come out as zeros.

    Hint: `nn.Linear(…, bias=bias)`, the output layer too.
    """
    plain = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, bias=False)).eval()
    shifted = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, bias=True)).eval()
    assert not plain(x * 0).any()
    assert plain(x).any()
    assert shifted(x * 0).any()


@rejects(
    "values_from_the_query_projection",
    "keys_from_the_query_projection",
    "heads_share_one_projection",
    "heads_share_one_question",
    "projections_are_detached",
    "queries_are_not_projected",
)
@for_all(x="batch (2 query) (heads 2 d)", context="batch (2 key) (heads 2 d)", heads=axis("heads"), examples=5)
def test_every_row_of_every_projection_learns(impl: Heads, x: Tensor, context: Tensor, heads: int) -> None:
    """A gradient reaches all of every matrix: queries, keys, values and output.

    `torch.tensor(q)`, `.detach()` or scores from the wrong projection leave a matrix as it was drawn.

    Hint: which of your layers does the result not depend on, or through what is it cut off?
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    out = attention(x, context)
    (out * randn(*out.shape)).sum().backward()
    assert idle(attention) == []
    gradients = [p.grad for p in attention.parameters() if p.ndim > 1 and p.grad is not None]
    assert all(gradient.flatten(1).any(-1).all() for gradient in gradients)


@rejects(
    "split_is_cut_off",
    "queries_from_the_context",
    "context_reshaped_by_the_querys_length",
    "projections_are_detached",
    "values_from_x",
)
@for_all(x=doubles("batch query (heads d)"), context=doubles("batch key (heads d)"), heads=axis("heads"), examples=4)
def test_gradients_pass_through_all_heads(impl: Heads, x: Tensor, context: Tensor, heads: int) -> None:
    """The gradients of x and of the context are the true derivatives.

    Hint: is anything cut off by `.detach()`, `.data` or `torch.no_grad()`?
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval().double()
    assert gradients_are_derivatives(attention, x, context)


@rejects("dropout_in_evaluation", "dropout_is_forgotten")
@for_all(x="batch position (heads d)", heads=axis("heads"), examples=4)
def test_dropout_is_for_training_alone(impl: Heads, x: Tensor, heads: int) -> None:
    """Two training passes differ, and in evaluation the result is exactly that without dropout.

    Source: Vaswani et al. 2017, §5.4.

    Hint: functional dropout needs `training=self.training`; scaled_dot_product_attention has no idea of eval().
    """
    x = torch.cat([x] * 8)
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, dropout=0.5))
    plain = impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(attention.parameters()).detach(), plain.parameters())
    assert not torch.equal(attention(x), attention(x))
    assert_close(attention.eval()(x), plain(x))


@rejects("scales_by_sqrt_length", "rotary_turns_values", "rotary_turns_queries_alone")
@for_all(x="batch position (heads d 2)", pad="batch start (heads d 2)", heads=axis("heads"), examples=4)
def test_rotary_heads_know_distances_alone(impl: Heads, x: Tensor, pad: Tensor, heads: int) -> None:
    """With rotary, hidden tokens in front move the sequence along and change nothing.

    Queries and keys are turned by their positions, so their product knows the distance between them; values are not.

    Source: Su et al. 2021, §3.2.

    Hint: turn queries and keys after the split, and leave the values alone.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, rotary=True)).eval()
    shift = pad.shape[1]
    visible = torch.arange(shift + x.shape[1]) >= shift
    late = attention(torch.cat([pad, x], 1), mask=visible.expand(len(visible), -1))
    assert_close(late[:, shift:], attention(x), atol=1e-4, rtol=1e-4)


@rejects(
    "self_attention_is_always_causal",
    "rotary_is_ignored",
    "rotary_by_the_number_of_the_head",
    "output_layer_is_missing",
)
@for_all(x="batch (2 position) (heads d 2)", heads=axis("heads"), examples=4)
def test_rotary_heads_see_order(impl: Heads, x: Tensor, heads: int) -> None:
    """With rotary, the order of the tokens matters; without it, it does not.

    Source: Su et al. 2021.

    Hint: `rotary(query)` returns the turned queries; are they used?
    """
    order = torch.arange(x.shape[1]).roll(1)
    x = x + 2 * randn(*x.shape)
    plain = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    rotary = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, rotary=True)).eval()
    assert_close(plain(x[:, order]), plain(x)[:, order], atol=1e-4, rtol=1e-4)
    longer = torch.cat([x, -x, x + 1], 1)
    assert not torch.allclose(rotary(longer.flip(1)), rotary(longer).flip(1), atol=1e-4)


@rejects(
    "scales_by_sqrt_d_model", "scales_by_sqrt_length", "heads_share_one_small_projection", "output_layer_is_a_diagonal"
)
@for_all(x=doubles("batch (2 position) (heads 2 d)"), heads=axis("heads"), d_k=[None, 9], examples=5)
def test_the_scores_of_a_head_are_divided_by_sqrt_d_k(impl: Heads, x: Tensor, heads: int, d_k: int | None) -> None:
    """Inside the module, too, scores are divided by √d_k, the size of a head's query, and not by √d_model.

    With one number c in every matrix, all heads see c · (the sum of a token's channels) in all their channels, however
    the weights are named and laid out. So what comes out is known.

    Source: Vaswani et al. 2017, §3.2.1 and §3.2.2.

    Hint: after the split the last axis is d_k: `q.shape[-1] ** 0.5`.
    """
    sizes: dict[str, Any] = {} if d_k is None else {"d_k": d_k}
    attention = impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, **sizes).double().eval()
    matrix, sums = 0.3, x.sum(-1) / x.shape[-1] ** 0.5
    size, d_v = d_k or x.shape[-1] // heads, x.shape[-1] // heads
    with torch.no_grad():
        for parameter in attention.parameters():  # as large as a matrix: some keep all weights in one vector
            weights = parameter.ndim > 1 or parameter.numel() >= heads * size * x.shape[-1]
            parameter.fill_(matrix if weights else 0.0)
    right = []
    for shift, last in ((0.0, 0.0), (matrix, 0.0), (matrix, matrix)):  # biases may have two axes, or be in the vector
        seen = matrix * sums + shift
        scores = math.sqrt(size) * rearrange(seen, "b query -> b query 1") * rearrange(seen, "b key -> b 1 key")
        found = einsum(scores.softmax(-1), seen, "b query key, b key -> b query")
        right.append((heads * d_v * matrix * found + last)[..., None].expand_as(x))
    out = attention(x / x.shape[-1] ** 0.5)
    assert_close(out, nearest(out, right), atol=1e-6, rtol=1e-6)


@same_weights
@rejects("d_k_is_ignored", "values_have_the_size_of_queries", "heads_share_keys_and_values")
@for_all(x="batch query (6 d)", heads=[2, 3], d_k=axis("d_k"), d_v=axis("d_v"), bias=[True, False], examples=6)
def test_four_matrices_have_their_shapes(impl: Heads, x: Tensor, heads: int, d_k: int, d_v: int, bias: bool) -> None:
    """Query and key map d_model to heads · d_k, value to heads · d_v, and output maps that back to d_model.

    Source: Vaswani et al. 2017, §3.2.2.

    Hint: four `nn.Linear`: query, key, value, output; torch stores a weight as (outputs, inputs).
    """
    d_model = x.shape[-1]
    attention = impl.MultiHeadAttention(d_model=d_model, heads=heads, d_k=d_k, d_v=d_v, bias=bias).eval()
    give(attention, random_state(_shapes(d_model, heads, d_k, d_v, bias)))
    due = sum(math.prod(shape) for shape in _shapes(d_model, heads, d_k, d_v, bias).values())
    assert sum(parameter.numel() for parameter in attention.parameters()) == due


def _shapes(d_model: int, heads: int, d_k: int, d_v: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """The canonical parameters of an attention."""
    sizes = {
        "query": (heads * d_k, d_model),
        "key": (heads * d_k, d_model),
        "value": (heads * d_v, d_model),
        "output": (d_model, heads * d_v),
    }
    shifts: dict[str, tuple[int, ...]] = {f"{name}.bias": size[:1] for name, size in sizes.items() if bias}
    return {f"{name}.weight": size for name, size in sizes.items()} | shifts


@same_weights
@rejects(
    "keys_from_the_query_projection",
    "scales_by_sqrt_d_model",
    "averages_the_heads",
    "heads_must_divide_d_model_always",
    "d_k_is_ignored",
    "values_have_the_size_of_queries",
)
@for_all(
    x="batch query d_model", context="batch key d_model", heads=[2, 3], d_k=axis("d_k"), d_v=axis("d_v"), examples=5
)
def test_the_output_is_the_sum_of_the_heads_shares(
    impl: Heads, x: Tensor, context: Tensor, heads: int, d_k: int, d_v: int
) -> None:
    """Each head attends with its own rows of query, key and value, and its columns of output add to the result.

    Source: Vaswani et al. 2017, §3.2.2.

    Hint: the scale is √d_k, of one head; head h owns rows h · d_k to (h + 1) · d_k.
    """
    attention = impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, d_k=d_k, d_v=d_v).eval()
    state = random_state(_shapes(x.shape[-1], heads, d_k, d_v))
    give(attention, state)
    q, k, v = (
        each @ rearrange(state[f"{name}.weight"], "(head d) d_model -> head 1 d_model d", head=heads)
        + rearrange(state[f"{name}.bias"], "(head d) -> head 1 1 d", head=heads)
        for name, each in (("query", x), ("key", context), ("value", context))
    )
    weights = (einsum(q, k, "head batch query d, head batch key d -> head batch query key") / d_k**0.5).softmax(-1)
    back = rearrange(state["output.weight"], "d_model (head d) -> head d d_model", head=heads)
    shares = einsum(weights, v, back, "head batch query key, head batch key d, head d d_model -> batch query d_model")
    assert_close(attention(x, context), shares + state["output.bias"], atol=1e-4, rtol=1e-4)


@same_weights
@rejects(
    "scales_by_sqrt_d_model",
    "softmax_over_heads",
    "heads_share_one_question",
    "deals_channels_like_cards",
    "output_layer_is_missing",
    "output_layer_is_a_diagonal",
)
@for_all(
    x="batch query (heads d)",
    context="batch key (heads d)",
    heads=axis("heads"),
    mask=booleans("query key"),
    examples=5,
)
def test_equals_torchs_multihead_attention(impl: Heads, x: Tensor, context: Tensor, heads: int, mask: Tensor) -> None:
    """With the same weights it gives what `torch.nn.MultiheadAttention` gives.

    Mind its mask, which is True where a query may NOT look.

    Hint: compare without a mask and with one head first.
    """
    mask = mask | (torch.arange(context.shape[1]) == 0)
    d_model = x.shape[-1]
    state = random_state(_shapes(d_model, heads, d_model // heads, d_model // heads))
    attention = impl.MultiHeadAttention(d_model=d_model, heads=heads).eval()
    give(attention, state)
    theirs = _torchs(d_model, heads, state)
    assert_close(attention(x), theirs(x, x, x)[0], atol=1e-4, rtol=1e-4)
    expected = theirs(x, context, context, attn_mask=~mask)[0]
    assert_close(attention(x, context, mask=mask), expected, atol=1e-4, rtol=1e-4)


def _torchs(d_model: int, heads: int, state: dict[str, Tensor]) -> nn.MultiheadAttention:
    """torch's module with canonical weights."""
    theirs = nn.MultiheadAttention(d_model, heads, batch_first=True)
    own = {
        f"in_proj_{kind}": torch.cat([state[f"{name}.{kind}"] for name in ("query", "key", "value")])
        for kind in ("weight", "bias")
    }
    theirs.load_state_dict(own | {f"out_proj.{kind}": state[f"output.{kind}"] for kind in ("weight", "bias")})
    return theirs


@same_weights
@rejects("heads_share_one_question", "queries_are_not_projected", "rotary_before_the_split")
@for_all(x="batch position (heads d 2)", heads=axis("heads"), examples=4)
def test_rotary_turns_every_head_alike(impl: Heads, x: Tensor, heads: int) -> None:
    """With rotary, heads that exchange their weights exchange nothing else: the output stays.

    Turned before the split, the first heads would get the fast angles and the last heads the slow ones.

    Source: Su et al. 2021, §3.2.2.

    Hint: split first, then turn: `rotary(split_heads(…))`.
    """
    d_model = x.shape[-1]
    attention = impl.MultiHeadAttention(d_model=d_model, heads=heads, rotary=True).eval()
    state = random_state(_shapes(d_model, heads, d_model // heads, d_model // heads))
    give(attention, state)
    out = attention(x)
    give(attention, {name: _roll_heads(name, value, d_model // heads) for name, value in state.items()})
    assert_close(attention(x), out, atol=1e-4, rtol=1e-4)


def _roll_heads(name: str, value: Tensor, d: int) -> Tensor:
    """Hands each head's weights to the next."""
    return value if name == "output.bias" else value.roll(d, -1 if name == "output.weight" else 0)


@same_weights
@rejects(
    "scales_by_sqrt_d_model",
    "rotary_is_ignored",
    "rotary_before_the_split",
    "rotary_turns_values",
    "rotary_turns_queries_alone",
    "keys_are_turned_queries",
    "rotary_by_the_number_of_the_head",
)
@for_all(x="batch position (heads 2)", heads=axis("heads"), examples=4)
def test_rotary_turns_queries_and_keys_by_their_position(impl: Heads, x: Tensor, heads: int) -> None:
    """With d_k = 2, a query and a key at positions m and n agree as if one were turned by m − n radians.

    Source: Su et al. 2021, §3.2.1, equation 12.

    Hint: queries AND keys are turned, each by its own position.
    """
    state = random_state(_shapes(2 * heads, heads, 2, 2), scale=0.6)
    attention = impl.MultiHeadAttention(d_model=2 * heads, heads=heads, rotary=True).eval()
    give(attention, state)
    q, k, v = (
        rearrange(x @ state[f"{name}.weight"].T + state[f"{name}.bias"], "b p (h d) -> b h p d", h=heads)
        for name in ("query", "key", "value")
    )
    turn = torch.arange(x.shape[1]).float()
    q, k = (torch.view_as_complex(each.contiguous()) * torch.exp(1j * turn) for each in (q, k))
    scores = einsum(q, k.conj(), "b h query, b h key -> b h query key").real / math.sqrt(2)
    expected = rearrange(scores.softmax(-1) @ v, "b h p d -> b p (h d)")
    expected = expected @ state["output.weight"].T + state["output.bias"]
    assert_close(attention(x), expected, atol=1e-4, rtol=1e-4)


@rejects("bias_read_as_batch", "mask_filled_into_the_callers_bias", "answers_in_float32")
@for_all(x="batch position (heads d)", heads=axis("heads"), dtype=[torch.float64, torch.bfloat16], examples=5)
def test_a_converted_module_keeps_the_dtype(impl: Heads, x: Tensor, heads: int, dtype: torch.dtype) -> None:
    """After `.to(dtype)`, float64 and bfloat16 come back as what went in, mask and bias or not.

    Hint: what is made inside, like a scale or a mask of numbers, has to follow the input's type: `.to(x.dtype)`.
    """
    attention = impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads).to(dtype).eval()
    mask, bias = lower_triangle(x.shape[1]), randn(heads, x.shape[1], x.shape[1]).to(dtype)
    assert attention(x.to(dtype)).dtype == dtype
    assert attention(x.to(dtype), mask=mask).dtype == dtype
    assert attention(x.to(dtype), mask=mask, bias=bias).dtype == dtype


@rejects("mask_cut_to_the_number_of_heads", "mask_filled_into_the_callers_bias")
@for_all(x="batch position (heads d)", heads=axis("heads"), examples=5)
def test_heads_leave_their_inputs_alone(impl: Heads, x: Tensor, heads: int) -> None:
    """x, context, mask and bias are the same afterwards.

    Hint: `scores = scores + bias` makes a new tensor; `masked_fill_` on the caller's bias does not.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    given = [x, x + 1, lower_triangle(x.shape[1]), randn(x.shape[1], x.shape[1])]
    before = [each.clone() for each in given]
    attention(given[0], given[1], mask=given[2], bias=given[3])
    for now, then in zip(given, before, strict=True):
        assert torch.equal(now, then)


@robust
@rejects("cuts_the_rest_off", "heads_need_not_divide_d_model", "refuses_without_numbers", "splits_axes_by_number")
@for_all(x="batch position (heads d)", heads=axis("heads"))
def test_errors_of_the_heads_name_the_numbers(impl: Heads, x: Tensor, heads: int) -> None:
    """The error names both numbers: the channels, and the heads that do not divide them.

    The learner who reads it is three modules away from the line that raised it.

    Hint: `raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")`
    """
    more = torch.cat([x, x[..., :1]], -1)
    assert refuses(lambda: impl.split_heads(more, heads), more.shape[-1], heads)
    assert refuses(lambda: impl.MultiHeadAttention(d_model=more.shape[-1], heads=heads), more.shape[-1], heads)


@robust
@rejects("first_querys_mask_for_all", "nan_where_heads_see_nothing", "zeros_behind_a_nan")
@for_all(x="batch position (heads d)", heads=axis("heads"), examples=5)
def test_a_query_that_sees_nothing_stays_finite(impl: Heads, x: Tensor, heads: int) -> None:
    """A query with nothing visible gives finite numbers and finite gradients, and disturbs no other row.

    Such rows are real: the padding of a batch. One NaN in a gradient spoils every weight.

    Hint: the softmax over −∞ alone is NaN; fill its weights with 0, or use scaled_dot_product_attention.
    """
    attention = perturb(impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads)).eval()
    mask = torch.ones(len(x), x.shape[1], x.shape[1], dtype=torch.bool)
    mask[0, 0] = False
    out = attention(x, mask=mask)
    assert_close(out[:, 1:], attention(x)[:, 1:])
    assert finite(out, *torch.autograd.grad(out.square().sum(), list(attention.parameters()), materialize_grads=True))
    biased = attention(x, mask=mask, bias=randn(x.shape[1], x.shape[1]))
    assert finite(
        biased, *torch.autograd.grad(biased.square().sum(), list(attention.parameters()), materialize_grads=True)
    )


@robust
@rejects(
    "dropout_is_forgotten",
    "dropout_on_the_heads_results",
    "dropout_before_the_softmax",
    "skip_inside_attention",
    "output_keeps_its_bias",
)
@for_all(heads=[2, 3], d=[4, 5], examples=3)
def test_dropout_drops_weights(impl: Heads, heads: int, d: int) -> None:
    """Dropout acts on the attention weights: a head whose only weight is dropped says nothing at all.

    Dropped weights make a query miss a key; dropped channels would make every key look different.

    Hint: dropout stands between the softmax and the product with the values.
    """
    x = randn(200, 1, heads * d)
    attention = perturb(impl.MultiHeadAttention(d_model=heads * d, heads=heads, bias=False, dropout=0.5))
    silent = (attention(x) == 0).all(-1)
    assert silent.any()
    assert not silent.all()


@robust
@rejects("mask_read_as_heads", "padding_mask_is_reshaped", "mask_is_asked_for_its_value")
@for_all(
    x="batch position (heads d 2)",
    heads=axis("heads"),
    rotary=[False, True],
    mask=booleans("batch 1 position"),
    examples=4,
)
def test_heads_stay_on_their_device(impl: Heads, x: Tensor, heads: int, rotary: bool, mask: Tensor) -> None:
    """All heads stay on the input's device, and no value is read back by Python.

    The meta device has shapes and no numbers: a tensor made on the CPU does not fit, `if mask.all()` has no answer.

    Hint: `device=x.device`; no `.item()`, no `if` on a tensor.
    """
    attention = impl.MultiHeadAttention(d_model=x.shape[-1], heads=heads, rotary=rotary).to("meta")
    bias = randn(x.shape[1], x.shape[1]).to("meta")
    assert attention(x.to("meta"), mask=mask.to("meta"), bias=bias).device.type == "meta"
