"""What goes wrong in encoder, decoder and search."""
# ruff: noqa: N801, D102

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from reference.masks import causal_mask, padding_mask
from reference.original import (
    CrossDecoderBlock,
    EncoderBlock,
    Transformer,
    _Beams,
    beam_search,
    greedy_search,
)
from reference.positions import sinusoidal_positions
from spec.mistakes import instead_of

Maybe = Tensor | None
Sublayer = Callable[[Tensor], Tensor]


@instead_of(EncoderBlock)
class encoder_block_is_causal(EncoderBlock):
    """The encoder hides the future. The source is there as a whole: every token may see every other."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        past = causal_mask(x.shape[1], device=x.device)
        return super().forward(x, past if mask is None else mask & past)


@instead_of(EncoderBlock)
class encoder_block_drops_the_mask(EncoderBlock):
    """The encoder's block takes the mask and does not hand it on: padding is read."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        return super().forward(x, None)


@instead_of(EncoderBlock)
class encoder_mask_read_as_heads(EncoderBlock):
    """A mask of three axes gets its new axis in front, so the batch is read as heads. Hand it on as it is."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        return super().forward(x, mask[None] if mask is not None and mask.ndim == 3 else mask)


@instead_of(EncoderBlock)
class encoder_block_bends_by_gelu(EncoderBlock):
    """The network bends with GELU. In 2017 it is ReLU: max(0, x W₁ + b₁) W₂ + b₂."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.feed_forward.bend = F.gelu


@instead_of(EncoderBlock)
class encoder_block_is_pre_norm(EncoderBlock):
    """The default is pre-norm. The Transformer of 2017 norms after the sum: `norm="post"`."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre") -> None:
        super().__init__(d_model, heads, d_ff, dropout, norm)


@instead_of(EncoderBlock)
class encoder_block_ignores_pre(EncoderBlock):
    """norm="pre" is taken as an argument, and the norms stand behind the sums all the same."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__(d_model, heads, d_ff, dropout, "post")


@instead_of(EncoderBlock)
class encoder_norms_the_sublayer(EncoderBlock):
    """The encoder's post-norm is x + norm(sublayer(x)). The norm stands around the sum: norm(x + sublayer(x))."""

    def _around(self, x: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
        out: Tensor = super()._around(x, norm, sublayer) if self.pre else x + norm(self.dropout(sublayer(x)))
        return out


@instead_of(EncoderBlock)
class encoder_skips_the_normed_stream(EncoderBlock):
    """In pre-norm the skip starts behind the norm: norm(x) + sublayer(norm(x)). It is x that is added, never normed."""

    def _around(self, x: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
        if not self.pre:
            return super()._around(x, norm, sublayer)
        x = norm(x)
        return x + self.dropout(sublayer(x))


@instead_of(EncoderBlock)
class encoder_drops_the_skip_too(EncoderBlock):
    """Dropout acts on the sum, skip included. It acts on what the sublayer says, before the skip is added."""

    def _around(self, x: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
        out: Tensor = self.dropout(x + sublayer(norm(x))) if self.pre else norm(self.dropout(x + sublayer(x)))
        return out


@instead_of(EncoderBlock)
class encoder_drops_inside_alone(EncoderBlock):
    """Dropout acts inside the sublayers and not on their results: biases are never dropped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.feed_forward.dropout.p = self.attention.dropout = self.dropout.p
        self.dropout.p = 0.0


@instead_of(EncoderBlock)
class encoder_block_never_drops(EncoderBlock):
    """The encoder block's dropout is taken as an argument and never used."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__(d_model, heads, d_ff, 0.0, norm)


@instead_of(EncoderBlock)
class encoder_block_drops_in_evaluation(EncoderBlock):
    """The encoder block's dropout stays on in evaluation: `F.dropout` needs `training=self.training`."""

    def _around(self, x: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
        return super()._around(x, norm, lambda y: F.dropout(sublayer(y), self.dropout.p))


@instead_of(EncoderBlock)
class encoder_block_without_a_network(EncoderBlock):
    """The feed-forward network is built and not called: the block attends, and that is all."""

    def forward(self, x: Tensor, mask: Maybe = None) -> Tensor:
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        return self._around(x, self.norm_2, lambda y: 0 * self.feed_forward(y))


@instead_of(EncoderBlock)
class encoder_heads_cut_to_fit(EncoderBlock):
    """Heads that do not divide d_model are lowered in the encoder until they do. They are an error."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "post") -> None:
        super().__init__(d_model, math.gcd(d_model, heads), d_ff, dropout, norm)


class _Steps(CrossDecoderBlock):
    """The right block, with its sublayers apart: a wrong one replaces one of them."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        x = self._around(x, self.norm_2, lambda y: self._ask(y, memory, memory_mask))
        return self._around(x, self.norm_3, self.feed_forward)

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        out: Tensor = self.cross_attention(x, memory, mask=mask)
        return out


@instead_of(CrossDecoderBlock)
class cross_attention_is_thrown_away(_Steps):
    """Cross-attention is computed and its result not used: the decoder never hears of the source."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        return 0 * super()._ask(x, memory, mask)


@instead_of(CrossDecoderBlock)
class decoder_is_the_identity(CrossDecoderBlock):
    """The block computes everything and returns what came in: `return x`, and the results had other names."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        return x + 0 * super().forward(x, memory, mask, memory_mask)


@instead_of(CrossDecoderBlock)
class cross_attention_asks_itself(_Steps):
    """Cross-attention is called without the memory, so the target attends to itself twice."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        out: Tensor = self.cross_attention(x)
        return out


@instead_of(CrossDecoderBlock)
class the_memory_asks_the_target(_Steps):
    """Queries come from the memory, keys and values from the target. It is the target that asks."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        out: Tensor = self.cross_attention(memory, x)
        return out.mean(1, keepdim=True).expand_as(x)


@instead_of(CrossDecoderBlock)
class memory_cut_to_the_target(_Steps):
    """Keys and values are shaped with the target's length, so the end of a longer source is lost."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        length = min(x.shape[1], memory.shape[1])
        return super()._ask(x, memory[:, :length], None if mask is None else mask[..., :length])


@instead_of(CrossDecoderBlock)
class causal_mask_on_the_memory(_Steps):
    """A causal mask hides the memory: the first target word sees the first source word alone. All may be seen."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        past = torch.ones(x.shape[1], memory.shape[1], dtype=torch.bool, device=x.device).tril()
        return super()._ask(x, memory, past if mask is None else past & mask)


@instead_of(CrossDecoderBlock)
class memory_mask_is_dropped(_Steps):
    """memory_mask is taken as an argument and not handed on: the source's padding is read."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        return super()._ask(x, memory, None)


@instead_of(CrossDecoderBlock)
class memory_mask_is_turned_round(_Steps):
    """memory_mask goes where True hides, as in `nn.MultiheadAttention`: padding alone is read. Hand over ~mask."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        return super()._ask(x, memory, None if mask is None else ~mask)


@instead_of(CrossDecoderBlock)
class masks_change_places(CrossDecoderBlock):
    """The target's mask goes to cross-attention. The first attention gets `mask`, the second `memory_mask`."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        if mask is not None and mask.shape[-1] == x.shape[1] == memory.shape[1]:
            return super().forward(x, memory, memory_mask, mask)
        return super().forward(x, memory, None, memory_mask)


@instead_of(CrossDecoderBlock)
class decoder_block_drops_the_mask(CrossDecoderBlock):
    """The decoder's block takes the mask and does not hand it on: the future is seen."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        return super().forward(x, memory, None, memory_mask)


@instead_of(CrossDecoderBlock)
class decoder_block_is_always_causal(CrossDecoderBlock):
    """The decoder's block hides the future by itself. The mask that it is given alone says who may look where."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        past = causal_mask(x.shape[1], device=x.device)
        return super().forward(x, memory, past if mask is None else mask & past, memory_mask)


@instead_of(CrossDecoderBlock)
class memory_mask_read_as_heads(_Steps):
    """The memory's mask of three axes gets its new axis in front, so the batch is read as heads."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        return super()._ask(x, memory, mask[None] if mask is not None and mask.ndim == 3 else mask)


@instead_of(CrossDecoderBlock)
class queries_before_the_norm(_Steps):
    """In pre-norm, cross-attention's queries come from x itself. All three sublayers read norm(x)."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        if not self.pre:
            return super().forward(x, memory, mask, memory_mask)
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        x = x + self.dropout(self._ask(x + 0 * self.norm_2(x), memory, memory_mask))
        return self._around(x, self.norm_3, self.feed_forward)


@instead_of(CrossDecoderBlock)
class memory_is_normed_again(_Steps):
    """The block norms the memory before it reads it. The memory is read as the encoder left it."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        return super()._ask(x, self.norm_2(memory), mask)


@instead_of(CrossDecoderBlock)
class memory_shares_the_queries_norm(_Steps):
    """In pre-norm, norm_2 is applied to the memory too. It is the queries' alone: the memory is read as it is."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        return super()._ask(x, self.norm_2(memory) if self.pre else memory, mask)


@instead_of(CrossDecoderBlock)
class values_are_the_keys_input_shifted(_Steps):
    """Keys and values are not of the same positions: each key fetches its neighbour's value. They come in pairs."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        layer = copy.copy(self.cross_attention)
        layer._modules = dict(self.cross_attention._modules)
        layer.value = _Rolled(self.cross_attention.value)  # type: ignore[assignment]
        out: Tensor = layer(x, memory, mask=mask)
        return out


class _Rolled(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x).roll(1, 1)
        return out


@instead_of(CrossDecoderBlock)
class memory_before_the_target(CrossDecoderBlock):
    """Cross-attention comes first. The target attends to itself, then it asks the memory."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        x = self._around(x, self.norm_2, lambda y: self.cross_attention(y, memory, mask=memory_mask))
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        return self._around(x, self.norm_3, self.feed_forward)


@instead_of(CrossDecoderBlock)
class two_norms_for_three(CrossDecoderBlock):
    """norm_2 is used for cross-attention and for the network, and norm_3 never learns. Each sublayer has its own."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        x = self._around(x, self.norm_2, lambda y: self.cross_attention(y, memory, mask=memory_mask))
        return self._around(x, self.norm_2, self.feed_forward)


@instead_of(CrossDecoderBlock)
class one_attention_for_both(_Steps):
    """The first attention's matrices also read the memory, and cross_attention never learns. Each has its own."""

    def _ask(self, x: Tensor, memory: Tensor, mask: Maybe) -> Tensor:
        out: Tensor = self.attention(x, memory, mask=mask)
        return out


@instead_of(CrossDecoderBlock)
class no_skip_around_cross_attention(_Steps):
    """The skip around cross-attention is missing: what the target knew of itself is replaced. Each sublayer adds."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        read = self._ask(self.norm_2(x) if self.pre else x, memory, memory_mask)
        x = self.dropout(read) if self.pre else self.norm_2(self.dropout(read))
        return self._around(x, self.norm_3, self.feed_forward)


@instead_of(CrossDecoderBlock)
class last_skip_brings_the_memory_again(_Steps):
    """What the network says is added to what cross-attention said, not to the stream: a variable that is called
    `residual` still holds the sublayer's result. The skip brings the sublayer's input.
    """

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        read = self.dropout(self._ask(self.norm_2(x) if self.pre else x, memory, memory_mask))
        if self.pre:
            return read + self.feed_forward(self.norm_3(x + read))
        out: Tensor = self.norm_3(read + self.feed_forward(self.norm_2(x + read)))
        return out


@instead_of(CrossDecoderBlock)
class cross_skip_starts_at_the_input(_Steps):
    """The skip around cross-attention starts at the block's input, past self-attention. It starts behind that."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        y = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        x = x + self.dropout(self._ask(self.norm_2(y) if self.pre else y, memory, memory_mask))
        return self._around(x if self.pre else self.norm_2(x), self.norm_3, self.feed_forward)


@instead_of(CrossDecoderBlock)
class cross_attention_asks_with_the_input(_Steps):
    """Cross-attention is asked by the block's input. It is asked by what self-attention has made of it."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        y = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        read = self.dropout(self._ask(self.norm_2(x) if self.pre else x, memory, memory_mask))
        y = y + read if self.pre else self.norm_2(y + read)
        return self._around(y, self.norm_3, self.feed_forward)


@instead_of(CrossDecoderBlock)
class decoder_block_bends_by_gelu(CrossDecoderBlock):
    """The decoder's network bends with GELU. In 2017 it is ReLU: max(0, x W₁ + b₁) W₂ + b₂."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.feed_forward.bend = F.gelu


@instead_of(CrossDecoderBlock)
class decoder_block_is_pre_norm(CrossDecoderBlock):
    """The decoder's default is pre-norm. The Transformer of 2017 norms after the sum: `norm="post"`."""

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre") -> None:
        super().__init__(d_model, heads, d_ff, dropout, norm)


@instead_of(CrossDecoderBlock)
class cross_attention_is_not_dropped(_Steps):
    """Two of three sublayers are dropped out, and cross-attention is not."""

    def forward(self, x: Tensor, memory: Tensor, mask: Maybe = None, memory_mask: Maybe = None) -> Tensor:
        x = self._around(x, self.norm_1, lambda y: self.attention(y, mask=mask))
        read = self._ask(self.norm_2(x) if self.pre else x, memory, memory_mask)
        x = x + read if self.pre else self.norm_2(x + read)
        return self._around(x, self.norm_3, self.feed_forward)


@instead_of(CrossDecoderBlock)
class decoder_block_drops_in_evaluation(CrossDecoderBlock):
    """The decoder block's dropout stays on in evaluation: `F.dropout` needs `training=self.training`."""

    def _around(self, x: Tensor, norm: nn.Module, sublayer: Sublayer) -> Tensor:
        return super()._around(x, norm, lambda y: F.dropout(sublayer(y), self.dropout.p))


class _Parts(Transformer):
    """The right model, with its masks and its stacks apart: a wrong one replaces a part."""

    def _source_mask(self, source: Tensor) -> Maybe:
        return padding_mask(source, self.pad)

    def _memory_mask(self, source: Tensor, target: Tensor) -> Maybe:
        return padding_mask(source, self.pad)

    def _target_mask(self, target: Tensor) -> Maybe:
        return causal_mask(target.shape[1], device=target.device)

    def encode(self, source: Tensor) -> Tensor:
        x = self._embed(self.source, source)
        for block in self.encoder:
            x = block(x, self._source_mask(source))
        return x

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        x = self._embed(self.target, target)
        for block in self.decoder:
            x = block(x, memory, self._target_mask(target), self._memory_mask(source, target))
        logits: Tensor = self.head(x)
        return logits


@instead_of(Transformer)
class sqrt_d_model_is_forgotten(Transformer):
    """The embeddings are not multiplied by √d_model, so beside the sinusoids they are hardly heard."""

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        x = table(tokens)
        out: Tensor = self.dropout(x + sinusoidal_positions(x.shape[1], self.d_model, x.device, x.dtype))
        return out


@instead_of(Transformer)
class target_embeddings_are_not_multiplied(Transformer):
    """The embeddings of the source are multiplied by √d_model, those of the target are not. All are."""

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        factor = math.sqrt(self.d_model) if table is self.source else 1.0
        x = table(tokens) * factor
        out: Tensor = self.dropout(x + sinusoidal_positions(x.shape[1], self.d_model, x.device, x.dtype))
        return out


@instead_of(Transformer)
class embeddings_times_d_model(Transformer):
    """The embeddings are multiplied by d_model. Its square root is due."""

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        x = table(tokens) * self.d_model
        out: Tensor = self.dropout(x + sinusoidal_positions(x.shape[1], self.d_model, x.device, x.dtype))
        return out


@instead_of(Transformer)
class positions_times_sqrt_d_model(Transformer):
    """√d_model multiplies the sum, positions included. It multiplies the embeddings alone."""

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        x = table(tokens)
        x = (x + sinusoidal_positions(x.shape[1], self.d_model, x.device, x.dtype)) * math.sqrt(self.d_model)
        out: Tensor = self.dropout(x)
        return out


@instead_of(Transformer)
class positions_for_the_source_alone(Transformer):
    """The target gets no positions. Both stacks need them."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        mask = causal_mask(target.shape[1], device=target.device)
        x = self.target(target) * math.sqrt(self.d_model)
        for block in self.decoder:
            x = block(x, memory, mask, padding_mask(source, self.pad))
        logits: Tensor = self.head(x)
        return logits


@instead_of(Transformer)
class codes_of_the_row_in_the_batch(Transformer):
    """The positions are counted along the batch, as a table for (position, batch) does it: every token of a sentence
    gets the vector of the sentence's number. Take the table's rows by `x.size(1)`.
    """

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        return super()._embed(table, tokens.T).transpose(0, 1)


@instead_of(Transformer)
class target_positions_from_one(Transformer):
    """The target's positions begin with 1. They begin with 0, as the source's do."""

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        out = super()._embed(table, tokens)
        if table is self.source:
            return out
        table_of_places = sinusoidal_positions(tokens.shape[1] + 1, self.d_model, out.device, out.dtype)
        return out + table_of_places[1:] - table_of_places[:-1]


@instead_of(Transformer)
class only_embeddings_are_dropped(Transformer):
    """Dropout acts on the embeddings before the positions are added. It acts on their sum."""

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        x = self.dropout(table(tokens) * math.sqrt(self.d_model))
        return x + sinusoidal_positions(x.shape[1], self.d_model, x.device, x.dtype)


@instead_of(Transformer)
class sums_are_not_dropped(Transformer):
    """The sums of embeddings and positions are not dropped out; the sublayers alone are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dropout.p = 0.0


@instead_of(Transformer)
class a_tenth_of_the_sums_is_dropped(Transformer):
    """A tenth of the sums of embeddings and positions is dropped, whatever `dropout` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dropout.p = 0.1


@instead_of(Transformer)
class sums_are_dropped_in_evaluation(Transformer):
    """The dropout of the sums stays on in evaluation: `F.dropout` needs `training=self.training`."""

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        return F.dropout(super()._embed(table, tokens), self.dropout.p)


@instead_of(Transformer)
class dropout_is_not_handed_on(Transformer):
    """The blocks are built without the model's dropout."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for block in [*self.encoder, *self.decoder]:
            block.dropout.p = 0.0


class _Untied(Transformer):
    """Copies where one matrix is due, which load either state."""

    def _untie(self) -> None:
        self.target = copy.deepcopy(self.target)
        self.head = copy.deepcopy(self.head)
        self._state_dict_hooks.clear()


@instead_of(Transformer)
class shares_by_copying(_Untied):
    """The matrices start as copies of one another and go their own ways. They have to be one parameter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._untie()


@instead_of(Transformer)
class shares_the_memory_of_the_head_alone(_Untied):
    """The head is a second parameter on the shared memory (`nn.Parameter(embedding.weight)`): the optimizer moves it
    twice, by other gradients. It has to be one parameter: `head.weight = embedding.weight`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.head.weight is self.source.weight:
            self.head = copy.copy(self.head)
            self.head._parameters = {"weight": nn.Parameter(self.source.weight.data), "bias": None}


@instead_of(Transformer)
class shares_the_memory_alone(_Untied):
    """The matrices are three parameters on one memory (`target.weight.data = source.weight.data`): each is moved by its
    own gradient, and they part with the first `.to(…)`. They have to be one parameter: `target.weight = source.weight`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.head.weight is self.source.weight:
            self._untie()
            self.target.weight.data = self.head.weight.data = self.source.weight.data


@instead_of(Transformer)
class shares_nothing_by_default(Transformer):
    """Without a word about it nothing is shared. The paper shares: `share=True` is the default."""

    def __init__(self, *, share: bool = False, **kwargs: Any) -> None:
        super().__init__(share=share, **kwargs)


@instead_of(Transformer)
class shares_the_embeddings_alone(_Untied):
    """Source and target share their embedding, and the head has a matrix of its own. All three are one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = copy.deepcopy(self.head)
        self._state_dict_hooks.clear()


@instead_of(Transformer)
class shares_unasked(Transformer):
    """Target and head share their matrix, whatever `share` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head.weight = self.target.weight


@instead_of(Transformer)
class shared_head_is_cut_off(_Parts):
    """The head uses the shared matrix without its graph, so that it is learned from the embeddings alone."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        head = self.head
        self.head = nn.Identity()  # type: ignore[assignment]
        x = super().decode(target, memory, source)
        self.head = head
        return F.linear(x, head.weight.detach())


@instead_of(Transformer)
class head_of_2017_has_a_bias(Transformer):
    """The head has a bias. It is the embedding's matrix and nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head.bias = nn.Parameter(torch.zeros(self.head.out_features))


@instead_of(Transformer)
class both_sides_read_the_source_table(Transformer):
    """The target's tokens are looked up in the source's table, and the target's own is never used."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        own, self.target = self.target, self.source
        logits = super().decode(target, memory, source)
        self.target = own
        return logits


@instead_of(Transformer)
class stacks_are_pre_norm(Transformer):
    """The blocks are pre-norm. The paper norms after the sum."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for block in [*self.encoder, *self.decoder]:
            block.pre = True


@instead_of(Transformer)
class a_norm_after_each_stack(Transformer):
    """Each stack ends in a norm more, as in `torch.nn.Transformer`. The paper's blocks end in a norm already."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.last = nn.LayerNorm(self.d_model)
        self.last_of_decoder = nn.LayerNorm(self.d_model)

    def encode(self, source: Tensor) -> Tensor:
        out: Tensor = self.last(super().encode(source))
        return out

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        head = self.head
        self.head = nn.Sequential(self.last_of_decoder, head)  # type: ignore[assignment]
        logits = super().decode(target, memory, source)
        self.head = head
        return logits


@instead_of(Transformer)
class memory_of_the_first_layer(Transformer):
    """The decoder reads what the first encoder block says: `return` stands inside the loop. The last one's is due."""

    def encode(self, source: Tensor) -> Tensor:
        out: Tensor = self.encoder[0](self._embed(self.source, source), padding_mask(source, self.pad))
        return out


@instead_of(Transformer)
class memory_is_the_embedding(Transformer):
    """The decoder reads the source's embeddings, and the encoder is not called."""

    def encode(self, source: Tensor) -> Tensor:
        return self._embed(self.source, source)


@instead_of(Transformer)
class memory_is_cut_from_the_graph(Transformer):
    """The memory is detached, so the encoder never learns."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.decode(target, self.encode(source).detach(), source)


@instead_of(Transformer)
class one_encoder_block_reused(Transformer):
    """One encoder block is used again and again. Every layer has weights of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoder = nn.ModuleList([self.encoder[0]] * len(self.encoder))


@instead_of(Transformer)
class one_decoder_block_reused(Transformer):
    """One decoder block is used again and again. Every layer has weights of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.decoder = nn.ModuleList([self.decoder[0]] * len(self.decoder))


@instead_of(Transformer)
class each_stack_is_one_block(Transformer):
    """`[block] * layers` is one block many times over, in both stacks. Every layer has weights of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoder = nn.ModuleList([self.encoder[0]] * len(self.encoder))
        self.decoder = nn.ModuleList([self.decoder[0]] * len(self.decoder))


@instead_of(Transformer)
class stacks_start_as_copies(Transformer):
    """The blocks of a stack are deep copies of one, random numbers included. Build each anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoder = nn.ModuleList(copy.deepcopy(self.encoder[0]) for _ in self.encoder)
        self.decoder = nn.ModuleList(copy.deepcopy(self.decoder[0]) for _ in self.decoder)


@instead_of(Transformer)
class encoder_blocks_in_a_list(Transformer):
    """The encoder's blocks are in a Python list: not registered, never trained, moved or saved. Use nn.ModuleList."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        blocks = list(self.encoder)
        del self.encoder
        object.__setattr__(self, "encoder", blocks)


@instead_of(Transformer)
class source_padding_is_encoded(_Parts):
    """The encoder's tokens see the source's padding. It has to be hidden there as well as in cross-attention."""

    def _source_mask(self, source: Tensor) -> Maybe:
        return None


@instead_of(Transformer)
class padding_of_the_memory_is_read(_Parts):
    """Cross-attention sees the source's padding. It has to be hidden there as well as in the encoder."""

    def _memory_mask(self, source: Tensor, target: Tensor) -> Maybe:
        return None


@instead_of(Transformer)
class padding_on_the_query_axis(_Parts):
    """The padding mask hides rows: padded positions see nothing, and are seen by all. It hides KEYS, the last axis."""

    def _source_mask(self, source: Tensor) -> Maybe:
        rows = rearrange(source != self.pad, "batch query -> batch query 1")
        return rows.expand(-1, -1, source.shape[1])


@instead_of(Transformer)
class padding_is_always_0(_Parts):
    """Padding is taken to be token 0, whatever `pad` says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pad = 0


@instead_of(Transformer)
class encoder_is_causal(_Parts):
    """The encoder is given a causal mask: no source token sees those after it. It may see all."""

    def _source_mask(self, source: Tensor) -> Maybe:
        return causal_mask(source.shape[1], device=source.device) & padding_mask(source, self.pad)


@instead_of(Transformer)
class decoder_sees_the_future(_Parts):
    """No causal mask reaches the decoder: with teacher forcing it reads the very words that it is to say."""

    def _target_mask(self, target: Tensor) -> Maybe:
        return None


@instead_of(Transformer)
class decoder_sees_one_word_ahead(_Parts):
    """The causal mask is one too wide: each position sees the word that it is to say next."""

    def _target_mask(self, target: Tensor) -> Maybe:
        mask = causal_mask(target.shape[1], device=target.device)
        return mask | mask.roll(-1, 0)


@instead_of(Transformer)
class decoder_sees_future_or_padding(Transformer):
    """The causal mask and the padding's are joined by `or`: with True for 'may look', a word that is no padding is seen
    from everywhere. What both allow is visible: `&`.
    """

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        mask = causal_mask(target.shape[1], device=target.device) | padding_mask(target, self.pad)
        x = self._embed(self.target, target)
        for block in self.decoder:
            x = block(x, memory, mask, padding_mask(source, self.pad))
        logits: Tensor = self.head(x)
        return logits


@instead_of(Transformer)
class decoder_does_not_see_its_own_word(_Parts):
    """The causal mask hides the position itself too, so the last word that was said is not known."""

    def _target_mask(self, target: Tensor) -> Maybe:
        return causal_mask(target.shape[1], device=target.device).tril(-1)


@instead_of(Transformer)
class memory_seen_up_to_here(_Parts):
    """The causal mask is handed on to cross-attention: target word t sees source words up to t alone."""

    def _memory_mask(self, source: Tensor, target: Tensor) -> Maybe:
        past = torch.ones(target.shape[1], source.shape[1], dtype=torch.bool, device=source.device).tril()
        return past & padding_mask(source, self.pad)


@instead_of(Transformer)
class shifts_the_target_inside(Transformer):
    """The model moves the target by one itself. Whoever trains it does so, and a search has nothing to be moved."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return super().decode(torch.cat([target[:, :1], target[:, :-1]], 1), memory, source)


@instead_of(Transformer)
class decoder_peeks_at_the_source(Transformer):
    """The decoder adds the source's embeddings to the memory. What the encoder says is all that it reads."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return super().decode(target, memory + self._embed(self.source, source), source)


@instead_of(Transformer)
class decoder_blocks_read_each_other(Transformer):
    """Each decoder block gets what the one before it wrote as memory. All read the encoder's."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        mask = causal_mask(target.shape[1], device=target.device)
        x, read, seen = self._embed(self.target, target), memory, padding_mask(source, self.pad)
        for block in self.decoder:
            x = block(x, read, mask, seen if read is memory else mask)
            read = x
        logits: Tensor = self.head(x)
        return logits


@instead_of(Transformer)
class sentences_are_averaged(Transformer):
    """Something is averaged over the batch: each pair sees the others."""

    def encode(self, source: Tensor) -> Tensor:
        memory = super().encode(source)
        return memory - memory.mean(0, keepdim=True) / 2


@instead_of(Transformer)
class says_probabilities(Transformer):
    """A softmax is taken in the model, as the paper's figure has it. It returns logits: the loss takes the softmax."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return super().decode(target, memory, source).softmax(-1)


@instead_of(Transformer)
class says_log_probabilities(Transformer):
    """A log_softmax is taken in the model. It returns logits: the loss and the search take it themselves."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return super().decode(target, memory, source).log_softmax(-1)


@instead_of(Transformer)
class says_the_last_word_alone(Transformer):
    """Only the last position's logits are returned. Training asks at every position."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return super().decode(target, memory, source)[:, -1:]


@instead_of(Transformer)
class sinusoids_in_float32(Transformer):
    """The sinusoids stay in float32, and everything that meets them becomes it. Turn them: `.to(x.dtype)`."""

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        x = table(tokens) * math.sqrt(self.d_model)
        x = x + sinusoidal_positions(x.shape[1], self.d_model, x.device)
        out: Tensor = self.dropout(x)
        return out


@instead_of(Transformer)
class masks_on_the_cpu(_Parts):
    """The causal mask is made on the CPU, wherever the tokens are: `device=target.device`."""

    def _target_mask(self, target: Tensor) -> Maybe:
        return causal_mask(target.shape[1]) & padding_mask(target, self.pad)


@instead_of(Transformer)
class asks_whether_there_is_padding(_Parts):
    """Python asks for a tensor's value (`if (source == pad).any():`), and a GPU has to stop for the answer."""

    def _source_mask(self, source: Tensor) -> Maybe:
        return padding_mask(source, self.pad) if (source == self.pad).any() else None


@instead_of(Transformer)
class shared_matrix_starts_at_n_0_1(Transformer):
    """The embeddings start at N(0, 1), as nn.Embedding does, and serve as head: the fresh model is sure of nonsense."""

    def _start(self) -> None:
        super()._start()
        for table in (self.source, self.target, self.head):
            nn.init.normal_(table.weight)


@instead_of(Transformer)
class places_live_outside_the_state(Transformer):
    """A random table that matters is a plain attribute: it is not saved. Make it a parameter or a buffer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noise = [torch.randn(self.d_model)]

    def _embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        out = super()._embed(table, tokens)
        return out + 0.1 * self.noise[0].to(out)


@instead_of(Transformer)
class shared_head_is_due_in_the_state(Transformer):
    """With share=True a state without `head.weight` is refused, though it is the same tensor as the embedding."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._load_state_dict_pre_hooks.clear()
        self._state_dict_hooks.clear()


@instead_of(Transformer)
class padding_spreads_nan(Transformer):
    """Where the source is all padding every score is −∞, and the softmax NaN. Such a row needs an answer too."""

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        logits = super().decode(target, memory, source)
        empty = rearrange((source == self.pad).all(-1), "batch -> batch 1 1")
        return logits.masked_fill(empty, math.nan)


def _written(model: Transformer, source: Tensor, start: int, choose: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """`steps` tokens, as `choose` picks them from the last position's logits."""
    memory, target = model.encode(source), source.new_full((len(source), 1), start)
    for _ in range(steps):
        token = choose(model.decode(target, memory, source))
        target = torch.cat([target, rearrange(token, "batch -> batch 1")], dim=1)
    return target


@instead_of(greedy_search)
def greedy_draws(model: Transformer, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
    """The next token is drawn. Greedy search takes the most likely one."""
    drawn = lambda logits: torch.multinomial(logits[:, -1].softmax(-1), 1)[:, 0]  # noqa: E731
    return _written(model, source, start, drawn, max_length - 1)


@instead_of(greedy_search)
def greedy_reads_the_first_position(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int
) -> Tensor:
    """The next token is taken from the first position's logits. The last position tells what comes next."""
    return _written(model, source, start, lambda logits: logits[:, 0].argmax(-1), max_length - 1)


@instead_of(greedy_search)
def greedy_forgets_what_it_said(model: Transformer, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
    """The decoder is given `start` alone, again and again. It has to read everything that was said."""
    memory, target = model.encode(source), source.new_full((len(source), 1), start)
    for _ in range(max_length - 1):
        token = model.decode(target[:, :1], memory, source)[:, -1:].argmax(-1)
        target = torch.cat([target, token], dim=1)
    return target


@instead_of(greedy_search)
def greedy_stops_with_the_first(model: Transformer, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
    """The search stops for all when one sentence has ended. It goes on until all have."""
    memory, target = model.encode(source), source.new_full((len(source), 1), start)
    while target.shape[1] < max_length and not (target == end).any():
        token = model.decode(target, memory, source)[:, -1:].argmax(-1)
        target = torch.cat([target, token], dim=1)
    return target


@instead_of(greedy_search)
def greedy_ignores_max_length(model: Transformer, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
    """max_length is not kept: sentences become longer than it."""
    return greedy_search(model, source, start, end, 2 * max_length)


@instead_of(greedy_search)
def greedy_goes_on_after_the_end(model: Transformer, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
    """What has ended goes on with what the model says, while others are not done. It is filled with padding."""
    longest = greedy_search(model, source, start, end, max_length).shape[1]
    return _written(model, source, start, lambda logits: logits[:, -1].argmax(-1), longest - 1)


@instead_of(greedy_search)
def greedy_reads_the_source_each_time(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int
) -> Tensor:
    """The source is encoded again for every token. Its memory does not change."""
    out = greedy_search(model, source, start, end, max_length)
    for length in range(2, out.shape[1]):
        model(source, out[:, :length])
    return out


@instead_of(greedy_search)
def greedy_with_dropout(model: Transformer, source: Tensor, start: int, end: int, max_length: int) -> Tensor:
    """Dropout stays on while the search runs. It belongs to training: `model.eval()`, and back afterwards."""
    return _written(model, source, start, lambda logits: logits[:, -1].argmax(-1), max_length - 1)


@instead_of(greedy_search)
def greedy_leaves_the_model_in_eval_mode(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int
) -> Tensor:
    """The model is in eval mode after the search, and training goes on without dropout. Put the mode back."""
    model.eval()
    return greedy_search(model, source, start, end, max_length)


class _Search:
    """The right search in steps: a wrong one replaces a step."""

    beams_class: type[_Beams] = _Beams

    @torch.no_grad()
    def __call__(
        self, model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int, alpha: float
    ) -> Tensor:
        training = [module for module in model.modules() if module.training]
        model.eval()
        memory, sources = self.spread(model.encode(source), source, beams)
        pad = int(getattr(model, "pad", 0))
        hopes = self.beams_class(len(source), beams, start, end, pad, source.device)
        while hopes.tokens.shape[-1] < max_length and not hopes.done.all():
            target = rearrange(hopes.tokens, "batch beam position -> (batch beam) position")
            logits = model.decode(target, memory, sources)[:, -1]
            hopes.grow(rearrange(self.value(logits), "(batch beam) vocab -> batch beam vocab", beam=beams))
        for module in training:
            module.training = True
        return hopes.best(alpha)

    def spread(self, memory: Tensor, source: Tensor, beams: int) -> tuple[Tensor, Tensor]:
        memory = repeat(memory, "batch key d_model -> (batch beam) key d_model", beam=beams)
        return memory, repeat(source, "batch key -> (batch beam) key", beam=beams)

    def value(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)


@instead_of(beam_search)
def beams_sum_probabilities(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """Probabilities are added. They are multiplied, so it is their logarithms that are added."""

    class Search(_Search):
        def value(self, logits: Tensor) -> Tensor:
            return logits.softmax(-1)

    return Search()(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def beams_sum_logits(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """Logits are added without a log_softmax. They are on no common scale: a beginning's own numbers decide."""

    class Search(_Search):
        def value(self, logits: Tensor) -> Tensor:
            return logits

    return Search()(model, source, start, end, max_length, beams, alpha)


def _with(beams_class: type[_Beams]) -> _Search:
    search = _Search()
    search.beams_class = beams_class
    return search


@instead_of(beam_search)
def beams_are_all_alike(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """This is greedy search: `beams` is not used, or all of them begin with a score of 0 and go the same way. At the
    start there is one beam.
    """

    class Alike(_Beams):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.score.zero_()

    return _with(Alike)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def beams_keep_their_old_words(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """The chosen tokens are appended to the beams in their old order. Each belongs behind the one that it extends."""

    class Mixed(_Beams):
        def grow(self, log_p: Tensor) -> None:
            before = self.tokens
            super().grow(log_p)
            self.tokens = torch.cat([before, self.tokens[..., -1:]], -1)

    return _with(Mixed)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def ended_flags_stay_behind(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """Words and scores follow the beams that were chosen, and what says which have ended does not: a beam is taken for
    ended that is not.
    """

    class Behind(_Beams):
        def grow(self, log_p: Tensor) -> None:
            before = self.done
            super().grow(log_p)
            self.done = before | ((self.tokens[..., -1] == self.end) & (self.score > -math.inf))

    return _with(Behind)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def length_penalty_is_forgotten(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """alpha is not used: short sentences win, since each token more makes a sentence less likely."""
    return beam_search(model, source, start, end, max_length, beams, 0.0)


@instead_of(beam_search)
def length_penalty_multiplies(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """log p is multiplied by the penalty, which favours short sentences even more. It is divided: log p is negative."""
    return beam_search(model, source, start, end, max_length, beams, -alpha)


@instead_of(beam_search)
def five_beams_by_default(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 5, alpha: float = 0.6
) -> Tensor:
    """Where nothing is said, five beams are searched. The paper searches four."""
    return beam_search(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def divides_by_the_length(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """log p is divided by n^alpha, which favours long sentences too much. GNMT's penalty is ((5 + n) / 6)^alpha."""

    class Plain(_Beams):
        def best(self, alpha: float) -> Tensor:
            self.length = 6 * self.length - 5
            return super().best(alpha)

    return _with(Plain)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def finished_beams_grow(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """What has ended is extended like the others, and becomes less likely with every token behind its end."""

    class Grown(_Beams):
        def grow(self, log_p: Tensor) -> None:
            self.done = torch.zeros_like(self.done)
            super().grow(log_p)
            self.done = (self.tokens == self.end).any(-1)

    return _with(Grown)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def stops_at_the_first_end(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """The first sentence that ends is returned. A better one may still be on its way: compare all that have ended."""

    class Hasty(_Beams):
        def grow(self, log_p: Tensor) -> None:
            super().grow(log_p)
            if self.done.any(-1).all():
                self.score = self.score.masked_fill(~self.done, -math.inf)
                self.done = torch.ones_like(self.done)

    return _with(Hasty)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def the_end_is_free(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """The log-probability of `end` is not added to a sentence that ends, so sentences stop where they cannot."""

    class Free(_Beams):
        def grow(self, log_p: Tensor) -> None:
            is_end = torch.arange(log_p.shape[-1], device=log_p.device) == self.end
            super().grow(log_p.masked_fill(is_end & (log_p > math.log(0.05)), 0.0))

    return _with(Free)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def worst_beam_is_returned(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """The last of the beams is returned and not the best."""

    class Worst(_Beams):
        def best(self, alpha: float) -> Tensor:
            out: Tensor = self.tokens[:, -1]
            return out

    return _with(Worst)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def beams_of_other_sentences(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """Memory and source are repeated as a whole: beams read another sentence's. Each row is repeated `beams` times."""

    class Mixed(_Search):
        def spread(self, memory: Tensor, source: Tensor, beams: int) -> tuple[Tensor, Tensor]:
            return memory.repeat(beams, 1, 1), source.repeat(beams, 1)

    return Mixed()(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def sentences_compete(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """When the first sentence has ended all have to. Each has beams, a score and an end of its own."""

    class Together(_Beams):
        def grow(self, log_p: Tensor) -> None:
            super().grow(log_p)
            if self.done[0].all():
                self.done = torch.ones_like(self.done)

    return _with(Together)(model, source, start, end, max_length, beams, alpha)


@instead_of(beam_search)
def beams_ignore_max_length(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """max_length is not kept by beam search: sentences become longer than it."""
    return beam_search(model, source, start, end, 2 * max_length, beams, alpha)


@instead_of(beam_search)
def always_four_beams(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """There are four beams, however many are asked for."""
    return beam_search(model, source, start, end, max_length, 4, alpha)


@instead_of(beam_search)
def beams_with_dropout(
    model: Transformer, source: Tensor, start: int, end: int, max_length: int, beams: int = 4, alpha: float = 0.6
) -> Tensor:
    """Beam search leaves dropout on, and what it finds depends on chance: `model.eval()`, and back afterwards."""
    kept = model.eval
    object.__setattr__(model, "eval", lambda: model)
    try:
        return _Search()(model, source, start, end, max_length, beams, alpha)
    finally:
        object.__setattr__(model, "eval", kept)
