"""Runs a learner's code in a forked child, so that nothing it does ends the run.

A call that computes in Python for too long is ended by its own time limit (limit.py). A call that never comes back from
C, a crash and an `os._exit` end the child alone: the requirement that was running fails, and a fresh child goes on
with the next.
"""

import contextlib
import faulthandler
import os
import pickle
import select
import signal
import struct
import sys
import tempfile
import traceback
import warnings
from typing import IO, Any

import pytest
from _pytest.runner import runtestprotocol

from spec.kit import catalogue, draw, limit, story
from spec.kit.board import plain
from spec.kit.plug import Implementation

GONE, HUNG, ALIVE = "gone", "hung", "alive"
OUR_FAULT = 71  # the exit status of a child in which not the learner's code failed but the specification
SILENCE = 30.0  # seconds by the clock that a child may always take for a case, however busy the machine
LAUNCH = 300.0  # of computing, for processes of their own to start and to answer


def register(config: pytest.Config) -> None:
    """Isolates where it can be done: with fork, without a debugger, and outside xdist, which has its own workers."""
    parallel = hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None)
    debugged = config.option.usepdb or getattr(config.option, "trace", False) or sys.gettrace() is not None
    if hasattr(os, "fork") and not parallel and not debugged:
        config.pluginmanager.register(Isolation(), "attest-isolation")


class Isolation:
    """The run loop: children run the items, the parent reports them."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Runs all items, in as many children as it takes."""
        if session.config.option.collectonly or session.testsfailed:
            return None
        done = 0
        while done < len(session.items):
            with contextlib.closing(_Child(session, done)) as child:
                done = child.report()
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return True


class _Child:
    """One forked process that runs the items from a number on."""

    def __init__(self, session: pytest.Session, start: int) -> None:
        self.session, self.start = session, start
        self.traces: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            self._run(writer)
        os.close(writer)
        self.pipe = os.fdopen(reader, "rb")

    def _run(self, writer: int) -> None:
        """In the child: runs items and sends their reports; never returns."""
        status = 1
        try:
            faulthandler.enable(self.traces)
            faulthandler.register(signal.SIGUSR1, self.traces, all_threads=False)
            warnings.simplefilter("ignore")  # pytest sets its filters around the hook that is not called here
            items = self.session.items
            with os.fdopen(writer, "wb") as pipe:
                draw.options.pulse = lambda: _send(pipe, (ALIVE, None))
                for number in range(self.start, len(items)):
                    _send(pipe, ("start", number))
                    following = items[number + 1] if number + 1 < len(items) else None
                    reports = runtestprotocol(items[number], nextitem=following, log=False)
                    to_data = self.session.config.hook.pytest_report_to_serializable
                    _send(pipe, ("end", [to_data(config=self.session.config, report=report) for report in reports]))
            status = 0
        except BaseException:
            self.traces.write(traceback.format_exc().encode())
            self.traces.flush()
            status = OUR_FAULT
        finally:
            os._exit(status)

    def report(self) -> int:
        """In the parent: passes the reports on; returns the number of the first item that has none."""
        number = self.start
        while True:
            item = self.session.items[number]
            message = self._receive(max(SILENCE, limit.pace * (3 * _patience(item) + 30)))
            if not isinstance(message, tuple):
                self._lost(item, message)
                return number + 1
            kind, content = message
            if kind == ALIVE:
                continue
            if kind == "start":
                item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
                continue
            for data in content:
                report = self.session.config.hook.pytest_report_from_serializable(config=self.session.config, data=data)
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            number += 1
            if number == len(self.session.items) or self.session.shouldfail or self.session.shouldstop:
                self._end()
                return number

    def _receive(self, seconds: float) -> Any:
        """The next message; GONE when the child has ended, HUNG when it is silent for longer than its limits allow."""
        try:
            if not select.select([self.pipe], [], [], seconds)[0]:
                return HUNG
            head = self.pipe.read(8)
            if len(head) < 8:
                return GONE
            return pickle.loads(self.pipe.read(struct.unpack("<Q", head)[0]))
        except KeyboardInterrupt:
            os.kill(self.pid, signal.SIGKILL)
            raise

    def close(self) -> None:
        """Lets go of the child's ends."""
        self.pipe.close()
        self.traces.close()

    def _end(self) -> None:
        """Waits for the child's clean end; one that was stopped early is not waited for."""
        if self.session.shouldfail or self.session.shouldstop:
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _lost(self, item: pytest.Item, how: str) -> None:
        """Reports the item during which the child died or hung."""
        if how == GONE:
            _, status = os.waitpid(self.pid, 0)
            cause = f"signal {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "os._exit"
            what = f"ended the whole process ({cause})"
            if os.waitstatus_to_exitcode(status) == OUR_FAULT:
                what = "could not be judged, since the specification itself failed; please report the traceback above"
                self.traces.seek(0)
                sys.stderr.write(self.traces.read().decode(errors="replace"))
        else:
            os.kill(self.pid, signal.SIGUSR1)  # writes its Python stack, even from inside C
            select.select([], [], [], 0.5)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            limit.hurry()
            what = "did not come back, from inside a single call that Python cannot interrupt"
        self.traces.seek(0)
        report = _failed(item, what, self.traces.read().decode(errors="replace"))
        item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _patience(item: pytest.Item) -> float:
    mark = item.get_closest_marker("patience")
    seconds = float(mark.args[0]) if mark else limit.CALL_SECONDS
    return seconds + (LAUNCH if item.get_closest_marker("multi_gpu") else 0)


def _send(pipe: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def _failed(item: pytest.Item, what: str, trace: str) -> pytest.TestReport:
    """The report of a requirement whose process is gone."""
    assert isinstance(item, pytest.Function)
    requirement = catalogue.requirement(item.function)
    tested = Implementation(item.config.option.impl, item.config.invocation_params.dir)
    told = story.Story(requirement.chapter, requirement.name, requirement.robust, story.UNMET)
    told.edit = story.edit_place(requirement, tested)
    for line in trace.splitlines():
        name, _, rest = line.strip().removeprefix('File "').partition('", line ')
        if name.startswith(tested.home.inside):
            told.edit = f"{story.short(name)}:{rest.split()[0]}"
            break
    called = f"{requirement.uses[0]} " if requirement.uses else "the implementation "
    told.why = f"{called}{what}."
    xfail = item.get_closest_marker("xfail")
    report = pytest.TestReport(
        item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "skipped" if xfail else "failed",
        plain(requirement, told), "call", user_properties=[("attest", told.to_dict())],
    )  # fmt: skip
    if xfail:
        report.wasxfail = "robust level"
    return report
