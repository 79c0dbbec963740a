"""# The block, redesigned

What of a Transformer's block is needed? Two answers, and one of our own.

    parallel:    n = norm(x),  out = x + attention(n) + network(n)
    simplified:  n = norm(x),  out = b · (A n) + g · network(n)
                               A = alpha · I + beta · softmax(q kᵀ / √d_k) − gamma · C

The parallel block does at once what the standard one does in turn. The simplified one has no skip, no values and no
output layer: its attention begins as the identity, since the queries are zero and C, the uniform attention, takes off
what the softmax of zero scores adds. PA-Former is a name in a reading list, without a definition; the one here is ours,
and stated as ours: a simplified block whose gains alpha, beta and gamma follow statistics of the input.

Source: Wang & Komatsuzaki 2021; Chowdhery et al. 2022; He & Hofmann 2023; Noci et al. 2023.
"""

import copy
import math
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import pytest
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit.close import assert_close, nearest
from spec.kit.draw import axis, booleans, doubles, for_all, normal, randn, tokens
from spec.kit.encoder import Encoder
from spec.kit.marks import patience, rejects, robust, same_weights
from spec.kit.probe import finite, gradients_are_derivatives, idle, lower_triangle, refuses, who_sees_whom
from spec.kit.side_by_side import Blocks, side_by_side
from spec.kit.weights import count, fit, give, lacking, perturb, random_state, take


class BlockCall(Protocol):
    """How a block is called."""

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Attention and feed-forward network."""
        ...


class ShapedAttentionCall(Protocol):
    """How shaped attention is called."""

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """The matrix times every head's slice of x."""
        ...

    def matrix(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch head query key"]:
        """alpha · I + beta · softmax(q kᵀ / √d_k) − gamma · C, for every head."""
        ...


class Redesign(Protocol):
    """What an implementation of this chapter offers."""

    def ParallelBlock(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0
    ) -> Annotated[nn.Module, BlockCall]:
        """Attention and network side by side, around them a skip."""
        ...

    def ShapedAttention(
        self, d_model: int, heads: int, first_layer: bool = False
    ) -> Annotated[nn.Module, ShapedAttentionCall]:
        """Attention that begins as the identity."""
        ...

    def SimplifiedBlock(
        self,
        d_model: int,
        heads: int,
        d_ff: int,
        parallel: bool = True,
        norm: bool = True,
        first_layer: bool = False,
        residual_gain: float = 0.1,
    ) -> Annotated[nn.Module, BlockCall]:
        """SAS-P, or SAS with parallel=False: no skip, no values, no output layer."""
        ...

    def PAFormerBlock(
        self, d_model: int, heads: int, d_ff: int, first_layer: bool = False, residual_gain: float = 0.1
    ) -> Annotated[nn.Module, BlockCall]:
        """SAS-P with gains that adapt to the input (a definition of our own)."""
        ...


class Whole(Redesign, Protocol):
    """With the standard block that the redesigned ones are held against, and the data of the experiment."""

    DecoderBlock: Callable[..., nn.Module]
    MultiHeadAttention: Callable[..., nn.Module]
    FeedForward: Callable[..., nn.Module]
    LayerNorm: Callable[..., nn.Module]


KINDS = ["parallel", "SAS-P", "SAS", "PA-Former"]
SIMPLIFIED = ["SAS-P", "SAS", "PA-Former"]
Make = Callable[..., Any]


def one(kind: str, parallel: Make | None, simplified: Make, adaptive: Make) -> Make:
    """The constructor of one kind of block, each with the same three sizes."""
    if kind == "parallel":
        assert parallel is not None
        return parallel
    if kind == "PA-Former":
        return adaptive
    return lambda **options: simplified(parallel=kind == "SAS-P", **options)


# --- side by side


@rejects("a_norm_for_each_side")
@for_all(heads=[2, 3], d=[3, 5], examples=2)
def test_both_sides_of_a_parallel_block_read_one_norm(impl: Redesign, heads: int, d: int) -> None:
    """A parallel block has one norm, so one gain a channel at most: attention and network read the same.

    Two norms start alike and part in training.

    Source: Wang & Komatsuzaki 2021; Chowdhery et al. 2022, §2.

    Hint: `n = norm(x)`, once, and both sides are given n.
    """
    block = impl.ParallelBlock(d_model=heads * d, heads=heads, d_ff=4)
    gains = [tuple(p.shape) for p in block.parameters() if p.shape == (heads * d,) and (p == 1).all()]
    assert gains in ([], [(heads * d,)])


@rejects("parallel_without_a_skip", "parallel_skips_the_normed_input")
@for_all(x="batch position (heads d)", heads=axis("heads"), d_ff=axis("d_ff"), examples=4)
def test_a_parallel_block_of_zeros_is_the_identity(impl: Redesign, x: Tensor, heads: int, d_ff: int) -> None:
    """With every parameter zero, a parallel block returns its input.

    One skip runs past both sides, as the two skips of a standard block do.

    Source: Wang & Komatsuzaki 2021.

    Hint: x + attention(n) + network(n), where n = norm(x), and x itself is not normed.
    """
    block = impl.ParallelBlock(d_model=x.shape[-1], heads=heads, d_ff=d_ff).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    assert_close(block(x), x, rtol=0, atol=0)


@rejects("network_reads_what_attention_found")
@for_all(x=doubles("1 (3 pair) (heads 2 d)"), heads=axis("heads"), examples=4)
def test_the_sides_of_a_parallel_block_do_not_read_each_other(impl: Redesign, x: Tensor, heads: int) -> None:
    """Whatever a parallel block's attention finds is added, and its network does not know of it.

    Where every query sees one key alone, the attention finds the same for all of them. Showing another key moves all
    outputs alike, then: if the network read what was found, each query's would bend it in its own way.

    Source: Wang & Komatsuzaki 2021; Chowdhery et al. 2022, §2.

    Hint: the network's input is the same norm(x) that the attention reads, not x + attention(…).
    """
    block = perturb(impl.ParallelBlock(d_model=x.shape[-1], heads=heads, d_ff=16)).eval().double()
    first, second = (block(x, mask=only(key, x.shape[1])) for key in (0, 1))
    moved = (second - first)[0]
    assert_close(moved, moved[:1].expand_as(moved), atol=1e-6, rtol=1e-6)
    assert moved.abs().max() > 1e-3


def only(key: int, length: int) -> Bool[Tensor, "length length"]:
    """A mask that shows one key to all."""
    return (torch.arange(length) == key).expand(length, -1)


@rejects("parallel_network_reads_the_raw_stream", "parallel_skips_the_normed_input")
@for_all(x=doubles("batch position (heads 4 d)"), heads=axis("heads"), examples=4)
def test_both_sides_of_a_parallel_block_read_normed_tokens(impl: Redesign, x: Tensor, heads: int) -> None:
    """What a parallel block adds to a large stream does not grow with it.

    One norm serves both sides: tokens a hundred times as large get the same answer from each.

    Source: Wang & Komatsuzaki 2021; Dehghani et al. 2023, §2.

    Hint: `n = self.norm_1(x)` once, and both sides get n.
    """
    block = perturb(impl.ParallelBlock(d_model=x.shape[-1], heads=heads, d_ff=16)).eval().double()
    added, to_larger = (block(size * x) - size * x for size in (1e7, 1e9))
    assert_close(added, to_larger, atol=1e-3, rtol=1e-3)


@same_weights
@rejects(
    "network_reads_what_attention_found",
    "a_norm_for_each_side",
    "fused_parts_change_places",
    "fused_projection_without_biases",
    "parallel_norms_twice_for_the_network",
)
@for_all(x=doubles("batch position (heads d)"), heads=axis("heads"), d_ff=axis("d_ff"), examples=5)
def test_a_parallel_block_is_the_sum_of_its_parts(impl: Redesign, x: Tensor, heads: int, d_ff: int) -> None:
    """With the same weights, the parallel block equals x + attention(n) + network(n), computed part by part.

    Both sides read n, so queries, keys, values and the network's hidden layer can come from one large product, which is
    why the block is fast. Fused or not, the numbers are the same, and so are the parameters (one norm fewer), but that
    one product out needs one bias where two have two.

    Source: Chowdhery et al. 2022, §2; Dehghani et al. 2023, §2.

    Hint: cut the fused product in the order in which the weights were joined. Where yours differs on purpose (no
    biases, another activation), `UNSUPPORTED = {"same_weights"}`.
    """
    d_model = x.shape[-1]
    shapes = _norm("norm_1", d_model) | _linear("feed_forward.up", d_model, d_ff)
    shapes |= _linear("feed_forward.down", d_ff, d_model)
    for name in ("query", "key", "value", "output"):
        shapes |= _linear(f"attention.{name}", d_model, d_model)
    state = {name: value.double() for name, value in random_state(shapes).items()}
    block = impl.ParallelBlock(d_model=d_model, heads=heads, d_ff=d_ff).eval().double()
    give(block, state)
    due = sum(map(torch.numel, state.values()))
    assert sum(parameter.numel() for parameter in block.parameters()) in (due, due - d_model)

    def linear(name: str, y: Tensor) -> Tensor:
        return F.linear(y, state[f"{name}.weight"], state[f"{name}.bias"])

    n = F.layer_norm(x, (d_model,), state["norm_1.weight"], state["norm_1.bias"])
    past = lower_triangle(x.shape[1])
    q, k, v = (
        rearrange(linear(f"attention.{name}", n), "b p (h d) -> b h p d", h=heads) for name in ("query", "key", "value")
    )
    found = rearrange(F.scaled_dot_product_attention(q, k, v, past), "b h p d -> b p (h d)")
    network = linear("feed_forward.down", F.gelu(linear("feed_forward.up", n)))
    assert_close(block(x, mask=past), x + linear("attention.output", found) + network, atol=1e-5, rtol=1e-5)


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, d_model: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (d_model,), f"{name}.bias": (d_model,)}


@rejects("parallel_drops_in_evaluation", "parallel_never_drops")
@for_all(x="batch position (heads d)", heads=axis("heads"), examples=3)
def test_a_parallel_block_drops_in_training_alone(impl: Redesign, x: Tensor, heads: int) -> None:
    """A parallel block's dropout makes two training passes differ, and in evaluation it is not there.

    Hint: `nn.Dropout` listens to `train()` and `eval()`; `F.dropout` has to be told, `training=self.training`.
    """
    x = torch.cat([x] * 4)
    block = perturb(impl.ParallelBlock(d_model=x.shape[-1], heads=heads, d_ff=16, dropout=0.5))
    plain = impl.ParallelBlock(d_model=x.shape[-1], heads=heads, d_ff=16)
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(block.parameters()).detach(), plain.parameters())
    assert not torch.equal(block(x), block(x))
    assert_close(block.eval()(x), plain(x))


# --- shaped attention


def matrix_of(attention: Any, x: Tensor, mask: Tensor | None = None) -> Float[Tensor, "batch head query key"]:
    """What is multiplied with the values."""
    matrix: Tensor = attention.matrix(x, mask=mask)
    return matrix


@rejects(
    "queries_start_at_random",
    "query_bias_starts_at_random",
    "no_uniform_part",
    "uniform_over_the_hidden_too",
    "uniform_by_the_length",
    "uniform_is_added",
    "shaped_values_are_projected",
    "skip_inside_shaped_attention",
)
@for_all(x="batch position (heads 2 d)", heads=axis("heads"), causal=[False, True], examples=6)
def test_a_fresh_shaped_attention_is_the_identity(impl: Redesign, x: Tensor, heads: int, causal: bool) -> None:
    """At the start every head's matrix is I, and shaped attention returns its input.

    The queries are zero, so all scores are: the softmax is the uniform attention C, which −gamma · C takes off again.
    What is left is the identity, and with it a stack without skips hands its input on.

    Source: Noci et al. 2023, §4; He & Hofmann 2023, equation 4.

    Hint: query weight and bias start at 0, alpha, beta and gamma at 1; C counts the visible positions.
    """
    attention = impl.ShapedAttention(d_model=x.shape[-1], heads=heads)
    mask = lower_triangle(x.shape[1]) if causal else None
    assert_close(attention(x, mask=mask), x, atol=1e-5, rtol=1e-5)
    identity = torch.eye(x.shape[1]).expand(len(x), heads, -1, -1)
    assert_close(matrix_of(attention, x, mask=mask), identity, atol=1e-5, rtol=1e-5)


@rejects("queries_start_at_random", "no_uniform_part", "values_without_the_identity")
@for_all(x="batch (2 position) (heads 2 d)", heads=axis("heads"), causal=[False, True], examples=4)
def test_a_fresh_first_layer_gives_each_position_its_values(
    impl: Redesign, x: Tensor, heads: int, causal: bool
) -> None:
    """With first_layer=True the matrix starts as I too, so each position gets its own values, which are not zero.

    The first layer alone has values; whatever they start from, they come from the position itself.

    Source: He & Hofmann 2023, §4.2.

    Hint: the values are x + ΔW x: where ΔW starts at 0, they are x.
    """
    attention = impl.ShapedAttention(d_model=x.shape[-1], heads=heads, first_layer=True)
    mask = lower_triangle(x.shape[1]) if causal else None
    out = attention(x, mask=mask)
    assert_close(attention(x.flip(1), mask=mask), out.flip(1), atol=1e-5, rtol=1e-5)
    assert out.any()
    identity = torch.eye(x.shape[1]).expand(len(x), heads, -1, -1)
    assert_close(matrix_of(attention, x, mask=mask), identity, atol=1e-5, rtol=1e-5)


@rejects("scaled_by_sqrt_d_model")
@for_all(x=doubles("batch (2 position) (heads 2 d)"), heads=axis("heads"), examples=3)
def test_shaped_scores_are_divided_by_sqrt_d_k(impl: Redesign, x: Tensor, heads: int) -> None:
    """The scores of shaped attention are divided by √d_k, the size of a head's query, and not by √d_model.

    Queries start at zero, so that no scale can be seen at first. With one number c in every matrix a head's queries and
    keys are c · (the sum of a token's channels), however the weights are named and laid out, and the matrix is known.

    Source: He & Hofmann 2023, equation 4.

    Hint: after the split into heads the last axis is d_k: `q.shape[-1] ** 0.5`.
    """
    attention, d_model = impl.ShapedAttention(d_model=x.shape[-1], heads=heads).double(), x.shape[-1]
    with torch.no_grad():
        for parameter in attention.parameters():
            size = parameter.numel()
            weights = size >= d_model**2 or (parameter.ndim > 1 and size >= 2 * d_model)  # of all heads, or of one
            if not (parameter == 1).all():  # the gains start at 1, and stay there
                parameter.fill_(0.3 if weights else 0.0)
    seen = 0.3 * x.sum(-1) / d_model**0.5
    scores = math.sqrt(d_model // heads) * rearrange(seen, "b query -> b query 1") * rearrange(seen, "b key -> b 1 key")
    expected = torch.eye(x.shape[1], dtype=torch.float64) + scores.softmax(-1) - 1 / x.shape[1]
    found = matrix_of(attention, x / d_model**0.5)
    assert_close(found, expected[:, None].expand_as(found), atol=1e-6, rtol=1e-6)


@rejects(
    "uniform_by_the_length",
    "shaped_softmax_over_queries",
    "gains_shared_by_all_heads",
    "shaped_weights_are_masked_late",
)
@for_all(x=doubles("batch position (heads d)"), heads=axis("heads"), mask=booleans("position position"), examples=5)
def test_all_rows_of_a_head_sum_to_the_same(impl: Redesign, x: Tensor, heads: int, mask: Tensor) -> None:
    """A head's rows all sum to alpha + beta − gamma, whatever is said, and whoever sees it.

    Identity, softmax and uniform attention have rows that sum to one each. Every head has gains of its own, so its
    sum is its own too.

    Source: He & Hofmann 2023, equation 4.

    Hint: the softmax runs over the keys; C has 1/i for the first i positions under a causal mask, and 1/n without.
    """
    attention = perturb(impl.ShapedAttention(d_model=x.shape[-1], heads=heads)).double()
    visible = mask | torch.eye(x.shape[1], dtype=torch.bool)
    of_heads = matrix_of(attention, x * 0)[0].sum(-1)[:, 0]
    for sums in (matrix_of(attention, x, mask=visible).sum(-1), matrix_of(attention, x).sum(-1)):
        assert_close(sums, of_heads[:, None].expand_as(sums), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(of_heads, of_heads.roll(1), atol=1e-4)


@rejects(
    "matrix_is_the_softmax_alone",
    "shaped_values_are_projected",
    "shaped_output_is_projected",
    "shaped_heads_are_interleaved",
    "shaped_values_by_the_transpose",
)
@for_all(x=doubles("batch position (heads d)"), heads=axis("heads"), mask=booleans("position position"), examples=5)
def test_values_are_each_heads_slice_of_the_input(impl: Redesign, x: Tensor, heads: int, mask: Tensor) -> None:
    """Beyond the first layer, the output is each head's matrix times its own slice of the input, and nothing else.

    There are no values and no output layer: half of an attention's weights are gone.

    Source: He & Hofmann 2023, §4.2.

    Hint: `split_heads(x, heads)`, the matrix times that, `merge_heads`.
    """
    attention = perturb(impl.ShapedAttention(d_model=x.shape[-1], heads=heads)).double()
    visible = mask | torch.eye(x.shape[1], dtype=torch.bool)
    slices = rearrange(x, "batch key (head d) -> batch head key d", head=heads)
    expected = rearrange(matrix_of(attention, x, mask=visible) @ slices, "batch head query d -> batch query (head d)")
    assert_close(attention(x, mask=visible), expected, atol=1e-6, rtol=1e-6)


@rejects("uniform_over_the_hidden_too", "shaped_drops_the_mask", "shaped_mask_read_as_heads")
@for_all(x=doubles("2 position (2 d)"), mask=booleans("2 position position"), examples=5)
def test_a_hidden_key_has_no_entry_in_the_matrix(impl: Redesign, x: Tensor, mask: Tensor) -> None:
    """Where the mask hides a key from another position, the matrix has a 0, in the softmax and in C alike.

    A mask of rank 3 is one a sequence, for all its heads.

    Hint: C is a softmax of zeros under the same mask; give a mask of rank 3 its axis of heads.
    """
    attention = perturb(impl.ShapedAttention(d_model=x.shape[-1], heads=2)).double()
    own = torch.eye(x.shape[1], dtype=torch.bool)
    matrix = matrix_of(attention, x, mask=mask | own)
    seen = rearrange(mask | own, "batch query key -> batch 1 query key").expand_as(matrix)
    assert_close(matrix.abs() > 1e-9, seen)


@rejects("uniform_part_is_kept")
@for_all(x=doubles("1 position (2 d)"), mask=booleans("position position"), examples=4)
def test_every_call_has_a_mask_of_its_own(impl: Redesign, x: Tensor, mask: Tensor) -> None:
    """A shaped attention that has seen one mask treats the next as a new one would.

    Hint: what depends on the mask is computed at every call, and kept nowhere.
    """
    attention = perturb(impl.ShapedAttention(d_model=x.shape[-1], heads=2)).double()
    unused, own = copy.deepcopy(attention), torch.eye(x.shape[1], dtype=torch.bool)
    attention(x, mask=own)
    assert_close(attention(x, mask=mask | own), unused(x, mask=mask | own), atol=1e-6, rtol=1e-6)


@same_weights
@rejects(
    "scaled_by_sqrt_d_model",
    "shaped_softmax_over_queries",
    "no_uniform_part",
    "uniform_is_added",
    "gains_shared_by_all_heads",
    "gains_change_places",
    "every_layer_has_values",
    "beta_scales_the_uniform_part_too",
)
@for_all(x=doubles("batch position (heads 2 d)"), heads=axis("heads"), mask=booleans("position position"), examples=5)
def test_the_matrix_is_alpha_identity_plus_beta_softmax_minus_gamma_uniform(
    impl: Redesign, x: Tensor, heads: int, mask: Tensor
) -> None:
    """Head h's matrix is alpha · I + beta · softmax(q kᵀ / √d_k) − gamma · C, with its own three gains.

    C is the softmax of zero scores over the same visible positions.

    Source: Noci et al. 2023, equation 5; He & Hofmann 2023, equation 4.

    Hint: d_k = d_model / heads, the size of one head's query; alpha, beta and gamma are parameters of `heads` numbers.
    """
    d_model = x.shape[-1]
    attention = impl.ShapedAttention(d_model=d_model, heads=heads).double()
    state = given(attention, shaped_parameters(d_model, heads))
    visible = mask | torch.eye(x.shape[1], dtype=torch.bool)
    assert_close(matrix_of(attention, x, mask=visible), _matrix(x, heads, state, visible), atol=1e-6, rtol=1e-6)


def shaped_parameters(d_model: int, heads: int, first_layer: bool = False) -> dict[str, tuple[int, ...]]:
    """The canonical parameters of a shaped attention."""
    shapes = _linear("query", d_model, d_model) | _linear("key", d_model, d_model)
    shapes |= {"alpha": (heads,), "beta": (heads,), "gamma": (heads,)}
    return shapes | ({"value.weight": (d_model, d_model)} if first_layer else {})


OURS = ("attention_gain", "feed_forward_gain")  # whoever has them follows the stub, which says more than its sources
CONSTANTS = {"query.bias": 0.0, "key.bias": 0.0, "attention_gain": 1.0, "feed_forward_gain": 0.1, "skip_gain": 1.0}


def given(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Loads random weights and returns them; what the module does without is returned as the constant that it is.

    Biases of queries and keys and gains of a whole block may be missing.
    """
    state = {name: value.double() for name, value in random_state(shapes).items()}
    optional = [name for name in state if name.removeprefix("attention.") in CONSTANTS]
    held = fit(module, state, optional)
    short = (state.keys() - held.keys()) | lacking(module)
    fixed = {name: torch.full_like(state[name], CONSTANTS[name.removeprefix("attention.")]) for name in short}
    give(module, held | {name: value for name, value in fixed.items() if name in held})
    return state | fixed


def either_value(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """What the weights mean where `value.weight` is ΔW, and where it is the whole matrix, I + ΔW."""
    whole = {name: w - torch.eye(len(w), dtype=w.dtype) for name, w in state.items() if name.endswith("value.weight")}
    return [state, state | whole] if whole else [state]


def _matrix(x: Tensor, heads: int, state: dict[str, Tensor], mask: Tensor) -> Tensor:
    """The formula."""
    q, k = (
        rearrange(F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]), "b p (h d) -> b h p d", h=heads)
        for name in ("query", "key")
    )
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    softmax, uniform = (each.masked_fill(~mask, -math.inf).softmax(-1) for each in (scores, scores * 0))
    alpha, beta, gamma = (rearrange(state[name], "head -> head 1 1") for name in ("alpha", "beta", "gamma"))
    return alpha * torch.eye(x.shape[1], dtype=x.dtype) + beta * softmax - gamma * uniform


@same_weights
@rejects("values_read_the_heads_apart", "shaped_heads_are_interleaved")
@for_all(x=doubles("batch position (heads d)"), heads=axis("heads"), examples=4)
def test_the_first_layer_has_values(impl: Redesign, x: Tensor, heads: int) -> None:
    """In the first layer alone the values are x + ΔW x, with a matrix ΔW that is learned.

    What the embedding brings has not been mixed by anything yet; the network of the block before does it later on.

    Source: He & Hofmann 2023, §4.2.

    Hint: `value.weight` is ΔW, 0 at the start, and the identity is not part of it. One matrix W = I + ΔW is as right.
    """
    d_model = x.shape[-1]
    attention = impl.ShapedAttention(d_model=d_model, heads=heads, first_layer=True).double()
    state = given(attention, shaped_parameters(d_model, heads, first_layer=True))
    matrix = _matrix(x, heads, state, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool))
    right = []
    for meant in either_value(state):
        values = rearrange(x + F.linear(x, meant["value.weight"]), "b k (h d) -> b h k d", h=heads)
        right.append(rearrange(matrix @ values, "b h q d -> b q (h d)"))
    out = attention(x)
    assert_close(out, nearest(out, right), atol=1e-6, rtol=1e-6)


@rejects("keys_start_at_zero", "shaped_scores_are_detached", "gains_are_fixed")
@for_all(x=doubles("batch (3 position) (heads 2 d)"), heads=axis("heads"), examples=4)
def test_a_fresh_shaped_attention_can_learn_where_to_look(impl: Redesign, x: Tensor, heads: int) -> None:
    """One step down the gradient from the start, and a query looks at some keys more than at others.

    The gains move too. With zero keys besides zero queries neither would ever get a gradient, and nobody would notice:
    a block that does not mix still learns something.

    Source: He & Hofmann 2023, §4.1.

    Hint: the queries start at 0, the keys at N(0, 0.02); and the gains are parameters.
    """
    attention = impl.ShapedAttention(d_model=x.shape[-1], heads=heads).double()
    sums = matrix_of(attention, x).sum(-1).detach()
    out = attention(x)
    (out * randn(*out.shape, dtype=out.dtype)).sum().backward()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.sub_(0 if parameter.grad is None else parameter.grad)
    matrix = matrix_of(attention, x)
    others = matrix.flatten(-2)[..., 1:-1].unfold(-1, x.shape[1], x.shape[1] + 1)
    assert others.std(-1).max() > 1e-7
    assert (matrix.sum(-1) - sums).abs().max() > 1e-3


@same_weights
@rejects("queries_start_at_random", "keys_start_at_zero")
@for_all(x=doubles("batch (2 position) (heads 2 d)"), heads=axis("heads"), examples=4)
def test_at_the_start_the_queries_learn_and_the_keys_do_not(impl: Redesign, x: Tensor, heads: int) -> None:
    """At the start the gradient of the queries' matrix is not zero, and that of the keys' matrix is.

    A score is a product: with a query of 0, moving the key moves nothing, and moving the query moves something.

    Source: He & Hofmann 2023, §4.1.

    Hint: query weight 0 and key weight N(0, 0.02), not the other way round.
    """
    attention = impl.ShapedAttention(d_model=x.shape[-1], heads=heads).double()
    start = take(attention, "query.weight", "key.weight")

    def moved(name: str) -> Tensor:
        give(attention, start | {name: start[name] + 0.1 * randn(*start[name].shape, dtype=x.dtype)})
        return matrix_of(attention, x)

    here = matrix_of(attention, x)
    assert_close(moved("key.weight"), here, atol=1e-12, rtol=0)
    assert (moved("query.weight") - here).abs().max() > 1e-6


@same_weights
@rejects("uniform_is_added", "no_uniform_part", "gains_change_places", "beta_scales_the_uniform_part_too")
@for_all(x=doubles("batch position (heads d)"), heads=axis("heads"), causal=[False, True], examples=4)
def test_at_the_start_beta_and_gamma_pull_in_opposite_ways(impl: Redesign, x: Tensor, heads: int, causal: bool) -> None:
    """At the start the derivative by beta is minus the derivative by gamma, and that by alpha is the input.

    Softmax and uniform attention are one and the same then, and enter with opposite signs.

    Source: He & Hofmann 2023, equation 4.

    Hint: alpha · I, + beta · softmax, − gamma · C.
    """
    attention = impl.ShapedAttention(d_model=x.shape[-1], heads=heads).double()
    start = take(attention, "alpha", "beta", "gamma")
    mask = lower_triangle(x.shape[1]) if causal else None

    def slope(name: str) -> Tensor:
        give(attention, start | {name: start[name] + 1})
        return attention(x, mask=mask) - x

    assert_close(slope("alpha"), x, atol=1e-6, rtol=1e-6)
    assert_close(slope("beta"), -slope("gamma"), atol=1e-6, rtol=1e-6)
    assert slope("beta").abs().max() > 1e-3


# --- the simplified block


@rejects("keeps_a_skip", "sas_network_has_no_skip", "keeps_a_skip_in_sas_p")
@for_all(
    x=normal("batch position (heads 4 d)", scale=5),
    heads=axis("heads"),
    kind=SIMPLIFIED,
    examples=7,
)
def test_a_fresh_simplified_block_without_its_network_is_a_norm(
    impl: Redesign, x: Tensor, heads: int, kind: str
) -> None:
    """With residual_gain=0, a new simplified block returns its input normed to root mean square 1, and not once more.

    No skip runs past it: what comes out is attention_gain · attention(norm(x)), and the attention is the identity. In
    SAS the same is the skip of the network.

    Source: He & Hofmann 2023, §4.1.

    Hint: do not add x; SAS-P: b · attention(n) + g · network(n). The norm is an RMSNorm; a LayerNorm is as right here.
    """
    make = one(kind, None, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = make(d_model=x.shape[-1], heads=heads, d_ff=16, residual_gain=0.0).eval()
    centred, out = x - x.mean(-1, keepdim=True), block(x)
    right = [each / each.square().mean(-1, keepdim=True).sqrt() for each in (x, centred)]
    assert_close(out, nearest(out, right), atol=1e-4, rtol=1e-4)


@rejects("norm_is_ignored", "keeps_a_skip_in_sas_p")
@for_all(x=normal("batch position (heads 4 d)", scale=5), heads=axis("heads"), parallel=[True, False], examples=4)
def test_without_norms_a_later_layer_norms_nothing(impl: Redesign, x: Tensor, heads: int, parallel: bool) -> None:
    """With norm=False and residual_gain=0, a new block that is not the first returns its input as it is.

    Source: He & Hofmann 2023, §4.4.

    Hint: with norm=False, norm_1 is there in the first layer alone, and norm_2 nowhere.
    """
    sizes: dict[str, Any] = {"d_model": x.shape[-1], "heads": heads, "d_ff": 16, "parallel": parallel}
    block = impl.SimplifiedBlock(**sizes, norm=False, residual_gain=0.0)
    assert_close(block(x), x, atol=1e-4, rtol=1e-4)


@rejects("residual_gain_is_forgotten", "residual_gain_is_fixed", "residual_gain_on_the_attention")
@for_all(x="batch position (heads 4 d)", heads=axis("heads"), kind=SIMPLIFIED, examples=5)
def test_the_network_counts_by_its_residual_gain(impl: Redesign, x: Tensor, heads: int, kind: str) -> None:
    """What a new block's network adds is as large as residual_gain says, a tenth if nothing is said.

    Of the order of 1/√depth: so the networks of all layers together change the stream by about its own size.

    Source: He & Hofmann 2023, §4.1.

    Hint: residual_gain · network(n), and the attention's gain is 1.
    """
    make = one(kind, None, impl.SimplifiedBlock, impl.PAFormerBlock)

    def block(**options: float) -> Tensor:
        with torch.random.fork_rng():  # the same start values every time
            torch.manual_seed(1)
            made = make(d_model=x.shape[-1], heads=heads, d_ff=16, **options)
        out: Tensor = made(x)
        return out

    silent = block(residual_gain=0.0)
    added = block(residual_gain=1.0) - silent
    assert added.abs().max() > 1e-5
    assert_close(block(residual_gain=0.3) - silent, 0.3 * added, atol=1e-5, rtol=1e-4)
    assert_close(block() - silent, 0.1 * added, atol=1e-5, rtol=1e-4)


@rejects("network_reads_the_attention_in_sas_p", "network_reads_the_attention_in_pa_former")
@for_all(x=doubles("batch (2 position) (heads 4 d)"), heads=axis("heads"), kind=["SAS-P", "PA-Former"], examples=4)
def test_the_network_beside_the_attention_reads_each_token_alone(
    impl: Redesign, x: Tensor, heads: int, kind: str
) -> None:
    """In SAS-P and PA-Former, what the network adds to a token depends on that token alone.

    It reads the normed input, beside the attention and at the same time; behind it, it would read what the token has
    found in the others.

    Source: He & Hofmann 2023, §4.3.

    Hint: SAS-P: b · attention(n) + g · network(n), the same n twice.
    """
    make = one(kind, None, impl.SimplifiedBlock, impl.PAFormerBlock)

    def block(residual_gain: float) -> Any:
        with torch.random.fork_rng():  # the same start values every time
            torch.manual_seed(1)
            made = make(d_model=x.shape[-1], heads=heads, d_ff=16, residual_gain=residual_gain)
        return perturb(made.double())

    loud, silent = block(1.0), block(0.0)
    other = torch.cat([x[:, :1], -2 * x[:, 1:].flip(-1)], 1)
    added, beside_others = (loud(each)[:, 0] - silent(each)[:, 0] for each in (x, other))
    assert_close(beside_others, added, atol=1e-7, rtol=1e-7)


@rejects("simplified_network_is_linear")
@for_all(x=doubles("batch position (heads 4 d)"), heads=axis("heads"), parallel=[True, False], examples=4)
def test_the_network_of_a_simplified_block_bends(impl: Redesign, x: Tensor, heads: int, parallel: bool) -> None:
    """Opposite tokens do not get opposite answers: the network is not linear.

    Hint: `down(relu(up(x)))`.
    """
    sizes: dict[str, Any] = {"d_model": x.shape[-1], "heads": heads, "d_ff": 16, "parallel": parallel}
    block = impl.SimplifiedBlock(**sizes, norm=False, residual_gain=1.0).double()
    zero = block(torch.zeros_like(x))  # what biases give
    assert (block(x) + block(-x) - 2 * zero).abs().max() > 1e-5


@rejects("parallel_is_ignored", "network_reads_the_attention_in_sas_p", "sas_network_reads_the_input")
@for_all(x=doubles("1 (3 pair) (heads 2 d)"), heads=axis("heads"), examples=4)
def test_the_network_reads_the_attention_in_sas_alone(impl: Redesign, x: Tensor, heads: int) -> None:
    """In SAS-P what the attention finds is added beside the network; in SAS the network reads it.

    Where all queries see one key alone, another key moves the outputs of SAS-P alike.

    Source: He & Hofmann 2023, §4.3.

    Hint: SAS-P: both read n. SAS: y = b · attention(norm_1(x)) comes first, and the network reads norm_2(y).
    """
    length = x.shape[1]
    options: dict[str, Any] = {"d_model": x.shape[-1], "heads": heads, "d_ff": 16}
    moved = []
    for parallel in (True, False):
        block = perturb(impl.SimplifiedBlock(**options, parallel=parallel)).double()
        first, second = (block(x, mask=only(key, length)) for key in (0, 1))
        moved.append((second - first)[0])
    side_by_side, in_turn = (each - each[:1] for each in moved)
    assert_close(side_by_side, torch.zeros_like(side_by_side), atol=1e-9, rtol=0)
    assert in_turn.abs().max() > 1e-6


@same_weights
@rejects(
    "keeps_a_skip",
    "norms_twice_in_sas_p",
    "sas_network_reads_unnormed",
    "sas_network_has_no_skip",
    "attention_gain_is_fixed",
    "sas_network_reads_the_input",
)
@for_all(
    x=doubles("batch position (heads 4 d)"),
    heads=axis("heads"),
    d_ff=axis("d_ff"),
    parallel=[True, False],
    first_layer=[False, True],
    examples=6,
)
def test_simplified_blocks_are_their_formulas(
    impl: Redesign, x: Tensor, heads: int, d_ff: int, parallel: bool, first_layer: bool
) -> None:
    """SAS-P is b · attention(n) + g · network(n), and SAS is s · y + g · network(norm_2(y)), y = b · attention(n).

    b, g and s are numbers that are learned, one a block: attention_gain, feed_forward_gain and skip_gain.

    Source: He & Hofmann 2023, equations 3 to 8; their published code.

    Hint: SAS-P has one norm, norm_1; SAS has two.
    """
    d_model = x.shape[-1]
    shapes = simplified_parameters(d_model, heads, d_ff, parallel, first_layer)
    block = impl.SimplifiedBlock(
        d_model=d_model, heads=heads, d_ff=d_ff, parallel=parallel, first_layer=first_layer
    ).double()
    state = given(block, shapes)
    past = lower_triangle(x.shape[1])
    out = block(x, mask=past)
    right = [_simplified(x, heads, meant, past) for meant in either_value(state)]
    assert_close(out, nearest(out, right), atol=1e-3, rtol=1e-3)


def simplified_parameters(
    d_model: int, heads: int, d_ff: int, parallel: bool = True, first_layer: bool = False
) -> dict[str, tuple[int, ...]]:
    """The canonical parameters of a simplified block."""
    of_attention = shaped_parameters(d_model, heads, first_layer)
    shapes = {f"attention.{name}": shape for name, shape in of_attention.items()}
    shapes |= {"feed_forward.up.weight": (d_ff, d_model), "feed_forward.down.weight": (d_model, d_ff)}
    shapes |= {"norm_1.weight": (d_model,), "attention_gain": (), "feed_forward_gain": ()}
    return shapes if parallel else shapes | {"norm_2.weight": (d_model,), "skip_gain": ()}


def _simplified(
    x: Tensor, heads: int, state: dict[str, Tensor], mask: Tensor, gains: Callable[..., Tensor] | None = None
) -> Tensor:
    """The formulas; `gains` makes the matrix where the gains are not plain."""
    of_attention = {name.removeprefix("attention."): value for name, value in state.items()}
    n = _rms_norm(x, state["norm_1.weight"])
    values = n + F.linear(n, of_attention["value.weight"]) if "value.weight" in of_attention else n
    values = rearrange(values, "b k (h d) -> b h k d", h=heads)
    matrix = gains(n, values, of_attention) if gains else _matrix(n, heads, of_attention, mask)
    y = state["attention_gain"] * rearrange(matrix @ values, "b h q d -> b q (h d)")
    read = _rms_norm(y, state["norm_2.weight"]) if "norm_2.weight" in state else n
    hidden = F.linear(read, state["feed_forward.up.weight"]).clamp_min(0)
    network = state["feed_forward_gain"] * F.linear(hidden, state["feed_forward.down.weight"])
    return state.get("skip_gain", 1.0) * y + network


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt() * weight


@rejects(
    "every_layer_has_values",
    "first_layer_is_ignored",
    "first_layer_is_not_handed_on",
    "shaped_values_are_projected",
    "shaped_output_is_projected",
    "adapts_by_a_large_matrix",
)
@for_all(heads=[2, 3], d=[3, 4], examples=2)
def test_a_simplified_block_has_10_d_squared_weights_instead_of_12(impl: Whole, heads: int, d: int) -> None:
    """With d_ff = 4 d_model a simplified block has 10 d_model² weights, a standard one 12, exactly.

    Values and output layer are gone, 2 d_model² of 12; the first layer keeps values and has 11. PA-Former has a few
    numbers more than SAS-P, and no matrix. A parallel block has 12 too, or 16 where its network has a gate, as PaLM's.
    What grows more slowly (gains, norms, biases) cancels in this count.

    Source: He & Hofmann 2023, §4.2.

    Hint: four matrices: query, key, up and down.
    """

    def squares(make: Make, **options: Any) -> float:
        """The factor of d_model² in the number of parameters, read off three sizes."""
        counts = [count(make(d_model=n * heads * d, heads=heads, d_ff=4 * n * heads * d, **options)) for n in (1, 2, 3)]
        return (counts[2] - 2 * counts[1] + counts[0]) / (2 * (heads * d) ** 2)

    assert squares(impl.DecoderBlock) == 12
    assert squares(impl.ParallelBlock) in (12, 16)
    layers: list[dict[str, Any]] = [{}, {"first_layer": False}, {"first_layer": True}]
    for options, due in zip(layers, (10, 10, 11), strict=True):
        sas_p, sas = (squares(impl.SimplifiedBlock, parallel=each, **options) for each in (True, False))
        adaptive = squares(impl.PAFormerBlock, **options)
        assert [sas_p, sas, adaptive] == [due, due, due]
    sizes: dict[str, Any] = {"d_model": heads * d, "heads": heads, "d_ff": 8}
    plain, with_more = count(impl.SimplifiedBlock(**sizes)), count(impl.PAFormerBlock(**sizes))
    assert with_more > plain


@rejects("no_uniform_part", "uniform_is_added", "residual_gain_is_forgotten", "shaped_values_are_projected")
def test_simplified_blocks_keep_the_geometry_of_tokens(impl: Whole) -> None:
    """Tokens keep their angles through 32 new simplified blocks; through 32 plain layers without skips they collapse.

    Plain attention averages, and 32 averages are one: all tokens become the same, and no gradient can tell them apart.
    A skip prevents it; attention that begins as the identity does too.

    Source: He & Hofmann 2023, §4.1; Noci et al. 2022 (rank collapse).

    Hint: at the start only residual_gain · network changes anything; see what a fresh shaped attention returns.
    """
    d_model, sizes = 32, {"d_model": 32, "heads": 4, "d_ff": 128}
    x = randn(1, 12, 4) @ randn(4, d_model, key="mix") + 0.5 * randn(1, 12, d_model, key="own")
    before = cosines(x)
    assert before.min() < 0
    for kind in SIMPLIFIED:
        y, make = x, one(kind, None, impl.SimplifiedBlock, impl.PAFormerBlock)
        for layer in range(32):
            y = make(**sizes, first_layer=layer == 0)(y)
        assert (cosines(y) - before).abs().mean() < 0.25
    y = x
    for _ in range(32):
        for sublayer in (impl.MultiHeadAttention(d_model=32, heads=4), impl.FeedForward(d_model=32, d_ff=128)):
            y = sublayer(impl.LayerNorm(d_model=32)(y))
    assert cosines(y).min() > 0.95


@torch.no_grad()
def cosines(x: Float[Tensor, "1 position d_model"]) -> Float[Tensor, "position position"]:
    """How alike every two tokens are: the kernel of inner products of unit vectors."""
    unit = F.normalize(x[0], dim=-1)
    return unit @ unit.T


# --- PA-Former, as we define it


@same_weights
@rejects(
    "gains_never_adapt",
    "gains_adapt_over_the_batch",
    "gains_adapt_alike_in_all_heads",
    "gains_see_the_hidden",
    "statistics_are_not_divided",
    "adapt_from_the_wrong_side",
    "statistics_of_the_bare_input",
    "gains_lie_along_the_keys",
)
@for_all(
    x=doubles("batch position (heads 4 d)"),
    heads=axis("heads"),
    d_ff=axis("d_ff"),
    first_layer=[False, True],
    examples=5,
)
def test_pa_formers_gains_follow_three_statistics(
    impl: Redesign, x: Tensor, heads: int, d_ff: int, first_layer: bool
) -> None:
    """PA-Former is SAS-P with gains (alpha, beta, gamma) + adapt · (v·v, v·m, m·m) / d_k for every query and head.

    v is the query's own value, its slice of n, and m the mean of the values that it sees. This definition is ours: the
    name stands in a reading list without one. `attention.adapt` is (head, gain, statistic).

    Hint: m is C v, which −gamma · C needs anyway; each head has nine numbers, and each query its own statistics.
    """
    d_model, past = x.shape[-1], lower_triangle(x.shape[1])
    shapes = simplified_parameters(d_model, heads, d_ff, first_layer=first_layer)
    block = impl.PAFormerBlock(d_model=d_model, heads=heads, d_ff=d_ff, first_layer=first_layer).double()
    state = given(block, shapes | {"attention.adapt": (heads, 3, 3)})

    def matrix(n: Tensor, v: Tensor, own: dict[str, Tensor]) -> Tensor:
        uniform = past / past.sum(-1, keepdim=True).double()
        m = uniform @ v
        statistics = torch.stack([(v * v).mean(-1), (v * m).mean(-1), (m * m).mean(-1)], -1)
        plain = torch.stack([own["alpha"], own["beta"], own["gamma"]], -1)
        gains = plain[:, None] + torch.einsum("bhqs,hgs->bhqg", statistics, own["adapt"])
        alpha, beta, gamma = (gain[..., None] for gain in gains.unbind(-1))
        one_each = {"alpha": torch.zeros(heads), "beta": torch.ones(heads), "gamma": torch.zeros(heads)}
        softmax = _matrix(n, heads, own | one_each, past)
        return alpha * torch.eye(len(past), dtype=x.dtype) + beta * softmax - gamma * uniform

    out = block(x, mask=past)
    right = [_simplified(x, heads, meant, past, matrix) for meant in either_value(state)]
    assert_close(out, nearest(out, right), atol=1e-3, rtol=1e-3)


@same_weights
@rejects("adapts_from_the_start")
@for_all(x=doubles("batch position (heads 4 d)"), heads=axis("heads"), d_ff=axis("d_ff"), examples=4)
def test_pa_former_starts_with_plain_gains(impl: Redesign, x: Tensor, heads: int, d_ff: int) -> None:
    """Until `adapt` is learned, PA-Former computes what SAS-P computes with the same weights.

    So it begins as the identity too, and whatever it gains by adapting it has learned.

    Hint: adapt starts at 0, and is added to the gains.
    """
    sizes: dict[str, Any] = {"d_model": x.shape[-1], "heads": heads, "d_ff": d_ff}
    plain, adaptive = impl.SimplifiedBlock(**sizes).double(), impl.PAFormerBlock(**sizes).double()
    start = take(adaptive, "attention.adapt")
    given(plain, simplified_parameters(**sizes))
    common = {name: value for name, value in take(plain).items() if name in start}
    give(adaptive, fit(adaptive, start | common))
    assert_close(adaptive(x), plain(x), atol=1e-3, rtol=1e-3)


@rejects("gains_never_adapt")
@for_all(x=doubles("2 3 (heads 2 d)"), heads=axis("heads"), examples=4)
def test_what_a_key_brings_depends_on_the_rest_in_pa_former(impl: Redesign, x: Tensor, heads: int) -> None:
    """In SAS-P what one key brings instead of another is fixed; in PA-Former it depends on who asks and what it sees.

    Two sequences share two tokens and differ in a third, which asks. With fixed gains, the exchange of one key for the
    other moves both answers alike; with gains that follow the input it does not.

    Hint: the gains are functions of the input's statistics, once their parameters are off their start.
    """
    x = torch.cat([x[:, :1], x[:1, 1:].expand(2, -1, -1)], 1)
    moved = {}
    for kind in ("SAS-P", "PA-Former"):
        make = one(kind, None, impl.SimplifiedBlock, impl.PAFormerBlock)
        block = perturb(make(d_model=x.shape[-1], heads=heads, d_ff=16)).double()
        first, second = (block(x, mask=only(key, 3))[:, 0] for key in (1, 2))
        moved[kind] = second - first
    assert_close(moved["SAS-P"][1], moved["SAS-P"][0], atol=1e-9, rtol=1e-9)
    assert (moved["PA-Former"][1] - moved["PA-Former"][0]).abs().max() > 1e-7


# --- what holds for all of them


@rejects("shaped_drops_the_mask", "parallel_drops_the_mask", "gains_see_the_hidden", "shaped_values_by_the_transpose")
@for_all(x=doubles("1 position (heads 2 d)"), heads=axis("heads"), kind=KINDS, examples=6)
def test_redesigned_blocks_see_the_past_alone(impl: Redesign, x: Tensor, heads: int, kind: str) -> None:
    """Under a causal mask every block's output depends on its own position and all before it; without one, on all.

    Hint: hand the mask on; C and every statistic are taken over the visible positions.
    """
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = perturb(make(d_model=x.shape[-1], heads=heads, d_ff=16)).eval().double()
    past = lower_triangle(x.shape[1])
    assert_close(who_sees_whom(lambda x: block(x, mask=past), x), past)
    assert_close(who_sees_whom(block, x), torch.ones_like(past))


@rejects("parallel_mask_read_as_heads", "parallel_mask_repeated_in_the_wrong_order", "shaped_mask_read_as_heads")
@for_all(x=doubles("2 position (2 d)"), mask=booleans("2 position position"), kind=KINDS, examples=6)
def test_redesigned_blocks_take_a_mask_a_sequence(impl: Redesign, x: Tensor, mask: Tensor, kind: str) -> None:
    """A mask (batch, query, key) gives each sequence its own, in every block, and (batch, 1, key) serves all queries.

    With as many sequences as heads, plain broadcasting reads the batch as heads: no error, and wrong.

    Hint: give a mask of rank 3 its axis of heads: `rearrange(mask, "batch query key -> batch 1 query key")`.
    """
    mask = mask | torch.eye(x.shape[1], dtype=torch.bool)
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = perturb(make(d_model=x.shape[-1], heads=2, d_ff=16)).eval().double()
    for masks in (mask, mask[:, :1]):
        alone = [block(x[i : i + 1], mask=masks[i]) for i in range(2)]
        assert_close(block(x, mask=masks), torch.cat(alone), atol=1e-6, rtol=1e-6)
        assert_close(block(x, mask=masks[:, None].expand(-1, 2, -1, -1)), torch.cat(alone), atol=1e-6, rtol=1e-6)


@rejects("parallel_mask_read_as_heads", "parallel_mask_repeated_in_the_wrong_order")
@for_all(x=doubles("3 position (2 d)"), mask=booleans("3 position position"), kind=KINDS, examples=4)
def test_redesigned_blocks_take_any_number_of_masks(impl: Redesign, x: Tensor, mask: Tensor, kind: str) -> None:
    """Three sequences have a mask each in a redesigned block of two heads.

    Hint: the axis of heads stands between batch and query: `mask[:, None]`.
    """
    mask = mask | torch.eye(x.shape[1], dtype=torch.bool)
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = perturb(make(d_model=x.shape[-1], heads=2, d_ff=16)).eval().double()
    alone = [block(x[i : i + 1], mask=mask[i]) for i in range(3)]
    assert_close(block(x, mask=mask), torch.cat(alone), atol=1e-6, rtol=1e-6)


@rejects("gains_adapt_over_the_batch", "redesign_knows_positions")
@for_all(x=doubles("batch position (heads 2 d)"), heads=axis("heads"), kind=KINDS, examples=6)
def test_redesigned_blocks_know_neither_order_nor_neighbours(impl: Redesign, x: Tensor, heads: int, kind: str) -> None:
    """Reordering the tokens reorders the outputs, and the sequences of a batch do not meet, in every block.

    Hint: no statistic runs over the batch, and nothing depends on where a token stands.
    """
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = perturb(make(d_model=x.shape[-1], heads=heads, d_ff=16)).eval().double()
    out = block(x)
    assert_close(block(x.flip(1)), out.flip(1), atol=1e-6, rtol=1e-6)
    assert_close(torch.cat([block(each) for each in x.chunk(len(x))]), out, atol=1e-6, rtol=1e-6)


@rejects("gains_never_adapt", "shaped_scores_are_detached", "adaptive_statistics_are_detached")
@for_all(x=doubles("batch (2 position) (heads 4 d)"), heads=axis("heads"), kind=KINDS, examples=6)
def test_everything_in_a_redesigned_block_learns(impl: Redesign, x: Tensor, heads: int, kind: str) -> None:
    """Every parameter of every block gets a finite gradient, no matrix's is zero, and the input's is the derivative.

    Hint: which parameter is made and not used, or used and cut off?
    """
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = perturb(make(d_model=x.shape[-1], heads=heads, d_ff=16)).eval().double()
    out = block(x)
    (out * randn(*out.shape, dtype=out.dtype)).sum().backward()
    assert idle(block) == []
    assert gradients_are_derivatives(block, x)


@rejects("parallel_drops_the_mask", "shaped_drops_the_mask", "redesign_adds_in_place")
def test_every_block_drops_into_one_encoder(impl: Whole) -> None:
    """Standard, parallel, simplified and PA-Former blocks fit one encoder, and learn in it to fill in what is masked.

    Only the function that makes a block changes: the embeddings, the calls and the head are the same. What stands in
    the padding reaches nobody else.

    Source: He & Hofmann 2023, §5.

    Hint: a block takes x and mask, and returns what x was.
    """
    sizes: dict[str, Any] = {"d_model": 16, "heads": 2, "d_ff": 64}
    makers: list[Callable[[int], nn.Module]] = [
        lambda _: impl.DecoderBlock(**sizes),
        lambda _: impl.ParallelBlock(**sizes),
        lambda layer: impl.SimplifiedBlock(**sizes, first_layer=layer == 0),
        lambda layer: impl.PAFormerBlock(**sizes, first_layer=layer == 0),
    ]
    rows, padding = tokens(9, 8, 6), torch.arange(6) == 5
    masked = rows.masked_fill(torch.arange(6) == 2, 9)
    visible = ~padding.expand(6, -1)
    for make in makers:
        model = Encoder(vocab=10, max_length=6, d_model=16, layers=2, block=make)
        first, last = _first_and_last_loss(model, masked, visible, rows)
        assert last < first / 2
        other = torch.where(padding, (masked + 1) % 9, masked)
        assert_close(model(other, mask=visible)[:, :5], model(masked, mask=visible)[:, :5], atol=1e-5, rtol=1e-4)


def _first_and_last_loss(model: Encoder, masked: Tensor, visible: Tensor, rows: Tensor) -> tuple[float, float]:
    """Every parameter moves by a hundredth, down the slope, twenty times."""
    losses, parameters = [], list(model.parameters())
    for _ in range(21):
        loss = F.cross_entropy(model(masked, mask=visible)[:, 2], rows[:, 2])
        losses.append(loss.item())
        slopes = torch.autograd.grad(loss, parameters, materialize_grads=True)
        with torch.no_grad():
            for parameter, slope in zip(parameters, slopes, strict=True):
                parameter.sub_(0.01 * slope.sign())
    return losses[0], losses[-1]


@rejects("shaped_heads_cut_to_fit")
@for_all(d_model=[5, 7], heads=[2, 3], kind=KINDS, examples=6)
def test_heads_that_do_not_divide_a_redesigned_block_are_an_error(
    impl: Redesign, d_model: int, heads: int, kind: str
) -> None:
    """Heads that do not divide d_model are an error in every block: each head owns a slice of the channels.

    Hint: `if d_model % heads: raise ValueError(…)`
    """
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    assert refuses(lambda: make(d_model=d_model, heads=heads, d_ff=16)(randn(2, 3, d_model)))
    assert refuses(lambda: matrix_of(impl.ShapedAttention(d_model=d_model, heads=heads), randn(2, 3, d_model)))


@rejects("uniform_in_float32", "redesign_adds_in_place")
@for_all(
    x="batch position (heads d)", heads=axis("heads"), dtype=[torch.float64, torch.bfloat16, torch.float16], kind=KINDS
)
def test_redesigned_blocks_keep_dtype_and_input(
    impl: Redesign, x: Tensor, heads: int, dtype: torch.dtype, kind: str
) -> None:
    """After `.to(dtype)` every block gives back the dtype that comes in, and leaves its input as it was.

    Hint: identity and C follow the input: `torch.eye(…, dtype=x.dtype)`; `x = x + …`, not `x += …`.
    """
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    block, x = make(d_model=x.shape[-1], heads=heads, d_ff=8).to(dtype).eval(), x.to(dtype)
    before = x.clone()
    assert block(x).dtype == block(x, mask=lower_triangle(x.shape[1])).dtype == dtype
    assert torch.equal(x, before)
    attention = impl.ShapedAttention(d_model=x.shape[-1], heads=heads).to(dtype)
    assert attention(x).dtype == matrix_of(attention, x, mask=lower_triangle(x.shape[1])).dtype == dtype


@pytest.mark.redesign
@patience(3600)
@rejects()
def test_every_redesign_learns_shakespeare_beside_the_standard_block(impl: Whole, corpus: str, capfd: Any) -> None:
    """Trained on masked Shakespeare in one run, every block's encoder predicts better than the frequency of words.

    Standard, parallel, SAS-P and PA-Former, at the same width and depth, take turns on the same batches, so that their
    losses and their speeds can be compared. The table says what each needs and reaches; it is required that each
    learns, and not that one wins.

    Source: He & Hofmann 2023, §5.

    Hint: a block that does not learn here probably starts wrongly: look at its laws at the start.
    """
    with capfd.disabled():
        blocks = Blocks(impl.DecoderBlock, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
        results = side_by_side(impl, corpus, blocks)
    for result in results:
        assert result.loss < result.unigram


@robust
@same_weights
@rejects("first_layer_norm_is_lost")
@for_all(x=normal("batch position (heads 4 d)", scale=5), heads=axis("heads"), parallel=[True, False], examples=4)
def test_without_norms_the_first_layer_keeps_its_first(impl: Redesign, x: Tensor, heads: int, parallel: bool) -> None:
    """With norm=False the first layer still norms what the embedding brings.

    A stack of identities needs the size of its tokens to be set once.

    Source: He & Hofmann 2023, §4.4.

    Hint: with norm=False, norm_1 is there in the first layer alone.
    """
    sizes: dict[str, Any] = {"d_model": x.shape[-1], "heads": heads, "d_ff": 16, "parallel": parallel}
    block = impl.SimplifiedBlock(**sizes, norm=False, first_layer=True, residual_gain=0.0)
    take(block, *OURS)
    squares = block(x).square().mean(-1)
    assert_close(squares, torch.ones_like(squares), atol=1e-2, rtol=0)


@robust
@same_weights
@rejects("values_start_at_random", "values_without_the_identity")
@for_all(x="batch position (heads 2 d)", heads=axis("heads"), examples=4)
def test_values_of_the_first_layer_start_as_its_input(impl: Redesign, x: Tensor, heads: int) -> None:
    """A new shaped attention returns its input in the first layer as well.

    Source: He & Hofmann 2023, §4.2.

    Hint: the values are x + ΔW x, and ΔW starts at 0.
    """
    attention = impl.ShapedAttention(d_model=x.shape[-1], heads=heads, first_layer=True)
    take(attention, *shaped_parameters(x.shape[-1], heads, first_layer=True))
    assert_close(attention(x), x, atol=1e-5, rtol=1e-5)


@robust
@same_weights
@rejects("simplified_bends_with_gelu", "simplified_network_has_biases")
@for_all(x=doubles("batch position (heads 4 d)"), heads=axis("heads"), parallel=[True, False], examples=4)
def test_the_network_is_relu_without_biases(impl: Redesign, x: Tensor, heads: int, parallel: bool) -> None:
    """Tokens three times as large get three times the answer of the network.

    That is ReLU between two layers without biases: it bends, and it does not know sizes.

    Source: He & Hofmann 2023, §3.

    Hint: `down(relu(up(x)))`, `bias=False` in both.
    """
    sizes: dict[str, Any] = {"d_model": x.shape[-1], "heads": heads, "d_ff": 16, "parallel": parallel}
    block = impl.SimplifiedBlock(**sizes, norm=False, residual_gain=1.0).double()
    take(block, *OURS)
    assert_close(block(3 * x), 3 * block(x), atol=1e-6, rtol=1e-6)


@robust
@rejects("keys_start_like_any_layer", "queries_start_at_random", "query_bias_starts_at_random")
@same_weights
def test_a_shaped_attentions_parameters_start_as_published(impl: Redesign) -> None:
    """Queries and key bias start at 0, the keys' matrix at N(0, 0.02), the gains at 1, one a head.

    Source: He & Hofmann 2023, their published code.

    Hint: `nn.init.normal_(self.key.weight, std=0.02)`
    """
    attention = impl.ShapedAttention(d_model=64, heads=4, first_layer=True)
    start = take(attention, "query.weight", "key.weight", "alpha", "beta", "gamma")
    assert not start["query.weight"].any()
    assert not any(start[name].any() for name in ("query.bias", "key.bias") if name in start)
    assert_close(start["key.weight"].std(), torch.tensor(0.02), atol=0.002, rtol=0)
    assert_close(start["key.weight"].mean(), torch.tensor(0.0), atol=0.002, rtol=0)
    for name in ("alpha", "beta", "gamma"):
        assert_close(start[name].flatten(), torch.ones(4))


@robust
@same_weights
@rejects("simplified_eps_inside_the_root", "simplified_norms_by_layer_norm")
@for_all(x="batch position (heads 4 d)", heads=axis("heads"), kind=SIMPLIFIED, examples=4)
def test_small_tokens_are_normed_like_large_ones(impl: Redesign, x: Tensor, heads: int, kind: str) -> None:
    """A token of size 0.0001 is normed to size 1 as well: the norm's eps of 1e-8 stands outside the root.

    Inside the root it would act like 1e-4, and LayerNorm's 1e-5 like 3e-3: embeddings that start small would be left
    small, and with no skip nothing else sets their size.

    Source: He & Hofmann 2023, their published code.

    Hint: `x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-8)`; mind the slope at 0.
    """
    make = one(kind, None, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = make(d_model=x.shape[-1], heads=heads, d_ff=8, residual_gain=0.0)
    take(block, *OURS)
    x = x + 2 * x.sign()
    assert_close(block(1e-4 * x), block(x), atol=2e-2, rtol=2e-2)


@robust
@rejects("simplified_norm_without_eps", "simplified_norm_has_no_slope_at_0", "simplified_norm_in_low_precision")
@for_all(x="batch (2 position) (heads 4 d)", heads=axis("heads"), kind=SIMPLIFIED, examples=4)
def test_tokens_of_zeros_stay_finite(impl: Redesign, x: Tensor, heads: int, kind: str) -> None:
    """A token of zeros gives finite numbers and a finite gradient, also in float16, where 1e-8 is 0.

    √(mean of squares) has no slope at 0: its gradient is 0/0 there, whatever is added to it.

    Hint: `torch.linalg.vector_norm(x.float(), …)` has the slope 0 at 0; statistics in float32.
    """
    make = one(kind, None, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = make(d_model=x.shape[-1], heads=heads, d_ff=8)
    x = (x * (torch.arange(x.shape[1]) % 2)[:, None]).requires_grad_()
    out = block(x)
    assert finite(out, *torch.autograd.grad((out * randn(*out.shape)).sum(), x))
    assert finite(block.half()(x.detach().half()))


@robust
@rejects("parallel_spreads_nan", "shaped_spreads_nan")
@for_all(x="batch position (heads d)", heads=axis("heads"), kind=KINDS, examples=5)
def test_a_redesigned_block_with_an_empty_row_stays_finite(impl: Redesign, x: Tensor, heads: int, kind: str) -> None:
    """In every redesigned block a position that sees nothing gives finite numbers, and disturbs no other.

    In a shaped attention its row keeps alpha · I: softmax and C have nothing to give.

    Hint: a softmax over −∞ alone is NaN, and so is a mean over no position: fill with 0, divide by 1 at least.
    """
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = perturb(make(d_model=x.shape[-1], heads=heads, d_ff=16)).eval()
    mask = torch.ones(len(x), x.shape[1], x.shape[1], dtype=torch.bool)
    mask[0, 0] = False
    out = block(x, mask=mask)
    assert_close(out[:, 1:], block(x)[:, 1:], atol=1e-5, rtol=1e-4)
    assert finite(out, *torch.autograd.grad(out.square().sum(), list(block.parameters()), materialize_grads=True))
    attention = impl.ShapedAttention(d_model=x.shape[-1], heads=heads)
    assert finite(matrix_of(attention, x, mask=mask), attention(x, mask=mask))


@robust
@rejects("shaped_heads_cut_to_fit", "shaped_refuses_without_numbers")
@for_all(d_model=[15, 17], heads=[2, 4], kind=KINDS, examples=4)
def test_errors_of_redesigned_blocks_name_the_numbers(impl: Redesign, d_model: int, heads: int, kind: str) -> None:
    """The error names d_model and the heads that do not divide it, whichever block was made.

    Hint: `raise ValueError(f"d_model={d_model} is not divisible by heads={heads}")`
    """
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    assert refuses(lambda: make(d_model=d_model, heads=heads, d_ff=16), d_model, heads)
    assert refuses(lambda: impl.ShapedAttention(d_model=d_model, heads=heads), d_model, heads)


@robust
@rejects("uniform_on_the_cpu", "shaped_mask_read_as_heads")
@for_all(x="batch position (heads d)", heads=axis("heads"), mask=booleans("batch 1 position"), kind=KINDS, examples=5)
def test_redesigned_blocks_stay_on_their_device(impl: Redesign, x: Tensor, heads: int, mask: Tensor, kind: str) -> None:
    """Every block stays on its input's device, and no value is read back by Python.

    The meta device has shapes and no numbers: a tensor made on the CPU does not fit, `if mask.any()` has no answer.

    Hint: `torch.eye(length, device=x.device)`.
    """
    x, mask, d_model = x.to("meta"), mask.to("meta"), x.shape[-1]
    make = one(kind, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    block = make(d_model=d_model, heads=heads, d_ff=8).to("meta")
    assert block(x).device.type == block(x, mask=mask).device.type == "meta"
    assert matrix_of(impl.ShapedAttention(d_model=d_model, heads=heads).to("meta"), x, mask=mask).device.type == "meta"
