"""Redesigned encoder blocks (GPT-J; He & Hofmann 2023; our own). What must hold: spec/redesign.py."""

from jaxtyping import Bool, Float
from torch import Tensor, nn


class ParallelBlock(nn.Module):
    """Attention and feed-forward network side by side: both read the same normed input, and both are added to it.

    Parameters: attention (MultiHeadAttention), feed_forward (FeedForward), norm_1 (LayerNorm), the only norm.
    Raises: ValueError where heads do not divide d_model.
    """

    def __init__(self, d_model: int, heads: int, d_ff: int, dropout: float = 0.0) -> None:
        # TODO: attention, network and one norm here; in forward: the normed input to both, and their sum to x
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """x + attention(n) + feed_forward(n), where n = norm(x).

        Shapes: mask as in MultiHeadAttention; without a mask every position sees all.
        """
        raise NotImplementedError


class ShapedAttention(nn.Module):
    """Attention that begins as the identity, so that a block needs neither a skip nor values nor an output layer.

    Each head's matrix is A = alpha · I + beta · softmax(q kᵀ / √d_k) − gamma · C, where C is the uniform attention: the
    softmax of zero scores, one over their number for the visible positions. What it averages is its own slice of x.

    Parameters: query and key, linear layers with a bias; alpha, beta and gamma, one number a head; in the first layer
    alone value.weight, ΔW of the values x + ΔW x, without a bias.
    Start: query weight and bias 0, key weight N(0, 0.02) and bias 0, the gains 1, ΔW 0: so A = I.
    Raises: ValueError where heads do not divide d_model.
    """

    def __init__(self, d_model: int, heads: int, first_layer: bool = False) -> None:
        # TODO: query, key (value) and gains at their start here; in matrix: the formula; in forward: its product
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """The matrix times every head's slice of x (of x + ΔW x in the first layer).

        Shapes: mask as in MultiHeadAttention. A row with nothing visible keeps alpha · I.
        """
        raise NotImplementedError

    def matrix(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch head query key"]:
        """Who contributes how much to whom: alpha · I + beta · softmax(q kᵀ / √d_k) − gamma · C, a matrix a head."""
        raise NotImplementedError


class SimplifiedBlock(nn.Module):
    """A block without skips, values and output layer: SAS-P, or with parallel=False SAS.

    SAS-P is attention_gain · attention(n) + feed_forward_gain · feed_forward(n), where n = norm_1(x).
    SAS is skip_gain · y + feed_forward_gain · feed_forward(norm_2(y)), where y = attention_gain · attention(norm_1(x)).

    The network is down(relu(up(x))) without biases. The norm is x / (root mean square + 1e-8) · weight, with the eps
    outside the root; with norm=False there is none, but for norm_1 in the first layer. All gains are learned.

    Parameters: attention (ShapedAttention), feed_forward.up.weight, feed_forward.down.weight, norm_1.weight and in SAS
    norm_2.weight; numbers: attention_gain (1 at the start), feed_forward_gain (residual_gain) and in SAS skip_gain (1).
    Raises: ValueError where heads do not divide d_model.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_ff: int,
        parallel: bool = True,
        norm: bool = True,
        first_layer: bool = False,
        residual_gain: float = 0.1,
    ) -> None:
        # TODO: attention, network, norms and gains here; in forward: SAS-P, or SAS
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """SAS-P or SAS, as above; at the start attention(n) is n.

        Shapes: mask as in ShapedAttention; without a mask every position sees all.
        """
        raise NotImplementedError


class PAFormerBlock(nn.Module):
    """Parallel, with adaptively shaped attention; the name is a reading list's, and the definition is ours.

    A SAS-P block whose gains alpha, beta and gamma depend on the input. Let v be the value of a query in a head (its
    slice of the normed input n; in the first layer of n + ΔW n) and m the mean of the values that the query sees, C v.
    Three statistics say how large v is, how much it agrees with m, and how much of the values m keeps:

        s = (v·v, v·m, m·m) / d_k,       gains = (alpha, beta, gamma) + adapt s

    adapt is a 3 × 3 matrix a head, 0 at the start: so the block starts as SAS-P does, and can learn to mix less where
    what it sees is alike already. m uses the visible positions alone, so nothing hidden is seen through the gains.

    Parameters: those of SimplifiedBlock with parallel=True, and attention.adapt (head, gain, statistic).
    Raises: ValueError where heads do not divide d_model.
    """

    def __init__(
        self, d_model: int, heads: int, d_ff: int, first_layer: bool = False, residual_gain: float = 0.1
    ) -> None:
        # TODO: as SimplifiedBlock, and attention.adapt; in forward: SAS-P with gains that follow the input
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch position d_model"],
        mask: Bool[Tensor, "#position #key"]
        | Bool[Tensor, "#batch #position #key"]
        | Bool[Tensor, "#batch #head #position #key"]
        | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """attention_gain · attention(n) + feed_forward_gain · feed_forward(n), where n = norm_1(x).

        Shapes: mask as in ShapedAttention; without a mask every position sees all.
        """
        raise NotImplementedError
