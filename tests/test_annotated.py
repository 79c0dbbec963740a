"""`--shapes`: calls are held to the implementation's own annotations, and nothing else is."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spec.kit import annotated
from tests.running import learner

TURNED = '''
from jaxtyping import Float
from torch import Tensor

def attention_weights(
    q: Float[Tensor, "*batch query d_k"], k: Float[Tensor, "*batch key d_k"]
) -> Float[Tensor, "*batch query key"]:
    """Turned."""
    return (k @ q.transpose(-2, -1)).softmax(-1)
'''


def held(*things: Callable[..., Any]) -> ModuleType:
    """A module of these, held to their annotations."""
    module = ModuleType(things[0].__module__)
    for thing in things:
        setattr(module, thing.__name__, thing)
    annotated.hold(module)
    return module


def product(q: Float[Tensor, "*batch query d"], k: Float[Tensor, "*batch key d"]) -> Float[Tensor, "*batch query key"]:
    """Right for as many queries as keys."""
    return k @ q.transpose(-2, -1)  # type: ignore[shape]


class Layer(nn.Module):
    """Takes what fits its own annotation."""

    def forward(self, x: Float[Tensor, "batch position d"], mask: Bool[Tensor, "position"] | None = None) -> Tensor:
        """As it came."""
        return x


def longest(rows: list[Int[Tensor, "position"]]) -> int:
    """Rows of several lengths: an axis in a list is another one for each item."""
    return max(len(row) for row in rows)


def test_a_result_is_held_to_its_names() -> None:
    """The message has sizes, names and the axis, and no numbers of the tensor."""
    with pytest.raises(annotated.ShapeError) as caught:
        held(product).product(torch.ones(2, 3, 4), torch.ones(2, 5, 4))
    assert str(caught.value) == (
        'product returns 2 × 5 × 3 (f32), and "*batch query key" is annotated: axis "key" is 3 and not 5. '
        "Here query = 3, d = 4, key = 5, batch = (2)."
    )


def test_arguments_are_held_to_their_names() -> None:
    """Rank, size and kind of number."""
    module = held(product, Layer)
    with pytest.raises(annotated.ShapeError, match=r'gets k = 2 × 5 × 6 .* axis "d" is 6 and not 4'):
        module.product(torch.ones(2, 3, 4), torch.ones(2, 5, 6))
    with pytest.raises(annotated.ShapeError, match=r"gets x = 3 × 4 .* 2 axes came"):
        module.Layer()(torch.ones(3, 4))
    with pytest.raises(annotated.ShapeError, match=r"gets x = 2 × 3 × 4 \(i64\)"):
        module.Layer()(torch.ones(2, 3, 4, dtype=torch.long))
    with pytest.raises(annotated.ShapeError, match='axis "position" is 4 and not 3'):
        module.Layer()(torch.ones(2, 3, 4), torch.ones(4, dtype=torch.bool))


def test_what_fits_goes_through() -> None:
    """Right sizes, None where it may be, and rows of a list."""
    module = held(product, Layer, longest)
    assert module.product(torch.ones(3, 4), torch.ones(3, 4)).shape == (3, 3)
    assert module.Layer()(torch.ones(2, 3, 4)).shape == (2, 3, 4)
    assert module.longest([torch.ones(2, dtype=torch.long), torch.ones(3, dtype=torch.long)]) == 3


def test_a_pause_lets_everything_through() -> None:
    """While mistakes are compared, results count and annotations do not."""
    with annotated.paused():
        assert held(product).product(torch.ones(3, 4), torch.ones(5, 4)).shape == (5, 3)


def test_the_screen_says_it(tmp_path: Path) -> None:
    """Only with the word; without it the requirement speaks for itself."""
    file = tmp_path / "turned.py"
    file.write_text(TURNED)
    run = learner(f"--impl={file}", "spec/attention.py", "--shapes", "-k", "shares")
    assert run.status == 1
    assert 'axis "key" is' in " ".join(run.screen.split())
    assert "ShapeError" not in learner(f"--impl={file}", "spec/attention.py", "-k", "shares").screen


def test_the_reference_keeps_its_word() -> None:
    """All of it, at run time too."""
    assert learner("--impl=reference", "spec/heads.py", "spec/blocks.py", "--shapes", "-q").status == 0
