"""The pytest hooks: `--impl`, the levels, the order, and the reports that the learner's screen is made of."""

from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from spec import CHAPTERS
from spec.kit import annotated, board, catalogue, draw, isolate, lists, story, watch
from spec.kit.catalogue import ROOT
from spec.kit.plug import Implementation, UnknownPlace
from spec.kit.verdict import NotOffered, Told

STORY = "attest"  # the key of a story among a report's user properties
FAILED = pytest.StashKey[set[str]]()  # the chapters in which a requirement has failed
ON_DEMAND = ("shakespeare", "redesign", "nightly", "gpu", "multi_gpu", "processes")  # run only where -m names them
MARKS = {
    "rejects(*names)": "the mistakes that must fail this requirement",
    "robust": "the second level: what a careful engineer's version meets",
    "same_weights": "compares under equal parameters, by their canonical names",
    "patience(seconds)": "how long one call into the implementation may compute",
    "training": "trains the implementation for seconds",
    "shakespeare": "trains on the complete works for minutes (-m shakespeare)",
    "redesign": "trains four encoders side by side for minutes (-m redesign)",
    "nightly": "many seeds (-m nightly)",
    "gpu": "needs one CUDA device, or --devices=cpu:N (-m gpu)",
    "multi_gpu": "needs two or more CUDA devices, or --devices=cpu:N (-m gpu or -m multi_gpu)",
    "processes": "starts processes of its own for minutes (-m processes)",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The words that a learner, a teacher or a maintainer types."""
    group = parser.getgroup("attest", "the specification")
    group.addoption(
        "--impl", metavar="PLACE",
        help="what to test: reference, student, a dotted module, a folder, a .py file, mistake:NAME; "
        "a+b takes what a has not written from b",
    )  # fmt: skip
    group.addoption(
        "--level",
        choices=("core", "robust"),
        help="the level that the exit status counts (core; robust for the reference)",
    )
    group.addoption("--hint", action="store_true", help="show the hint of the next requirement")
    group.addoption(
        "--requirements", action="store_true", help="list all requirements with their sentences and sources"
    )
    group.addoption(
        "--mistakes", action="store_true", help="list all known mistakes with the requirements that reject them"
    )
    group.addoption("--shapes", action="store_true", help="hold every call to the implementation's own annotations")
    group.addoption("--watch", action="store_true", help="run again on every save")
    group.addoption(
        "--corpus", metavar="PATH", help="the complete works of Shakespeare, a .zip or .txt (or set ATTEST_CORPUS)"
    )
    group.addoption("--seed", type=int, default=0, help="draw other cases")


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """The words that print or repeat instead of running once."""
    if config.option.requirements or config.option.mistakes:
        lists.show(requirements=config.option.requirements, paths=config.args)
        return 0
    if config.option.watch and not hasattr(config, "workerinput"):
        return watch.loop(config)
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Every run draws the same cases, on one thread; a learner's run is the specification alone."""
    for mark, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{mark}: {meaning}")
    torch.set_num_threads(1)
    chosen = config.option.impl
    draw.options.shrink, draw.options.seed = bool(chosen), config.option.seed
    annotated.wanted = config.option.shapes
    if not chosen:
        return
    try:
        Implementation(chosen, Path(config.invocation_params.dir))
    except UnknownPlace as unknown:
        raise pytest.UsageError(str(unknown)) from None
    if config.args_source == pytest.Config.ArgsSource.TESTPATHS:
        config.args = [str(ROOT / "spec")]
    if chosen != "reference":
        config.addinivalue_line("filterwarnings", "ignore")  # a learner's warning is no verdict
        isolate.register(config)
        board.register(config)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Under spec/, the chapters alone are tests."""
    if collection_path.is_relative_to(ROOT / "spec") and collection_path != ROOT / "spec":
        return collection_path.parent != ROOT / "spec" or collection_path.stem not in CHAPTERS
    return None


def is_requirement(item: pytest.Item) -> bool:
    """Whether an item is a test of a chapter."""
    return isinstance(item, pytest.Function) and item.path.parent == ROOT / "spec"


def level(config: pytest.Config) -> str:
    """The level that counts: core for a learner, robust for the reference."""
    return str(config.option.level or ("core" if config.option.impl not in (None, "reference") else "robust"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The curriculum's order, robust last in each chapter; what takes long runs on demand alone."""
    asked = config.option.markexpr or ""
    left = [item for item in items if (marks := _on_demand(item)) and not any(mark in asked for mark in marks)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    order = {ROOT / "spec" / f"{chapter}.py": number for number, chapter in enumerate(CHAPTERS)}
    items.sort(key=lambda item: (order.get(item.path, len(order)), is_requirement(item) and "robust" in item.keywords))
    if level(config) == "core":
        for item in items:
            if is_requirement(item) and item.get_closest_marker("robust"):
                item.add_marker(pytest.mark.xfail(reason="robust level", strict=False))


def _on_demand(item: pytest.Item) -> list[str]:
    return [mark for mark in ON_DEMAND if item.get_closest_marker(mark)]


@pytest.fixture(scope="session")
def impl(request: pytest.FixtureRequest) -> Implementation:
    """The implementation under test; nothing of it is imported before a requirement asks."""
    return Implementation(request.config.option.impl or "reference", Path(request.config.invocation_params.dir))


@pytest.fixture(scope="session")
def corpus(request: pytest.FixtureRequest) -> str:
    """The complete works of Shakespeare; a skip says how to get them."""
    from spec.kit import corpus as works

    try:
        return works.text(request.config.option.corpus)
    except works.NoCorpus as missing:
        pytest.skip(str(missing))
    except works.WrongCorpus as wrong:
        pytest.fail(str(wrong), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Gives each requirement its own time limit and a clean log, and turns 'not offered' into a skip."""
    tested = pyfuncitem.funcargs.get("impl")
    if not isinstance(tested, Implementation) or not is_requirement(pyfuncitem):
        return (yield)
    patience = pyfuncitem.get_closest_marker("patience")
    usual = tested.log.seconds
    tested.log.seconds = patience.args[0] if patience else usual
    draw.begin(tested.log, pyfuncitem.function, {})
    try:
        return (yield)
    except NotOffered as option:
        pytest.skip(f"not offered: {option}")
    finally:
        tested.log.seconds = usual


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the story to a requirement's report, and lets a failing one say it instead of a traceback."""
    skipped = call.excinfo and call.excinfo.errisinstance(pytest.skip.Exception)
    if is_requirement(item) and call.excinfo and not skipped and _on_screen(item.config):
        call.excinfo.traceback = call.excinfo.traceback[-1:]  # pytest writes all of it down, and nobody sees it
    report = yield
    if not is_requirement(item) or not item.config.option.impl or item.config.option.impl == "reference":
        return report
    assert isinstance(item, pytest.Function)
    if call.when != "call" and not (call.when == "setup" and call.excinfo):
        return report
    tested = item.funcargs.get("impl")
    if not isinstance(tested, Implementation):  # what is missing was found before anything was set up
        tested = Implementation(item.config.option.impl, Path(item.config.invocation_params.dir))
    requirement = catalogue.requirement(item.function)
    told = _tell(requirement, tested, call, _may_come_next(item, requirement))
    if told.state == story.UNMET:
        item.session.stash.setdefault(FAILED, set()).add(requirement.chapter)
    told.seconds = call.duration
    report.user_properties.append((STORY, told.to_dict()))
    if told.state == story.UNMET and item.config.option.tbstyle in ("auto", "no"):
        report.longrepr = board.plain(requirement, told)
    elif told.state in (story.UNWRITTEN, story.WAITING) and report.outcome == "failed":
        report.longrepr = told.why
    return report


def _on_screen(config: pytest.Config) -> bool:
    """Whether the board shows one requirement alone, instead of pytest all of them."""
    return bool(config.option.tbstyle == "no" and config.option.impl and config.option.impl != "reference")


def _may_come_next(item: pytest.Item, requirement: catalogue.Requirement) -> bool:
    """Whether the board may choose this requirement, should it fail: the first of its chapter that counts."""
    counts = not requirement.robust or level(item.config) == "robust"
    first = requirement.chapter not in item.session.stash.get(FAILED, set())
    return not _on_screen(item.config) or (counts and first)


def _tell(
    requirement: catalogue.Requirement, tested: Implementation, call: pytest.CallInfo[None], name: bool
) -> story.Story:
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, Told):
        return story.Story(**error.story)
    return story.tell(requirement, tested, error, name)
