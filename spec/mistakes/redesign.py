"""What goes wrong in redesigned blocks."""

import math
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from reference.heads import merge_heads, split_heads
from reference.redesign import PAFormerBlock, ParallelBlock, ShapedAttention, SimplifiedBlock, _AdaptiveAttention, _mean
from spec.mistakes import instead_of
from spec.mistakes.heads import repeated

Maybe = Tensor | None


# --- side by side


class _Parallel(ParallelBlock):
    """The right block, with its two sides apart."""

    def _see(self, normed: Tensor, mask: Maybe) -> Tensor:
        return self.attention(normed, mask=mask)

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """x, what is seen and what is thought."""
        normed = self.norm_1(x)
        return x + self.dropout(self._see(normed, mask) + self.feed_forward(normed))


@instead_of(ParallelBlock)
class network_reads_what_attention_found(_Parallel):  # noqa: N801
    """The network reads what the attention has found. In a parallel block both read the same normed input."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """In turn, with the one norm."""
        x = x + self.dropout(self._see(self.norm_1(x), mask))
        return x + self.dropout(self.feed_forward(self.norm_1(x)))


@instead_of(ParallelBlock)
class parallel_without_a_skip(ParallelBlock):  # noqa: N801
    """The parallel block has no skip: x is replaced by what the two sides say. It is x + attention(n) + network(n)."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """The two sides alone."""
        return super().forward(x, mask) - x


@instead_of(ParallelBlock)
class parallel_skips_the_normed_input(ParallelBlock):  # noqa: N801
    """The parallel block's skip takes norm(x) instead of x."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """n instead of x."""
        return super().forward(x, mask) - x + self.norm_1(x)


@instead_of(ParallelBlock)
class parallel_network_reads_the_raw_stream(_Parallel):  # noqa: N801
    """The network reads x and not norm(x). The one norm serves both sides."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """A network without a norm."""
        return x + self.dropout(self._see(self.norm_1(x), mask) + self.feed_forward(x))


@instead_of(ParallelBlock)
class parallel_norms_twice_for_the_network(_Parallel):  # noqa: N801
    """The network's input is normed once more, by the same norm: at the start it changes nothing, later it does."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """The norm of a norm."""
        normed = self.norm_1(x)
        return x + self.dropout(self._see(normed, mask) + self.feed_forward(self.norm_1(normed)))


@instead_of(ParallelBlock)
class a_norm_for_each_side(_Parallel):  # noqa: N801
    """Attention and network have a norm each. A parallel block has one, and both sides read its result."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__(d_model, heads, d_ff, dropout)
        self.norm_2 = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """With two norms."""
        return x + self.dropout(self._see(self.norm_1(x), mask) + self.feed_forward(self.norm_2(x)))


@instead_of(ParallelBlock)
class fused_parts_change_places(ParallelBlock):  # noqa: N801
    """The fused product is cut in another order than its weights were joined in: keys and values change places."""

    def _project(self, normed: Tensor) -> tuple[Tensor, ...]:
        query, key, value, hidden = super()._project(normed)
        return query, value, key, hidden


@instead_of(ParallelBlock)
class fused_projection_without_biases(ParallelBlock):  # noqa: N801
    """The weights are joined for the fused product, and the biases are forgotten."""

    def _project(self, normed: Tensor) -> tuple[Tensor, ...]:
        layers = (self.attention.query, self.attention.key, self.attention.value, self.feed_forward.up)
        return tuple(F.linear(normed, layer.weight) for layer in layers)


@instead_of(ParallelBlock)
class parallel_drops_the_mask(ParallelBlock):  # noqa: N801
    """The parallel block takes the mask and does not use it: the future is seen."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Without the mask."""
        return super().forward(x)


@instead_of(ParallelBlock)
class parallel_mask_read_as_heads(ParallelBlock):  # noqa: N801
    """A mask (batch, query, key) is broadcast as it is in the parallel block, so its batch is read as heads."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """With an axis in the wrong place."""
        return super().forward(x, mask[None] if mask is not None and mask.ndim == 3 else mask)


@instead_of(ParallelBlock)
class parallel_mask_repeated_in_the_wrong_order(ParallelBlock):  # noqa: N801
    """The parallel block repeats the masks for the heads in another order (`repeat`) than that of sequences and heads:
    a head gets another sequence's. `repeat_interleave` keeps them together.
    """

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """As nn.MultiheadAttention does not want it."""
        return super().forward(x, repeated(mask, len(x), self.attention.heads))


@instead_of(ParallelBlock)
class parallel_drops_in_evaluation(_Parallel):  # noqa: N801
    """The parallel block's dropout stays on in evaluation: `F.dropout` needs `training=self.training`."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """F.dropout with its own default."""
        normed = self.norm_1(x)
        return x + F.dropout(self._see(normed, mask) + self.feed_forward(normed), self.dropout.p)


@instead_of(ParallelBlock)
class parallel_never_drops(ParallelBlock):  # noqa: N801
    """The parallel block's dropout is taken as an argument and never used."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__(d_model, heads, d_ff)


@instead_of(ParallelBlock)
class parallel_spreads_nan(ParallelBlock):  # noqa: N801
    """A row with nothing visible becomes NaN in the parallel block: a softmax over −∞ alone."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """NaN where nothing is visible."""
        out = super().forward(x, mask)
        return out if mask is None or mask.ndim != 3 else out.masked_fill(~mask.any(-1, keepdim=True), math.nan)


@instead_of(ParallelBlock)
class redesign_adds_in_place(ParallelBlock):  # noqa: N801
    """`x += …` changes the tensor of whoever called the block. Write `x = x + …`."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Into the caller's x."""
        out = super().forward(x, mask)
        x.detach().copy_(out.detach())
        return out


@instead_of(ParallelBlock)
class redesign_knows_positions(ParallelBlock):  # noqa: N801
    """The parallel block adds something that depends on the place in the sequence. Positions come in by the model."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """With a ramp along the sequence."""
        return super().forward(x, mask) + 0.01 * torch.arange(x.shape[1], device=x.device)[:, None].to(x)


# --- shaped attention


def _axes(mask: Maybe) -> Maybe:
    return rearrange(mask, "batch query key -> batch 1 query key") if mask is not None and mask.ndim == 3 else mask


class _Shaped(ShapedAttention):
    """The right attention, all of it by its matrix: a wrong one replaces a part."""

    def _scores(self, x: Tensor) -> Tensor:
        query, key = self._look(x)
        return query @ key.mT / math.sqrt(query.shape[-1])

    def _shares(self, scores: Tensor, mask: Maybe) -> Tensor:
        """Softmax over the visible, zeros where there are none."""
        if mask is None:
            return scores.softmax(-1)
        return scores.masked_fill(~mask, -math.inf).softmax(-1).masked_fill(~mask, 0.0)

    def _uniform(self, scores: Tensor, mask: Maybe) -> Tensor:
        return self._shares(torch.zeros_like(scores), mask)

    def _plain(self) -> list[Tensor]:
        return [rearrange(gain, "head -> head 1 1") for gain in (self.alpha, self.beta, self.gamma)]

    def matrix(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """The formula."""
        scores, mask = self._scores(x), _axes(mask)
        alpha, beta, gamma = self._plain()
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return alpha * identity + (beta * self._shares(scores, mask) - gamma * self._uniform(scores, mask))

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """The matrix times the values."""
        return merge_heads(self.matrix(x, mask) @ self._value(x))


@instead_of(ShapedAttention)
class queries_start_at_random(ShapedAttention):  # noqa: N801
    """The queries' matrix starts like any layer's. It starts at 0, so that all scores are 0 and the matrix is I."""

    def _start(self) -> None:
        super()._start()
        nn.init.normal_(self.query.weight, std=0.5)


@instead_of(ShapedAttention)
class query_bias_starts_at_random(ShapedAttention):  # noqa: N801
    """The queries' bias starts like any layer's. It starts at 0 with their matrix: a query of its own has scores."""

    def _start(self) -> None:
        super()._start()
        nn.init.normal_(self.query.bias, std=10.0)


@instead_of(ShapedAttention)
class keys_start_at_zero(ShapedAttention):  # noqa: N801
    """The keys start at 0 as the queries do, so neither ever gets a gradient. The keys start at N(0, 0.02)."""

    def _start(self) -> None:
        super()._start()
        nn.init.zeros_(self.key.weight)


@instead_of(ShapedAttention)
class keys_start_like_any_layer(ShapedAttention):  # noqa: N801
    """The keys' matrix starts as `nn.Linear` makes it. Published is N(0, 0.02)."""

    def _start(self) -> None:
        super()._start()
        self.key.reset_parameters()


@instead_of(ShapedAttention)
class no_uniform_part(_Shaped):  # noqa: N801
    """C is forgotten: alpha · I + beta · softmax. At the start the softmax is C, and without −gamma · C it averages."""

    def _uniform(self, scores: Tensor, mask: Maybe) -> Tensor:
        return 0 * scores


@instead_of(ShapedAttention)
class uniform_over_the_hidden_too(_Shaped):  # noqa: N801
    """C is taken over all positions, the hidden ones too. It is the softmax of zero scores under the same mask."""

    def _uniform(self, scores: Tensor, mask: Maybe) -> Tensor:
        return super()._uniform(scores, None)


@instead_of(ShapedAttention)
class uniform_part_is_kept(_Shaped):  # noqa: N801
    """C is computed for the first mask of a length and kept for the next ones. Every call has a mask of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept: dict[int, Tensor] = {}

    def _uniform(self, scores: Tensor, mask: Maybe) -> Tensor:
        if scores.shape[-1] not in self.kept:
            self.kept[scores.shape[-1]] = super()._uniform(torch.zeros_like(scores[:1, :1]), mask).detach()
        return self.kept[scores.shape[-1]]


@instead_of(ShapedAttention)
class uniform_by_the_length(_Shaped):  # noqa: N801
    """C is 1/length for every visible position. It is one over the number of the visible ones: 1/i for the first i."""

    def _uniform(self, scores: Tensor, mask: Maybe) -> Tensor:
        return super()._uniform(scores, None) if mask is None else super()._uniform(scores, None) * mask


@instead_of(ShapedAttention)
class uniform_is_added(_Shaped):  # noqa: N801
    """gamma · C is added. It is subtracted, to take off what the softmax of zero scores adds."""

    def _uniform(self, scores: Tensor, mask: Maybe) -> Tensor:
        return -super()._uniform(scores, mask)


@instead_of(ShapedAttention)
class uniform_in_float32(_Shaped):  # noqa: N801
    """C is made in float32, whatever comes in, so the result is float32 too or an error: `dtype=x.dtype`."""

    def matrix(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """As it comes out of torch.ones."""
        out = super().matrix(x, mask)
        return out + 0 * torch.ones(x.shape[1], x.shape[1], device=x.device)


@instead_of(ShapedAttention)
class uniform_on_the_cpu(_Shaped):  # noqa: N801
    """The identity is made on the CPU, wherever the input is: `device=x.device`."""

    def matrix(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """torch.eye without a device."""
        return super().matrix(x, mask) + 0 * torch.eye(x.shape[1], dtype=x.dtype)


@instead_of(ShapedAttention)
class gains_shared_by_all_heads(_Shaped):  # noqa: N801
    """alpha, beta and gamma are one number for all heads. Every head has its own three."""

    def _plain(self) -> list[Tensor]:
        return [gain[:1] for gain in (self.alpha, self.beta, self.gamma)]


@instead_of(ShapedAttention)
class gains_are_fixed(ShapedAttention):  # noqa: N801
    """alpha, beta and gamma are constants. They are parameters, and each head learns how much it mixes."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, first_layer)
        for name in ("alpha", "beta", "gamma"):
            delattr(self, name)
            self.register_buffer(name, torch.ones(heads), persistent=False)


@instead_of(ShapedAttention)
class gains_change_places(_Shaped):  # noqa: N801
    """alpha multiplies the softmax and beta the identity. It is alpha · I + beta · softmax − gamma · C."""

    def _plain(self) -> list[Tensor]:
        alpha, beta, gamma = super()._plain()
        return [beta, alpha, gamma]


@instead_of(ShapedAttention)
class beta_scales_the_uniform_part_too(_Shaped):  # noqa: N801
    """The matrix is alpha · I + beta · (softmax − gamma · C), and beta scales C too. beta scales the softmax alone."""

    def _plain(self) -> list[Tensor]:
        alpha, beta, gamma = super()._plain()
        return [alpha, beta, beta * gamma]


@instead_of(ShapedAttention)
class scaled_by_sqrt_d_model(_Shaped):  # noqa: N801
    """The scores are divided by √d_model. √d_k is due, d_k = d_model / heads being the size of one query."""

    def _scores(self, x: Tensor) -> Tensor:
        return super()._scores(x) / math.sqrt(self.heads)


@instead_of(ShapedAttention)
class shaped_softmax_over_queries(_Shaped):  # noqa: N801
    """The shaped attention's softmax runs over the queries. It runs over the keys, the last axis."""

    def _shares(self, scores: Tensor, mask: Maybe) -> Tensor:
        if mask is None:
            return scores.softmax(-2)
        return scores.masked_fill(~mask, -math.inf).softmax(-2).masked_fill(~mask, 0.0)


@instead_of(ShapedAttention)
class shaped_weights_are_masked_late(_Shaped):  # noqa: N801
    """The mask acts after the softmax, so the rows of softmax and C no longer sum to one. Hide the scores instead."""

    def _shares(self, scores: Tensor, mask: Maybe) -> Tensor:
        return scores.softmax(-1) if mask is None else scores.softmax(-1) * mask


@instead_of(ShapedAttention)
class shaped_scores_are_detached(_Shaped):  # noqa: N801
    """The softmax is cut from the graph: queries and keys never learn."""

    def _shares(self, scores: Tensor, mask: Maybe) -> Tensor:
        return super()._shares(scores, mask).detach()


@instead_of(ShapedAttention)
class matrix_is_the_softmax_alone(ShapedAttention):  # noqa: N801
    """`matrix` returns the softmax. The identity and C belong to what multiplies the values, so to it too."""

    def matrix(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Without identity and C."""
        query, key = self._look(x)
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        mask = _axes(mask)
        return scores.softmax(-1) if mask is None else scores.masked_fill(~mask, -math.inf).softmax(-1)


@instead_of(ShapedAttention)
class shaped_values_are_projected(_Shaped):  # noqa: N801
    """The values are projected in every layer. A shaped attention averages each head's slice of its input as it is."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, first_layer)
        self.values = nn.Linear(d_model, d_model, bias=False)

    def _value(self, x: Tensor) -> Tensor:
        return split_heads(self.values(x), self.heads)


@instead_of(ShapedAttention)
class shaped_output_is_projected(ShapedAttention):  # noqa: N801
    """An output layer mixes what the heads found. The simplified block has none: the network does it."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, first_layer)
        self.output = nn.Linear(d_model, d_model, bias=False)
        nn.init.eye_(self.output.weight)

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """With a last layer."""
        out: Tensor = self.output(super().forward(x, mask))
        return out


@instead_of(ShapedAttention)
class skip_inside_shaped_attention(ShapedAttention):  # noqa: N801
    """The attention adds its input to its output. The skip is alpha · I, inside the matrix."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """With a skip of its own."""
        return x + super().forward(x, mask)


@instead_of(ShapedAttention)
class shaped_heads_are_interleaved(_Shaped):  # noqa: N801
    """A head's values are every heads-th channel, `(d head)`. They are neighbours, as its queries are: `(head d)`."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Channels dealt out like cards."""
        values = rearrange(merge_heads(self._value(x)), "batch key (d head) -> batch head key d", head=self.heads)
        return rearrange(self.matrix(x, mask) @ values, "batch head query d -> batch query (d head)")


@instead_of(ShapedAttention)
class shaped_values_by_the_transpose(_Shaped):  # noqa: N801
    """The values are multiplied by the transposed matrix: the sum runs over the queries. It runs over the keys."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Aᵀ v."""
        return merge_heads(self.matrix(x, mask).mT @ self._value(x))


@instead_of(ShapedAttention)
class every_layer_has_values(ShapedAttention):  # noqa: N801
    """Every layer has values x + ΔW x. The first layer alone has them; the others take their input as it is."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, True)


@instead_of(ShapedAttention)
class first_layer_is_ignored(ShapedAttention):  # noqa: N801
    """first_layer is taken as an argument and changes nothing. The first layer has values x + ΔW x."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads)


@instead_of(ShapedAttention)
class values_without_the_identity(ShapedAttention):  # noqa: N801
    """The first layer's values are ΔW x, which is 0 at the start. They are x + ΔW x."""

    def _value(self, x: Tensor) -> Tensor:
        return super()._value(x) if self.value is None else split_heads(self.value(x), self.heads)


@instead_of(ShapedAttention)
class values_read_the_heads_apart(ShapedAttention):  # noqa: N801
    """The first layer's matrix acts inside each head's slice of the channels. It reads all of them."""

    def _value(self, x: Tensor) -> Tensor:
        if self.value is None:
            return super()._value(x)
        size = x.shape[-1] // self.heads
        blocks = torch.kron(torch.eye(self.heads), torch.ones(size, size)).to(x)
        return split_heads(x + F.linear(x, self.value.weight * blocks), self.heads)


@instead_of(ShapedAttention)
class values_start_at_random(ShapedAttention):  # noqa: N801
    """The first layer's ΔW starts at random. It starts at 0, so that the values start as the input."""

    def _start(self) -> None:
        super()._start()
        if self.value is not None:
            nn.init.normal_(self.value.weight, std=0.5)


@instead_of(ShapedAttention)
class shaped_drops_the_mask(ShapedAttention):  # noqa: N801
    """The shaped attention takes the mask and does not use it: the future is seen."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Without the mask."""
        return super().forward(x)

    def matrix(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Without the mask."""
        return super().matrix(x)


@instead_of(ShapedAttention)
class shaped_mask_read_as_heads(_Shaped):  # noqa: N801
    """A mask (batch, query, key) is broadcast as it is in the shaped attention, so its batch is read as heads."""

    def matrix(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """With an axis in the wrong place."""
        return super().matrix(x, mask[None] if mask is not None and mask.ndim == 3 else mask)


@instead_of(ShapedAttention)
class shaped_spreads_nan(_Shaped):  # noqa: N801
    """The softmax of a row with nothing visible is NaN in the shaped attention. Fill its weights with 0."""

    def _shares(self, scores: Tensor, mask: Maybe) -> Tensor:
        return scores.softmax(-1) if mask is None else scores.masked_fill(~mask, -math.inf).softmax(-1)


@instead_of(ShapedAttention)
class shaped_heads_cut_to_fit(ShapedAttention):  # noqa: N801
    """The shaped attention takes fewer heads where they do not divide d_model. That is an error."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, math.gcd(d_model, heads), first_layer)


@instead_of(ShapedAttention)
class shaped_refuses_without_numbers(ShapedAttention):  # noqa: N801
    """Heads that do not divide d_model are an error whose message names neither number."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        if d_model % heads:
            raise ValueError("the heads do not divide d_model")
        super().__init__(d_model, heads, first_layer)


# --- the simplified block


@instead_of(SimplifiedBlock)
class keeps_a_skip(SimplifiedBlock):  # noqa: N801
    """x is added, as in a standard block. The simplified block has no skip: the identity is in its attention."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """With a skip."""
        return x + super().forward(x, mask)


@instead_of(SimplifiedBlock)
class keeps_a_skip_in_sas_p(SimplifiedBlock):  # noqa: N801
    """SAS-P adds x, and SAS does not. Neither has a skip: the identity is in the attention."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """x + attention + network."""
        out = super().forward(x, mask)
        return x + out if self.skip_gain is None else out


@instead_of(SimplifiedBlock)
class residual_gain_is_forgotten(SimplifiedBlock):  # noqa: N801
    """The network's result is added as it is. It counts by residual_gain, a tenth at the start."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        nn.init.ones_(self.feed_forward_gain)


@instead_of(SimplifiedBlock)
class residual_gain_is_fixed(SimplifiedBlock):  # noqa: N801
    """residual_gain is taken as an argument, and 0.1 is used all the same."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"residual_gain": 0.1})


@instead_of(SimplifiedBlock)
class residual_gain_on_the_attention(SimplifiedBlock):  # noqa: N801
    """residual_gain makes the attention small, and the network counts in full. It is the network's gain."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attention_gain, self.feed_forward_gain = self.feed_forward_gain, self.attention_gain


@instead_of(SimplifiedBlock)
class attention_gain_is_fixed(SimplifiedBlock):  # noqa: N801
    """The attention's gain is a parameter and multiplies nothing."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """As if it were 1."""
        normed = self.norm_1(x)
        seen = self.attention(normed, mask) + 0 * self.attention_gain
        if self.skip_gain is None:
            return seen + self.feed_forward_gain * self.feed_forward(normed)
        return self.skip_gain * seen + self.feed_forward_gain * self.feed_forward(self.norm_2(seen))


@instead_of(SimplifiedBlock)
class norms_twice_in_sas_p(SimplifiedBlock):  # noqa: N801
    """SAS-P has a second norm for its network. It has one: attention and network read the same."""

    def __init__(self, d_model: int, *args: Any, **options: Any) -> None:
        super().__init__(d_model, *args, **options)
        if self.parallel:
            self.norm_2 = type(self.norm_1)(d_model)

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Two norms side by side."""
        if self.skip_gain is not None:
            return super().forward(x, mask)
        return self.attention_gain * self.attention(self.norm_1(x), mask) + self.feed_forward_gain * self.feed_forward(
            self.norm_2(x)
        )


class _LayerNorm(nn.Module):
    """With a mean that is taken off, and no bias."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight

    def forward(self, x: Tensor) -> Tensor:
        """Centred, then normed."""
        return F.layer_norm(x, self.weight.shape, self.weight)


class _InsideTheRoot(_LayerNorm):
    """RMSNorm as it is usually written."""

    def forward(self, x: Tensor) -> Tensor:
        """√(mean of squares + eps)."""
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class _WithoutEps(_LayerNorm):
    """0/0 for a token of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """By the length alone."""
        return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])) * self.weight


class _WithoutSlope(_LayerNorm):
    """√0 has no slope."""

    def forward(self, x: Tensor) -> Tensor:
        """The root of a mean of squares."""
        return x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-8) * self.weight


class _LowPrecision(_LayerNorm):
    """1e-8 is 0 in float16."""

    def forward(self, x: Tensor) -> Tensor:
        """In the input's dtype."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
        return x / (size + 1e-8) * self.weight


def _renormed(block: SimplifiedBlock, norm: type[_LayerNorm]) -> None:
    for name in ("norm_1", "norm_2"):
        if not isinstance(getattr(block, name), nn.Identity):
            setattr(block, name, norm(getattr(block, name)))


@instead_of(SimplifiedBlock)
class simplified_norms_by_layer_norm(SimplifiedBlock):  # noqa: N801
    """The simplified block takes the mean off its tokens: that is LayerNorm. RMSNorm is due."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _renormed(self, _LayerNorm)


@instead_of(SimplifiedBlock)
class simplified_eps_inside_the_root(SimplifiedBlock):  # noqa: N801
    """The norm's eps of 1e-5 stands inside the root, so small tokens stay small. Published is rms + 1e-8, outside."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _renormed(self, _InsideTheRoot)


@instead_of(SimplifiedBlock)
class simplified_norm_without_eps(SimplifiedBlock):  # noqa: N801
    """The simplified block's norm has no eps: a token of zeros is divided by 0."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _renormed(self, _WithoutEps)


@instead_of(SimplifiedBlock)
class simplified_norm_has_no_slope_at_0(SimplifiedBlock):  # noqa: N801
    """The root of a mean of squares has no slope at 0: with eps outside it, a token of zeros has a gradient of NaN."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _renormed(self, _WithoutSlope)


@instead_of(SimplifiedBlock)
class simplified_norm_in_low_precision(SimplifiedBlock):  # noqa: N801
    """The norm is computed in the input's dtype: in float16 its eps of 1e-8 is 0, and a token of zeros becomes NaN."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _renormed(self, _LowPrecision)


@instead_of(SimplifiedBlock)
class norm_is_ignored(SimplifiedBlock):  # noqa: N801
    """norm is taken as an argument, and every layer norms all the same."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"norm": True})


@instead_of(SimplifiedBlock)
class first_layer_norm_is_lost(SimplifiedBlock):  # noqa: N801
    """With norm=False the first layer has no norm either. It keeps norm_1, which sets the size of the tokens once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not options.get("norm", True):
            self.norm_1 = nn.Identity()


@instead_of(SimplifiedBlock)
class parallel_is_ignored(SimplifiedBlock):  # noqa: N801
    """parallel=False is taken as an argument, and the network reads norm_1(x) all the same. In SAS it reads y."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Side by side."""
        normed = self.norm_1(x)
        seen = self.attention_gain * self.attention(normed, mask)
        network = self.feed_forward_gain * self.feed_forward(normed)
        if self.skip_gain is None:
            return seen + network
        return self.skip_gain * seen + network + 0 * self.norm_2(seen)


@instead_of(SimplifiedBlock)
class network_reads_the_attention_in_sas_p(SimplifiedBlock):  # noqa: N801
    """In SAS-P the network reads what the attention has found. It reads n, as the attention does."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """In turn."""
        if self.skip_gain is not None:
            return super().forward(x, mask)
        seen = self.attention_gain * self.attention(self.norm_1(x), mask)
        return seen + self.feed_forward_gain * self.feed_forward(self.norm_1(seen))


@instead_of(SimplifiedBlock)
class sas_network_has_no_skip(SimplifiedBlock):  # noqa: N801
    """SAS returns the network's result alone. It is s · y + g · network(norm_2(y))."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Without s · y."""
        if self.skip_gain is None:
            return super().forward(x, mask)
        seen = self.attention_gain * self.attention(self.norm_1(x), mask)
        return self.feed_forward_gain * self.feed_forward(self.norm_2(seen)) + 0 * self.skip_gain


@instead_of(SimplifiedBlock)
class sas_network_reads_unnormed(SimplifiedBlock):  # noqa: N801
    """In SAS the network reads y as it is. It reads norm_2(y)."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """norm_2 is made and not used."""
        if self.skip_gain is None:
            return super().forward(x, mask)
        seen = self.attention_gain * self.attention(self.norm_1(x), mask)
        return self.skip_gain * seen + self.feed_forward_gain * self.feed_forward(seen)


@instead_of(SimplifiedBlock)
class sas_network_reads_the_input(SimplifiedBlock):  # noqa: N801
    """In SAS the network reads norm_2(x). It reads norm_2(y), what the attention has found."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """x once more."""
        if self.skip_gain is None:
            return super().forward(x, mask)
        seen = self.attention_gain * self.attention(self.norm_1(x), mask)
        return self.skip_gain * seen + self.feed_forward_gain * self.feed_forward(self.norm_2(x))


@instead_of(SimplifiedBlock)
class first_layer_is_not_handed_on(SimplifiedBlock):  # noqa: N801
    """The block takes first_layer and does not hand it on to its attention, so the first layer has no values."""

    def __init__(self, d_model: int, heads: int, *args: Any, **options: Any) -> None:
        super().__init__(d_model, heads, *args, **options)
        self.attention = ShapedAttention(d_model, heads)


class _Gelu(nn.Module):
    """Another bend."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.up, self.down = network.up, network.down

    def forward(self, x: Tensor) -> Tensor:
        """Up, bend, down."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class _Linear(_Gelu):
    """No bend."""

    def forward(self, x: Tensor) -> Tensor:
        """Up and down."""
        out: Tensor = self.down(self.up(x))
        return out


@instead_of(SimplifiedBlock)
class simplified_bends_with_gelu(SimplifiedBlock):  # noqa: N801
    """The simplified block's network bends with GELU. Published is ReLU, which knows no sizes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.feed_forward = _Gelu(self.feed_forward)  # type: ignore[assignment]


@instead_of(SimplifiedBlock)
class simplified_network_is_linear(SimplifiedBlock):  # noqa: N801
    """The simplified block's network has no activation: two linear layers are one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.feed_forward = _Linear(self.feed_forward)  # type: ignore[assignment]


@instead_of(SimplifiedBlock)
class simplified_network_has_biases(SimplifiedBlock):  # noqa: N801
    """The simplified block's network has biases. Both of its layers are matrices alone."""

    def __init__(self, d_model: int, heads: int, d_ff: int, **options: Any) -> None:
        super().__init__(d_model, heads, d_ff, **options)
        self.feed_forward.up, self.feed_forward.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)


# --- PA-Former


class _Adaptive(PAFormerBlock):
    """PA-Former with another attention, which loads the same weights."""

    kind: type[_AdaptiveAttention]

    def __init__(
        self, d_model: int, heads: int, d_ff: int, first_layer: bool = False, residual_gain: float = 0.1
    ) -> None:
        super().__init__(d_model, heads, d_ff, first_layer, residual_gain)
        self.attention = self.kind(d_model, heads, first_layer)


@instead_of(PAFormerBlock)
class network_reads_the_attention_in_pa_former(PAFormerBlock):  # noqa: N801
    """The network reads what attention has found. PA-Former is parallel: both read the same normed input."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """In turn."""
        seen = self.attention_gain * self.attention(self.norm_1(x), mask)
        return seen + self.feed_forward_gain * self.feed_forward(seen)


class _NeverAdapts(_AdaptiveAttention):
    """Plain gains."""

    def _gains(self, value: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        return ShapedAttention._gains(self, value, mean)


@instead_of(PAFormerBlock)
class gains_never_adapt(_Adaptive):  # noqa: N801
    """The gains are the plain ones, whatever comes in: that is SAS-P. They follow statistics of the input."""

    kind = _NeverAdapts


class _AdaptsAtOnce(_AdaptiveAttention):
    """Off its start."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, first_layer)
        nn.init.normal_(self.adapt, std=0.5)


@instead_of(PAFormerBlock)
class adapts_from_the_start(_Adaptive):  # noqa: N801
    """`adapt` starts at random, so the block does not begin as the identity. It starts at 0."""

    kind = _AdaptsAtOnce


class _SeesTheHidden(_AdaptiveAttention):
    """With the mean of everything."""

    def _gains(self, value: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        return super()._gains(value, value.mean(-2, keepdim=True))


@instead_of(PAFormerBlock)
class gains_see_the_hidden(_Adaptive):  # noqa: N801
    """The statistics are taken over all positions, hidden ones too: the future is seen through the gains."""

    kind = _SeesTheHidden


class _Undivided(_AdaptiveAttention):
    """With sums in the place of means."""

    def _gains(self, value: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        return super()._gains(value * math.sqrt(value.shape[-1]), mean * math.sqrt(value.shape[-1]))


@instead_of(PAFormerBlock)
class statistics_are_not_divided(_Adaptive):  # noqa: N801
    """The three statistics are plain dot products and grow with d_k. They are divided by it."""

    kind = _Undivided


class _FromTheLeft(_AdaptiveAttention):
    """With statistics @ adapt."""

    def _gains(self, value: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        pairs = ((value, value), (value, mean), (mean, mean))
        moved = torch.stack([(a * b).mean(-1).expand(value.shape[:-1]) for a, b in pairs], -1) @ self.adapt
        plain = ShapedAttention._gains(self, value, mean)
        return tuple(gain + more.unsqueeze(-1) for gain, more in zip(plain, moved.unbind(-1), strict=True))


@instead_of(PAFormerBlock)
class adapt_from_the_wrong_side(_Adaptive):  # noqa: N801
    """The statistics multiply adapt from the left, so gains and statistics change places. It is adapt · s."""

    kind = _FromTheLeft


class _OfTheInput(_AdaptiveAttention):
    """With the statistics of n."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """The first layer's values, and gains without them."""
        (query, key), value, own, mask = self._look(x), self._value(x), split_heads(x, self.heads), _axes(mask)
        alpha, beta, gamma = self._gains(own, _mean(own, mask))
        found = F.scaled_dot_product_attention(query, key, value, mask)
        return merge_heads(alpha * value + (beta * found - gamma * _mean(value, mask)))


@instead_of(PAFormerBlock)
class statistics_of_the_bare_input(_Adaptive):  # noqa: N801
    """In the first layer the statistics are those of n. They are those of the values, n + ΔW n."""

    kind = _OfTheInput


class _AlongTheKeys(_AdaptiveAttention):
    """With the gains on the other axis of the matrix."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        """Each key's gains multiply what it brings."""
        (query, key), value, mask = self._look(x), self._value(x), _axes(mask)
        alpha, beta, gamma = self._gains(value, _mean(value, mask))
        found = F.scaled_dot_product_attention(query, key, beta * value, mask)
        return merge_heads(alpha * value + (found - _mean(gamma * value, mask)))


@instead_of(PAFormerBlock)
class gains_lie_along_the_keys(_Adaptive):  # noqa: N801
    """The adapted gains are laid along the matrix's keys. They are its queries': one for each row."""

    kind = _AlongTheKeys


class _OverTheBatch(_AdaptiveAttention):
    """With the batch's values."""

    def _gains(self, value: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        return super()._gains(value.mean(0, keepdim=True).expand_as(value), mean)


@instead_of(PAFormerBlock)
class gains_adapt_over_the_batch(_Adaptive):  # noqa: N801
    """The statistics are taken over the batch: sequences meet in the gains. They are a query's and a head's own."""

    kind = _OverTheBatch


class _AllHeadsAlike(_AdaptiveAttention):
    """With the statistics of all heads together."""

    def _gains(self, value: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        pairs = ((value, value), (value, mean), (mean, mean))
        statistics = torch.stack([(a * b).mean((1, -1)).expand(len(value), value.shape[2]) for a, b in pairs], -1)
        moved = einsum(statistics, self.adapt, "batch query statistic, head gain statistic -> gain batch head query")
        plain = (rearrange(gain, "head -> head 1") for gain in (self.alpha, self.beta, self.gamma))
        return tuple((gain + more).unsqueeze(-1) for gain, more in zip(plain, moved, strict=True))


@instead_of(PAFormerBlock)
class gains_adapt_alike_in_all_heads(_Adaptive):  # noqa: N801
    """The statistics are those of all heads together. Each head's gains follow its own."""

    kind = _AllHeadsAlike


class _Detached(_AdaptiveAttention):
    """Statistics without a history."""

    def _gains(self, value: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        return super()._gains(value.detach(), mean.detach())


@instead_of(PAFormerBlock)
class adaptive_statistics_are_detached(_Adaptive):  # noqa: N801
    """The statistics are cut from the graph, and the gradient takes the gains for fixed numbers."""

    kind = _Detached


class _LargeMatrix(_AdaptiveAttention):
    """With a d_model × d_model matrix."""

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        super().__init__(d_model, heads, first_layer)
        self.wide = nn.Linear(d_model, d_model, bias=False)
        nn.init.zeros_(self.wide.weight)

    def _gains(self, value: Tensor, mean: Tensor) -> tuple[Tensor, ...]:
        more = split_heads(self.wide(merge_heads(value)), self.heads).mean(-1, keepdim=True)
        return tuple(gain + more for gain in super()._gains(value, mean))


@instead_of(PAFormerBlock)
class adapts_by_a_large_matrix(_Adaptive):  # noqa: N801
    """The gains come from a d_model × d_model matrix, which is what the block saves. A few numbers a head are due."""

    kind = _LargeMatrix
