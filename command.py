"""What every command shares: flags made from the settings, and the exit status.

The parser is derived from the declarations in `settings.py`. Nothing slow is imported here.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import console
import settings
import supervise
import utils
from declare import Spec
from settings import RENAMED, RETIRED, VARIANTS, Settings
from utils import CommandError

log = logging.getLogger("sctag")

STAGES = ("data", "model", "training", "run")


# --- Flags ----------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one sentence, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Print one sentence to stderr and exit with status 2."""
        words = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized arguments: ") and words:
            message += self._hint(words[0])
        self.exit(2, f"{self.prog}: error: {console.one_line(message)} (see --help)\n")

    def _hint(self, word: str) -> str:
        """Return what may have been meant by an argument that is unknown, for the error."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        if not word.startswith("-"):
            return ", a file is named with --data" if "--data" in options else ""
        name = word.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        near = difflib.get_close_matches(name, options, n=1)
        return f", did you mean {near[0]}?" if near else ""


class _Refused(argparse.Action):
    """A flag that exists, but not for this program: using it is an error that says why."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, why: str, **kwargs: Any
    ) -> None:
        hidden = kwargs | {"nargs": "*", "help": argparse.SUPPRESS}
        super().__init__(option_strings, dest, **hidden)
        self.why = why

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string} {self.why}")


def value_type(spec: Spec) -> Callable[[str], Any]:
    """Return the argparse type of a setting that is a number: text to a value within its bounds.

    The returned function raises argparse.ArgumentTypeError with half a sentence.
    """
    kind = spec.number
    assert kind is not None

    def parse(text: str) -> Any:
        if text in spec.words:
            return spec.words[text]
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {spec.noun}") from None
        try:
            spec.check_number(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return parse


def number(kind: type, **bounds: float) -> Callable[[str], Any]:
    """Return an argparse type for a number that is no setting; `bounds` as in `declare.Spec`."""
    return value_type(Spec(sentence="", group="", stage="", types=(kind,), **bounds))  # type: ignore[arg-type]


def seed(text: str) -> int:
    """Return a seed from text, within the bounds of the setting `seed` (an argparse type)."""
    return value_type(settings.specs()["seed"])(text)


def as_text(value: Any) -> str:
    """Return a setting's value as it stands on a command line and in the help."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    words = {True: "yes", False: "no", None: "none"}
    is_word = isinstance(value, bool) or value is None
    return words[value] if is_word else str(value)


def default_text(spec: Spec, run_name: str = "VARIANT") -> str:
    """Return the default of a setting for the help: one value, or one for each variant."""
    if spec.shown is not None:
        return spec.shown.format(run_name=run_name)
    texts = {variant: as_text(spec.default_in(variant)) for variant in VARIANTS}
    if len(set(texts.values())) == 1:
        return texts["sctag"]
    return ", ".join(f"{text} in {variant}" for variant, text in texts.items())


class _Retired(argparse.Action):
    """A flag that is gone: accepted with the value that is all there is now, else refused."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values not in ("auto", RETIRED[self.dest]):
            parser.error(
                f"{option_string} {values} is of an earlier version: one network is trained now, "
                "and a consensus of clusterings is in the place of several; leave it out"
            )


class _Version(argparse.Action):
    """Prints the suite's version, and its commit where it runs from a clone, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        import results

        print(f"sctag {results.suite_version()}")
        parser.exit()


def new_parser(prog: str, description: str) -> Parser:
    """Return a parser with the layout of all commands, which yields only flags that were given."""
    parser = Parser(
        prog=prog,
        description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=100),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    return parser


def build_parser(
    prog: str = "train.py",
    description: str = "Cluster single-cell RNA-seq counts with scTAG: a graph autoencoder with a "
    "ZINB decoder over the kNN graph of the cells.",
    *,
    run_name: str = "VARIANT",
    stages: Collection[str] = STAGES,
    refusal: str = "is not for this program",
) -> argparse.ArgumentParser:
    """Return a program's parser; it yields only the flags that were given, see `parse_settings`.

    Parameters
    ----------
    prog, description
        The program's name and its one sentence.
    run_name
        What comes before the seed in the name of the results folder, for the help.
    stages
        Stages of `declare.Spec` whose settings the program uses. The flag of any other setting is
        refused with a sentence that ends in `refusal`, and the help does not show it.
    """
    parser = new_parser(prog, description)
    for name in RETIRED:
        parser.add_argument(f"--{name}", action=_Retired, help=argparse.SUPPRESS)
    old_names = {new: old for old, new in RENAMED.items()}
    groups: dict[str, Any] = {}
    for name, spec in settings.specs().items():
        if spec.group not in groups:
            groups[spec.group] = parser.add_argument_group(spec.group)
        options, arguments = argument_of(spec, run_name)
        if spec.stage in stages:
            groups[spec.group].add_argument(*options, **arguments)
        else:
            if arguments.get("action") is argparse.BooleanOptionalAction:
                options.append(f"--no-{name}")
            groups[spec.group].add_argument(*options, action=_Refused, why=refusal, dest=name)
        if name in old_names and spec.stage in stages:
            hidden = arguments | {"help": argparse.SUPPRESS, "dest": name}
            parser.add_argument(f"--{old_names[name]}", **hidden)
    return parser


def argument_of(spec: Spec, run_name: str = "VARIANT") -> tuple[list[str], dict[str, Any]]:
    """Return the option strings and the keywords with which argparse adds a setting's flag."""
    sentence = spec.sentence.replace("%", "%%")
    arguments: dict[str, Any] = {"help": sentence}
    if spec.switch:
        arguments["action"] = "store_true"
        return [f"--{spec.name}"], arguments
    arguments["help"] += f" (default: {default_text(spec, run_name)})"
    if bool in spec.types:
        arguments["action"] = argparse.BooleanOptionalAction
    elif spec.choices is not None:
        arguments["choices"] = list(spec.choices)
    elif spec.number is not None:
        arguments["type"] = value_type(spec)
    elif Path in spec.kinds:
        arguments["type"] = Path
    if spec.is_list:
        arguments["nargs"] = "+"
        if spec.number is None:  # paths and words of a flag that is given twice add up
            arguments["action"] = "extend"
    if spec.metavar is not None:
        arguments["metavar"] = spec.metavar
    return [f"--{spec.name}"], arguments


def parse_settings(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> Settings:
    """Return the settings of a command line: what was given over the defaults of the variant.

    Exits with status 2 and one sentence on stderr where a flag cannot be used.
    """
    return settings_of(vars(build_parser(prog).parse_args(argv)))


def settings_of(given: dict[str, Any]) -> Settings:
    """Return the settings of parsed flags over the defaults of the variant."""
    return Settings(**(settings.defaults(given.get("variant", "sctag")) | given))


# --- The run of a command -------------------------------------------------------------------------


def settle_environment() -> None:
    """Set what libraries read from the environment when they are first imported.

    Figures are files, whatever backend a notebook or a desktop has left in MPLBACKEND. numba, with
    which pynndescent and scanpy are compiled, and matplotlib need folders that they can write to.
    """
    os.environ["MPLBACKEND"] = "Agg"
    home = os.path.expanduser("~")  # it stays so for a user without any, as in some containers
    cache = Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config")
    for variable, name, folders in (
        ("NUMBA_CACHE_DIR", "numba", (cache,)),
        ("MPLCONFIGDIR", "matplotlib", (config / "matplotlib", cache / "matplotlib")),
    ):
        usable = all(path.is_absolute() and utils.is_writable(path) for path in folders)
        if variable not in os.environ and not usable:
            folder = Path(tempfile.gettempdir(), f"sctag-{name}-{os.getuid()}")
            os.environ[variable] = str(folder)


def run_command(
    program: str,
    job: Callable[[], str],
    *,
    quiet: bool,
    log_file: Path | None = None,
    left: str = "nothing was written",
) -> int:
    """Run a command's job and print the line that it ends with, or one sentence on what went wrong.

    Parameters
    ----------
    program
        Name of the command, with which an error line begins.
    job
        The work; it returns the last line of the output.
    quiet
        Whether only warnings and the last line are printed.
    log_file
        A file to which all lines are appended, each with its time.
    left
        What is there after a full disk or an interruption, in words.

    Returns
    -------
    The exit status: 0, that of a CommandError, 1 (the system refused, the disk is full, say), or
    128 and the number of the signal that has stopped it: 130 (Ctrl-C), 143 (SIGTERM), 138
    (SIGUSR1). The note of an exception that stops it says what is there, where it has one.
    """
    console.steady_streams()
    settle_environment()
    status, line = 1, ""
    with console.opened(quiet=quiet), utils.stopped_by_signals():
        try:
            if log_file is not None:
                import results

                start = f"start     {shlex.join(sys.argv)} (sctag {results.suite_version()})"
                console.add_log_file(log_file, start)
                supervise.note_log_file(log_file)
            status, line = 0, job()
        except CommandError as error:
            status, line = error.status, f"{program}: error: {error}"
        except OSError as error:
            status, line = 1, f"{program}: error: {error}; {left}"
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, utils.Stopped) else signal.SIGINT
            word = f"stopped by {stop}" if isinstance(stop, utils.Stopped) else "interrupted"
            left = "; ".join(getattr(stop, "__notes__", [left]))
            status, line = 128 + number, f"{program}: {word}; {left}"
        log.log(logging.ERROR if status else console.LAST_LINE, "%s", line)
    console.flush_streams()
    return status
