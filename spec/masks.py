"""# Masks

A mask says who may look at whom: True where a query may look at a key. A decoder must not see the future, nobody should
see padding, and a window keeps attention local. Masks combine by `&`:

    causal[i, j] = (j ≤ i),  padding[j] = (token j is no padding),  window[i, j] = (0 ≤ i − j < window)

Source: Vaswani et al. 2017, §3.2.3; the Deep Learning Curriculum, chapter 1.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from spec.kit.close import assert_close
from spec.kit.draw import axis, for_all, integers, tokens
from spec.kit.marks import rejects, robust
from spec.kit.probe import lower_triangle, who_sees_whom


class Masks(Protocol):
    """What an implementation of this chapter offers."""

    def causal_mask(
        self, queries: int, keys: int | None = None, device: torch.device | str | None = None
    ) -> Bool[Tensor, "query key"]:
        """Itself and all before it."""
        ...

    def padding_mask(self, tokens: Int[Tensor, "batch position"], pad: int) -> Bool[Tensor, "batch 1 key"]:
        """The keys that are no padding."""
        ...

    def window_mask(
        self, length: int, window: int, device: torch.device | str | None = None
    ) -> Bool[Tensor, "query key"]:
        """The last `window` positions, itself included."""
        ...


def _attention_under(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """Torch's own attention of a sequence to itself."""
    return lambda x: F.scaled_dot_product_attention(x, x, x, mask)


def _twice(mask: Tensor) -> Tensor:
    """Who is reached by looking twice, as through two layers."""
    return (mask.float() @ mask.float()) > 0


@rejects(
    "causal_mask_hides_nothing",
    "causal_mask_shows_the_future",
    "causal_mask_shows_the_first_token_to_nobody",
    "causal_mask_of_a_fixed_size",
    "causal_mask_hides_itself_but_for_the_first",
)
@for_all(length=axis("position"))
def test_a_position_sees_itself_and_all_before(impl: Masks, length: int) -> None:
    """In the causal mask every position sees itself and all positions before it, and none after.

    A model that predicts the next token must not see it; everything before is what it predicts from.

    Source: Vaswani et al. 2017, §3.2.3.

    Hint: the lower triangle, diagonal included: `torch.ones(n, n, dtype=torch.bool).tril()`.
    """
    assert_close(impl.causal_mask(length), lower_triangle(length))


@rejects(
    "causal_mask_upside_down",
    "causal_mask_hides_the_position_itself",
    "causal_mask_shows_the_next_token",
    "causal_mask_shows_the_previous_token_alone",
    "causal_mask_of_floats",
    "causal_mask_of_ones_and_zeros",
)
@for_all(length=axis("position"))
def test_looking_twice_reaches_no_further(impl: Masks, length: int) -> None:
    """Looking through a causal mask twice reaches no further than looking once.

    So any number of layers stays causal. One future token visible would become two in two layers, and a mask that hides
    the position itself would lose one a layer.

    Hint: the diagonal is visible, what is above it is not.
    """
    mask = impl.causal_mask(length)
    assert_close(_twice(mask), mask)


@rejects(
    "causal_mask_hides_nothing",
    "causal_mask_upside_down",
    "causal_mask_shows_the_future",
    "causal_mask_hides_the_position_itself",
    "causal_mask_shows_the_next_token",
    "causal_mask_shows_the_first_token_to_nobody",
    "causal_mask_shows_the_previous_token_alone",
)
@for_all(x="1 position d_k")
def test_the_jacobian_of_causal_attention_is_lower_triangular(impl: Masks, x: Tensor) -> None:
    """The output of causal attention at a position depends on that position and all before, and on nothing else.

    This is the whole picture of who sees whom, read off the gradients and not off the mask.

    Source: Vaswani et al. 2017, §3.2.3.

    Hint: True means 'may look'; nn.MultiheadAttention means the opposite.
    """
    picture = who_sees_whom(_attention_under(impl.causal_mask(x.shape[1])), x)
    assert_close(picture, lower_triangle(x.shape[1]))


@rejects(
    "causal_mask_aligned_at_the_start",
    "causal_mask_forgets_the_keys",
    "causal_mask_shows_all_to_a_remembering_decoder",
    "causal_mask_shows_the_next_token_after_a_past",
    "causal_diagonal_moves_the_other_way",
)
@for_all(queries=axis("query"), past=[0, 1, 3, 6])
def test_queries_are_the_last_positions(impl: Masks, queries: int, past: int) -> None:
    """With more keys than queries, the queries are the last positions: their rows are the last of the full mask.

    A decoder that remembers its keys asks for the newest positions only, and these may see all that was before.

    Hint: query i is position keys − queries + i.
    """
    keys = queries + past
    assert_close(impl.causal_mask(queries, keys), lower_triangle(keys)[past:])


@rejects(
    "causal_mask_aligned_at_the_start",
    "causal_mask_forgets_the_keys",
    "causal_mask_of_a_fixed_size",
    "causal_diagonal_moves_the_other_way",
)
@for_all(keys=axis("key"))
def test_the_newest_position_sees_everything(impl: Masks, keys: int) -> None:
    """A single query sees all keys, as the last position does.

    Generation asks for one position at a time; hiding what came before would make it forget its prompt.

    Hint: a triangle that is aligned at the top left shows it the first key alone.
    """
    assert_close(impl.causal_mask(1, keys), torch.ones(1, keys, dtype=torch.bool))


@rejects(
    "padding_mask_upside_down",
    "padding_mask_on_the_query_axis",
    "padding_mask_hides_nothing",
    "padding_mask_takes_zero_for_padding",
    "padding_mask_hides_smaller_ids",
    "padding_mask_of_the_first_sequence",
    "padding_mask_counts_from_the_left",
)
@for_all(tokens=integers("batch position", below="vocab"), pad=[0, 1, 4])
def test_padding_is_hidden_from_every_query(impl: Masks, tokens: Tensor, pad: int) -> None:
    """The padding mask is False for every key that is padding, wherever it stands, and True for all others.

    Its query axis has size 1: what is padding is padding for every query.

    Hint: `(tokens != pad)[:, None, :]`; which id means padding is told by `pad`.
    """
    assert_close(impl.padding_mask(tokens, pad), (tokens != pad)[:, None, :])


@rejects(
    "padding_mask_upside_down",
    "padding_mask_on_the_query_axis",
    "padding_mask_hides_nothing",
    "padding_mask_takes_zero_for_padding",
    "padding_mask_counts_from_the_left",
)
@for_all(x="1 length d_k", filler="1 extra d_k", pad=[0, 3], left=[False, True])
def test_padding_does_not_matter(impl: Masks, x: Tensor, filler: Tensor, pad: int, left: bool) -> None:
    """A sequence gets the same outputs with padding as without, on whichever side it is padded.

    Padding only makes sequences of one batch equally long; what stands there must not be seen.

    Hint: the mask hides keys: its last axis is the axis of the keys.
    """
    ids, pads = tokens(5, 1, x.shape[1]) + 5, torch.full((1, filler.shape[1]), pad)
    padded, ids = (torch.cat(pair[::-1] if left else pair, 1) for pair in ((x, filler), (ids, pads)))
    out = F.scaled_dot_product_attention(padded, padded, padded, impl.padding_mask(ids, pad))
    assert_close(out[ids != pad][None], F.scaled_dot_product_attention(x, x, x))


@rejects(
    "window_to_both_sides",
    "window_hides_only_the_far_past",
    "window_is_ignored",
    "window_of_the_oldest",
    "window_wraps_around",
    "window_is_halved",
)
@for_all(length=axis("position"), window=[1, 2, 3, 5, 20])
def test_a_window_ends_at_the_position_itself(impl: Masks, length: int, window: int) -> None:
    """In a window mask a position sees itself and the window − 1 positions before it.

    Cost then grows with the window and not with the length.

    Source: Beltagy et al. 2020, §3.1.

    Hint: 0 ≤ i − j < window, where i is the query and j the key.
    """
    back = torch.arange(length)[:, None] - torch.arange(length)
    assert_close(impl.window_mask(length, window), (back >= 0) & (back < window))


@rejects(
    "window_one_too_wide",
    "window_one_too_narrow",
    "window_without_the_position_itself",
    "window_to_both_sides",
    "window_hides_only_the_far_past",
    "window_is_ignored",
    "window_cut_into_blocks",
    "window_wraps_around",
    "window_is_empty_at_the_start",
)
@for_all(length=axis("position"), window=[1, 2, 4, 9])
def test_a_window_is_full_as_soon_as_it_can_be(impl: Masks, length: int, window: int) -> None:
    """Each position sees as many keys as the window has, or as many as there are up to itself.

    The first positions have little to look at; from then on everyone sees equally much.

    Hint: the position itself counts: window 1 sees nothing else.
    """
    seen = impl.window_mask(length, window).sum(-1)
    assert_close(seen, torch.arange(1, length + 1).clamp_max(window))


@rejects(
    "window_one_too_narrow",
    "window_without_the_position_itself",
    "window_to_both_sides",
    "window_hides_only_the_far_past",
)
@for_all(length=axis("position"), more=[0, 1, 10])
def test_a_window_as_long_as_the_text_is_causal(impl: Masks, length: int, more: int) -> None:
    """A window that is at least as long as the sequence is the causal mask.

    Then the limit is never reached, and only the future is hidden.

    Hint: a window looks back only; cut it by the causal mask.
    """
    assert_close(impl.window_mask(length, length + more), impl.causal_mask(length))


@rejects(
    "window_one_too_wide",
    "window_one_too_narrow",
    "window_without_the_position_itself",
    "window_cut_into_blocks",
    "window_of_the_oldest",
    "window_mask_of_floats",
    "window_is_empty_at_the_start",
)
@for_all(length=axis("position"), window=[1, 2, 3, 4])
def test_two_layers_double_a_windows_reach(impl: Masks, length: int, window: int) -> None:
    """Through two layers with a window of w a position sees 2w − 1 positions.

    Layer by layer information comes from farther away, though each layer looks only near.

    Source: Beltagy et al. 2020, §3.1.

    Hint: one layer reaches window − 1 positions back.
    """
    assert_close(_twice(impl.window_mask(length, window)), impl.window_mask(length, 2 * window - 1))


@rejects("padding_mask_hides_smaller_ids", "padding_mask_of_the_first_sequence")
@for_all(x="batch position d_k", tokens=integers("batch position", below=3))
def test_masks_combine_by_and(impl: Masks, x: Tensor, tokens: Tensor) -> None:
    """Causal & padding shows a key where both do, for each sequence of the batch.

    A batch of texts of different lengths is decoded so: neither the future nor the padding is seen.

    Hint: both are Boolean, and (query, key) & (batch, 1, key) is (batch, query, key).
    """
    tokens[:, 0] = 1  # a row with nothing visible is another requirement's subject
    mask = impl.causal_mask(x.shape[1]) & impl.padding_mask(tokens, 2)
    own = torch.eye(x.shape[1], dtype=torch.bool)  # a query always depends on itself
    for row, seen in enumerate(mask):
        picture = who_sees_whom(_attention_under(seen), x[:1])
        assert_close(picture | own, lower_triangle(x.shape[1]) & (tokens[row] != 2) | own)


@rejects(
    "causal_mask_of_floats",
    "causal_mask_of_ones_and_zeros",
    "padding_mask_on_the_query_axis",
    "padding_mask_without_a_query_axis",
    "padding_mask_writes_into_the_tokens",
    "window_mask_of_floats",
)
@for_all(length=axis("position"), tokens=integers("batch position", below=3))
def test_masks_are_boolean_on_the_cpu(impl: Masks, length: int, tokens: Tensor) -> None:
    """Masks are Boolean and on the CPU, unless a device is given.

    A float mask of ones and zeros is added to the scores by torch, which hides nothing.

    Hint: a comparison is Boolean by itself; `torch.ones(…)` needs `dtype=torch.bool`.
    """
    for mask in (impl.causal_mask(length), impl.padding_mask(tokens, 0), impl.window_mask(length, 2)):
        assert (mask.dtype, mask.device.type) == (torch.bool, "cpu")


@rejects("padding_mask_on_the_query_axis", "padding_mask_without_a_query_axis", "padding_mask_writes_into_the_tokens")
@for_all(tokens=integers("batch position", below="vocab"))
def test_padding_mask_leaves_the_tokens_alone(impl: Masks, tokens: Tensor) -> None:
    """The tokens are the same after their padding mask is made.

    They are still to be embedded.

    Hint: compare; do not write.
    """
    before = tokens.clone()
    impl.padding_mask(tokens, 1)
    assert torch.equal(tokens, before)


@robust
@rejects("causal_mask_always_on_the_cpu", "padding_mask_on_the_cpu", "window_mask_always_on_the_cpu")
@for_all(length=axis("position"))
def test_masks_are_made_on_the_device(impl: Masks, length: int) -> None:
    """Masks are made on the device that is asked for, the padding mask on that of its tokens.

    A mask that is made on the CPU and copied over makes a GPU wait at every step.

    Hint: `torch.arange(…, device=device)`; the meta device stands for any other here.
    """
    assert impl.causal_mask(length, length + 2, device="meta").device.type == "meta"
    assert impl.window_mask(length, 2, device="meta").device.type == "meta"
    assert impl.padding_mask(tokens(5, 2, length).to("meta"), 0).device.type == "meta"
