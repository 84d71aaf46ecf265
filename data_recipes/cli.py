"""What every command of the project does alike: it ends in one clear line for a user's mistake, never in a traceback,
and takes Ctrl-C and SIGTERM as a request to stop at the next good moment."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

USER_ERRORS = (ValueError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)

ECHO_SECONDS = 1.0
"""torchrun passes on to its processes a Ctrl-C that the terminal has sent to all of them already."""


def no_default(metavar: str) -> object:
    """For an option that stays out of the way where it is not given: --help says in words what holds then."""
    from tyro.conf import arg

    return arg(metavar=metavar, help_behavior_hint="")


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command and exit with its status: 0, its own code, 2 for a user's mistake, 130 for Ctrl-C.

    `INKZOO_TRACEBACK=1` in the environment shows the full traceback instead, for reports of faults.
    """
    try:
        status = main()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:  # `... | head` closed our output: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except USER_ERRORS as error:
        _fail(_one_line(error), 2)
    except MemoryError:
        _fail("out of memory: use a smaller --tile, --depth or --batch-size", 3)
    except OSError as error:
        hint = " (no space left: free some, or choose another folder with --out)" if error.errno == errno.ENOSPC else ""
        _fail(_one_line(error) + hint, 2)
    else:
        sys.exit(status or 0)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return str(error) or type(error).__name__


def _fail(message: str, status: int) -> None:
    if os.environ.get("INKZOO_TRACEBACK") and sys.exc_info()[0]:
        raise  # noqa: PLE0704 - re-raises the error being handled by run_cli
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0":
        time.sleep(3)  # a mistake is every process's: the first one says it, and torchrun ends the others meanwhile
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a Ctrl-C after that interrupts at once. Main thread only."""
    event = threading.Event()
    asked = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number: int, _frame: object) -> None:
        nonlocal asked
        if not event.is_set():
            asked = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - asked > ECHO_SECONDS:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def duration(seconds: float) -> str:
    """`7 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
