"""The redesign experiment at a small scale: it learns, it is fair, and it draws."""

from pathlib import Path

import pytest
import torch

from spec.kit.catalogue import ROOT
from spec.kit.plug import Implementation
from spec.kit.side_by_side import Blocks, Result, Scale, _cut, _masked, side_by_side, speed, table

SMALL = Scale(
    vocab=20, context=8, d_model=16, layers=2, heads=2, batch=8, steps=30, evaluate_every=10, held_out=16, peak=1e-2,
    warmup=5,
)  # fmt: skip


def test_the_experiment_trains_four_encoders_and_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a text that repeats itself all four learn, and table and figure are there."""
    text = "to be or not to be that is the question " * 200
    impl = Implementation("reference", ROOT)
    blocks = Blocks(impl.DecoderBlock, impl.ParallelBlock, impl.SimplifiedBlock, impl.PAFormerBlock)
    results = side_by_side(impl, text, blocks, SMALL, tmp_path / "figure.png")
    assert [each.name for each in results] == ["pre-norm", "parallel", "simplified", "PA-Former"]
    assert all(each.loss < each.unigram for each in results)
    assert all(list(each.validation_loss) == [10, 20, 30] for each in results)
    assert all(len(each.train_loss) == len(each.seconds) == 30 for each in results)
    shown = capsys.readouterr().out
    assert "PA-Former" in shown
    if "pip install" not in shown:  # matplotlib is an extra
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_sequences_are_cut_without_overlap_and_from_both_kinds_of_token() -> None:
    """Half of the sequences begin with an even token, half with an odd one, and no token is in two."""
    rows = _cut(torch.arange(100), 10)
    assert len(set(rows.flatten().tolist())) == rows.numel()
    assert set((rows[:, 0] % 2).tolist()) == {0, 1}


def test_masked_tokens_are_the_targets_and_are_not_seen() -> None:
    """What is to be guessed is replaced by the mask, about 30 % of all; the same key masks the same."""
    batch = _masked(torch.arange(1000).view(10, 100), 5000, "key")
    assert (batch.seen == 5000).sum() == len(batch.targets)
    assert torch.equal(batch.seen[~batch.at], batch.tokens[~batch.at])
    assert 0.25 < batch.at.double().mean() < 0.35
    assert torch.equal(batch.at, _masked(batch.tokens, 5000, "key").at)


def test_speed_is_a_ratio_of_neighbouring_steps() -> None:
    """A machine that was busy for both counts for neither."""
    slow = Result("slow", 3, 2, 1.0, [1.0] * 3, {3: 0.5}, [2.0, 20.0, 2.0])
    fast = Result("fast", 3, 1, 1.0, [1.0] * 3, {3: 0.25}, [1.0, 10.0, 1.0])
    assert speed(fast, slow) == 2
    assert table([slow, fast]).row_count == 2
