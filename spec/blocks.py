"""# The block

What a Transformer repeats: attention, then a feed-forward network, each normed and skipped around.

    pre:  x + sublayer(norm(x))        post:  norm(x + sublayer(x))

Source: Vaswani et al. 2017, §3.1 and §3.3; the Deep Learning Curriculum, chapter 1, question 4.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from spec.kit.close import assert_close
from spec.kit.draw import axis, booleans, doubles, for_all, normal, randn
from spec.kit.marks import rejects, robust, same_weights
from spec.kit.probe import astray, finite, gradients_are_derivatives, idle, lower_triangle, refuses, who_sees_whom
from spec.kit.weights import count, give, perturb, random_state


class NormCall(Protocol):
    """How a norm is called."""

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Each token normed by its own channels."""
        ...


class FeedForwardCall(Protocol):
    """How the network is called."""

    def forward(self, x: Float[Tensor, "batch position d_model"]) -> Float[Tensor, "batch position d_model"]:
        """Up, bend, down."""
        ...


class DecoderBlockCall(Protocol):
    """How the block is called."""

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
        bias: Float[Tensor, "*#head #position #key"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Attention and feed-forward network, with norms and skips."""
        ...


class Blocks(Protocol):
    """What an implementation of this chapter offers."""

    def LayerNorm(self, d_model: int, eps: float = 1e-5) -> Annotated[nn.Module, NormCall]:
        """Mean 0 and variance 1 for every token, then a gain and a shift for each channel."""
        ...

    def RMSNorm(self, d_model: int, eps: float = 1e-5) -> Annotated[nn.Module, NormCall]:
        """Root mean square 1 for every token, then a gain for each channel."""
        ...

    def FeedForward(
        self, d_model: int, d_ff: int, activation: str = "gelu", dropout: float = 0.0
    ) -> Annotated[nn.Module, FeedForwardCall]:
        """Two linear layers with a bend between."""
        ...

    def DecoderBlock(
        self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0, norm: str = "pre", rotary: bool = False
    ) -> Annotated[nn.Module, DecoderBlockCall]:
        """Attention and feed-forward network, each with its norm and its skip."""
        ...


ACTIVATIONS = ["relu", "gelu", "gelu_tanh", "swiglu"]


@rejects(
    "divides_by_the_unbiased_variance",
    "divides_by_the_variance",
    "gain_starts_at_random",
    "norms_over_the_whole_tensor",
)
@for_all(x=normal("batch position (4 d_model)", scale=10), examples=6)
def test_a_fresh_layer_norm_gives_mean_0_and_variance_1(impl: Blocks, x: Tensor) -> None:
    """A new LayerNorm gives every token the mean 0 and the variance 1 over its channels.

    The variance is the mean of the squared differences: divided by d_model, not by d_model − 1.

    Source: Ba et al. 2016, equation 3.

    Hint: `unbiased=False`; gains start at one and shifts at zero.
    """
    out = impl.LayerNorm(d_model=x.shape[-1])(x)
    assert_close(out.mean(-1), torch.zeros(x.shape[:-1]), atol=1e-5, rtol=0)
    assert_close(out.square().mean(-1), torch.ones(x.shape[:-1]), atol=1e-4, rtol=0)


@rejects(
    "divides_by_the_variance",
    "norms_without_eps",
    "keeps_the_mean",
    "gain_before_the_norm",
    "divides_by_the_root_mean_square",
)
@for_all(x=normal("batch position (4 d_model)", scale=10), examples=6)
def test_layer_norm_forgets_shift_and_size(impl: Blocks, x: Tensor) -> None:
    """A token that is shifted or stretched as a whole is normed to the same.

    Only the pattern over the channels goes on: a layer cannot shout.

    Source: Ba et al. 2016, §5.1.

    Hint: take the mean off first, and measure the variance of the same token.
    """
    norm = perturb(impl.LayerNorm(d_model=x.shape[-1]))
    assert_close(norm(3 * x + 5), norm(x), atol=1e-4, rtol=1e-4)
    assert_close(norm(-x) + norm(x), 2 * norm(x * 0), atol=1e-4, rtol=1e-4)


@rejects("divides_by_the_unbiased_variance", "eps_outside_the_root", "eps_is_fixed", "gain_starts_at_random")
@for_all(x="batch position (4 d_model)", eps=[1e-5, 0.1, 1.0], examples=6)
def test_layer_norm_adds_eps_to_the_variance(impl: Blocks, x: Tensor, eps: float) -> None:
    """A new LayerNorm is (x − mean) / √(variance + eps): eps stands inside the root.

    It decides what becomes of small differences: those far below √eps are left small.

    Source: Ba et al. 2016, equation 4; PyTorch's LayerNorm.

    Hint: `(variance + self.eps).sqrt()`, not `variance.sqrt() + self.eps`.
    """
    x = x / 10
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    assert_close(impl.LayerNorm(d_model=x.shape[-1], eps=eps)(x), expected, atol=1e-5, rtol=1e-4)


@rejects(
    "norms_over_positions_too",
    "norms_over_the_batch",
    "rms_over_positions_too",
    "norms_over_the_whole_tensor",
    "rms_over_the_whole_tensor",
)
@for_all(x="1 position (4 d_model)", examples=5)
def test_norms_keep_tokens_apart(impl: Blocks, x: Tensor) -> None:
    """The statistics are a token's own: no token influences another.

    Statistics over (position, d_model) let the future leak into the past, past every mask.

    Hint: the mean runs over the last axis alone, with keepdim=True.
    """
    alone = torch.eye(x.shape[1], dtype=torch.bool)
    assert_close(who_sees_whom(perturb(impl.LayerNorm(d_model=x.shape[-1])), x), alone)
    assert_close(who_sees_whom(perturb(impl.RMSNorm(d_model=x.shape[-1])), x), alone)


@rejects("norms_over_positions_too", "norms_over_the_batch", "norms_an_axis_by_number")
@for_all(x="batch layer position (4 d_model)", examples=5)
def test_norms_take_any_leading_axes(impl: Blocks, x: Tensor) -> None:
    """One token, a sequence, a batch: each token is normed alike.

    Hint: `x.mean(-1, keepdim=True)`; the axis is counted from the end.
    """
    for norm in (perturb(impl.LayerNorm(d_model=x.shape[-1])), perturb(impl.RMSNorm(d_model=x.shape[-1]))):
        out = norm(x)
        assert_close(norm(x[0]), out[0])
        assert_close(norm(x[0, 0, 0]), out[0, 0, 0])


@rejects("eps_outside_the_root", "norms_without_eps", "rms_eps_outside_the_root", "rms_without_eps")
@for_all(x="batch position 1", d_model=axis("d_model"), examples=6)
def test_constant_rows_stay_finite(impl: Blocks, x: Tensor, d_model: int) -> None:
    """A token whose channels are all equal is normed to zeros, and its gradient is finite.

    Its variance is 0: that is what eps is for. The root of 0 alone has no slope, so √variance + eps gives NaN there.

    Hint: eps belongs under the root.
    """
    x = x.repeat(1, 1, d_model).requires_grad_()
    out = impl.LayerNorm(d_model=d_model)(x)
    assert_close(out, torch.zeros_like(x), atol=1e-2, rtol=0)
    silent = impl.RMSNorm(d_model=d_model)(x * 0)
    assert_close(silent, torch.zeros_like(x), atol=0, rtol=0)
    ways = randn(*x.shape)
    assert finite(*(torch.autograd.grad((each * ways).sum(), x)[0] for each in (out, silent)))


@rejects(
    "rms_by_the_sum_of_squares",
    "rms_without_the_root",
    "rms_over_positions_too",
    "rms_by_the_deviation",
    "rms_by_torchs_variance",
)
@for_all(x=normal("batch position (4 d_model)", scale=10), examples=6)
def test_a_fresh_rms_norm_gives_root_mean_square_1(impl: Blocks, x: Tensor) -> None:
    """A new RMSNorm gives every token the root mean square 1 over its channels.

    Source: Zhang & Sennrich 2019, equation 4.

    Hint: the mean of the squares, not their sum.
    """
    out = impl.RMSNorm(d_model=x.shape[-1])(x)
    assert_close(out.square().mean(-1), torch.ones(x.shape[:-1]), atol=1e-4, rtol=0)


@rejects("rms_takes_the_mean_off")
@for_all(x=normal("batch position (4 d_model)", scale=10), examples=6)
def test_rms_norm_keeps_the_direction(impl: Blocks, x: Tensor) -> None:
    """A new RMSNorm changes a token's length and not its direction: no mean is taken off.

    Its authors found that the rescaling is what helps, and left the shifting out.

    Source: Zhang & Sennrich 2019, §4.

    Hint: there is no `x - mean` in it.
    """
    out = impl.RMSNorm(d_model=x.shape[-1])(x + 5)
    assert_close(F.normalize(out, dim=-1), F.normalize(x + 5, dim=-1))


@same_weights
@rejects("gain_before_the_norm", "shift_is_forgotten", "rms_gain_is_forgotten", "shift_before_the_gain")
@for_all(x="batch position (4 d_model)", examples=5)
def test_gains_multiply_and_shifts_add(impl: Blocks, x: Tensor) -> None:
    """Each channel of a normed token is multiplied by its weight; LayerNorm then adds its bias, RMSNorm has none.

    Source: Ba et al. 2016, equation 4; Zhang & Sennrich 2019, equation 4.

    Hint: two parameters of d_model numbers, weight and bias; in RMSNorm the first alone.
    """
    d_model = x.shape[-1]
    state = random_state({"weight": (d_model,), "bias": (d_model,)}, scale=1)
    layer_norm, rms_norm = impl.LayerNorm(d_model=d_model), impl.RMSNorm(d_model=d_model)
    give(layer_norm, state)
    give(rms_norm, {"weight": state["weight"]})
    assert_close(layer_norm(x), F.layer_norm(x, (d_model,), state["weight"], state["bias"]), atol=1e-4, rtol=1e-4)
    assert_close(rms_norm(x), F.rms_norm(x, (d_model,), state["weight"], 1e-5), atol=1e-4, rtol=1e-4)


@rejects("norm_gains_are_plain_tensors", "rms_gain_is_a_plain_tensor", "rms_gain_is_forgotten")
@for_all(x="batch position (4 d_model)", examples=3)
def test_gains_and_shifts_are_parameters(impl: Blocks, x: Tensor) -> None:
    """LayerNorm has 2 · d_model trainable numbers, and all that learns in a norm is among its parameters.

    A tensor that is no parameter computes like one; but no optimizer moves it, no file holds it, and `.to(device)`
    leaves it behind.

    Hint: `self.weight = nn.Parameter(torch.ones(d_model))`
    """
    layer_norm, rms_norm = impl.LayerNorm(d_model=x.shape[-1]), impl.RMSNorm(d_model=x.shape[-1])
    for norm in (layer_norm, rms_norm):
        assert astray(norm, norm(x)) == []
    assert count(layer_norm) == 2 * x.shape[-1]


@rejects("statistics_are_detached", "centres_in_place", "rms_is_detached", "norm_gains_are_plain_tensors")
@for_all(x=doubles("batch position (4 d_model)"), examples=4)
def test_gradients_pass_through_the_statistics(impl: Blocks, x: Tensor) -> None:
    """A norm's gradient counts that mean and variance depend on x too.

    With the statistics cut from the graph a layer learns as if they were fixed numbers.

    Hint: no `.detach()`, `.data` or `torch.no_grad()` around mean and variance.
    """
    assert gradients_are_derivatives(perturb(impl.LayerNorm(d_model=x.shape[-1])).double(), x)
    assert gradients_are_derivatives(perturb(impl.RMSNorm(d_model=x.shape[-1])).double(), x)


@rejects("feed_forward_mixes_positions", "feed_forward_hears_its_neighbours")
@for_all(x="1 position d_model", d_ff=axis("d_ff"), activation=ACTIVATIONS, examples=8)
def test_feed_forward_acts_on_each_position_alone(impl: Blocks, x: Tensor, d_ff: int, activation: str) -> None:
    """The same network is applied to each position, and none sees another.

    Positions talk in attention; here each one thinks for itself.

    Source: Vaswani et al. 2017, §3.3.

    Hint: nn.Linear works on the last axis; do not flatten positions into channels.
    """
    network = perturb(impl.FeedForward(d_model=x.shape[-1], d_ff=4 + d_ff, activation=activation)).eval()
    same = x[:, :1].expand(-1, x.shape[1], -1)
    assert_close(network(same), network(same[:, :1]).expand_as(same))
    seen = who_sees_whom(network, x.abs()) & ~torch.eye(x.shape[1], dtype=torch.bool)
    assert_close(seen, torch.zeros_like(seen))


@rejects("bend_is_forgotten")
@for_all(x="batch position d_model", activation=ACTIVATIONS, examples=8)
def test_feed_forward_bends(impl: Blocks, x: Tensor, activation: str) -> None:
    """It is not linear: what x and −x give does not cancel around what 0 gives.

    Two linear layers without a bend between are one linear layer, with more parameters.

    Source: Vaswani et al. 2017, §3.3, equation 2.

    Hint: is the activation called, and its result used?
    """
    network = perturb(impl.FeedForward(d_model=x.shape[-1], d_ff=16, activation=activation)).eval()
    x = 3 * x
    assert not torch.allclose(network(x) + network(-x), 2 * network(x * 0), atol=1e-3)


@rejects("swiglu_without_a_gate", "swiglu_adds_the_gate", "swiglu_by_a_sigmoid")
@for_all(x="batch position d_model", activation=ACTIVATIONS, examples=8)
def test_only_a_gated_network_grows_with_the_square(impl: Blocks, x: Tensor, activation: str) -> None:
    """Far from 0, an input twice as large gives twice the output, and with swiglu four times.

    A gate is multiplied with what it lets through, and both grow with the input; ReLU and GELU only bend it.

    Source: Shazeer 2020, equation 6.

    Hint: swiglu has two layers up: silu(gate(x)) · up(x).
    """
    network = perturb(impl.FeedForward(d_model=x.shape[-1], d_ff=16, activation=activation)).double().eval()
    far = 1e6 * x.double()
    growth = network(2 * far).norm() / network(far).norm()
    assert_close(growth.float(), torch.tensor(4.0 if activation == "swiglu" else 2.0), atol=1e-3, rtol=1e-3)


@same_weights
@rejects(
    "bend_is_forgotten",
    "bends_after_the_second_layer",
    "gelu_always",
    "gelu_is_the_approximation",
    "gelu_tanh_is_exact",
    "swiglu_bends_up",
    "swiglu_by_a_sigmoid",
    "swiglu_adds_the_gate",
    "skip_inside_feed_forward",
    "hidden_layer_of_d_model",
    "bends_again_at_the_end",
)
@for_all(x="batch position d_model", d_ff=axis("d_ff"), activation=ACTIVATIONS, examples=8)
def test_feed_forward_goes_up_bends_and_comes_down(impl: Blocks, x: Tensor, d_ff: int, activation: str) -> None:
    """It is down(bend(up(x))) with d_ff numbers between; swiglu is down(silu(gate(x)) · up(x)).

    "gelu" is the exact one, x · Φ(x), and "gelu_tanh" its approximation, which differs from it by less than 0.001.

    Source: Vaswani et al. 2017, §3.3; Hendrycks & Gimpel 2016; Shazeer 2020, equation 6.

    Hint: `F.gelu(x)` and `F.gelu(x, approximate="tanh")`; silu(x) = x · sigmoid(x) bends the gate and not up.
    """
    x = x.double()
    network = impl.FeedForward(d_model=x.shape[-1], d_ff=d_ff, activation=activation).double().eval()
    state = _double(random_state(_feed_forward(x.shape[-1], d_ff, activation == "swiglu"), scale=1))
    give(network, state)
    up = F.linear(x, state["up.weight"], state["up.bias"])
    gate = F.linear(x, state["gate.weight"], state["gate.bias"]) if activation == "swiglu" else up
    cubic = math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)
    hidden = {
        "relu": up.clamp_min(0),
        "gelu": up * (1 + torch.erf(up / math.sqrt(2))) / 2,
        "gelu_tanh": up * (1 + torch.tanh(cubic)) / 2,
        "swiglu": gate * torch.sigmoid(gate) * up,
    }
    expected = F.linear(hidden[activation], state["down.weight"], state["down.bias"])
    assert_close(network(x), expected, atol=1e-6, rtol=1e-6)


def _double(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in state.items()}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _feed_forward(d_model: int, d_ff: int, gated: bool = False) -> dict[str, tuple[int, ...]]:
    """The canonical parameters of a feed-forward network."""
    gate = _linear("gate", d_model, d_ff) if gated else {}
    return _linear("up", d_model, d_ff) | gate | _linear("down", d_ff, d_model)


@rejects("gate_of_every_activation")
@for_all(x="batch position d_model", d_ff=axis("d_ff"), activation=ACTIVATIONS, examples=4)
def test_every_parameter_of_a_network_is_used(impl: Blocks, x: Tensor, d_ff: int, activation: str) -> None:
    """Every parameter of the feed-forward network gets a gradient, whatever the activation.

    One that gets none is memory and time for nothing, and the count of the model's parameters is a lie.

    Hint: only gated activations (swiglu) have a third matrix.
    """
    network = impl.FeedForward(d_model=x.shape[-1], d_ff=d_ff, activation=activation)
    torch.autograd.backward(network(x).square().sum())
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@rejects("heads_cut_to_fit_the_block")
@for_all(d_model=[5, 7], heads=[2, 3], examples=2)
def test_a_block_whose_heads_do_not_divide_d_model_is_an_error(impl: Blocks, d_model: int, heads: int) -> None:
    """A block asks of its sizes what its attention asks: heads that do not divide d_model are an error.

    Hint: hand d_model and heads on to MultiHeadAttention as they are.
    """
    assert refuses(lambda: impl.DecoderBlock(d_model=d_model, heads=heads, d_ff=16)(randn(2, 3, d_model)))


@rejects(
    "no_skips",
    "no_skip_around_the_network",
    "no_skip_around_attention",
    "skips_the_normed_input",
    "block_knows_positions",
    "skip_around_attention_twice",
    "every_skip_twice",
)
@for_all(x="batch position (heads d)", heads=axis("heads"), d_ff=axis("d_ff"), examples=6)
def test_a_block_of_zeros_is_the_identity(impl: Blocks, x: Tensor, heads: int, d_ff: int) -> None:
    """With every parameter zero, a pre-norm block returns its input.

    Sublayers add to a stream that runs past them all, from the embedding to the head: this is what a skip is. So a
    deep stack starts as almost nothing, and learns from there.

    Source: He et al. 2016; the Deep Learning Curriculum, chapter 1, question 4.

    Hint: two skips: x + attention(norm_1(x)), then the same around the network; the skip takes x, not norm(x).
    """
    block = impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=d_ff, norm="pre").eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    assert_close(block(x), x, rtol=0, atol=0)


@rejects("skip_inside_feed_forward", "no_skips", "no_skip_around_the_network", "no_skip_around_attention")
def test_a_deep_stack_keeps_its_gradient_by_its_skips(impl: Blocks) -> None:
    """Through eight small sublayers a gradient arrives with skips, and is lost without them.

    Without, it is multiplied by every sublayer on its way, and each of them shrinks it; with skips one way of many
    multiplies nothing. So there are so many skips, and no sublayer may bring one of its own.

    Source: He et al. 2016; the Deep Learning Curriculum, chapter 1, question 4.

    Hint: skips belong to the block: attention and network return their own result alone.
    """
    attentions = [impl.MultiHeadAttention(d_model=16, heads=2) for _ in range(8)]  # type: ignore[attr-defined]
    networks = [impl.FeedForward(d_model=16, d_ff=32) for _ in range(8)]
    blocks = [impl.DecoderBlock(d_model=16, heads=2, d_ff=32) for _ in range(8)]
    assert _arriving(blocks, skips=False, vectors=False) > 0.5  # a norm's gains stay 1
    for sublayers in (attentions, networks):
        assert _arriving(sublayers, skips=True) > 0.5
        assert abs(_arriving(sublayers, skips=False)) < 1e-6


def _arriving(layers: Iterable[nn.Module], skips: bool, vectors: bool = True) -> float:
    """How much of the gradient sent into a stack's end arrives at its start, along the way it was sent."""
    x, sent = randn(1, 5, 16, key="x").requires_grad_(), randn(1, 5, 16, key="sent")
    y = x
    for depth, layer in enumerate(layers):
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if vectors or parameter.ndim > 1:
                    parameter.copy_(0.05 * randn(*parameter.shape, key=(depth, name)))
        y = y + layer.eval()(y) if skips else layer.eval()(y)
    (arrived,) = torch.autograd.grad((y * sent).sum(), x)
    return float((arrived * sent).sum() / sent.square().sum())


@rejects("block_drops_the_mask", "attention_without_gradient", "attention_is_thrown_away")
@for_all(x="1 position (heads 2 d)", heads=axis("heads"), norm=["pre", "post"], examples=6)
def test_a_blocks_mask_reaches_its_attention(impl: Blocks, x: Tensor, heads: int, norm: str) -> None:
    """Under a causal mask a block's output depends on its own position and all before it; without one, on all.

    Hint: hand the mask on, and check that norm and network act on each position alone.
    """
    block = perturb(impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=16, norm=norm)).eval()
    past = lower_triangle(x.shape[1])
    assert_close(who_sees_whom(lambda x: block(x, mask=past), x), past)
    assert_close(who_sees_whom(block, x), torch.ones_like(past))


@rejects("norm_in_float32", "block_mask_read_as_heads")
@for_all(x=doubles("2 position (2 d 2)"), mask=booleans("2 position position"), norm=["pre", "post"], examples=5)
def test_a_block_takes_one_mask_a_sequence(impl: Blocks, x: Tensor, mask: Tensor, norm: str) -> None:
    """A mask (batch, query, key) gives each sequence its own; with two heads and two sequences too.

    Hint: the attention gives a mask of rank 3 its axis of heads; the block hands it on as it is.
    """
    mask = mask | torch.eye(x.shape[1], dtype=torch.bool)
    block = perturb(impl.DecoderBlock(d_model=x.shape[-1], heads=2, d_ff=16, norm=norm)).eval().double()
    alone = [block(x[i : i + 1], mask=mask[i]) for i in range(2)]
    assert_close(block(x, mask=mask), torch.cat(alone), atol=1e-6, rtol=1e-6)


@rejects("block_drops_the_mask", "block_is_always_causal", "block_drops_the_bias")
@for_all(x=doubles("2 position (2 d 2)"), mask=booleans("2 position position"), norm=["pre", "post"], examples=5)
def test_a_blocks_bias_reaches_its_attention(impl: Blocks, x: Tensor, mask: Tensor, norm: str) -> None:
    """A bias (head, query, key) of −10,000 hides as well as a mask does.

    ALiBi comes into a model on this way.

    Hint: `self.attention(…, mask=mask, bias=bias)`
    """
    mask = mask | torch.eye(x.shape[1], dtype=torch.bool)
    block = perturb(impl.DecoderBlock(d_model=x.shape[-1], heads=2, d_ff=16, norm=norm)).eval().double()
    expected = block(x, mask=mask[None].expand(2, -1, -1, -1))
    assert_close(block(x, bias=torch.where(mask, 0.0, -1e4)), expected, atol=1e-6, rtol=1e-6)


@rejects("block_is_always_causal", "block_knows_positions")
@for_all(x=doubles("batch position (heads d 2)"), heads=axis("heads"), norm=["pre", "post"], examples=5)
def test_a_block_does_not_know_order(impl: Blocks, x: Tensor, heads: int, norm: str) -> None:
    """Without positions, reordering the tokens reorders the outputs; sequences of a batch do not meet.

    Hint: nothing in a block but rotary may depend on where a token stands.
    """
    block = perturb(impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=16, norm=norm)).eval().double()
    out = block(x)
    assert_close(block(x.flip(1)), out.flip(1), atol=1e-6, rtol=1e-6)
    assert_close(torch.cat([block(each) for each in x.chunk(len(x))]), out, atol=1e-6, rtol=1e-6)


@rejects("block_drops_rotary")
@for_all(
    x=doubles("batch position (heads d 2)"), pad=doubles("batch start (heads d 2)"), heads=axis("heads"), examples=5
)
def test_a_rotary_block_knows_distances_alone(impl: Blocks, x: Tensor, pad: Tensor, heads: int) -> None:
    """With rotary, hidden tokens in front change nothing, and the order of the visible ones matters.

    Source: Su et al. 2021, §3.2.

    Hint: hand `rotary` on to MultiHeadAttention.
    """
    block = perturb(impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=16, rotary=True)).eval().double()
    visible = torch.arange(pad.shape[1] + x.shape[1]) >= pad.shape[1]
    late = block(torch.cat([pad, x], 1), mask=visible.expand(len(visible), -1))
    assert_close(late[:, pad.shape[1] :], block(x), atol=1e-5, rtol=1e-5)
    longer = 3 * torch.cat([x, -x, x + 1], 1)
    assert not torch.allclose(block(longer.flip(1)), block(longer).flip(1), atol=1e-4)


@rejects("post_norm_is_pre_norm", "norms_the_sublayer_alone")
@for_all(x=normal("batch position (heads 4 d)", scale=100), heads=axis("heads"), examples=5)
def test_post_norm_norms_the_stream(impl: Blocks, x: Tensor, heads: int) -> None:
    """A new post-norm block returns normed tokens, whatever comes in; a pre-norm block leaves the stream's size alone.

    In post-norm the skip itself is normed; in pre-norm a way stays free on which nothing is.

    Source: Vaswani et al. 2017, §3.1 (post); Xiong et al. 2020 (pre).

    Hint: post is norm(x + sublayer(x)), with the norm around the sum.
    """
    out = impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=16, norm="post").eval()(x)
    assert_close(out.square().mean(-1), torch.ones(x.shape[:-1]), atol=1e-2, rtol=0)
    pre = impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=16, norm="pre").eval()(x)
    assert 0.5 < pre.norm() / x.norm() < 2


@rejects("skips_the_normed_input", "network_without_a_norm", "skip_around_attention_twice", "every_skip_twice")
@for_all(x=doubles("batch position (heads 4 d)"), heads=axis("heads"), examples=5)
def test_pre_norm_sublayers_see_normed_tokens(impl: Blocks, x: Tensor, heads: int) -> None:
    """What a pre-norm block adds to a large stream does not grow with it.

    Both sublayers read norm(x), so tokens a hundred times as large get the same answer.

    Hint: each sublayer gets the result of its own norm, and x goes past it.
    """
    block = perturb(impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=16, norm="pre")).eval().double()
    added, to_larger = (block(size * x) - size * x for size in (1e7, 1e9))
    assert_close(added, to_larger, atol=1e-3, rtol=1e-3)


@same_weights
@rejects(
    "bends_after_the_second_layer",
    "gelu_is_the_approximation",
    "hidden_layer_of_d_model",
    "network_skips_the_attention",
    "attention_and_network_in_parallel",
    "network_before_attention",
    "one_norm_for_both",
    "norms_change_places",
    "post_norm_is_pre_norm",
    "norms_the_sublayer_alone",
    "shift_before_the_gain",
    "bends_again_at_the_end",
    "one_norm_under_two_names",
    "second_skip_before_the_norm",
)
@for_all(
    x=doubles("batch position (heads d)"), heads=axis("heads"), d_ff=axis("d_ff"), norm=["pre", "post"], examples=8
)
def test_equals_torchs_encoder_layer(impl: Blocks, x: Tensor, heads: int, d_ff: int, norm: str) -> None:
    """With the same weights it gives what `torch.nn.TransformerEncoderLayer` gives, in both norm orders.

    With a causal mask, the layer of an encoder is the block of a decoder that has nothing to decode from.

    Source: Vaswani et al. 2017, §3.1.

    Hint: attention first, then the network with its exact GELU; norm_1 belongs to the attention, norm_2 to the network.
    Where yours differs on purpose (ReLU, say), `UNSUPPORTED = {"same_weights"}`.
    """
    block = impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=d_ff, norm=norm).eval().double()
    state = _double(random_state(_block(x.shape[-1], d_ff)))
    give(block, state)
    past = lower_triangle(x.shape[1])
    expected = _torchs(x.shape[-1], heads, d_ff, norm, state)(x, src_mask=~past)
    assert_close(block(x, mask=past), expected, atol=1e-5, rtol=1e-5)


def _block(d_model: int, d_ff: int) -> dict[str, tuple[int, ...]]:
    """The canonical parameters of a block."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("query", "key", "value", "output"):
        shapes |= _linear(f"attention.{name}", d_model, d_model)
    shapes |= {f"feed_forward.{name}": shape for name, shape in _feed_forward(d_model, d_ff).items()}
    return shapes | {f"norm_{n}.{kind}": (d_model,) for n in (1, 2) for kind in ("weight", "bias")}


def _torchs(d_model: int, heads: int, d_ff: int, norm: str, state: dict[str, Tensor]) -> nn.TransformerEncoderLayer:
    """torch's layer with canonical weights."""
    layer = nn.TransformerEncoderLayer(
        d_model, heads, d_ff, 0.0, activation="gelu", batch_first=True, norm_first=norm == "pre"
    )
    theirs = {"attention.output": "self_attn.out_proj", "feed_forward.up": "linear1", "feed_forward.down": "linear2"}
    theirs |= {"norm_1": "norm1", "norm_2": "norm2"}
    own = {f"{name}.{kind}": state[f"{ours}.{kind}"] for ours, name in theirs.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        parts = [state[f"attention.{name}.{kind}"] for name in ("query", "key", "value")]
        own[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
    layer.double().load_state_dict(own)
    return layer


@rejects(
    "shift_is_forgotten",
    "one_norm_for_both",
    "network_without_a_norm",
    "attention_without_gradient",
    "attention_is_thrown_away",
)
@for_all(x="batch (2 position) (heads 2 d)", heads=axis("heads"), norm=["pre", "post"], examples=5)
def test_every_matrix_of_a_block_learns(impl: Blocks, x: Tensor, heads: int, norm: str) -> None:
    """A finite gradient reaches every parameter, and no matrix's is zero.

    Hint: which layer is made and not used, or used and cut off?
    """
    block = perturb(impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=16, norm=norm)).eval()
    out = block(x)
    (out * randn(*out.shape)).sum().backward()
    assert idle(block) == []


@rejects("network_drops_in_evaluation", "network_never_drops", "block_drops_in_evaluation", "block_never_drops")
@for_all(x="batch position (heads d)", heads=axis("heads"), norm=["pre", "post"], examples=4)
def test_a_block_drops_in_training_alone(impl: Blocks, x: Tensor, heads: int, norm: str) -> None:
    """Network and block: two training passes differ, and in evaluation both are exactly as without dropout.

    Source: Vaswani et al. 2017, §5.4.

    Hint: `nn.Dropout` listens to `train()` and `eval()`; `F.dropout` has to be told, `training=self.training`.
    """
    x = torch.cat([x] * 4)
    d_model = x.shape[-1]
    block = perturb(impl.DecoderBlock(d_model=d_model, heads=heads, d_ff=16, norm=norm, dropout=0.5))
    plain_block = impl.DecoderBlock(d_model=d_model, heads=heads, d_ff=16, norm=norm)
    network = perturb(impl.FeedForward(d_model=d_model, d_ff=16, dropout=0.5))
    plain_network = impl.FeedForward(d_model=d_model, d_ff=16)
    for module, plain in ((network, plain_network), (block, plain_block)):
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(module.parameters()).detach(), plain.parameters())
        assert not torch.equal(module(x), module(x))
        assert_close(module.eval()(x), plain(x))


@rejects("norm_in_float32", "block_adds_in_place", "rms_in_float32", "rms_float32_for_all")
@for_all(x="batch position (heads d)", heads=axis("heads"), dtype=[torch.float64, torch.bfloat16], examples=6)
def test_converted_blocks_keep_the_dtype(impl: Blocks, x: Tensor, heads: int, dtype: torch.dtype) -> None:
    """After `.to(dtype)`, norms, network and block give back the dtype that comes in.

    Hint: statistics in float32 have to be turned back: `.to(x.dtype)`.
    """
    d_model, x = x.shape[-1], x.to(dtype)
    assert impl.LayerNorm(d_model=d_model).to(dtype)(x).dtype == dtype
    assert impl.RMSNorm(d_model=d_model).to(dtype)(x).dtype == dtype
    assert impl.FeedForward(d_model=d_model, d_ff=8).to(dtype)(x).dtype == dtype
    block = impl.DecoderBlock(d_model=d_model, heads=heads, d_ff=8).to(dtype).eval()
    assert block(x, mask=lower_triangle(x.shape[1])).dtype == dtype


@rejects("centres_in_place", "block_adds_in_place")
@for_all(x="batch position (heads d)", heads=axis("heads"), norm=["pre", "post"], examples=5)
def test_blocks_leave_their_inputs_alone(impl: Blocks, x: Tensor, heads: int, norm: str) -> None:
    """The tensor that comes in is the same afterwards.

    `x += …` saves a tensor, and changes the caller's one.

    Hint: `x = x + …` makes a new tensor.
    """
    before = x.clone()
    impl.LayerNorm(d_model=x.shape[-1])(x)
    impl.RMSNorm(d_model=x.shape[-1])(x)
    impl.FeedForward(d_model=x.shape[-1], d_ff=8)(x)
    impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=8, norm=norm)(x)
    assert torch.equal(x, before)


@robust
@rejects(
    "rms_takes_the_mean_off",
    "rms_by_the_sum_of_squares",
    "rms_without_the_root",
    "rms_eps_outside_the_root",
    "rms_without_eps",
    "rms_by_the_deviation",
    "rms_by_torchs_variance",
)
@for_all(x="batch position (4 d_model)", eps=[1e-5, 0.1, 1.0], examples=6)
def test_rms_norm_adds_eps_to_the_mean_of_squares(impl: Blocks, x: Tensor, eps: float) -> None:
    """A new RMSNorm is x / √(mean of squares + eps): eps stands inside the root.

    Source: Zhang & Sennrich 2019; PyTorch's RMSNorm.

    Hint: `(x.square().mean(-1, keepdim=True) + self.eps).sqrt()`
    """
    x = x / 10
    expected = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    assert_close(impl.RMSNorm(d_model=x.shape[-1], eps=eps)(x), expected, atol=1e-5, rtol=1e-4)


@robust
@rejects("keeps_the_mean", "variance_as_a_difference", "divides_by_the_root_mean_square")
@for_all(x="batch position (16 d_model)", examples=5)
def test_layer_norm_survives_a_large_shift(impl: Blocks, x: Tensor) -> None:
    """A token 1,024 away from zero is normed as if it stood around zero.

    The mean of the squares minus the square of the mean loses everything there: both are a million, and their
    difference is one.

    Hint: take the mean off first, then square.
    """
    norm = impl.LayerNorm(d_model=x.shape[-1])
    exact = (x * 64).round() / 64  # so that the shift itself rounds nothing off
    assert_close(norm(exact + 1024), norm(exact), atol=5e-3, rtol=5e-3)


@robust
@rejects(
    "norms_an_axis_by_number",
    "statistics_are_detached",
    "variance_as_a_difference",
    "statistics_in_low_precision",
    "rms_is_detached",
    "rms_in_low_precision",
)
@for_all(x="batch position (16 d_model)", dtype=[torch.float16, torch.bfloat16], examples=6)
def test_low_precision_norms_measure_in_float32(impl: Blocks, x: Tensor, dtype: torch.dtype) -> None:
    """In float16 and bfloat16 the statistics are those of float32; the result alone is rounded.

    The square of 300 is ∞ in float16, and bfloat16 knows three digits: a mean of 100 is wrong by a half.

    Hint: `x.to(torch.promote_types(x.dtype, torch.float32))`, the statistics, and back: `.to(x.dtype)`.
    """
    d_model = x.shape[-1]
    low = (300 * x if dtype == torch.float16 else x + 100).to(dtype)
    fresh = impl.LayerNorm(d_model=d_model), impl.RMSNorm(d_model=d_model)
    wide = [norm(low.float()) for norm in fresh]
    for norm, expected in zip(fresh, wide, strict=True):
        assert_close(norm.to(dtype)(low).float(), expected, atol=0.02, rtol=0.02)


@robust
@rejects("feed_forward_mixes_positions", "block_spreads_nan")
@for_all(x="batch position (heads d)", heads=axis("heads"), norm=["pre", "post"], examples=4)
def test_a_block_with_an_empty_row_stays_finite(impl: Blocks, x: Tensor, heads: int, norm: str) -> None:
    """A position that sees nothing gives finite numbers and gradients, and disturbs no other.

    Hint: the attention has to answer for such rows; see its chapter.
    """
    block = perturb(impl.DecoderBlock(d_model=x.shape[-1], heads=heads, d_ff=16, norm=norm)).eval()
    mask = torch.ones(len(x), x.shape[1], x.shape[1], dtype=torch.bool)
    mask[0, 0] = False
    out = block(x, mask=mask)
    assert_close(out[:, 1:], block(x)[:, 1:], atol=1e-5, rtol=1e-4)
    assert finite(out, *torch.autograd.grad(out.square().sum(), list(block.parameters()), materialize_grads=True))


@robust
@rejects("asks_for_a_constant_row", "block_mask_read_as_heads")
@for_all(x="batch position (heads d)", heads=axis("heads"), mask=booleans("batch 1 position"), examples=4)
def test_blocks_stay_on_their_device(impl: Blocks, x: Tensor, heads: int, mask: Tensor) -> None:
    """A block stays on its input's device, and no value is read back by Python.

    The meta device has shapes and no numbers: a tensor made on the CPU does not fit, `if mask.any()` has no answer.

    Hint: parameters and buffers move with the module; other tensors need `device=x.device`.
    """
    x, mask, d_model = x.to("meta"), mask.to("meta"), x.shape[-1]
    block = impl.DecoderBlock(d_model=d_model, heads=heads, d_ff=8).to("meta")
    assert block(x, mask=mask).device.type == "meta"
    norms = impl.LayerNorm(d_model=d_model).to("meta"), impl.RMSNorm(d_model=d_model).to("meta")
    assert all(norm(x).device.type == "meta" for norm in norms)
