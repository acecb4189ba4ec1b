"""The benchmark's data sets: a registry, and commands that fetch and check the published files.

    python datasets.py list
    python datasets.py fetch Adam Muraro      (or: all)
    python datasets.py verify

Of eleven files a public address is known, and a git blob id, which identifies their exact bytes. No
file gets its final name, DATA_DIR/NAME/data.h5, before it agrees with its id.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from bench import download
from bench.download import FetchError, git_blob_id
from command import Parser
from data_settings import LABEL_KEY
from utils import CommandError, InputError

PUBLIC = (
    "https://raw.githubusercontent.com/xuebaliang/scziDesk/"
    "fc719e7086381d6e7713870b52cee44b015e5762/dataset"
)
# The record is named by scMGCA, the follow-up of scTAG's authors; the folder by its README and by
# scziDesk's. Neither could be opened while this was written.
ELSEWHERE = (
    "the authors name Zenodo record 7475687 (https://zenodo.org/records/7475687) and the folder "
    "https://drive.google.com/drive/folders/1BIZxZNbouPtGf_cyu7vM44G5EcbxECeu, whose file names "
    "were not seen"
)
UNKNOWN = "no id is known to check it against (verify checks its size)"


class DataSet(NamedTuple):
    """What is known of one published file, data.h5."""

    cells: int
    genes: int | None  # None: not known
    classes: int
    platform: str
    source: str  # the study that measured the cells, and the tissue
    blob: str | None = None  # git blob id; None: neither an id nor a public address is known
    in_paper: bool | None = None  # None: not known


# For these files, scziDesk prints cells, classes and platforms, contrastive-sc the genes.
_QUAKE = "Tabula Muris 2018, mouse"
_SIZES = {  # the names in the official train.py
    "Adam": (3660, 23797, 8, "Drop-seq", "Adam 2017, mouse kidney"),
    "Bach": (23184, None, 8, "10x", "Bach 2017, mouse mammary gland"),
    "Klein": (2717, 24175, 4, "inDrop", "Klein 2015, mouse embryonic stem cells"),
    "Muraro": (2122, 19046, 9, "CEL-seq2", "Muraro 2016, human pancreas"),
    "Plasschaert": (6977, None, 8, "inDrop", "Plasschaert 2018, airway epithelium"),
    "Pollen": (301, None, 11, "SMARTer", "Pollen 2014, human tissues"),
    "Quake_10x_Bladder": (2500, 23341, 4, "10x", _QUAKE),
    "Quake_10x_Limb_Muscle": (3909, 23341, 6, "10x", _QUAKE),
    "Quake_10x_Spleen": (9552, 23341, 5, "10x", _QUAKE),
    "Quake_10x_Trachea": (11269, 23341, 5, "10x", _QUAKE),
    "Quake_Smart-seq2_Diaphragm": (870, 23341, 5, "Smart-seq2", _QUAKE),
    "Quake_Smart-seq2_Heart": (4365, 23341, 8, "Smart-seq2", _QUAKE),
    "Quake_Smart-seq2_Limb_Muscle": (1090, 23341, 6, "Smart-seq2", _QUAKE),
    "Quake_Smart-seq2_Lung": (1676, 23341, 11, "Smart-seq2", _QUAKE),
    "Quake_Smart-seq2_Trachea": (1350, 23341, 4, "Smart-seq2", _QUAKE),
    "Romanov": (2881, 21143, 7, "Fluidigm C1", "Romanov 2017, mouse hypothalamus"),
    "Wang_Lung": (9519, None, 2, "10x", "Wang 2018, mouse lung"),
    "Young": (5685, 33658, 11, "10x", "Young 2018, human kidney"),
}
_BLOBS = {  # the files at PUBLIC
    "Adam": "004fc2836c73afce639cd617ccd5513b1800c16c",
    "Muraro": "fbf6fd57e624e742161f77134caed9aab0d76af4",
    "Quake_10x_Bladder": "03a05ad4e12df5e155f8bc9cc66ace8721233883",
    "Quake_10x_Limb_Muscle": "73beb9a932189035298eb2e61535ab4e2073e6c6",
    "Quake_10x_Spleen": "65f89451ac5a3437685ff5125fd7499045dd0599",
    "Quake_Smart-seq2_Diaphragm": "d1f2d2f0a60ad964bda6c961d49db848a230ab1d",
    "Quake_Smart-seq2_Limb_Muscle": "da4ddf3d49cd65f0251701e6e9f2344c98c7fc03",
    "Quake_Smart-seq2_Lung": "63965052ae56f5fccfc0533c204968e56ce931ed",
    "Quake_Smart-seq2_Trachea": "7cfe7872af28c54031b7cf8bfbaf7afc8460f134",
    "Romanov": "c23eaf6aeedef3e6128efeff258710833029bc48",
    "Young": "f155af03c07235baa3e4774387c2dbc6e5fdd52a",
}
# The abstract says that the paper uses 16; which two it leaves out was not found. The notes on
# other copies of these two count them among the 16.
_IN_PAPER = {"Pollen": True, "Young": True}
REGISTRY = {
    name: DataSet(*sizes, blob=_BLOBS.get(name), in_paper=_IN_PAPER.get(name))
    for name, sizes in _SIZES.items()
}


def path_of(name: str, data_dir: Path) -> Path:
    """Return the path of a data set's file."""
    return data_dir / name / "data.h5"


def fetch(name: str, data_dir: Path, *, mirror: str | None = None) -> str:
    """Download the file of a data set, unless it is there already; none is ever overwritten.

    Parameters
    ----------
    name
        A key of REGISTRY.
    data_dir
        Folder that gets NAME/data.h5.
    mirror
        Address of a copy, which has the file as NAME/data.h5; None for the public address.

    Returns
    -------
    What was done, in words.

    Raises
    ------
    FetchError
        If the file cannot be fetched, or if another file is in its place.
    OSError
        If it cannot be written: the disk is full, for example.
    """
    known, target = REGISTRY[name], path_of(name, data_dir)
    if os.path.lexists(target):
        return _keep(target, known)
    if mirror is None and known.blob is None:
        raise FetchError(
            f"no public address is known: {ELSEWHERE}; place the file as {target}, and check it "
            f"with: python datasets.py verify {name}"
        )
    download.bring(f"{(mirror or PUBLIC).rstrip('/')}/{name}/data.h5", target, blob=known.blob)
    checked = f"git blob id {known.blob}" if known.blob else UNKNOWN
    return f"fetched, {target.stat().st_size / 1e6:.1f} MB, {checked}"


def _keep(target: Path, known: DataSet) -> str:
    """Check a file that is in its place already, and return a sentence on it.

    Raises FetchError if it is known to be another file than the published one.
    """
    if known.blob is None:
        return f"already there, {UNKNOWN}"
    if target.is_file() and git_blob_id(target) == known.blob:
        return f"already there, git blob id {known.blob}"
    raise FetchError(
        f"{target} is there with other content than the published file's: it is left as it is, "
        "move it away or give another --data_dir to fetch the published one"
    )


def verify(name: str, data_dir: Path) -> str:
    """Check the file of a data set by its blob id or, without one, by its size and classes.

    Parameters
    ----------
    name
        A key of REGISTRY.
    data_dir
        Folder that holds NAME/data.h5.

    Returns
    -------
    A sentence, if the file is the published one as far as that is known.

    Raises
    ------
    InputError
        If it is another file, or cannot be read.
    """
    known, path = REGISTRY[name], path_of(name, data_dir)
    blob = git_blob_id(path)
    if blob == known.blob:
        return f"right, git blob id {blob}"
    import readers

    adata = readers.read(path)
    cell_types = readers.read_labels(adata, LABEL_KEY)
    measured = (*adata.shape, 0 if cell_types is None else cell_types.nunique())
    expected = (known.cells, known.genes, known.classes)
    agrees = all(e in (None, m) for m, e in zip(measured, expected, strict=True))
    size = "{} cells x {} genes x {} classes".format(*measured)
    registered = " x ".join("?" if n is None else str(n) for n in expected)
    size += f", {'as' if agrees else 'where'} the registry says {registered}"
    if known.blob is not None:
        raise InputError(f"{path} differs: git blob id {blob}, not {known.blob}; {size}")
    if not agrees:
        raise InputError(f"{path} differs: {size}")
    return f"no id is known; {size}"


def table(data_dir: Path) -> str:
    """Return the registry as text: a row for each data set, with the place of its file."""
    row = "{:<28} {:>6} {:>6} {:>7}  {:<11} {:<5}  {:<8} {}"
    lines = [row.format("name", "cells", "genes", "classes", "platform", "paper", "file", "source")]
    for name, known in REGISTRY.items():
        file = "public" if known.blob else "by hand"
        if path_of(name, data_dir).is_file():
            file = "here"
        paper = {True: "yes", False: "no", None: "?"}[known.in_paper]
        sizes = known.cells, known.genes or "-", known.classes
        lines.append(row.format(name, *sizes, known.platform, paper, file, known.source))
    notes = f"""
paper: it uses 16 of these 18; which two it leaves out was not found.
file: here (in DATA_DIR, `verify` checks it), public (`fetch` brings it), or by hand: {ELSEWHERE};
place it as DATA_DIR/NAME/data.h5."""
    return "\n".join([*lines, notes])


def _each(names: Iterable[str], act: Callable[[str], str]) -> int:
    """Call a function for each data set, also after one has failed, and print what it returns.

    Returns the exit status: 1 if any has failed, else 0.
    """
    names, failed = list(names), []
    for name in names:
        try:
            print(f"{name:<28} {act(name)}", flush=True)
            continue
        except (FetchError, InputError) as error:
            message = str(error)
        except OSError as error:
            message = f"{error.filename or 'data.h5.part'}: {error.strerror or error}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                message += ": make room and run the command again, what has arrived is kept"
        failed.append(name)
        print(f"datasets.py: {name}: {message}", file=sys.stderr)
    if failed and len(names) > 1:
        count = f"{len(failed)} of {len(names)} failed"
        print(f"datasets.py: {count}: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(args: argparse.Namespace) -> int:
    """Run the command that the flags name; return the exit status.

    Raises InputError for an unknown data set, FetchError if there is no file to verify.
    """
    if args.command == "list":
        print(table(args.data_dir))
        return 0
    unknown = [name for name in args.names if name not in (*REGISTRY, "all")]
    if unknown:
        raise InputError(f"no data set {unknown[0]!r}, choose from: all, {', '.join(REGISTRY)}")
    takes_all = "all" in args.names or not args.names
    names = list(REGISTRY if takes_all else dict.fromkeys(args.names))
    present = [name for name in names if os.path.lexists(path_of(name, args.data_dir))]
    if args.command == "verify":
        if takes_all and not present:
            raise FetchError(f"none of the {len(REGISTRY)} data sets is in {args.data_dir}")
        return _each(present if takes_all else names, lambda name: verify(name, args.data_dir))
    by_hand = []
    if takes_all and args.mirror is None:
        by_hand = [name for name in names if REGISTRY[name].blob is None and name not in present]
    to_fetch = [name for name in names if name not in by_hand]
    status = _each(to_fetch, lambda name: fetch(name, args.data_dir, mirror=args.mirror))
    if by_hand:
        print(f"\nNo public address is known of {', '.join(by_hand)}: {ELSEWHERE}; place each as ")
        print(f"{path_of('NAME', args.data_dir)}, and check it with: python datasets.py verify")
    return status


def _base_url(text: str) -> str:
    """Return the text if it is a web address, as an argparse type."""
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address (https://... or http://...)")
    return text


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the three commands and their flags."""
    parser = Parser(prog="datasets.py", description="The benchmark's data sets.")
    common = Parser(add_help=False)
    common.add_argument(
        "--data_dir",
        type=Path,
        default=Path("data"),
        help="folder that holds NAME/data.h5 for each data set (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|fetch|verify")
    commands.add_parser("list", parents=[common], help="print what is known of each data set")
    get = commands.add_parser("fetch", parents=[common], help="bring files here, and check them")
    get.add_argument("names", nargs="+", metavar="NAME", help="data sets, or: all")
    get.add_argument(
        "--mirror",
        type=_base_url,
        metavar="URL",
        help="where your own copy lies, as URL/NAME/data.h5 (default: the public address)",
    )
    check = commands.add_parser("verify", parents=[common], help="check the files that are here")
    check.add_argument("names", nargs="*", metavar="NAME", help="data sets (default: all)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; `argv` is sys.argv without the program by default.

    Returns the exit status: 0, 1 (a file failed), 2 (unknown name), 130 (interrupted).
    """
    args = build_parser().parse_args(argv)
    try:
        return _run(args)
    except CommandError as error:
        print(f"datasets.py: error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(
            "datasets.py: interrupted; what has arrived is kept, and the same command goes on "
            "from there",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
