"""Ends a call that does not come back, and says at which line of the learner's code it was."""

import contextlib
import ctypes
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from spec.kit.verdict import Endless

CALL_SECONDS = 10.0  # of computing, not of waiting for a busy machine; a right call takes milliseconds
ASLEEP, PATIENCE = 20.0, 5.0  # by the clock: a call may always take this long, and this many times its seconds
HURRIED = 0.2

pace = 1.0  # a share of the seconds; less once something was endless


def hurry() -> None:
    """Something was endless: what comes next is not waited for as long."""
    global pace
    pace = min(pace, HURRIED)


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """What is endless in here was tried by us, and hurries nothing that comes after."""
    global pace
    usual = pace
    try:
        yield
    finally:
        pace = usual


def _where(frame: FrameType | None, inside: str) -> str:
    while frame is not None:
        if inside and frame.f_code.co_filename.startswith(inside):
            return f", last seen at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


@contextlib.contextmanager
def limit(seconds: float, what: str, inside: str = "") -> Iterator[None]:
    """Raises Endless when the block computes for longer than `seconds`; `inside` is the folder to name a line of."""
    seconds *= pace
    message = f"{what} did not come back after {seconds:g} seconds of computing{{}}. Is there an endless loop?"
    if threading.current_thread() is not threading.main_thread():
        yield
    elif hasattr(signal, "SIGPROF"):

        def expired(_number: int, frame: FrameType | None) -> None:
            hurry()
            raise Endless(message.format(_where(frame, inside)))

        def slept(_number: int, frame: FrameType | None) -> None:
            hurry()
            raise Endless(
                f"{what} did not come back after {clock:g} seconds{_where(frame, inside)}. What does it wait for?"
            )

        clock = max(ASLEEP, PATIENCE * seconds)
        before = signal.signal(signal.SIGPROF, expired), signal.signal(signal.SIGALRM, slept)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, clock)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGPROF, before[0])
            signal.signal(signal.SIGALRM, before[1])
    else:  # Windows: an exception is planted into the main thread, which meets it at its next bytecode

        def plant() -> None:
            thread = ctypes.c_ulong(threading.main_thread().ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Endless))

        timer = threading.Timer(seconds, plant)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Endless as planted:
            hurry()
            raise Endless(message.format("")) from planted
        finally:
            timer.cancel()
