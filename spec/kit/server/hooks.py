"""The pytest hooks of the requirements for GPUs: `--devices`, `--require-gpu`, and the processes that run them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spec.kit import board, catalogue
from spec.kit.catalogue import ROOT
from spec.kit.server import devices as words
from spec.kit.server.devices import Devices
from spec.kit.server.launch import Request, run
from spec.kit.story import MET, NOT_COUNTED, UNWRITTEN, WAITING, Story
from spec.kit.verdict import CannotCheck, Told

MANY = "multi_gpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The words of a server."""
    group = parser.getgroup("attest", "the specification")
    group.addoption(
        "--devices", metavar="WHICH", default="auto",
        help="where -m gpu runs: auto (all CUDA devices), cuda:N, or cpu:N, a rehearsal on N processes of the CPU",
    )  # fmt: skip
    group.addoption(
        "--require-gpu", action="store_true", help="a missing GPU is a failure, so that a green run is never empty"
    )
    group.addoption("--runs", metavar="FOLDER", default="runs", help="where long runs are kept")
    group.addoption("--resume", metavar="RUN", help="the folder of an interrupted run to go on with")


def pytest_configure(config: pytest.Config) -> None:
    """A wrong word is found before anything runs."""
    try:
        words.parse(config.option.devices)
    except words.NoSuchDevices as wrong:
        raise pytest.UsageError(str(wrong)) from None


@pytest.fixture(scope="session")
def devices(request: pytest.FixtureRequest) -> Devices:
    """Where the requirements for devices run."""
    return words.parse(request.config.option.devices)


@pytest.fixture(scope="session")
def device(devices: Devices) -> torch.device:
    """The first of them."""
    return devices.of(0)


@pytest.fixture(scope="session")
def ranks(request: pytest.FixtureRequest, devices: Devices) -> "Processes":
    """In this process, the one that starts the others; in them, what each sees (spec/kit/server/ranks.py)."""
    return Processes(request.session, devices)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Says what is missing, by a skip or, where a GPU is required, by a failure."""
    if not item.get_closest_marker("gpu"):
        return
    missing = words.parse(item.config.option.devices).missing(many=item.get_closest_marker(MANY) is not None)
    if missing and item.config.option.require_gpu:
        pytest.fail(f"--require-gpu: {missing}", pytrace=False)
    if missing:
        pytest.skip(missing)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A requirement on many devices runs in other processes; here its verdict is waited for."""
    ranks = pyfuncitem.funcargs.get("ranks")
    if not isinstance(ranks, Processes):
        return None
    requirement = catalogue.requirement(pyfuncitem.function)
    told = ranks.story(requirement.id)
    if told.state in NOT_COUNTED:
        raise CannotCheck(told.why)
    if told.state != MET:
        text = told.why if told.state in (UNWRITTEN, WAITING) else board.plain(requirement, told)
        raise Told(text, told.to_dict())
    return True


class Processes:
    """Runs all the requirements on many devices that this session holds, in one go, when the first of them is due."""

    def __init__(self, session: pytest.Session, devices: Devices) -> None:
        option = session.config.option
        self.ids = [_id(item) for item in session.items if item.get_closest_marker(MANY) and _asks(item)]
        self.request = Request(
            devices, Path(session.config.invocation_params.dir), option.seed, option.shapes, option.impl != "reference"
        )
        self.place = option.impl or "reference"
        self.stories: dict[str, Story] = {}
        self.coming: Any = None

    def story(self, id: str) -> Story:
        """What became of a requirement; those before it are waited for as well."""
        if self.coming is None:
            left = self.ids[self.ids.index(id) :] if id in self.ids else [id]
            self.coming = run(self.request, [(self.place, each) for each in left])
        while id not in self.stories:
            (_, done), told = next(self.coming)
            self.stories[done] = told
        return self.stories[id]


def _asks(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "ranks" in item.fixturenames and item.path.parent == ROOT / "spec"


def _id(item: pytest.Item) -> str:
    assert isinstance(item, pytest.Function)
    return catalogue.requirement(item.function).id
