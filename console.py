"""What a person sees of a command: its log lines, live lines in a terminal, and the log file.

A live line is there for a terminal only, and vanishes when what it tells of ends; a file or a pipe
gets plain lines. Colours are left out where NO_COLOR is set (https://no-color.org). Nothing of the
suite but `utils` is imported here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from utils import InputError

LAST_LINE = 25  # level of the line that a command ends with: --quiet prints it, to stdout
TICK = 1.0  # seconds after which a live line shows the time again
COLOURS = {"green": 32, "yellow": 33, "red": 31, "cyan": 36}  # codes of ANSI
# Characters of names in a file that would break a line, or command the terminal: controls but the
# tab, and those of lines and of direction. They are shown as Python writes them, such as \\n.
CONTROLS = (*range(9), *range(10, 32), *range(127, 160), *range(0x2028, 0x202F))
ESCAPES = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*CONTROLS, *range(0x2066, 0x206A))
}
# The time with which each line of a log file begins.
STAMP, STAMPED = "%Y-%m-%d %H:%M:%S", re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")


# --- Streams --------------------------------------------------------------------------------------


def write_line(text: str, stream: TextIO | None) -> None:
    """Write a line to stdout or stderr without tearing a live line.

    A stream that is closed, or whose reader has gone (`| head`), takes no more lines, and that is
    no reason to lose a run.
    """
    try:
        tqdm.write(text, file=stream)
    except (OSError, ValueError, AttributeError):
        return


def steady_streams() -> None:
    """Make stdout and stderr print any character, escaped where their encoding lacks it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush_streams() -> None:
    """Flush stdout and stderr; one that fails is pointed at nothing, so that Python's exit is."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that can rewrite a line, which a dumb one cannot."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it is closed
        return False


def has_colours(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal whose user wants colours."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def painted(text: str, colour: str, stream: TextIO | None) -> str:
    """Return text in one of `COLOURS`, or as it is where the stream has none."""
    return f"\033[{COLOURS[colour]}m{text}\033[0m" if has_colours(stream) else text


def one_line(text: str) -> str:
    """Return text with escapes for what would break a line, or command a terminal."""
    return text.translate(ESCAPES)


def _shown(record: logging.LogRecord, text: str) -> str:
    """Return the text of a record as it is shown: one line, or several where a command ends."""
    lines = text.split("\n") if record.levelno == LAST_LINE else [text]
    return "\n".join(map(one_line, lines))


# --- Live lines -----------------------------------------------------------------------------------


def _live(*, quiet: bool, **options: Any) -> tqdm:
    """Return a live line on stderr, which shows nothing if `quiet` or without a terminal."""
    hidden = quiet or not is_terminal(sys.stderr)
    return tqdm(leave=False, dynamic_ncols=True, disable=hidden, **options)


def bar(text: str, total: int, *, quiet: bool) -> tqdm:
    """Return a progress bar, which counts to `total` and shows the time left.

    It is a context manager, at whose end it vanishes.
    """
    return _live(
        quiet=quiet,
        desc=text,
        total=total,
        colour="green" if has_colours(sys.stderr) else None,
        # in 80 columns with three losses behind it
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
        "[{remaining} left{postfix}]",
    )


@contextlib.contextmanager
def status(text: str, *, quiet: bool) -> Iterator[None]:
    """Show a live line that says what goes on, and for how long, while a block runs."""
    shown = painted(text, "cyan", sys.stderr)
    with _live(quiet=quiet, desc=shown, bar_format="{desc}  {elapsed}") as line:
        if line.disable:
            yield
            return
        ended = threading.Event()

        def tick() -> None:
            while not ended.wait(TICK):
                line.refresh()

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            ended.set()
            ticker.join()


# --- Where log lines go ---------------------------------------------------------------------------


class _TerminalHandler(logging.Handler):
    """A handler that sends log lines to stdout, warnings and errors to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        text = _shown(record, self.format(record))
        if record.levelno < logging.WARNING:
            write_line(text, sys.stdout)
            return
        colour = "yellow" if record.levelno < logging.ERROR else "red"
        write_line(painted(text, colour, sys.stderr), sys.stderr)


class _FileHandler(logging.FileHandler):
    """A handler that appends log lines to a file, each with the time.

    A disk that is full takes no more lines, and that is no reason to lose a run.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with the time of the record."""
        stamp = logging.Formatter(datefmt=STAMP).formatTime(record, STAMP)
        lines = _shown(record, super().format(record)).split("\n")
        return "\n".join(f"{stamp}  {line}" for line in lines)

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def opened(*, quiet: bool) -> Iterator[None]:
    """Send the suite's log lines to the terminal during a block.

    All go there, or, if `quiet`, warnings, errors and the last line.
    """
    logger = logging.getLogger("sctag")
    before = logger.handlers, logger.propagate, logger.level
    terminal = _TerminalHandler(LAST_LINE if quiet else logging.INFO)
    logger.handlers, logger.propagate = [terminal], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])


def in_notebook(*, quiet: bool) -> contextlib.AbstractContextManager[None]:
    """Print the suite's log lines during a block, or, if `quiet`, leave them to the notebook."""
    return contextlib.nullcontext() if quiet else opened(quiet=False)


def add_log_file(path: Path, first_line: str) -> None:
    """Append the suite's log lines to a file too, until the block of `opened` ends.

    All go there, whatever the terminal gets. The first line is for the file alone.

    Raises
    ------
    InputError
        If the file cannot be written, or is something else than a log file.
    """
    advice = "choose another one with --log_file"
    try:
        if path.is_file():
            with open(path, errors="replace") as file:
                start = file.read(80)
            if start and not STAMPED.match(start):
                raise InputError(f"{path} exists and is no log file of this suite: {advice}")
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(
            f"cannot write to the log file {path} ({error.strerror}): {advice}"
        ) from None
    logger = logging.getLogger("sctag")
    handler.handle(logger.makeRecord("sctag", logging.INFO, "", 0, first_line, (), None))
    logger.addHandler(handler)
