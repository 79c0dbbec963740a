"""# A decoder-only language model

Tokens become vectors, a stack of causal blocks works on them, and a linear head says how well each token of the
vocabulary would come next, at every position at once:

    logits = head(norm(blocks(tokens[ids] + positions)))

Source: Radford et al. 2019, §2.3; the Deep Learning Curriculum, chapter 1, question 3.
"""

import io
import math
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Protocol

import safetensors.torch
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit.close import assert_close
from spec.kit.draw import axis, for_all, integers, randn, tokens
from spec.kit.marks import rejects, robust, same_weights
from spec.kit.probe import astray, finite, idle, lower_triangle, refuses
from spec.kit.weights import count, give, perturb, random_state

SCHEMES = ["learned", "sinusoidal", "rotary", "alibi", "none"]
SIZES: dict[str, Any] = {"vocab": 13, "max_length": 9, "d_model": 24, "layers": 2, "heads": 4}


class LanguageModelCall(Protocol):
    """A built language model."""

    def forward(
        self, tokens: Int[Tensor, "batch position"], cache: Any = None
    ) -> Float[Tensor, "batch position vocab"]:
        """The logits of the next token at every position; `cache` belongs to the chapter on generation."""
        ...


class LanguageModel(Protocol):
    """What an implementation of this chapter offers."""

    def DecoderLM(
        self,
        vocab: int,
        max_length: int,
        d_model: int,
        layers: int,
        heads: int,
        d_ff: int | None = None,
        dropout: float = 0.0,
        positions: str = "learned",
        norm: str = "pre",
        tie: bool = True,
    ) -> Annotated[nn.Module, LanguageModelCall]:
        """Reads tokens and says at every position which token comes next."""
        ...


@rejects("returns_the_last_position_alone", "mask_of_max_length", "mask_cut_by_heads", "clamps_the_tokens_in_place")
@for_all(ids=integers("batch position", below="vocab"), vocab=axis("vocab"))
def test_every_position_gets_a_number_for_every_token(impl: LanguageModel, ids: Tensor, vocab: int) -> None:
    """The output has one number for every token of the vocabulary, at every position of every sequence.

    One pass answers the question 'what comes next?' for all prefixes at once, which is what makes training cheap.

    Source: the Deep Learning Curriculum, chapter 1, question 3.

    Hint: `nn.Linear(d_model, vocab, bias=False)` comes last.
    """
    model = impl.DecoderLM(vocab=vocab, max_length=20, d_model=24, layers=2, heads=4)
    logits = model(ids)
    assert logits.shape == (*ids.shape, vocab)
    assert finite(logits)


@rejects("returns_probabilities", "returns_log_probabilities")
@for_all(positions=SCHEMES, examples=5)
def test_output_is_logits(impl: LanguageModel, positions: str) -> None:
    """The numbers are logits: they may be of either sign, and do not sum to one.

    The loss takes a softmax itself. A second one flattens what the model says, and training crawls.

    Hint: no softmax and no log_softmax in the model.
    """
    logits = perturb(impl.DecoderLM(**SIZES, positions=positions))(tokens(13, 2, 7))
    assert (logits > 0).any()
    assert (logits < 0).any()


@rejects("positions_start_at_one", "max_length_is_not_kept")
@for_all(positions=SCHEMES, examples=5)
def test_lengths_up_to_max_length_work(impl: LanguageModel, positions: str) -> None:
    """Sequences of one token up to `max_length` tokens work, and the model tells its `max_length`.

    Generation starts with a short prompt and has to know when to crop.

    Hint: cut masks and positions to the length that came in; `self.max_length = max_length`.
    """
    model = impl.DecoderLM(**SIZES, positions=positions)
    assert model.max_length == 9
    for length in (1, 2, 8, 9):
        assert finite(model(tokens(13, 2, length)))


@rejects(
    "forgets_the_causal_mask",
    "sees_one_token_ahead",
    "alibi_instead_of_the_mask",
    "positions_along_the_batch",
    "norm_over_the_batch",
    "sines_in_float32",
    "causal_only_in_training",
    "mask_added_as_ones",
    "moves_the_embeddings_too",
    "attends_over_the_batch",
)
@for_all(positions=SCHEMES, norm=["pre", "post"], examples=10)
def test_each_position_sees_itself_and_those_before(impl: LanguageModel, positions: str, norm: str) -> None:
    """The logits at a position depend on the tokens at and before it, on all of them, and on none after.

    A model that sees the token that it is to predict copies it: its loss is wonderful, and it can write nothing. One
    that does not see its own token is blind to the most telling one.

    Source: Radford et al. 2018, §3.1; Vaswani et al. 2017, §3.2.3.

    Hint: does the causal mask reach the attention of every block, in every scheme of positions and in both modes?
    """
    model = perturb(impl.DecoderLM(**SIZES, positions=positions, norm=norm)).double()
    ids = tokens(13, 1, 7)
    others = torch.where(torch.eye(7, dtype=torch.bool), (ids + 1) % 13, ids)  # row j has another token at position j
    for training in (False, True):
        model.train(training)
        moved = (model(others) - model(ids)).abs().amax(-1) > 1e-7
        assert_close(rearrange(moved, "key query -> query key"), lower_triangle(7))


@rejects(
    "forgets_the_causal_mask",
    "sees_one_token_ahead",
    "turns_the_mask",
    "alibi_instead_of_the_mask",
    "final_norm_over_the_positions",
    "causal_only_in_training",
    "mask_added_as_ones",
    "positions_count_from_the_end",
    "a_single_token_has_no_position",
)
@for_all(positions=SCHEMES, norm=["pre", "post"], examples=10)
def test_a_prefix_alone_gives_the_prefix_of_the_whole(impl: LanguageModel, positions: str, norm: str) -> None:
    """The first tokens alone get the logits that they get at the head of a longer sequence.

    Training reads whole sequences, writing reads prefixes: if a length changed the answer, the model would be used
    otherwise than it was trained.

    Hint: nothing may be normed, averaged or scaled over the positions.
    """
    model = perturb(impl.DecoderLM(**SIZES, positions=positions, norm=norm)).eval()
    ids = tokens(13, 2, 7)
    whole = model(ids)
    for length in (1, 4):
        assert_close(model(ids[:, :length]), whole[:, :length], atol=1e-4, rtol=1e-4)


@rejects("positions_along_the_batch", "sines_along_the_batch", "norm_over_the_batch", "attends_over_the_batch")
@for_all(positions=SCHEMES, norm=["pre", "post"], examples=6)
def test_sequences_of_a_batch_do_not_see_each_other(impl: LanguageModel, positions: str, norm: str) -> None:
    """Each sequence of a batch gets what it would get alone.

    Which sequences travel together is chance; an answer must not depend on it.

    Hint: positions are counted along the second axis, not along the batch; no norm runs over the batch.
    """
    model = perturb(impl.DecoderLM(**SIZES, positions=positions, norm=norm)).eval()
    ids = tokens(13, 3, 7)
    alone = torch.cat([model(row) for row in ids.chunk(3)])
    assert_close(model(ids), alone, atol=1e-4, rtol=1e-4)


@rejects(
    "turns_the_mask",
    "sees_itself_alone",
    "sees_a_window_alone",
    "positions_are_not_added",
    "the_same_position_everywhere",
    "slopes_are_not_used",
    "rotary_is_not_passed_on",
    "last_block_is_not_called",
)
@for_all(positions=["learned", "sinusoidal", "rotary", "alibi"], examples=4)
def test_positions_tell_the_order(impl: LanguageModel, positions: str) -> None:
    """With positions, one layer already tells in which order the earlier tokens came.

    'Dog bites man' is not 'man bites dog'. Attention sees a set; the positions make it a sequence.

    Source: Vaswani et al. 2017, §3.5.

    Hint: learned and sinusoidal positions are added to the tokens, rotary turns queries and keys, alibi is a bias.
    """
    model = perturb(impl.DecoderLM(**SIZES | {"layers": 1}, positions=positions)).eval()
    told, swapped = model(torch.tensor([[3, 7, 1, 5], [7, 3, 1, 5]]))[:, -1]
    assert (told - swapped).abs().max() > 1e-3


@rejects(
    "sees_a_window_alone",
    "moves_the_tokens_too",
    "always_learned_positions",
    "final_norm_over_the_positions",
    "none_means_sines",
    "moves_the_embeddings_too",
)
def test_without_positions_one_layer_cannot_tell_the_order(impl: LanguageModel) -> None:
    """With positions="none", one layer gives the last token the same logits in whatever order the others came.

    It is the question behind positions, asked of a whole model: there is no order in attention itself. (From two layers
    on the causal mask gives it away, since each position saw another prefix.)

    Hint: for "none", add nothing to the tokens and no bias to the scores.
    """
    model = perturb(impl.DecoderLM(**SIZES | {"layers": 1}, positions="none")).eval()
    told, swapped = model(torch.tensor([[3, 7, 1, 5], [7, 1, 3, 5]]))[:, -1]
    assert_close(told, swapped, atol=1e-4, rtol=1e-4)


@rejects("sines_are_learned", "always_learned_positions", "learned_positions_are_a_plain_tensor")
@for_all(positions=["learned", "sinusoidal", "rotary", "alibi"], examples=4)
def test_only_learned_positions_are_parameters(impl: LanguageModel, positions: str) -> None:
    """Learned positions are max_length · d_model parameters; the other schemes have none.

    Sines, rotations and slopes are given by a formula, and an optimizer that moved them would take that away.

    Hint: a table that does not learn is a buffer: `register_buffer(…, persistent=False)`.
    """
    with_them, without = (_size(impl, positions=scheme) for scheme in (positions, "none"))
    assert with_them - without == (9 * 24 if positions == "learned" else 0)


def _size(impl: LanguageModel, **sizes: Any) -> int:
    """How many parameters a model has that was seen to work."""
    model = impl.DecoderLM(**SIZES | sizes)
    assert finite(model(tokens(13, 2, 7)))
    return count(model)


@rejects("blocks_in_a_list", "one_layer_reused", "number_of_layers_ignored")
@for_all(layers=[1, 2, 5], examples=3)
def test_every_layer_adds_the_same_number_of_parameters(impl: LanguageModel, layers: int) -> None:
    """One layer more is always the same number of parameters more.

    Layers share their form and not their weights: each learns a step of its own.

    Source: the Deep Learning Curriculum, chapter 1, question 3.

    Hint: `nn.ModuleList(Block(…) for _ in range(layers))`; a plain list hides the blocks from `parameters()`.
    """
    counts = [_size(impl, layers=n) for n in (layers, layers + 1, layers + 2)]
    assert counts[2] - counts[1] == counts[1] - counts[0]
    assert counts[1] > counts[0]


@rejects("d_ff_ignored", "blocks_in_a_list")
def test_d_ff_is_the_width_of_the_feed_forward_layers(impl: LanguageModel) -> None:
    """Each unit more in d_ff is the same number of parameters more, in every layer.

    d_ff is the width between the two layers of a feed-forward; the rest of the model does not know of it.

    Source: Vaswani et al. 2017, §3.3.

    Hint: does `d_ff` reach the blocks, or is `4 * d_model` written there?
    """
    counts = {(layers, d_ff): _size(impl, layers=layers, d_ff=d_ff) for layers in (1, 2) for d_ff in (32, 40, 48)}
    for layers in (1, 2):
        more = counts[layers, 40] - counts[layers, 32]
        assert more == counts[layers, 48] - counts[layers, 40]
        assert more >= layers * 8 * 2 * SIZES["d_model"]


@rejects("unties_by_default", "ties_by_copying", "ties_the_memory_alone", "always_tied")
def test_tying_saves_one_matrix(impl: LanguageModel) -> None:
    """With tie=False there are vocab · d_model more parameters than with tie=True, which is the default.

    Token to vector and vector to token are the same question asked twice; sharing the answer saves the largest matrix.

    Source: Press & Wolf 2017, §1.

    Hint: `self.head.weight = self.tokens.weight` makes both names one parameter; copying the values does not.
    """
    # A copy and a second name of one memory have as many parameters: what they answer tells these mistakes apart.
    assert finite(perturb(impl.DecoderLM(**SIZES))(tokens(13, 1, 3)))
    tied, free = (_size(impl, tie=tie) for tie in (True, False))
    assert free - tied == 13 * 24
    assert _size(impl) == tied


@rejects("layers_start_as_copies", "starts_at_one_number", "ties_by_copying", "ties_the_memory_alone")
def test_layers_start_different(impl: LanguageModel) -> None:
    """No two weight matrices are equal at the start.

    Layers that start alike get other gradients, but what they have in common has to be unlearned first.

    Hint: `copy.deepcopy(block)` copies the random numbers too; build each block anew.
    """
    model = impl.DecoderLM(**SIZES | {"layers": 3})
    matrices = [p for p in model.parameters() if p.ndim > 1 and p.std() > 0]
    assert len(matrices) >= 3
    for n, one in enumerate(matrices):
        assert not any(torch.equal(one, other) for other in matrices[:n])


@rejects("tied_head_is_detached", "embeddings_are_detached", "head_has_a_bias")
def test_a_tied_matrix_learns_from_both_its_uses(impl: LanguageModel) -> None:
    """The tied matrix is the only parameter as long as the vocabulary; it gets gradients as embedding and as head.

    A token that was not read still gets a gradient, as an answer that could have been given.

    Source: Press & Wolf 2017, §3.

    Hint: no .detach(), no .data, no copy; and the head has no bias.
    """
    model = perturb(impl.DecoderLM(**SIZES | {"vocab": 37}, tie=True))
    long = [p for p in model.parameters() if 37 in p.shape]
    assert len(long) == 1
    logits, token = model(torch.tensor([[3, 8, 5]])), long[0].shape.index(37)
    read, unread = (torch.autograd.grad(logits[..., i].sum(), long, retain_graph=True)[0] for i in (30, 31))
    moved = [grad.select(token, row).any() for grad, row in ((read, 8), (read, 30), (unread, 31))]
    assert_close(torch.stack(moved), torch.ones(3, dtype=torch.bool))


@rejects("token_0_is_padding", "embeddings_are_detached")
def test_every_token_that_is_read_learns(impl: LanguageModel) -> None:
    """Every token that is read moves its row of the table, and token 0 is no exception.

    No id has a meaning of its own here: a row that gets no gradient stays as chance made it.

    Hint: `nn.Embedding(vocab, d_model)`, without a padding_idx.
    """
    model = perturb(impl.DecoderLM(**SIZES | {"vocab": 37}, tie=False))
    ids = torch.tensor([0, 8, 5, 36])
    logits = model(ids[None])
    torch.autograd.backward((logits * randn(*logits.shape)).sum())
    for p in model.parameters():
        if 37 in p.shape and p.requires_grad:
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            rows = gradient.movedim(p.shape.index(37), 0)[ids]
            assert_close(rows.reshape(4, -1).any(1), torch.ones(4, dtype=torch.bool))


@rejects(
    "final_norm_forgotten",
    "embeddings_are_detached",
    "last_block_is_not_called",
    "the_loop_calls_one_layer",
)
@for_all(positions=SCHEMES, norm=["pre", "post"], examples=6)
def test_the_optimizer_is_given_every_weight(impl: LanguageModel, positions: str, norm: str) -> None:
    """The tensors that a gradient reaches are exactly `parameters()`.

    A block in a Python list is not registered: it computes, it is never trained, moved or saved, and nothing complains.

    Hint: `nn.ModuleList` for blocks, `nn.Parameter` for tensors; and does every layer take part?
    """
    model = impl.DecoderLM(**SIZES, positions=positions, norm=norm)
    assert astray(model, model(tokens(13, 2, 7))) == []


@rejects("positions_are_not_added", "final_norm_forgotten")
@for_all(positions=SCHEMES, norm=["pre", "post"], examples=6)
def test_every_matrix_gets_a_gradient(impl: LanguageModel, positions: str, norm: str) -> None:
    """Every parameter has a finite gradient, and every matrix one that is not zero.

    What has no gradient stays as chance made it. (The bias of a key has none by nature: it moves all scores alike.)

    Hint: look for .detach(), torch.tensor(…), .data, and for layers that are built and not called.
    """
    model = perturb(impl.DecoderLM(**SIZES, positions=positions, norm=norm))
    torch.autograd.backward(_loss(model(tokens(13, 2, 7)), tokens(13, 2, 7, key="next")))
    assert idle(model) == []


@rejects("embeddings_start_at_n_0_1", "head_starts_large", "positions_start_at_one")
@for_all(tie=[True, False], examples=2)
def test_loss_starts_at_that_of_guessing(impl: LanguageModel, tie: bool) -> None:
    """A fresh model's loss on random targets is ln(vocab), within 5 %.

    Knowing nothing, it had best say that all tokens are equally likely. Embeddings of N(0, 1) that serve as a head make
    it sure of nonsense, and the first thousand steps only undo that.

    Source: Radford et al. 2018, §4.1 (N(0, 0.02)); Karpathy, Let's build GPT.

    Hint: `nn.init.normal_(weight, std=0.02)` for all matrices, after building; `nn.Embedding` starts with N(0, 1).
    """
    ids, targets = tokens(1000, 8, 64), tokens(1000, 8, 64, key="targets")
    models = [impl.DecoderLM(vocab=1000, max_length=64, d_model=32, layers=2, heads=4, tie=tie) for _ in range(3)]
    with torch.no_grad():
        loss = sum(_loss(model(ids), targets).item() for model in models) / 3
    assert 0.95 * math.log(1000) < loss < 1.05 * math.log(1000)


@rejects(
    "returns_probabilities",
    "sees_itself_alone",
    "moves_the_tokens_too",
    "starts_at_one_number",
    "tied_head_is_detached",
)
def test_a_handful_of_sequences_is_learned_by_heart(impl: LanguageModel) -> None:
    """Four sequences with different first tokens are learned by heart: the loss falls below 0.01 in 300 steps.

    The cheapest test of a whole model: whatever keeps it from learning by heart keeps it from learning at all.

    Hint: if the loss stalls at some level, what can the model not see, or not say?
    """
    model = impl.DecoderLM(vocab=15, max_length=9, d_model=64, layers=2, heads=4)
    ids = torch.cat([torch.arange(4)[:, None], 4 + randn(4, 11).argsort(-1)[:, :6]], 1)  # no token twice in a sequence
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = torch.tensor(math.inf)
    for _ in range(300):
        optimizer.zero_grad()
        loss = _loss(model(ids[:, :-1]), ids[:, 1:])
        torch.autograd.backward(loss)
        optimizer.step()
        if loss < 0.01:
            break
    assert loss < 0.01


@rejects("embedding_dropout_in_evaluation", "dropout_is_ignored")
def test_dropout_acts_in_training_alone(impl: LanguageModel) -> None:
    """With dropout, two training passes differ; in evaluation two passes are equal.

    Dropout is noise for learning; an answer has no use for it.

    Source: Vaswani et al. 2017, §5.4.

    Hint: `nn.Dropout` knows the mode; `F.dropout` needs `training=self.training`.
    """
    ids = tokens(13, 2, 7)
    model, plain = (perturb(impl.DecoderLM(**SIZES, dropout=p)) for p in (0.5, 0.0))
    assert (model(ids) - model(ids)).abs().max() > 1e-3
    model.eval()
    assert_close(model(ids), model(ids), atol=0, rtol=0)
    assert_close(plain(ids), plain(ids), atol=0, rtol=0)


@rejects("alibi_on_the_fast_path")
@for_all(positions=SCHEMES, examples=5)
def test_logits_are_the_same_without_gradients(impl: LanguageModel, positions: str) -> None:
    """In evaluation the logits are the same whether gradients are recorded or not.

    `torch.no_grad()` is there to save memory. Some of PyTorch's own modules go another way inside it, and it is the way
    on which a finished model writes.

    Hint: nn.TransformerEncoder's fast path takes a mask of numbers for one of hidden and visible, which loses a bias.
    """
    model = perturb(impl.DecoderLM(**SIZES, positions=positions)).eval()
    recorded = model(tokens(13, 2, 7))
    with torch.no_grad():
        assert_close(model(tokens(13, 2, 7)), recorded, atol=1e-4, rtol=1e-4)


@rejects(
    "only_the_first_layer_is_called",
    "every_layer_reads_the_embeddings",
    "crops_what_is_too_long",
    "any_length_goes",
    "max_length_is_not_kept",
    "answers_the_last_tokens_alone",
)
@for_all(positions=SCHEMES, examples=5)
def test_too_long_a_sequence_is_an_error(impl: LanguageModel, positions: str) -> None:
    """A sequence of more than `max_length` tokens is an error, whatever the positions are.

    Cropping it quietly would answer for other tokens than those that were asked about.

    Hint: `if tokens.shape[1] > self.max_length: raise ValueError(…)`
    """
    model = impl.DecoderLM(**SIZES, positions=positions)
    assert refuses(lambda: model(tokens(13, 2, 10)))


@rejects("unknown_ids_wrap_around", "negative_ids_count_from_the_end", "clamps_the_tokens_in_place")
def test_a_token_outside_the_vocabulary_is_an_error(impl: LanguageModel) -> None:
    """A token id below 0 or from `vocab` on is an error.

    It means that text and model do not have the same vocabulary, and anything that the model said would be nonsense.

    Hint: `nn.Embedding` raises this error by itself on the CPU; indexing takes −1 for the last row.
    """
    model = impl.DecoderLM(**SIZES)
    assert refuses(lambda: model(torch.tensor([[1, 13, 2]])))
    assert refuses(lambda: model(torch.tensor([[1, -1, 2]])))


@rejects("number_of_heads_ignored", "heads_are_rounded")
def test_heads_that_do_not_divide_d_model_are_an_error(impl: LanguageModel) -> None:
    """A d_model that the heads do not divide is an error when the model is built.

    Hint: the attention module checks it.
    """
    assert refuses(lambda: impl.DecoderLM(**SIZES | {"heads": 5})(tokens(13, 2, 7)))


@rejects("table_outside_the_state", "learned_positions_are_a_plain_tensor")
@for_all(positions=SCHEMES, norm=["pre", "post"], examples=5)
def test_saving_and_loading_restores_the_logits(impl: LanguageModel, positions: str, norm: str) -> None:
    """A fresh model that loads the saved state gives the same logits, bit by bit.

    What is not saved is lost when the program ends: a weight outside the state dict, a random table made anew.

    Hint: everything that took part in training has to be a parameter or a persistent buffer.
    """
    model, fresh = (impl.DecoderLM(**SIZES, positions=positions, norm=norm).eval() for _ in range(2))
    file = io.BytesIO()
    torch.save(perturb(model).state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_close(fresh(tokens(13, 2, 7)), model(tokens(13, 2, 7)), atol=0, rtol=0)


@rejects("table_outside_the_state")
def test_safetensors_save_and_load_restore_the_logits(impl: LanguageModel) -> None:
    """The model survives safetensors' `save_model` and `load_model`, a tied matrix included.

    A file of safetensors holds numbers and runs no code when it is loaded; the two functions know shared tensors.

    Hint: one parameter under two names is fine; two parameters over one memory are not.
    """
    model, fresh = (impl.DecoderLM(**SIZES).eval() for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        safetensors.torch.save_model(perturb(model), f"{folder}/model.safetensors")
        # not strict: a model that fills in the second name of a tied matrix itself looks as if it had one too many
        safetensors.torch.load_model(fresh, f"{folder}/model.safetensors", strict=False)
    assert_close(fresh(tokens(13, 2, 7)), model(tokens(13, 2, 7)), atol=0, rtol=0)


@rejects("logits_in_float32", "sines_in_float32")
@for_all(dtype=[torch.float64, torch.bfloat16], positions=SCHEMES, examples=10)
def test_logits_have_the_models_dtype(impl: LanguageModel, dtype: torch.dtype, positions: str) -> None:
    """`model.to(dtype)` computes in float64, bfloat16 and float16, and so are its logits.

    A table of sines in float32 makes the sum float32, and the next matrix refuses it.

    Hint: bring what you compute in forward to the dtype of x: `table.to(x.dtype)`.
    """
    model = impl.DecoderLM(**SIZES, positions=positions).to(dtype)
    logits = model(tokens(13, 2, 7))
    assert logits.dtype == dtype
    assert finite(logits)


@rejects("returns_the_last_position_alone", "mask_of_max_length", "mask_cut_by_heads")
def test_tokens_are_not_modified(impl: LanguageModel) -> None:
    """The tokens that come in are the same afterwards.

    They are somebody's batch: the targets may be a view of them.

    Hint: no `tokens[…] = …` and no method that ends in an underscore.
    """
    ids = tokens(13, 2, 7)
    impl.DecoderLM(**SIZES)(ids)
    assert torch.equal(ids, tokens(13, 2, 7))


@same_weights
@rejects("one_layer_reused", "d_ff_is_d_model", "always_tied")
@for_all(positions=["learned", "sinusoidal", "rotary", "alibi", "none"], tie=[True, False], examples=4)
def test_parameters_have_the_canonical_shapes(impl: LanguageModel, positions: str, tie: bool) -> None:
    """The parameters are exactly the canonical ones, in name, shape and number.

    One state dict then loads into any implementation, and a count can be done by hand.

    Hint: the error lists what is due and what was found; biases everywhere but in the head.
    """
    model = impl.DecoderLM(**SIZES, positions=positions, tie=tie)
    state = _state(positions, tie)
    give(model, state)
    assert count(model) == sum(value.numel() for value in state.values())


@same_weights
@rejects(
    "returns_log_probabilities",
    "the_same_position_everywhere",
    "positions_added_twice",
    "slopes_are_not_used",
    "one_slope_for_all_heads",
    "rotary_is_not_passed_on",
    "norm_order_ignored",
    "embeddings_times_sqrt_d_model",
    "rotary_in_the_first_block_alone",
    "none_means_sines",
    "positions_count_from_the_end",
    "ties_by_copying",
)
@for_all(positions=SCHEMES, norm=["pre", "post"], heads=[2, 4], tie=[True, False], examples=12)
def test_equal_weights_give_equal_logits(impl: LanguageModel, positions: str, norm: str, heads: int, tie: bool) -> None:
    """Under the canonical weights the logits are those of the architecture, written down in torch's functions.

    Laws say what may not happen; this says that nothing else does: each norm, skip, bias and scale is in its place.

    Source: Radford et al. 2019, §2.3; Vaswani et al. 2017, §3.

    Hint: the order is tokens, positions, blocks, norm (with both norm orders), head; GELU without the tanh. Where yours
    differs on purpose (ReLU, embeddings times √d_model), say so: `UNSUPPORTED = {"same_weights"}`.
    """
    model = impl.DecoderLM(**SIZES | {"heads": heads}, positions=positions, norm=norm, tie=tie).eval()
    state, ids = _state(positions, tie), tokens(13, 2, 7)
    give(model, state)
    pairings = [_logits(state, ids, positions, norm, heads, neighbours) for neighbours in (True, False)]
    logits = model(ids)
    nearer = min(pairings, key=lambda expected: float((logits.detach() - expected).abs().max()))
    assert_close(logits, nearer, atol=1e-4, rtol=1e-4)


@robust
@same_weights
@rejects("tied_head_is_due_in_the_state")
def test_a_tied_state_may_name_the_head_or_not(impl: LanguageModel) -> None:
    """A tied model loads a state with `head.weight` and one without it.

    Both are around: the shared matrix is one tensor under two names, and some libraries store each tensor once.

    Hint: `register_load_state_dict_pre_hook` adds the missing name; then `register_state_dict_post_hook` may drop it.
    """
    model, state = impl.DecoderLM(**SIZES, tie=True).eval(), _state("learned", tie=True)
    give(model, state)
    before = model(tokens(13, 2, 7))
    own = {name: value.clone() for name, value in model.state_dict().items() if name != "head.weight"}
    both = own | {name.replace("tokens", "head"): own[name] for name in own if name == "tokens.weight"}
    for stored in (own, both):
        perturb(model)
        assert not refuses(partial(model.load_state_dict, stored))
        assert_close(model(tokens(13, 2, 7)), before, atol=0, rtol=0)


@robust
@rejects("d_ff_is_d_model")
def test_d_ff_is_four_times_d_model_by_default(impl: LanguageModel) -> None:
    """Without d_ff the feed-forward network is 4 · d_model wide.

    Source: Vaswani et al. 2017, §3.3; Radford et al. 2018, §4.1.

    Hint: `d_ff = 4 * d_model if d_ff is None else d_ff`
    """
    assert count(impl.DecoderLM(**SIZES)) == count(impl.DecoderLM(**SIZES | {"d_ff": 4 * SIZES["d_model"]}))


@robust
@rejects(
    "only_the_first_layer_is_called",
    "every_layer_reads_the_embeddings",
    "crops_what_is_too_long",
    "any_length_goes",
    "does_not_say_how_long",
)
@for_all(positions=SCHEMES, examples=5)
def test_too_long_a_sequence_is_named(impl: LanguageModel, positions: str) -> None:
    """The error for too long a sequence names the model's `max_length`.

    Whoever reads it wants to know how far the sequence has to be cut.

    Hint: `raise ValueError(f"{length} tokens do not fit into max_length={self.max_length}")`
    """
    model = impl.DecoderLM(**SIZES | {"max_length": 17}, positions=positions)
    assert refuses(lambda: model(tokens(13, 2, 23)), 17)


@robust
@rejects("number_of_heads_ignored", "does_not_say_which_heads", "heads_are_rounded")
def test_heads_that_do_not_divide_d_model_are_named(impl: LanguageModel) -> None:
    """The error for heads that do not divide d_model names both numbers.

    Hint: `raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")`
    """
    assert refuses(lambda: impl.DecoderLM(**SIZES | {"heads": 5}), 24, 5)


@robust
@rejects("causal_mask_on_the_cpu", "asks_the_tokens")
@for_all(positions=SCHEMES, norm=["pre", "post"], examples=5)
def test_the_model_follows_its_device_without_asking_it(impl: LanguageModel, positions: str, norm: str) -> None:
    """The whole model moves with `.to(device)`, and no value is read back by Python.

    The meta device has shapes and no numbers: a table left on the CPU does not fit there, and `if tokens.max() > 9` has
    no answer. On a GPU the first is an error; the second makes it wait, and breaks a compiled graph.

    Hint: buffers move with the model; for the rest `device=tokens.device`; no `.item()`, no `if` on a tensor.
    """
    model = impl.DecoderLM(**SIZES, positions=positions, norm=norm).to("meta")
    assert model(tokens(13, 2, 7).to("meta")).device.type == "meta"


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(rearrange(logits, "batch position vocab -> (batch position) vocab"), targets.flatten())


def _state(positions: str, tie: bool, vocab: int = 13, length: int = 9, d_model: int = 24) -> dict[str, Tensor]:
    """Random weights of a two-layer model by their canonical names; norms are around one, so that it stays lively."""
    d_ff = 4 * d_model
    shapes: dict[str, tuple[int, ...]] = {"tokens.weight": (vocab, d_model), "norm.weight": (d_model,)}
    shapes["norm.bias"] = (d_model,)
    if positions == "learned":
        shapes["positions.weight"] = (length, d_model)
    if not tie:
        shapes["head.weight"] = (vocab, d_model)
    layers = {f"attention.{name}": (d_model, d_model) for name in ("query", "key", "value", "output")}
    layers |= {"feed_forward.up": (d_ff, d_model), "feed_forward.down": (d_model, d_ff)}
    for block in ("blocks.0", "blocks.1"):
        for name, shape in layers.items():
            shapes |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        for name in ("norm_1", "norm_2"):
            shapes |= {f"{block}.{name}.weight": (d_model,), f"{block}.{name}.bias": (d_model,)}
    state = random_state(shapes)
    return {name: value + 1 if "norm" in name and "weight" in name else value for name, value in state.items()}


def _logits(
    state: dict[str, Tensor], ids: Tensor, positions: str, norm: str, heads: int, neighbours: bool
) -> Float[Tensor, "batch position vocab"]:
    """The architecture in torch's functions; `neighbours` says which channels rotary pairs."""
    x = F.embedding(ids, state["tokens.weight"]) + _added(state, ids.shape[1], positions)
    for block in ("blocks.0", "blocks.1"):

        def linear(x: Tensor, name: str, block: str = block) -> Tensor:
            return F.linear(x, state[f"{block}.{name}.weight"], state[f"{block}.{name}.bias"])

        def normed(x: Tensor, name: str, block: str = block) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], state[f"{block}.{name}.weight"], state[f"{block}.{name}.bias"])

        def attend(x: Tensor, linear: Callable[[Tensor, str], Tensor] = linear) -> Tensor:
            split = "batch position (head d) -> batch head position d"
            q, k, v = (rearrange(linear(x, f"attention.{n}"), split, head=heads) for n in ("query", "key", "value"))
            if positions == "rotary":
                q, k = _turned(q, neighbours), _turned(k, neighbours)
            out = F.scaled_dot_product_attention(q, k, v, _bias(ids.shape[1], heads, positions))
            return linear(rearrange(out, "batch head position d -> batch position (head d)"), "attention.output")

        def feed(x: Tensor, linear: Callable[[Tensor, str], Tensor] = linear) -> Tensor:
            return linear(F.gelu(linear(x, "feed_forward.up")), "feed_forward.down")

        for sublayer, name in ((attend, "norm_1"), (feed, "norm_2")):
            x = x + sublayer(normed(x, name)) if norm == "pre" else normed(x + sublayer(x), name)
    x = F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"])
    return F.linear(x, state.get("head.weight", state["tokens.weight"]))


def _added(state: dict[str, Tensor], length: int, positions: str) -> Float[Tensor, "position d_model"]:
    if positions == "learned":
        return state["positions.weight"][:length]
    d_model = state["tokens.weight"].shape[1]
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, d_model, 2) / d_model)
    sines = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
    return sines if positions == "sinusoidal" else torch.zeros(length, d_model)


def _turned(x: Tensor, neighbours: bool) -> Tensor:
    pair = "... (d pair) -> ... d pair" if neighbours else "... (pair d) -> ... d pair"
    plane = torch.view_as_complex(rearrange(x, pair, pair=2).contiguous())
    angle = torch.arange(x.shape[-2])[:, None] / 10000 ** (torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    turned = torch.view_as_real(plane * torch.polar(torch.ones_like(angle), angle))
    there, back = pair.split(" -> ")
    return rearrange(turned, f"{back} -> {there}")


def _bias(length: int, heads: int, positions: str) -> Float[Tensor, "head query key"]:
    distance = torch.arange(length)[:, None] - torch.arange(length)
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads) * (positions == "alibi")
    bias: Tensor = -slopes[:, None, None] * distance
    return bias.masked_fill(~lower_triangle(length), -math.inf)
