"""What ends a study before its end: Ctrl-C, `kill` or a batch system, a terminal that is closed.

A batch system, `timeout` and a terminal signal all processes of a study, so Ray may be lost with
the driver. Hence it is noted here that a signal has arrived.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ray._private import utils

STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_arrived = threading.Event()
_summaries: list[Callable[[], str]] = []
"""Of the study that runs; empty once it is printed."""


def has_arrived() -> bool:
    """Return True if SIGTERM or SIGHUP has told the study of this process to end."""
    return _arrived.is_set()


def forget() -> None:
    """Forget the signals that have arrived."""
    _arrived.clear()


@contextmanager
def signals_delayed() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP until the context is left; the second one is not delayed.

    `ray.init` that is interrupted leaves processes of which `ray.shutdown` knows nothing. An error
    after a signal is taken for its effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return
    arrived: list[int] = []

    def note(number: int, _: object) -> None:
        _note(number)
        arrived.append(number)
        if len(arrived) > 1:
            raise KeyboardInterrupt

    of_ray = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None  # `ray.init` begins with one that exits
    try:
        with handled(STOP_SIGNALS, note):
            yield
    except Exception as error:
        if arrived:
            raise KeyboardInterrupt from error
        raise
    finally:
        utils.set_sigterm_handler = of_ray
    if arrived:
        raise KeyboardInterrupt


@contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a study as Ctrl-C does.

    Ray's own handler of SIGTERM would end the process at once. An error after such a signal is
    taken for its effect: nothing can be printed on a terminal that is closed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return

    def stop(number: int, _: object) -> None:
        _note(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a script
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    try:
        with handled([number for number in STOP_SIGNALS if number != signal.SIGINT], stop):
            yield
    except Exception as error:
        if has_arrived():
            raise KeyboardInterrupt from error
        raise


def _note(number: int) -> None:
    if number != signal.SIGINT:  # which Ray's own processes ignore
        _arrived.set()


@contextmanager
def handled(numbers: Sequence[int], handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Give signals a handler until the context is left; those that nohup ignores stay ignored.

    Only the main thread may do so.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    own = [n for n, old in before.items() if old not in (signal.SIG_IGN, None)]
    for number in own:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in own:
            signal.signal(number, before[number])


@contextmanager
def summarised(describe: Callable[[], str], say: Callable[[str], None]) -> Iterator[None]:
    """Say how far a study has come if it is interrupted in the context.

    Args:
        describe: Returns the state of the study.
        say: Gets the line.
    """
    _summaries.append(describe)
    try:
        yield
    except KeyboardInterrupt:
        say_summary(say)
        raise
    finally:
        _summaries.clear()


def say_summary(say: Callable[[str], None]) -> None:
    """Say how far the study that runs has come, once."""
    with suppress(OSError, IndexError):  # of a terminal that is closed
        say(f"So far: {_summaries.pop()()}")
