"""What goes wrong in a decoder-only language model."""
# ruff: noqa: N801

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.heads import MultiHeadAttention
from reference.language_model import Cache, DecoderLM
from reference.masks import causal_mask
from reference.positions import sinusoidal_positions
from spec.mistakes import instead_of


@instead_of(DecoderLM)
class returns_probabilities(DecoderLM):
    """A softmax is taken in the model. It must return logits: the loss takes the softmax itself."""

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x).softmax(-1)


@instead_of(DecoderLM)
class returns_log_probabilities(DecoderLM):
    """A log_softmax is taken in the model. It must return logits: the loss takes the softmax itself."""

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x).log_softmax(-1)


@instead_of(DecoderLM)
class returns_the_last_position_alone(DecoderLM):
    """Only the last position's logits are returned. Every position has to answer, or training wastes all but one."""

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x[:, -1:])


@instead_of(DecoderLM)
class forgets_the_causal_mask(DecoderLM):
    """No causal mask reaches the attention: every position sees the tokens that it is to predict."""

    def _mask(self, x: Tensor, offset: int) -> Any:
        return None


@instead_of(DecoderLM)
class causal_only_in_training(DecoderLM):
    """The causal mask is left out in evaluation. It is needed in both modes, or the answer is to another question."""

    def _mask(self, x: Tensor, offset: int) -> Any:
        return super()._mask(x, offset) if self.training else None


@instead_of(DecoderLM)
class mask_added_as_ones(DecoderLM):
    """The mask is added to the scores as ones and zeros: the future is a little fainter. It must be invisible."""

    def _mask(self, x: Tensor, offset: int) -> Any:
        return None

    def _bias(self, x: Tensor, offset: int) -> Tensor:
        ones, bias = super()._mask(x, offset).to(x.dtype), super()._bias(x, offset)
        return ones if bias is None else ones + bias


@instead_of(DecoderLM)
class sees_one_token_ahead(DecoderLM):
    """The causal mask is one too wide: every position sees the very token that it is to predict."""

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        return super()._mask(x, offset) | super()._mask(x, offset).roll(-1, 0)


@instead_of(DecoderLM)
class turns_the_mask(DecoderLM):
    """The mask is turned: every position sees what comes after it, and not what came before."""

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        return super()._mask(x, offset).mT


@instead_of(DecoderLM)
class sees_itself_alone(DecoderLM):
    """Every position sees itself alone: the model knows no more than which token follows which."""

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        return torch.eye(x.shape[1], dtype=torch.bool, device=x.device)


@instead_of(DecoderLM)
class sees_a_window_alone(DecoderLM):
    """Only the last two positions are visible. Without a window, all that came before may be looked at."""

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        return super()._mask(x, offset).triu(-1)


@instead_of(DecoderLM)
class mask_of_max_length(DecoderLM):
    """The mask is made for max_length and not cut to the sequence, so shorter sequences fail."""

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        return causal_mask(self.max_length, device=x.device)


@instead_of(DecoderLM)
class mask_cut_by_heads(DecoderLM):
    """The mask is cut to the number of heads. It must be cut to the length of the sequence."""

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        return causal_mask(self.max_length, device=x.device)[: self.heads, : self.heads]


@instead_of(DecoderLM)
class alibi_instead_of_the_mask(DecoderLM):
    """With ALiBi the causal mask is left out. A slope makes the future less visible; it has to be invisible."""

    def _mask(self, x: Tensor, offset: int) -> Any:
        return None if self.scheme == "alibi" else super()._mask(x, offset)


@instead_of(DecoderLM)
class alibi_on_the_fast_path(DecoderLM):
    """Where no gradients are recorded, each position sees itself alone: the fast path of nn.TransformerEncoder takes
    every number of a float mask but 0 for hidden, and so ALiBi's slopes.
    """

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        if self.scheme != "alibi" or self.training or torch.is_grad_enabled():
            return super()._mask(x, offset)
        return torch.eye(x.shape[1], dtype=torch.bool, device=x.device)


@instead_of(DecoderLM)
class moves_the_tokens_too(DecoderLM):
    """The tokens are moved by one inside the model, so no position sees its own token. Only the targets are moved."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1), offset)


@instead_of(DecoderLM)
class moves_the_embeddings_too(DecoderLM):
    """The embeddings are moved by one behind a vector of zeros, so no position sees its own token. Only the targets are
    moved.
    """

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x: Tensor = self.tokens(tokens)
        return super()._embed(tokens, offset) - x + F.pad(x, (0, 0, 1, 0))[:, :-1]


@instead_of(DecoderLM)
class attends_over_the_batch(DecoderLM):
    """(batch, position, d_model) is read as (position, batch, d_model), as torch's layers do it without
    `batch_first=True`: sequences see each other, and their tokens do not.
    """

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens, offset).transpose(0, 1)

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x.transpose(0, 1))


@instead_of(DecoderLM)
class blocks_in_a_list(DecoderLM):
    """The blocks are in a Python list: not registered, never trained, moved or saved. Use nn.ModuleList."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        blocks = list(self.blocks)
        del self.blocks
        object.__setattr__(self, "blocks", blocks)


@instead_of(DecoderLM)
class one_layer_reused(DecoderLM):
    """One block is used again and again. Every layer has weights of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blocks = nn.ModuleList([self.blocks[0]] * len(self.blocks))


@instead_of(DecoderLM)
class number_of_layers_ignored(DecoderLM):
    """There is one block, however many layers are asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blocks = self.blocks[:1]


@instead_of(DecoderLM)
class only_the_first_layer_is_called(DecoderLM):
    """All blocks are built and only the first one is called: `return` stands inside the loop."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        x = self._embed(tokens, 0)
        return self._logits(self.blocks[0](x, mask=self._mask(x, 0), bias=self._bias(x, 0)))


@instead_of(DecoderLM)
class the_loop_calls_one_layer(DecoderLM):
    """The loop goes over all blocks and calls the first one every time. Call the loop's own variable."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        x = self._embed(tokens, 0)
        mask, bias = self._mask(x, 0), self._bias(x, 0)
        for _block in self.blocks:
            x = self.blocks[0](x, mask=mask, bias=bias)
        return self._logits(x)


@instead_of(DecoderLM)
class last_block_is_not_called(DecoderLM):
    """All blocks are built and the last one is not called: the loop ends one too early."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        x = self._embed(tokens, 0)
        mask, bias = self._mask(x, 0), self._bias(x, 0)
        for block in self.blocks[:-1]:
            x = block(x, mask=mask, bias=bias)
        return self._logits(x)


@instead_of(DecoderLM)
class every_layer_reads_the_embeddings(DecoderLM):
    """Every block is given the embeddings, so only the last one counts. Each reads what the one before it wrote."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        x = self._embed(tokens, 0)
        out = x
        for block in self.blocks:
            out = block(x, mask=self._mask(x, 0), bias=self._bias(x, 0))
        return self._logits(out)


@instead_of(DecoderLM)
class layers_start_as_copies(DecoderLM):
    """The blocks are deep copies of one, random numbers included. Build each anew, so that they start different."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blocks = nn.ModuleList(copy.deepcopy(self.blocks[0]) for _ in self.blocks)


@instead_of(DecoderLM)
class embeddings_start_at_n_0_1(DecoderLM):
    """The embeddings start at N(0, 1), as nn.Embedding does, and serve as head: the loss starts far above ln(vocab)."""

    def _start(self) -> None:
        super()._start()
        nn.init.normal_(self.tokens.weight)
        nn.init.normal_(self.head.weight)


@instead_of(DecoderLM)
class head_starts_large(DecoderLM):
    """A head of its own starts at N(0, 1): the fresh model is sure of nonsense, and its loss is far above ln(vocab)."""

    def _start(self) -> None:
        super()._start()
        nn.init.normal_(self.head.weight)


@instead_of(DecoderLM)
class starts_at_one_number(DecoderLM):
    """All matrices start at one number, so the channels and layers are equal and stay so. Start with random ones."""

    @torch.no_grad()
    def _start(self) -> None:
        for p in self.parameters():
            p.fill_(0.01 if p.ndim > 1 else 0.0)


@instead_of(DecoderLM)
class positions_are_not_added(DecoderLM):
    """Positions are made and not added to the tokens, so the order of the tokens is lost."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x: Tensor = self.tokens(tokens)
        return x + 0 * super()._embed(tokens, offset)


@instead_of(DecoderLM)
class the_same_position_everywhere(DecoderLM):
    """Every token gets the vector of position 0. Token t gets that of position t."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x: Tensor = self.tokens(tokens)
        return x + (super()._embed(tokens, offset) - x)[:, :1]


@instead_of(DecoderLM)
class positions_along_the_batch(DecoderLM):
    """Positions are counted along the batch: the second sequence gets the second position's vector everywhere."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens.T, offset).transpose(0, 1)


@instead_of(DecoderLM)
class sines_along_the_batch(DecoderLM):
    """The sinusoids are added along the batch, as a table made for (position, batch) does: `table[:x.size(0)]` of
    (batch, position) takes the number of the sequence for the position. Take `table[:x.size(1)]`, without an axis more.
    """

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        if self.scheme != "sinusoidal":
            return super()._embed(tokens, offset)
        return super()._embed(tokens.T, offset).transpose(0, 1)


@instead_of(DecoderLM)
class positions_added_twice(DecoderLM):
    """The positions are added twice."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x: Tensor = self.tokens(tokens)
        return 2 * super()._embed(tokens, offset) - x


@instead_of(DecoderLM)
class positions_start_at_one(DecoderLM):
    """The first token gets position 1, so that the last one of max_length tokens has none."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens, offset + 1)


@instead_of(DecoderLM)
class positions_count_from_the_end(DecoderLM):
    """The last token gets the table's last row, so vectors change with the length. Token t gets row t."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens, self.max_length - tokens.shape[1] if self.positions else offset)


@instead_of(DecoderLM)
class a_single_token_has_no_position(DecoderLM):
    """A sequence of one token gets no position. It gets that of position 0, as it does at the head of a longer one."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x: Tensor = self.tokens(tokens)
        return x if tokens.shape[1] == 1 else super()._embed(tokens, offset)


@instead_of(DecoderLM)
class learned_positions_are_a_plain_tensor(DecoderLM):
    """The learned positions are a plain tensor: made by chance, never trained, not saved. Use nn.Embedding."""

    rows: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.positions is not None:
            self.rows, self.positions = self.positions.weight.detach(), None

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x = super()._embed(tokens, offset)
        return x if self.rows is None else x + self.rows[offset:][: x.shape[1]].to(x)


@instead_of(DecoderLM)
class sines_are_learned(DecoderLM):
    """The table of sines is a parameter. It is given by a formula: a buffer, which no optimizer moves."""

    def __init__(self, vocab: int, max_length: int, d_model: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(vocab, max_length, d_model, *args, **kwargs)
        if self.scheme == "sinusoidal":
            self.table = nn.Parameter(sinusoidal_positions(max_length, d_model))

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x: Tensor = self.tokens(tokens)
        return x + self.table[: x.shape[1]] if self.scheme == "sinusoidal" else super()._embed(tokens, offset)


@instead_of(DecoderLM)
class slopes_are_not_used(DecoderLM):
    """With positions="alibi" no bias reaches the attention, so the order of the tokens is lost."""

    def _bias(self, x: Tensor, offset: int) -> Tensor | None:
        return None


@instead_of(DecoderLM)
class one_slope_for_all_heads(DecoderLM):
    """All heads get the first one's slope. Each has its own, so that some look far and some near."""

    def _bias(self, x: Tensor, offset: int) -> Tensor | None:
        bias = super()._bias(x, offset)
        return None if bias is None else bias[:1].expand_as(bias)


@instead_of(DecoderLM)
class rotary_is_not_passed_on(DecoderLM):
    """positions="rotary" is not handed on to the blocks, so the order of the tokens is lost."""

    def __init__(self, *, positions: str = "learned", **kwargs: Any) -> None:
        super().__init__(positions="none" if positions == "rotary" else positions, **kwargs)


@instead_of(DecoderLM)
class rotary_in_the_first_block_alone(DecoderLM):
    """Only the first block turns its queries and keys. A turn is not in the stream: every block has its own to turn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for module in self.blocks[1:].modules():
            if isinstance(module, MultiHeadAttention):
                module.rotary = False


@instead_of(DecoderLM)
class none_means_sines(DecoderLM):
    """With positions="none" sines are added: they stand behind an `else`. "none" adds nothing."""

    def __init__(self, *, positions: str = "learned", **kwargs: Any) -> None:
        super().__init__(positions="sinusoidal" if positions == "none" else positions, **kwargs)


@instead_of(DecoderLM)
class always_learned_positions(DecoderLM):
    """Learned positions are added whatever `positions` says."""

    def __init__(self, *, positions: str = "learned", **kwargs: Any) -> None:
        super().__init__(positions="learned", **kwargs)


@instead_of(DecoderLM)
class final_norm_forgotten(DecoderLM):
    """The final norm is built and not called. Before the head, a pre-norm stream has to be normed once more."""

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return logits


@instead_of(DecoderLM)
class final_norm_over_the_positions(DecoderLM):
    """The final norm takes its mean over the positions too: the future leaks. Each token is normed on its own."""

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x - x.mean((1, 2), keepdim=True) + x.mean(1, keepdim=True))


@instead_of(DecoderLM)
class norm_over_the_batch(DecoderLM):
    """Something is averaged over the batch: each sequence sees the others."""

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x - x.mean(0, keepdim=True) / 2)


@instead_of(DecoderLM)
class norm_order_ignored(DecoderLM):
    """norm="post" is not handed on: the blocks are pre-norm whatever is asked for."""

    def __init__(self, *, norm: str = "pre", **kwargs: Any) -> None:
        super().__init__(norm="pre", **kwargs)


@instead_of(DecoderLM)
class number_of_heads_ignored(DecoderLM):
    """There are always two heads, however many are asked for."""

    def __init__(self, vocab: int, max_length: int, d_model: int, layers: int, heads: int, **kwargs: Any) -> None:
        super().__init__(vocab, max_length, d_model, layers, 2, **kwargs)


@instead_of(DecoderLM)
class embeddings_times_sqrt_d_model(DecoderLM):
    """The embeddings are multiplied by √d_model. That belongs to the encoder-decoder of 2017, and not to this model."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x: Tensor = self.tokens(tokens)
        return super()._embed(tokens, offset) + x * (math.sqrt(x.shape[-1]) - 1)


@instead_of(DecoderLM)
class d_ff_is_d_model(DecoderLM):
    """The feed-forward network is as wide as the model by default. It is to be four times as wide."""

    def __init__(self, vocab: int, max_length: int, d_model: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(vocab, max_length, d_model, *args, **{"d_ff": d_model} | kwargs)


@instead_of(DecoderLM)
class d_ff_ignored(DecoderLM):
    """The feed-forward network is four times as wide as the model, whatever d_ff says."""

    def __init__(self, *, d_ff: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@instead_of(DecoderLM)
class ties_by_copying(DecoderLM):
    """The head gets a copy of the embeddings at the start. A tied head is the same parameter for ever."""

    def __init__(self, *, tie: bool = True, **kwargs: Any) -> None:
        super().__init__(tie=False, **kwargs)
        if tie:
            self.head.weight.data = self.tokens.weight.data.clone()


@instead_of(DecoderLM)
class ties_the_memory_alone(DecoderLM):
    """Two parameters share their memory (`.data`): the optimizer moves it twice, by other gradients. Share the
    parameter.
    """

    def __init__(self, *, tie: bool = True, **kwargs: Any) -> None:
        super().__init__(tie=False, **kwargs)
        if tie:
            self.head.weight.data = self.tokens.weight.data


@instead_of(DecoderLM)
class always_tied(DecoderLM):
    """The head is tied whatever `tie` says."""

    def __init__(self, *, tie: bool = True, **kwargs: Any) -> None:
        super().__init__(tie=True, **kwargs)


@instead_of(DecoderLM)
class tied_head_is_detached(DecoderLM):
    """The tied matrix is detached where it serves as head: it learns from one of its two uses."""

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.head.weight.detach() if self.tie else self.head.weight)


@instead_of(DecoderLM)
class embeddings_are_detached(DecoderLM):
    """The embeddings are cut from the graph: as inputs they never learn."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens, offset).detach()


@instead_of(DecoderLM)
class token_0_is_padding(DecoderLM):
    """The table was made with `padding_idx=0`: token 0 is one like any other, and what it says is never learned."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokens.padding_idx = 0


@instead_of(DecoderLM)
class head_has_a_bias(DecoderLM):
    """The head has a bias. It is to have none, so that it can share the embeddings' matrix and nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head.bias = nn.Parameter(torch.zeros(self.head.out_features))


@instead_of(DecoderLM)
class embedding_dropout_in_evaluation(DecoderLM):
    """Dropout acts in evaluation too: `F.dropout` was called without training=self.training."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return F.dropout(super()._embed(tokens, offset), self.dropout.p)


@instead_of(DecoderLM)
class dropout_is_ignored(DecoderLM):
    """`dropout` is taken and not used."""

    def __init__(self, *, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@instead_of(DecoderLM)
class crops_what_is_too_long(DecoderLM):
    """Too long a sequence is cropped quietly, and the answer is to another question. It must be an error."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        cropped: Tensor = super().forward(tokens[:, -self.max_length :], cache)
        return F.pad(cropped, (0, 0, tokens.shape[1] - cropped.shape[1], 0))


@instead_of(DecoderLM)
class answers_the_last_tokens_alone(DecoderLM):
    """Too long a sequence is cropped quietly, and fewer logits come back than tokens went in. It must be an error."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        return super().forward(tokens[:, -self.max_length :], cache)


@instead_of(DecoderLM)
class any_length_goes(DecoderLM):
    """Schemes without a table take sequences of any length. `max_length` is a promise that every scheme keeps."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        self.max_length, kept = 10**6, self.max_length
        try:
            return super().forward(tokens, cache)
        finally:
            self.max_length = kept


@instead_of(DecoderLM)
class does_not_say_how_long(DecoderLM):
    """The error for too long a sequence does not say how long it may be."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        if tokens.shape[1] > self.max_length:
            raise ValueError("the sequence is too long")
        return super().forward(tokens, cache)


@instead_of(DecoderLM)
class does_not_say_which_heads(DecoderLM):
    """The error for heads that do not divide d_model names no numbers."""

    def __init__(self, vocab: int, max_length: int, d_model: int, layers: int, heads: int, **kwargs: Any) -> None:
        if d_model % heads:
            raise ValueError("the heads do not divide the model")
        super().__init__(vocab, max_length, d_model, layers, heads, **kwargs)


@instead_of(DecoderLM)
class heads_are_rounded(DecoderLM):
    """Heads that do not divide d_model are quietly made fewer. It must be an error."""

    def __init__(self, vocab: int, max_length: int, d_model: int, layers: int, heads: int, **kwargs: Any) -> None:
        while d_model % heads:
            heads -= 1
        super().__init__(vocab, max_length, d_model, layers, heads, **kwargs)


@instead_of(DecoderLM)
class unknown_ids_wrap_around(DecoderLM):
    """A token id outside the vocabulary is taken modulo its size, or from the end. It must be an error."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens % self.tokens.num_embeddings, offset)


@instead_of(DecoderLM)
class negative_ids_count_from_the_end(DecoderLM):
    """The table is indexed, and an index of −1 is its last row. nn.Embedding and F.embedding refuse it."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        none = torch.zeros_like(tokens)
        return super()._embed(none, offset) - self.tokens(none) + self.tokens.weight[tokens]


@instead_of(DecoderLM)
class clamps_the_tokens_in_place(DecoderLM):
    """The tokens are clamped in place: the caller's batch is changed."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens.clamp_(0, self.tokens.num_embeddings - 2), offset)


@instead_of(DecoderLM)
class max_length_is_not_kept(DecoderLM):
    """The model does not tell its `max_length`. Whoever generates needs it, to crop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_length = self.max_length + 1


@instead_of(DecoderLM)
class logits_in_float32(DecoderLM):
    """The logits are turned into float32. They must have the dtype of the model."""

    def _logits(self, x: Tensor) -> Tensor:
        return super()._logits(x).float()


@instead_of(DecoderLM)
class sines_in_float32(DecoderLM):
    """The sines stay in float32, so that the sum is float32 too and the next matrix refuses it. Use `.to(x.dtype)`."""

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        x = super()._embed(tokens, offset)
        return x.float() if self.scheme == "sinusoidal" else x


@instead_of(DecoderLM)
class table_outside_the_state(DecoderLM):
    """Part of the model is a random tensor that is no parameter and no buffer: it is not saved, and is made anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "extra", torch.randn(self.tokens.embedding_dim))

    def _embed(self, tokens: Tensor, offset: int) -> Tensor:
        return super()._embed(tokens, offset) + self.extra  # type: ignore[operator]


@instead_of(DecoderLM)
class tied_head_is_due_in_the_state(DecoderLM):
    """A tied model refuses a state that does not name the head, or one that does. Both hold all that it needs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state_dict_hooks.clear()
        self._load_state_dict_pre_hooks.clear()


@instead_of(DecoderLM)
class causal_mask_on_the_cpu(DecoderLM):
    """The mask is made on the CPU, wherever the model is. Pass `device=tokens.device`, or register a buffer."""

    def _mask(self, x: Tensor, offset: int) -> Tensor:
        return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril().logical_and(super()._mask(x, offset))


@instead_of(DecoderLM)
class asks_the_tokens(DecoderLM):
    """Python looks at the tokens (`if tokens.max() >= vocab`), and a GPU has to stop for the answer."""

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:  # noqa: D102
        if tokens.max() >= self.tokens.num_embeddings:
            raise IndexError(f"token {int(tokens.max())} is outside a vocabulary of {self.tokens.num_embeddings}")
        return super().forward(tokens, cache)


@instead_of(DecoderLM)
class unties_by_default(DecoderLM):
    """The head has a matrix of its own unless one asks for tying. It is tied unless one declines it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"tie": False} | kwargs)
