"""What goes wrong in multi-head attention."""

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from reference.heads import MultiHeadAttention, _visible, merge_heads, split_heads
from reference.positions import rotary as rotate
from spec.mistakes import instead_of

Maybe = Tensor | None


@instead_of(split_heads)
def splits_by_view(x: Tensor, heads: int) -> Tensor:
    """The heads are cut by one reshape, without a transpose: they mix with positions, and the future leaks through."""
    return x.reshape(*x.shape[:-2], heads, x.shape[-2], x.shape[-1] // heads)


@instead_of(split_heads)
def deals_channels_like_cards(x: Tensor, heads: int) -> Tensor:
    """The channels are dealt to the heads one by one. Each head gets one slice: the channels are `(head d)`."""
    return rearrange(x, "... position (d head) -> ... head position d", head=heads)


@instead_of(split_heads)
def cuts_the_rest_off(x: Tensor, heads: int) -> Tensor:
    """Channels that do not divide among the heads are left out. That is an error, and has to be one."""
    return split_heads(x[..., : x.shape[-1] // heads * heads], heads)


@instead_of(split_heads)
def every_head_gets_all_channels(x: Tensor, heads: int) -> Tensor:
    """Every head gets all the channels. They are divided: d is the number of channels over the number of heads."""
    return rearrange(x, "... position d -> ... 1 position d").expand(*x.shape[:-2], heads, -1, -1)


@instead_of(split_heads)
def splits_axes_by_number(x: Tensor, heads: int) -> Tensor:
    """Axes 1 and 2 are swapped by number, which are right with one batch axis alone. Use negative axes or `...`."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


@instead_of(split_heads)
def divides_the_positions(x: Tensor, heads: int) -> Tensor:
    """The positions are turned round on their way into the heads. A position stays where it is."""
    return split_heads(x.flip(-2), heads)


@instead_of(split_heads)
def split_is_cut_off(x: Tensor, heads: int) -> Tensor:
    """The split makes a new tensor without a history (`torch.tensor(x)`): no projection gets a gradient."""
    return split_heads(x.detach(), heads)


@instead_of(merge_heads)
def merges_by_view(x: Tensor) -> Tensor:
    """The heads are merged by one reshape, without a transpose: positions mix with heads. Move the axis first."""
    return x.reshape(*x.shape[:-3], x.shape[-2], x.shape[-3] * x.shape[-1])


@instead_of(merge_heads)
def merges_d_before_the_heads(x: Tensor) -> Tensor:
    """The merged channels stand as `(d head)`. They must stand as they were split, `(head d)`."""
    return rearrange(x, "... head position d -> ... position (d head)")


@instead_of(merge_heads)
def merges_axes_by_number(x: Tensor) -> Tensor:
    """When merging, axes 1 and 2 are swapped by number, right with one batch axis alone. Use negative axes or `...`."""
    return x.transpose(1, 2).flatten(-2)


@instead_of(merge_heads)
def merges_the_last_head_first(x: Tensor) -> Tensor:
    """The heads are merged in reverse order. Head 0 has the first channels."""
    return merge_heads(x.flip(-3))


@instead_of(MultiHeadAttention)
class values_from_the_query_projection(MultiHeadAttention):  # noqa: N801
    """The values come out of the queries' projection, and the value matrix never learns."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        query, key, _ = super()._project(x, context)
        return query, key, self.query(x if context is None else context)


@instead_of(MultiHeadAttention)
class keys_from_the_query_projection(MultiHeadAttention):  # noqa: N801
    """The keys come out of the queries' projection (QQᵀ), and the key matrix never learns."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        query, _, value = super()._project(x, context)
        return query, self.query(x if context is None else context), value


@instead_of(MultiHeadAttention)
class context_is_ignored(MultiHeadAttention):  # noqa: N801
    """The context is taken as an argument and not used: x attends to itself."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        return super()._project(x, None)


@instead_of(MultiHeadAttention)
class context_drops_the_mask(MultiHeadAttention):  # noqa: N801
    """With a context the mask is not used, so the padding of the source is seen. It hides there as it does in
    self-attention.
    """

    def forward(self, x: Tensor, context: Maybe = None, mask: Maybe = None, *rest: Any, **more: Any) -> Tensor:
        """The mask for self-attention alone."""
        return super().forward(x, context, mask if context is None else None, *rest, **more)


@instead_of(MultiHeadAttention)
class queries_from_the_context(MultiHeadAttention):  # noqa: N801
    """x and the context are swapped. x asks the questions; keys and values come from the context."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        return super()._project(x if context is None else context, None if context is None else x)


@instead_of(MultiHeadAttention)
class context_reshaped_by_the_querys_length(MultiHeadAttention):  # noqa: N801
    """Keys and values are reshaped with the length of x. The context has a length of its own."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        query, key, value = super()._project(x, context)
        return query, *(each.reshape(*x.shape[:2], -1) for each in (key, value))


@instead_of(MultiHeadAttention)
class cuts_the_context_to_the_querys_length(MultiHeadAttention):  # noqa: N801
    """The context is cut to the length of x, and its end is never looked at."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        return super()._project(x, None if context is None else context[:, : x.shape[1]])


@instead_of(MultiHeadAttention)
class heads_share_one_projection(MultiHeadAttention):  # noqa: N801
    """All heads use the first head's projections, so they see and say the same. Each has projections of its own."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        first = (split_heads(each, self.heads)[:, :1] for each in super()._project(x, context))
        return tuple(merge_heads(each.expand(-1, self.heads, -1, -1)) for each in first)


@instead_of(MultiHeadAttention)
class heads_share_one_small_projection(MultiHeadAttention):  # noqa: N801
    """The input is cut into heads first, and one small layer (d_k → d_k) serves them all. Every head has projections of
    its own, and reads all of d_model.
    """

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        super().__init__(d_model, heads, None, None, **rest)
        size, shifts = d_model // heads, self.query.bias is not None
        self.query, self.key, self.value = (nn.Linear(size, size, bias=shifts) for _ in range(3))

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        context = x if context is None else context
        asked = ((self.query, x), (self.key, context), (self.value, context))
        return tuple(merge_heads(layer(split_heads(each, self.heads))) for layer, each in asked)


@instead_of(MultiHeadAttention)
class heads_share_one_question(MultiHeadAttention):  # noqa: N801
    """All heads use the first head's queries and keys, so they all look at the same. Each has its own."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        query, key, value = super()._project(x, context)
        first = (split_heads(each, self.heads)[:, :1] for each in (query, key))
        return *(merge_heads(each.expand(-1, self.heads, -1, -1)) for each in first), value


@instead_of(MultiHeadAttention)
class heads_share_keys_and_values(MultiHeadAttention):  # noqa: N801
    """There is one key and one value projection for all heads, of d_k and d_v rows. Each head has its own."""

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        super().__init__(d_model, heads, d_k, d_v, **rest)
        shifts = self.query.bias is not None
        self.key = nn.Linear(d_model, self.key.out_features // heads, bias=shifts)
        self.value = nn.Linear(d_model, self.value.out_features // heads, bias=shifts)

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        query, key, value = super()._project(x, context)
        return query, key.repeat(1, 1, self.heads), value.repeat(1, 1, self.heads)


@instead_of(MultiHeadAttention)
class projections_are_detached(MultiHeadAttention):  # noqa: N801
    """Queries and keys are cut from the graph, by .detach(), .data or torch.tensor: their projections never learn."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        query, key, value = super()._project(x, context)
        return query.detach(), key.detach(), value


@instead_of(MultiHeadAttention)
class queries_are_not_projected(MultiHeadAttention):  # noqa: N801
    """x is used as the queries as it is. They are a projection of x, as keys and values are."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        query, key, value = super()._project(x, context)
        return x if x.shape == query.shape else query, key, value


@instead_of(MultiHeadAttention)
class mask_read_as_heads(MultiHeadAttention):  # noqa: N801
    """A mask (batch, query, key) broadcasts with its batch axis on the heads. It needs an axis for the heads first."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, mask if mask is None or mask.ndim != 3 else mask[None], bias)


@instead_of(MultiHeadAttention)
class mask_repeated_in_the_wrong_order(MultiHeadAttention):  # noqa: N801
    """Heads are folded into the batch and the masks repeated in another order (`repeat`), so a head gets another
    sequence's. `repeat_interleave` keeps them together.
    """

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, repeated(mask, len(query), self.heads), bias)


def repeated(mask: Maybe, batch: int, heads: int) -> Maybe:
    """A mask of rank 3 for all heads of all sequences, which are not in this order."""
    if mask is None or mask.ndim != 3:
        return mask
    tiled = mask.expand(batch, -1, -1).repeat(heads, 1, 1)
    return rearrange(tiled, "(batch head) query key -> batch head query key", head=heads)


@instead_of(MultiHeadAttention)
class first_sequences_mask_for_all(MultiHeadAttention):  # noqa: N801
    """The first sequence's mask hides in the whole batch. Each sequence has its own."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, mask if mask is None or mask.ndim < 3 else mask[:1], bias)


@instead_of(MultiHeadAttention)
class first_heads_mask_for_all(MultiHeadAttention):  # noqa: N801
    """The first head's mask hides in all heads. A mask of rank 4 has one for each."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, mask if mask is None or mask.ndim < 4 else mask[:, :1], bias)


@instead_of(MultiHeadAttention)
class first_querys_mask_for_all(MultiHeadAttention):  # noqa: N801
    """The mask's first row hides for all queries. Each query has its own row."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, None if mask is None else mask[..., :1, :], bias)


@instead_of(MultiHeadAttention)
class padding_mask_is_reshaped(MultiHeadAttention):  # noqa: N801
    """The mask is reshaped to (query, key), as if none of its axes could be 1. It broadcasts as it is."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        if mask is not None:
            mask = mask.reshape(*mask.shape[:-2], query.shape[-2], key.shape[-2])
        return super()._attend(query, key, value, mask, bias)


@instead_of(MultiHeadAttention)
class mask_is_not_handed_on(MultiHeadAttention):  # noqa: N801
    """The mask is taken as an argument and does not reach the scores."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, None, bias)


@instead_of(MultiHeadAttention)
class mask_hides_what_it_should_show(MultiHeadAttention):  # noqa: N801
    """The module's mask is upside down. True means 'may look'; nn.MultiheadAttention means the opposite."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, None if mask is None else ~mask, bias)


@instead_of(MultiHeadAttention)
class mask_cut_to_the_number_of_heads(MultiHeadAttention):  # noqa: N801
    """The mask is sliced by the number of heads, where the length was meant."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        if mask is not None:
            mask = mask[..., : self.heads, : self.heads]
        return super()._attend(query, key, value, mask, bias)


@instead_of(MultiHeadAttention)
class self_attention_is_always_causal(MultiHeadAttention):  # noqa: N801
    """Without a context the future is hidden, asked or not. The mask alone says who may look where."""

    def forward(
        self, x: Tensor, context: Maybe = None, mask: Maybe = None, bias: Maybe = None, cache: Any = None
    ) -> Tensor:
        """Hides the future where no mask is given."""
        if context is None and mask is None:
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        return super().forward(x, context, mask, bias, cache)


@instead_of(MultiHeadAttention)
class bias_is_not_handed_on(MultiHeadAttention):  # noqa: N801
    """The bias is taken as an argument and does not reach the scores."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, mask, None)


@instead_of(MultiHeadAttention)
class bias_read_as_batch(MultiHeadAttention):  # noqa: N801
    """A bias (head, query, key) is given to sequences instead of heads: it got an axis that only a mask needs."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        if bias is not None and bias.ndim == 3:
            bias = rearrange(bias, "batch query key -> batch 1 query key")
        return super()._attend(query, key, value, mask, bias)


@instead_of(MultiHeadAttention)
class mask_forgotten_beside_a_bias(MultiHeadAttention):  # noqa: N801
    """With a bias the mask is not used: what it hides is seen again. Both act together."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, mask if bias is None else None, bias)


@instead_of(MultiHeadAttention)
class mask_filled_into_the_callers_bias(MultiHeadAttention):  # noqa: N801
    """The module writes −∞ into the caller's bias. Make a new tensor: `bias.masked_fill(…)`."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        if bias is not None and mask is not None and mask.ndim == 2:
            bias.masked_fill_(~mask, -math.inf)
        return super()._attend(query, key, value, mask, bias)


@instead_of(MultiHeadAttention)
class scales_by_sqrt_d_model(MultiHeadAttention):  # noqa: N801
    """The scores are divided by √d_model. It must be √d_k, the size of one head's query."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        scale = math.sqrt(query.shape[-1] / self.query.in_features)
        return super()._attend(query * scale, key, value, mask, bias)


@instead_of(MultiHeadAttention)
class scales_by_sqrt_length(MultiHeadAttention):  # noqa: N801
    """The scores are divided by the root of the length. It must be √d_k, or a growing sequence changes its prefix."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        scale = math.sqrt(query.shape[-1] / key.shape[-2])
        return super()._attend(query * scale, key, value, mask, bias)


def _weights(
    module: MultiHeadAttention, query: Tensor, key: Tensor, mask: Maybe, bias: Maybe, axis: int = -1
) -> Tensor:
    """The explicit formula, without a care for rows where nothing is visible."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    visible = _visible(mask, bias, query)
    if visible is not None:
        scores = scores.masked_fill(~visible, -math.inf) if visible.dtype == torch.bool else scores + visible
    return F.dropout(scores.softmax(axis), module.dropout, module.training)


@instead_of(MultiHeadAttention)
class values_from_x(MultiHeadAttention):  # noqa: N801
    """The values are made from x. With a context, keys and values both come from it."""

    def forward(
        self, x: Tensor, context: Maybe = None, mask: Maybe = None, bias: Maybe = None, cache: Any = None
    ) -> Tensor:
        """Explicit, since torch's kernel does not check that there are as many values as keys."""
        query, key, _ = (split_heads(each, self.heads) for each in self._project(x, context))
        if self.rotary:
            query, key = rotate(query), rotate(key)
        value = split_heads(self.value(x), self.heads)
        out: Tensor = self.output(merge_heads(_weights(self, query, key, mask, bias) @ value))
        return out


@instead_of(MultiHeadAttention)
class softmax_over_heads(MultiHeadAttention):  # noqa: N801
    """The softmax runs over the heads. It runs over the keys, in each head alone."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        weights = _weights(self, query, key, None, bias, axis=1)
        visible = _visible(mask, None, query)
        return (weights if visible is None else weights * visible) @ value


@instead_of(MultiHeadAttention)
class nan_where_heads_see_nothing(MultiHeadAttention):  # noqa: N801
    """The module gives NaN where a query sees nothing: the softmax of −∞ alone. Fill its weights with 0 afterwards."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return _weights(self, query, key, mask, bias) @ value


@instead_of(MultiHeadAttention)
class zeros_behind_a_nan(MultiHeadAttention):  # noqa: N801
    """NaN is replaced in the result (`nan_to_num`), and its gradient stays NaN. Fill the weights before using them."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return (_weights(self, query, key, mask, bias) @ value).nan_to_num(0.0)


@instead_of(MultiHeadAttention)
class averages_the_heads(MultiHeadAttention):  # noqa: N801
    """The heads' results are averaged. They stand side by side, and the output layer weighs them."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        out = super()._attend(query, key, value, mask, bias)
        return out.mean(1, keepdim=True).expand_as(out)


@instead_of(MultiHeadAttention)
class sequences_and_heads_unfold_wrongly(MultiHeadAttention):  # noqa: N801
    """Batch and heads are folded into one axis and unfolded in the other order, so sequences get each other's heads."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        folded = super()._attend(query, key, value, mask, bias).flatten(0, 1)
        return rearrange(folded, "(head batch) query d -> batch head query d", head=self.heads)


@instead_of(MultiHeadAttention)
class dropout_in_evaluation(MultiHeadAttention):  # noqa: N801
    """Dropout stays on in evaluation: functional dropout needs `training=self.training`."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, _visible(mask, bias, query), dropout_p=self.dropout)


@instead_of(MultiHeadAttention)
class dropout_is_forgotten(MultiHeadAttention):  # noqa: N801
    """The dropout is taken as an argument and never used."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, _visible(mask, bias, query))


@instead_of(MultiHeadAttention)
class dropout_on_the_heads_results(MultiHeadAttention):  # noqa: N801
    """Dropout acts on the heads' results, channel by channel. It acts on the weights, so that whole keys are missed."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        out = F.scaled_dot_product_attention(query, key, value, _visible(mask, bias, query))
        return F.dropout(out, self.dropout, self.training)


@instead_of(MultiHeadAttention)
class dropout_before_the_softmax(MultiHeadAttention):  # noqa: N801
    """Dropout acts on the scores, where a zero is no absence. It acts on the weights, after the softmax."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        query = F.dropout(query, self.dropout, self.training)
        return F.scaled_dot_product_attention(query, key, value, _visible(mask, bias, query))


class _Turns(MultiHeadAttention):
    """The right forward with the turning in a step of its own."""

    def forward(
        self, x: Tensor, context: Maybe = None, mask: Maybe = None, bias: Maybe = None, cache: Any = None
    ) -> Tensor:
        """Project, split, turn, attend, merge, mix."""
        query, key, value = (split_heads(each, self.heads) for each in self._project(x, context))
        if self.rotary:
            query, key, value = self._turn(query, key, value)
        out: Tensor = self.output(merge_heads(self._attend(query, key, value, mask, bias)))
        return out

    def _turn(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rotate(query), rotate(key), value


@instead_of(MultiHeadAttention)
class rotary_is_ignored(_Turns):  # noqa: N801
    """Rotary is asked for and nothing is turned, or the turned queries and keys are not used."""

    def _turn(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return query, key, value


@instead_of(MultiHeadAttention)
class rotary_before_the_split(_Turns):  # noqa: N801
    """Queries and keys are turned before they are split, so the first heads get fast angles and the last slow ones."""

    def _turn(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole = (split_heads(rotate(merge_heads(each)), self.heads) for each in (query, key))
        return *whole, value  # type: ignore[return-value]


@instead_of(MultiHeadAttention)
class rotary_turns_values(_Turns):  # noqa: N801
    """The values are turned too. Positions belong to the question of where to look: to queries and keys alone."""

    def _turn(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rotate(query), rotate(key), rotate(value)


@instead_of(MultiHeadAttention)
class rotary_turns_queries_alone(_Turns):  # noqa: N801
    """The queries are turned and the keys are not, so the product knows a position and not a distance."""

    def _turn(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rotate(query), key, value


@instead_of(MultiHeadAttention)
class keys_are_turned_queries(_Turns):  # noqa: N801
    """The turned queries are used as keys: a slip of the pen in `key = rotary(query)`."""

    def _turn(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rotate(query), rotate(query), value


@instead_of(MultiHeadAttention)
class rotary_by_the_number_of_the_head(_Turns):  # noqa: N801
    """The angle grows with the number of the head. Move the heads in front before turning: positions are axis −2."""

    def _turn(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return rotate(query.transpose(1, 2)).transpose(1, 2), rotate(key.transpose(1, 2)).transpose(1, 2), value


@instead_of(MultiHeadAttention)
class skip_inside_attention(MultiHeadAttention):  # noqa: N801
    """x is added to the result inside the module. The skip belongs to the block, which would add it twice."""

    def forward(
        self, x: Tensor, context: Maybe = None, mask: Maybe = None, bias: Maybe = None, cache: Any = None
    ) -> Tensor:
        """The right result, and x."""
        return x + super().forward(x, context, mask, bias, cache)


@instead_of(MultiHeadAttention)
class output_layer_is_missing(_Turns):  # noqa: N801
    """The heads' results are returned side by side. The output layer, which mixes them, is not used."""

    def forward(
        self, x: Tensor, context: Maybe = None, mask: Maybe = None, bias: Maybe = None, cache: Any = None
    ) -> Tensor:
        """Project, split, attend, merge."""
        query, key, value = (split_heads(each, self.heads) for each in self._project(x, context))
        return merge_heads(self._attend(query, key, value, mask, bias))


class _Diagonal(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out = x * self.weight.diagonal()
        return out if self.bias is None else out + self.bias


@instead_of(MultiHeadAttention)
class output_layer_is_a_diagonal(MultiHeadAttention):  # noqa: N801
    """The output layer's einsum names both axes alike (`d d`), which takes the diagonal: heads are not mixed. A matrix
    has two axes of different names.
    """

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        super().__init__(d_model, heads, d_k, d_v, **rest)
        self.output = _Diagonal(self.output.in_features, d_model, bias=self.output.bias is not None)


@instead_of(MultiHeadAttention)
class batch_read_as_positions(MultiHeadAttention):  # noqa: N801
    """(batch, position, d_model) is read as (position, batch, d_model), as nn.MultiheadAttention does it without
    `batch_first=True`: sequences see each other, and their tokens do not.
    """

    def forward(
        self, x: Tensor, context: Maybe = None, mask: Maybe = None, bias: Maybe = None, cache: Any = None
    ) -> Tensor:
        """Over the first axis."""
        context = None if context is None else context.transpose(0, 1)
        return super().forward(x.transpose(0, 1), context, mask, bias).transpose(0, 1)


@instead_of(MultiHeadAttention)
class answers_in_float32(MultiHeadAttention):  # noqa: N801
    """The result is turned into float32. It has the dtype of the input."""

    def forward(
        self, x: Tensor, context: Maybe = None, mask: Maybe = None, bias: Maybe = None, cache: Any = None
    ) -> Tensor:
        """The right result in another dtype."""
        return super().forward(x, context, mask, bias, cache).float()


@instead_of(MultiHeadAttention)
class mask_is_asked_for_its_value(MultiHeadAttention):  # noqa: N801
    """Python asks for the mask's value (`if mask.all():`), and a GPU has to stop for the answer."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Maybe, bias: Maybe) -> Tensor:
        return super()._attend(query, key, value, None if mask is None or mask.all() else mask, bias)


@instead_of(MultiHeadAttention)
class heads_need_not_divide_d_model(MultiHeadAttention):  # noqa: N801
    """d_model / heads is rounded down without a word. Heads that do not divide d_model are an error."""

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        super().__init__(d_model, heads, d_k or d_model // heads, d_v or d_model // heads, **rest)


@instead_of(MultiHeadAttention)
class refuses_without_numbers(MultiHeadAttention):  # noqa: N801
    """The error does not say which numbers do not fit. Name them: d_model and heads."""

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        if d_model % heads and (d_k is None or d_v is None):
            raise ValueError("d_model is not divisible by heads")
        super().__init__(d_model, heads, d_k, d_v, **rest)


@instead_of(MultiHeadAttention)
class heads_must_divide_d_model_always(MultiHeadAttention):  # noqa: N801
    """The heads are reshaped with d_model / heads, even where d_k and d_v are given. Use d_k and d_v themselves."""

    def _project(self, x: Tensor, context: Maybe) -> tuple[Tensor, ...]:
        size = (*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        query, key, value = super()._project(x, context)
        return query.reshape(size).flatten(-2), key, value


@instead_of(MultiHeadAttention)
class d_k_is_ignored(MultiHeadAttention):  # noqa: N801
    """d_k and d_v are taken as arguments, and d_model / heads is used all the same."""

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        super().__init__(
            d_model, heads, None if d_model % heads == 0 else d_k, None if d_model % heads == 0 else d_v, **rest
        )


@instead_of(MultiHeadAttention)
class values_have_the_size_of_queries(MultiHeadAttention):  # noqa: N801
    """d_v is ignored, and d_k used in its place. A value may have another size than a query."""

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        super().__init__(d_model, heads, d_k, d_k, **rest)


@instead_of(MultiHeadAttention)
class values_follow_the_queries_size(MultiHeadAttention):  # noqa: N801
    """Where d_k alone is given, d_v becomes d_k as well. It stays d_model / heads."""

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        super().__init__(d_model, heads, d_k, d_k if d_v is None else d_v, **rest)


@instead_of(MultiHeadAttention)
class output_keeps_its_bias(MultiHeadAttention):  # noqa: N801
    """With bias=False the output layer keeps its bias. All four layers go without."""

    def __init__(self, d_model: int, heads: int, d_k: int | None = None, d_v: int | None = None, **rest: Any) -> None:
        super().__init__(d_model, heads, d_k, d_v, **rest)
        self.output = nn.Linear(self.output.in_features, d_model)
