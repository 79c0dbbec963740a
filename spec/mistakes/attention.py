"""What goes wrong in scaled dot-product attention."""

import math

import torch
from einops import einsum
from torch import Tensor

from reference.attention import attention, attention_weights
from spec.mistakes import instead_of


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return einsum(q, k, "... query d_k, ... key d_k -> ... query key") / math.sqrt(q.shape[-1])


def _hide(scores: Tensor, mask: Tensor | None, bias: Tensor | None, hidden: float = -math.inf) -> Tensor:
    scores = scores if bias is None else scores + bias
    return scores if mask is None else scores.masked_fill(~mask, hidden)


def _share(scores: Tensor, mask: Tensor | None, axis: int = -1) -> Tensor:
    weights = scores.softmax(axis)
    return weights if mask is None else weights.masked_fill(~mask, 0.0)


def _fetch(weights: Tensor, v: Tensor) -> Tensor:
    return einsum(weights, v, "... query key, ... key d_v -> ... query d_v")


@instead_of(attention_weights)
def softmax_over_queries(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The softmax runs over the queries. It must run over the keys, so that the weights of each query sum to one."""
    return _share(_hide(_scores(q, k), mask, bias), mask, -2)


@instead_of(attention_weights)
def softmax_over_axis_one(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The softmax runs over axis 1, which are the queries where there are three axes. The keys are axis −1, always."""
    return _share(_hide(_scores(q, k), mask, bias), mask, 1 if q.ndim > 2 else -1)


@instead_of(attention_weights)
def softmax_over_batch(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The softmax runs over the first axis, which is the batch. It must run over the last one, the keys."""
    return _share(_hide(_scores(q, k), mask, bias), mask, 0)


@instead_of(attention_weights)
def sigmoid_weights(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The weights are sigmoids of the scores, which do not sum to one. A softmax over the keys is due."""
    return _hide(_scores(q, k), mask, bias).sigmoid()


@instead_of(attention_weights)
def weights_without_softmax(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scores are returned as weights. The softmax over the keys is missing."""
    return _hide(_scores(q, k), mask, bias, 0.0)


@instead_of(attention_weights)
def does_not_scale(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scores are not scaled. They must be divided by √d_k, the root of the size of one query."""
    return attention_weights(q * math.sqrt(q.shape[-1]), k, mask, bias)


@instead_of(attention_weights)
def divides_by_d_k(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scores are divided by d_k. They must be divided by its square root."""
    return attention_weights(q / math.sqrt(q.shape[-1]), k, mask, bias)


@instead_of(attention_weights)
def scales_by_length(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scale is the root of the number of keys. It must be √d_k, or a prefix changes when the sequence grows."""
    return attention_weights(q * math.sqrt(q.shape[-1] / k.shape[-2]), k, mask, bias)


@instead_of(attention_weights)
def scales_by_a_fixed_number(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scores are divided by 8, which is √d_k for d_k = 64 alone. `q.shape[-1]` gives the size that is there."""
    return attention_weights(q * math.sqrt(q.shape[-1]) / 8, k, mask, bias)


@instead_of(attention_weights)
def scale_is_rounded(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """√d_k is rounded down to a whole number, by int() or `//`. It is right only where d_k is a square, like 64."""
    return attention_weights(q * math.sqrt(q.shape[-1]) / math.isqrt(q.shape[-1]), k, mask, bias)


@instead_of(attention_weights)
def multiplies_by_sqrt_d_k(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scores are multiplied by √d_k. They must be divided by it."""
    return attention_weights(q * q.shape[-1], k, mask, bias)


@instead_of(attention_weights)
def scales_after_softmax(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scale is applied to the weights, after the softmax. It belongs to the scores, before it."""
    raw = attention_weights(q * math.sqrt(q.shape[-1]), k, mask, bias)
    return raw / math.sqrt(q.shape[-1])


@instead_of(attention_weights)
def bias_is_ignored(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The bias is not used. It is added to the scaled scores."""
    return attention_weights(q, k, mask)


@instead_of(attention_weights)
def bias_before_the_scale(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The bias is added before the scores are scaled, so it is divided by √d_k too. Scale first, then add it."""
    smaller = None if bias is None else bias / math.sqrt(q.shape[-1])
    return attention_weights(q, k, mask, smaller)


@instead_of(attention_weights)
def bias_after_softmax(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The bias is added to the weights, after the softmax. It belongs to the scores, before it."""
    weights = attention_weights(q, k, mask)
    return weights if bias is None else weights + bias


@instead_of(attention_weights)
def mask_is_ignored(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The mask hides nothing: it is not used, or hidden scores get a tiny number added (1e-15 where −∞ was meant). They
    must become −∞ before the softmax.
    """
    return attention_weights(q, k, None, bias)


@instead_of(attention_weights)
def mask_is_inverted(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The mask is upside down. True means 'may look'; nn.MultiheadAttention means the opposite."""
    return attention_weights(q, k, None if mask is None else ~mask, bias)


@instead_of(attention_weights)
def masked_score_is_zero(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Hidden scores are set to 0, and exp(0) = 1 still gets weight. They must become −∞ before the softmax."""
    return _hide(_scores(q, k), mask, bias, 0.0).softmax(-1)


@instead_of(attention_weights)
def masked_by_a_small_number(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Hidden scores are set to a small number that is not low enough, like −1. They must become −∞ before the
    softmax.
    """
    return _hide(_scores(q, k), mask, bias, -1.0).softmax(-1)


@instead_of(attention_weights)
def mask_after_softmax(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The mask is applied after the softmax, so the weights that stay no longer sum to one. Hide the scores before
    it.
    """
    weights = attention_weights(q, k, None, bias)
    return weights if mask is None else weights * mask


@instead_of(attention_weights)
def mask_for_the_first_sequence(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The first sequence's mask is used for the whole batch. Each sequence has its own."""
    return attention_weights(q, k, mask[:1] if mask is not None and mask.ndim > 2 else mask, bias)


@instead_of(attention_weights)
def mask_by_query_rows(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The mask is turned: it hides queries where it should hide keys. Its last axis belongs to the keys."""
    turned = mask if mask is None or mask.shape[-1] != mask.shape[-2] else mask.transpose(-2, -1)
    return attention_weights(q, k, turned, bias)


@instead_of(attention_weights)
def mask_gets_an_axis_too_many(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The mask gets an axis of its own (`unsqueeze(1)`), so its queries are read as heads. It broadcasts as it is."""
    return attention_weights(q, k, None if mask is None else mask.unsqueeze(-3 if mask.ndim > 2 else 1), bias)


@instead_of(attention_weights)
def mask_gets_an_axis_for_the_heads(
    q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """With four axes a mask of rank 3 gets one for the heads, so its heads are read as a batch. That is a matter for
    MultiHeadAttention.
    """
    guessed = mask.unsqueeze(1) if mask is not None and mask.ndim == 3 and q.ndim == 4 else mask
    return attention_weights(q, k, guessed, bias)


@instead_of(attention_weights)
def needs_a_batch_axis(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The batch axis is taken for granted. Leading axes may be none, one or several: use `...` or negative axes."""
    return attention_weights(q.flatten(0, -3), k.flatten(0, -3), mask, bias).reshape(*q.shape[:-1], k.shape[-2])


@instead_of(attention_weights)
def keys_are_reshaped(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The keys are brought into the shape (d_k, key) by view or reshape, which deals their numbers out anew. Swap the
    axes: `k.transpose(-2, -1)`.
    """
    scores = q @ k.reshape(*k.shape[:-2], k.shape[-1], k.shape[-2]) / math.sqrt(q.shape[-1])
    return _share(_hide(scores, mask, bias), mask)


@instead_of(attention_weights)
def transposes_fixed_axes(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Axes 1 and 2 are swapped by number, which are query and d_k for three axes only. Use transpose(-2, -1)."""
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    return _share(_hide(scores, mask, bias), mask)


@instead_of(attention_weights)
def does_not_subtract_the_maximum(
    q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """exp(scores) / exp(scores).sum() overflows above 88. Subtract the largest score first, as torch's softmax does."""
    powers = _hide(_scores(q, k), mask, bias).exp()
    return powers / powers.sum(-1, keepdim=True)


@instead_of(attention_weights)
def subtracts_one_maximum_for_all(
    q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The largest of all scores is subtracted, so that rows far below it vanish. Each row has a largest of its own."""
    scores = _hide(_scores(q, k), mask, bias)
    shares = (scores - scores.amax()).exp()
    return shares / shares.sum(-1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)


@instead_of(attention_weights)
def one_maximum_makes_nan(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The largest of all scores is subtracted, and a row far below it becomes 0/0. Each row has a largest of its own:
    `amax(-1, keepdim=True)`.
    """
    scores = _hide(_scores(q, k), mask, bias)
    shares = (scores - scores.amax()).exp()
    return shares / shares.sum(-1, keepdim=True)


@instead_of(attention_weights)
def clamps_the_scores(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scores are clamped so that exp does not overflow, and large ones become equal. Subtract the maximum
    instead.
    """
    return _share(_hide(_scores(q, k).clamp(-50, 50), mask, bias), mask)


@instead_of(attention_weights)
def scores_are_detached(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scores are cut from the graph, by .detach(), .data or torch.tensor: no gradient reaches queries and keys."""
    return attention_weights(q.detach(), k.detach(), mask, bias)


@instead_of(attention_weights)
def keys_are_detached(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The keys are cut from the graph, so their projection never learns."""
    return attention_weights(q, k.detach(), mask, bias)


@instead_of(attention_weights)
def queries_attend_to_themselves(
    q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The scores are q·q: queries are compared with queries, and the keys are not used."""
    return attention_weights(q, q if q.shape == k.shape else k.flip(-2), mask, bias)


@instead_of(attention_weights)
def weights_ignore_the_keys(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """All keys get the same weight, whatever they are: the scores are not used."""
    return attention_weights(q * 0, k, mask, bias)


@instead_of(attention_weights)
def position_matters(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Where a key stands changes its weight. Attention sees a set of keys; order comes from positions alone."""
    nearer = torch.linspace(0, 1, k.shape[-2]).to(q)
    return attention_weights(q, k, mask, nearer if bias is None else bias + nearer)


@instead_of(attention_weights)
def computes_in_float32(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The weights are computed in float32 and not turned back: the result has another dtype than the input."""
    return attention_weights(q.float(), k.float(), mask, None if bias is None else bias.float())


@instead_of(attention_weights)
def scales_q_in_place(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """`q /= √d_k` changes the caller's tensor. Write `q = q / √d_k`, or scale the scores."""
    q.detach().div_(math.sqrt(q.shape[-1]))
    return attention_weights(q * math.sqrt(q.shape[-1]), k, mask, bias)


@instead_of(attention_weights)
def bias_gets_the_mask_in_place(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """−∞ is written into the caller's bias. Make a new tensor: `bias.masked_fill(…)`, not `masked_fill_`."""
    if bias is not None and mask is not None:
        bias.expand(*bias.shape).masked_fill_(~mask.expand(bias.shape), -math.inf)
    return attention_weights(q, k, mask, bias)


@instead_of(attention_weights)
def nan_where_nothing_is_visible(
    q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """A row with nothing visible becomes NaN: the softmax of −∞ alone. Fill its weights with 0 afterwards."""
    return _hide(_scores(q, k), mask, bias).softmax(-1)


@instead_of(attention_weights)
def uniform_where_nothing_is_visible(
    q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """A row with nothing visible gets equal weights on all the hidden keys. It must get zeros."""
    return _hide(_scores(q, k), mask, bias, torch.finfo(q.dtype).min).softmax(-1)


@instead_of(attention_weights)
def masked_by_subtraction(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """A large number is subtracted from hidden scores: next to a huge score that is not enough. Replace the score
    instead.
    """
    scores = _hide(_scores(q, k), None, bias)
    return scores.softmax(-1) if mask is None else _share(scores - 1e9 * (~mask).to(scores), mask)


@instead_of(attention_weights)
def masked_by_adding_10000(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Hidden scores are lowered by 10,000, and a score of that size is seen again. Replace them by −∞, or by
    torch.finfo(dtype).min.
    """
    scores = _hide(_scores(q, k), None, bias)
    return (scores if mask is None else scores - 1e4 * (~mask).to(scores)).softmax(-1)


@instead_of(attention_weights)
def masked_by_1e9_in_float16(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """−1e9 does not fit into float16, where the largest number is 65,504. Use −∞ or torch.finfo(dtype).min."""
    return _share(_hide(_scores(q, k), mask, bias, -1e9), mask)


@instead_of(attention_weights)
def scores_before_the_scale_overflow(
    q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The product overflows in float16 before it is divided. That is why d_k's root may be taken from q first."""
    scores = einsum(q * 8, k, "... query d_k, ... key d_k -> ... query key") / 8 / math.sqrt(q.shape[-1])
    return _share(_hide(scores, mask, bias), mask)


@instead_of(attention_weights)
def mask_on_the_cpu(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """A tensor is made on the CPU, whatever device the inputs are on. Pass `device=q.device`."""
    every = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool)
    return attention_weights(q, k, every if mask is None else mask & every, bias)


@instead_of(attention_weights)
def asks_the_host(q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Python asks for a tensor's value (`if mask.all():`, `.item()`), and a GPU has to stop for the answer."""
    return attention_weights(q, k, None if mask is None or mask.all() else mask, bias)


@instead_of(attention)
def scales_by_d_v(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The scale uses the size of a value. It must use the size of a query, d_k."""
    return attention(q * math.sqrt(q.shape[-1] / v.shape[-1]), k, v, mask, bias)


@instead_of(attention)
def scales_once_more(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """attention scales what is scaled already: attention_weights and scaled_dot_product_attention divide by √d_k."""
    return attention(q / math.sqrt(q.shape[-1]), k, v, mask, bias)


@instead_of(attention)
def causal_where_no_mask_is_given(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Without a mask the future is hidden (`is_causal=mask is None`). No mask means that every key may be seen."""
    if mask is None and bias is None:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    return attention(q, k, v, mask, bias)


@instead_of(attention)
def adds_the_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The query is added to the result. The skip belongs to the block; attention returns the average of the values."""
    out = attention(q, k, v, mask, bias)
    return out + q.mean(-1, keepdim=True)


@instead_of(attention)
def sums_instead_of_averaging(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The output is divided by the number of keys, though the weights sum to one already."""
    return attention(q, k, v, mask, bias) / k.shape[-2]


@instead_of(attention)
def values_are_not_weighted(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The weights are not used: every query gets the mean of all values."""
    return attention(q * 0, k, v, mask, None)


@instead_of(attention)
def drops_the_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The mask is taken as an argument and not handed on to the weights."""
    return attention(q, k, v, None, bias)


@instead_of(attention)
def drops_the_bias(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The bias is taken as an argument and not handed on to the weights."""
    return attention(q, k, v, mask)


@instead_of(attention)
def mean_over_the_batch(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The values are averaged over the batch: sequences see each other."""
    return attention(q, k, v.mean(0, keepdim=True).expand_as(v), mask, bias)


@instead_of(attention)
def weights_are_detached(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The weights are cut from the graph: only the values get a gradient, queries and keys never learn."""
    return _fetch(attention_weights(q, k, mask, bias).detach(), v)


@instead_of(attention)
def values_are_detached(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The values are cut from the graph, so their projection never learns."""
    return attention(q, k, v.detach(), mask, bias)


@instead_of(attention)
def values_in_reverse(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Keys and values are paired wrongly: the weight of one key goes to the value of another."""
    return _fetch(attention_weights(q, k, mask, bias), v.roll(1, -2))


@instead_of(attention)
def keys_are_returned(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The weights average the keys. They find where to look by the keys, and fetch the values."""
    return attention(q, k, k[..., : v.shape[-1]] if k.shape[-1] >= v.shape[-1] else v.roll(1, -1), mask, bias)


@instead_of(attention)
def hides_by_zero_values(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The mask is multiplied into the values: hidden keys still take their share of the weights."""
    if mask is None:
        return attention(q, k, v, None, bias)
    return _fetch(attention_weights(q, k, None, bias) * mask, v)


@instead_of(attention)
def output_in_float32(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The output is turned into float32. It must have the dtype of the inputs."""
    return attention(q, k, v, mask, bias).float()


@instead_of(attention)
def query_order_lost(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The queries are answered in sorted order, not in the order in which they came."""
    return attention(q.sort(-2).values, k, v, mask, bias)
