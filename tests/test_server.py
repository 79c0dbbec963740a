"""The server's requirements have teeth, on two processes of the CPU; and its runs, folders and checkpoints keep."""

import json
import math
from pathlib import Path

import pytest
import torch

from reference.language_model import DecoderLM
from spec.kit import catalogue
from spec.kit.catalogue import ROOT
from spec.kit.plug import Implementation
from spec.kit.probe import full_disk
from spec.kit.server import checkpoints, folder, measure, train, trials
from spec.kit.server.devices import Devices, NoSuchDevices, parse
from spec.kit.server.launch import Request, run
from spec.kit.story import MET, UNMET
from spec.kit.trial import attempt, fixtures_of, is_rejection
from tests.running import learner

TWO = Devices("cpu", 2)
REQUIREMENTS = catalogue.requirements("server")
BY_RANKS = {
    (f"mistake:{name}", each.id)
    for each in REQUIREMENTS.values()
    if "ranks" in fixtures_of(each.function)
    for name in each.rejects
}
FAULTS = {  # planted in what is no exercise of this chapter, or too long for a mistake: and what has to notice
    "dropout_seed_shared_by_all_ranks": "every_rank_drops_by_its_own_numbers",
    "every_rank_the_same_data": "real_ranks_read_each_sequence_once",
    "averaged_by_rank": "every_token_of_every_rank_weighs_the_same",
    "init_depends_on_the_rank": "the_same_seed_starts_the_same_model_on_every_rank",
}
ON_ONE = {
    "mask_left_on_the_cpu": "a_model_on_the_device_asks_for_nothing_else",
    "python_waits_for_the_device": "a_model_on_the_device_asks_for_nothing_else",
    "the_graph_is_kept": "the_memory_of_a_step_does_not_grow",
}


def fault(name: str) -> str:
    """An implementation's place."""
    return f"tests/faults/{name}.py+reference"


@pytest.mark.processes
def test_what_is_wrong_on_many_ranks_is_rejected_by_name() -> None:
    """Each mistake by each requirement that lists it, each planted fault by its own; the mistakes are named."""
    planted = {(fault(name), f"server.{requirement}") for name, requirement in FAULTS.items()}
    found = dict(run(Request(TWO, ROOT), sorted(BY_RANKS | planted)))
    missed = [pair for pair in BY_RANKS | planted if found[pair].state != UNMET]
    assert not missed
    named = [pair for pair in BY_RANKS if pair[0].partition(":")[2] in found[pair].looks_like]
    assert len(named) > 0.8 * len(BY_RANKS)


@pytest.mark.parametrize("name", ON_ONE)
def test_what_is_wrong_on_one_device_is_rejected(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where the device is the CPU, by the rehearsal's means."""
    impl, requirement = Implementation(fault(name), ROOT), REQUIREMENTS[ON_ONE[name]]
    given = {"device": torch.device("cpu"), "capfd": capfd}
    error = attempt(requirement, impl, **{each: given[each] for each in fixtures_of(requirement.function)})
    assert is_rejection(error, impl)


@pytest.mark.processes
def test_a_step_with_a_memory_does_not_survive_a_restart(tmp_path: Path) -> None:
    """The trial by SIGKILL tells a run that resumes from one that starts anew in part."""
    impl = Implementation(fault("the_step_counts_for_itself"), ROOT)
    undisturbed, killed = trials.killed_and_undisturbed(impl, TWO, tmp_path)
    assert not torch.equal(undisturbed, killed)
    assert torch.equal(undisturbed[: trials.SAVE_EVERY], killed[: trials.SAVE_EVERY])


@pytest.mark.processes
@pytest.mark.parametrize(("name", "said"), [("rank_one_stays_away", "shapes differ"), ("a_worker_exits", "ended")])
def test_ranks_that_wait_or_die_end_one_requirement_alone(name: str, said: str) -> None:
    """The next one runs in new processes."""
    first, then = "server.a_rank_without_targets_adds_nothing", "server.real_ranks_read_each_sequence_once"
    pairs = [(fault(name), first), (fault(name), then)]
    found = dict(run(Request(TWO, ROOT, seconds=8.0, name=False), pairs))
    assert found[pairs[0]].state == UNMET
    assert said in found[pairs[0]].why
    assert found[pairs[1]].state == MET


def state(value: float = 1.0) -> dict[str, object]:
    """Something to be saved."""
    return {"model": {"weight": torch.full((200, 300), value)}, "place": {"step": torch.tensor(int(value))}}


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The error names what failed and what is still there."""
    checkpoints.save(tmp_path, 1, state(1.0))
    with full_disk(4096), pytest.raises(checkpoints.CannotSave, match="step-00000001"):
        checkpoints.save(tmp_path, 2, state(2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    found = state(0.0)
    checkpoints.load(tmp_path / "step-00000001", found)
    assert found["model"]["weight"].eq(1).all()  # type: ignore[index]


@pytest.mark.parametrize("damage", ["cut", "changed", "lost", "unlisted"])
def test_a_damaged_checkpoint_is_told_before_it_is_used(tmp_path: Path, damage: str) -> None:
    """The error names the one before it, and nothing of the damaged one is loaded."""
    for step in (1, 2):
        checkpoints.save(tmp_path, step, state(float(step)))
    newest = checkpoints.complete(tmp_path)[-1]
    data = next(newest.glob("*.distcp"))
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-100])
    elif damage == "changed":
        data.write_bytes(data.read_bytes()[:-100] + b"\0" * 100)
    elif damage == "lost":
        data.unlink()
    else:
        (newest / checkpoints.LIST).unlink()
    found = state(0.0)
    with pytest.raises(checkpoints.DamagedCheckpoint, match="step-00000001"):
        checkpoints.load(newest, found)
    assert found["model"]["weight"].eq(0).all()  # type: ignore[index]


def test_old_checkpoints_go_and_the_newest_stay(tmp_path: Path) -> None:
    """Two are kept; an unfinished one never counts."""
    for step in range(4):
        checkpoints.save(tmp_path, step, state())
    (tmp_path / "step-00000009.unfinished").mkdir()
    assert [path.name for path in checkpoints.complete(tmp_path)] == ["step-00000002", "step-00000003"]


def test_a_resumed_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """A killed run had written on; those steps come again."""
    settings = train.RunSettings("reference")
    journal = folder.Journal(tmp_path, 0, False, settings)
    for step in range(1, 6):
        journal.add(step=step, train_loss=1 / step, validation_loss=None, rate=0.1, tokens_per_second=1.0, seconds=0.0)
    journal.close()
    with journal.file.open("a") as file:
        file.write("6,0.1")  # cut off
    folder.Journal(tmp_path, 3, False, settings).close()
    assert folder.losses(tmp_path) == [1.0, 1 / 2, 1 / 3]
    assert folder.losses(tmp_path, "validation_loss") == []


@pytest.mark.processes
def test_a_run_can_be_read_and_resumed_from_its_folder(tmp_path: Path) -> None:
    """Settings, code, log, checkpoints, plot; `--resume` needs no other word."""
    impl = Implementation("reference", ROOT)
    one = Devices("cpu", 1)
    words = ("--steps=6", "--evaluate-every=3", "--save-every=3", "--d-model=16", "--batch=8")
    trials.ran(impl, one, tmp_path, *words)
    told = json.loads((tmp_path / "settings.json").read_text())
    assert told["settings"]["d_model"] == 16
    assert told["torch"] == torch.__version__
    assert len(folder.losses(tmp_path)) == 6
    assert len(folder.losses(tmp_path, "validation_loss")) == 2
    again, path, _, _ = train.settings_of([f"--resume={tmp_path}", "--steps=9"])
    assert (again.d_model, again.steps, path) == (16, 9, tmp_path)
    pytest.importorskip("matplotlib")
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.processes
def test_a_spread_model_is_saved_by_two_and_goes_on_in_one(tmp_path: Path) -> None:
    """`--sharded` by FSDP2; its checkpoint knows no number of processes."""
    impl = Implementation("reference", ROOT)
    words = ("--evaluate-every=10", "--save-every=10", "--d-model=16", "--batch=8", "--sharded")
    trials.ran(impl, TWO, tmp_path, *words, "--steps=20")
    before = folder.losses(tmp_path, "validation_loss")
    trials.ran(impl, Devices("cpu", 1), tmp_path, *words, "--steps=30")
    after = folder.losses(tmp_path, "validation_loss")
    assert after[:2] == before
    assert len(after) == 3
    assert abs(after[2] - before[1]) < 0.1  # it went on, and did not begin again with other weights


@pytest.mark.processes
def test_a_run_says_what_is_wrong_with_its_checkpoint(tmp_path: Path) -> None:
    """In one line, without a traceback."""
    impl, one = Implementation("reference", ROOT), Devices("cpu", 1)
    words = ("--steps=2", "--evaluate-every=2", "--save-every=2", "--d-model=16", "--batch=8")
    trials.ran(impl, one, tmp_path, *words)
    data = next((tmp_path / "checkpoints").glob("*/*.distcp"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(trials.RunFailed):
        trials.ran(impl, one, tmp_path, *words)
    said = (tmp_path / "output.txt").read_text()
    assert "is damaged: __0_0.distcp has 100 bytes of" in said
    assert 'Traceback (most recent call last):\n  File "<frozen runpy>"' not in said.partition("is damaged")[0]


@pytest.mark.parametrize("word", ["gpu", "cuda", "cpu:0", "cuda:-1", "cpu:two"])
def test_a_wrong_word_for_devices_is_explained(word: str) -> None:
    """With the forms that there are."""
    with pytest.raises(NoSuchDevices, match="cpu:N"):
        parse(word)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_a_line_or_a_failure() -> None:
    """One line that says what is missing; `--require-gpu` turns it into a failure."""
    words = ("--impl=reference", "-m", "gpu", "-q", "-rs", "spec/server.py")
    skipped = learner(*words)
    assert skipped.status == 0
    assert "no CUDA device is here" in skipped.screen
    required = learner(*words, "--require-gpu")
    assert required.status == 1
    assert "--require-gpu: no CUDA device is here" in required.screen


def test_the_closed_form_is_what_a_step_needs() -> None:
    """The parameters are counted right, and the memory to a tenth."""
    sizes = {"vocab": 512, "max_length": 128, "d_model": 128, "layers": 4, "heads": 4}
    count = sum(p.numel() for p in DecoderLM(vocab=512, max_length=128, d_model=128, layers=4, heads=4).parameters())
    assert measure.parameter_count(**sizes) == count
    used = measure.step_memory(Implementation("reference", ROOT), torch.device("cpu"), sizes, batch=4)
    due = measure.closed_form(sizes, batch=4)
    assert math.isclose(used.late, due.kept + due.graph, rel_tol=0.1)


def test_the_utilisation_of_known_gpus() -> None:
    """GPT-2 small at 100,000 tokens a second, on one A5000: 0.86 GFLOP a token."""
    operations = measure.operations_per_token(124_000_000, 12, 768, 1024)
    assert math.isclose(operations, 6 * 124e6 + 12 * 12 * 768 * 1024)
    assert measure.utilisation(1e5, operations, 1, "NVIDIA RTX A5000") == pytest.approx(1e5 * operations / 111.1e12)
    assert measure.utilisation(1e5, operations, 1, "some other GPU") is None
