"""Damaged files for every reader, read in processes that may crash.

    python tests/fuzzing.py --files 20000 --seed 1 --jobs 2

Each file is a valid one of `SEEDS` with a few bytes or words changed, all of it decided by the seed
and the file's number. A process reads many files in turn; the one above it notes on which of them
it crashes or hangs, and starts the next. What a reader may do is return, or raise InputError with
one line. A crash is allowed in the library of HDF5 alone. The last line of the output is JSON: how
many files were tried, refused and crashed on, and each failure with the command that repeats it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

import checkpoints
import readers
import results
import supervise
import utils
from annotation import cell_types
from bench import archive, records
from data_settings import Preparation, Source
from inputs import selection, true_labels
from new_cells import prediction, preparing
from settings import Settings

CELLS, GENES = 12, 8
HANG, STUCK = 10.0, 60.0  # seconds of the processor, and in all, that one file may take
MEMORY = 4 * 2**30  # bytes that one file may take
TOO_LARGE = 77  # exit status of a process that took more
WRITTEN = 20  # of so many data that were read, those of one are written again
# Deaths that `supervise` makes a sentence of; the last one is that of a reader without an end.
CONTAINED = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGPROF")
SECONDS = 3.0  # after which a reader is without an end here
# What nothing that reads a file has to do.
FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "socket.connect")


# --- Valid files ----------------------------------------------------------------------------------


def _counts() -> np.ndarray:
    counts = np.random.default_rng(0).poisson(2, (CELLS, GENES))
    counts[:, 0] = 1
    return counts.astype(np.float32)


def _names(item: str, number: int) -> list[str]:
    return [f"{item}{i}" for i in range(number)]


def _adata() -> ad.AnnData:
    """Return AnnData of every part that an .h5ad may have."""
    counts = sp.csr_matrix(_counts())
    cells, genes = _names("cell", CELLS), _names("gene", GENES)
    obs = pd.DataFrame(
        {"cell_type1": pd.Categorical(list("ABC") * 4), "depth": np.arange(CELLS) / 2}, index=cells
    )
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame({"symbol": genes}, index=genes))
    adata.layers["counts"] = sp.csc_matrix(counts)
    adata.obsm["X_pca"] = np.ones((CELLS, 2), np.float32)
    adata.obsp["distances"] = sp.identity(CELLS, format="csr")
    adata.uns = {"colors": np.array(["red", "blue"]), "more": {"n": 3, "name": "x"}}
    adata.raw = adata.copy()
    return adata


def _write_h5ad(folder: Path) -> None:
    adata = _adata()
    adata.X = adata.X.toarray()
    adata.write_h5ad(folder / "a.h5ad")


def _write_packed_h5ad(folder: Path) -> None:
    _adata().write_h5ad(folder / "a.h5ad", compression="gzip")


def _write_h5mu(folder: Path) -> None:
    _adata().write_h5ad(folder / "rna")
    with h5py.File(folder / "rna") as rna, h5py.File(folder / "a.h5mu", "w") as file:
        rna.copy(rna, file.create_group("mod"), "rna")
    (folder / "rna").unlink()


def _write_zarr(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _adata().write_zarr(folder / "a.zarr")


def _write_tenx(folder: Path) -> None:
    genes = sp.csr_matrix(_counts())  # genes x cells in CSC has the pieces of cells x genes in CSR
    with h5py.File(folder / "a.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(genes, name), compression="gzip")
        group["shape"] = [GENES, CELLS]
        group["barcodes"] = np.array(_names("ACGT", CELLS), "S")
        for name, values in (
            ("name", _names("gene", GENES)),
            ("id", _names("ENSG", GENES)),
            ("feature_type", ["Gene Expression"] * GENES),
            ("genome", ["GRCh38"] * GENES),
        ):
            group[f"features/{name}"] = np.array(values, "S")


def _write_loom(folder: Path) -> None:
    with h5py.File(folder / "a.loom", "w") as file:
        file.create_dataset("matrix", data=_counts().T, chunks=(4, 4), compression="gzip")
        file["layers/spliced"] = _counts().T
        file["row_attrs/Gene"] = np.array(_names("gene", GENES), "S")
        file["col_attrs/CellID"] = np.array(_names("cell", CELLS), "S")
        file["col_attrs/depth"] = np.arange(CELLS)


def _write_published(folder: Path) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        counts, text = sp.csr_matrix(_counts()), h5py.string_dtype()
        for name in ("data", "indices", "indptr", "shape"):
            file[f"exprs/{name}"] = getattr(counts, name)
        file["obs_names"] = np.array(_names("cell", CELLS), text)
        file["var_names"] = np.array(_names("gene", GENES), text)
        file["obs/cell_type1"] = np.array(list("ABC") * 4, text)
        file["obs/depth"] = np.arange(CELLS)


def _write_xy(folder: Path) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        file["X"], file["Y"] = _counts(), np.arange(CELLS) % 3


def _write_mtx(folder: Path) -> None:
    from scipy.io import mmwrite

    (folder / "a").mkdir()
    mmwrite(folder / "a/matrix.mtx", sp.coo_matrix(_counts().T.astype(int)))
    (folder / "a/barcodes.tsv").write_text("\n".join(_names("ACGT", CELLS)))
    rows = (f"ENSG{i}\tgene{i}\tGene Expression" for i in range(GENES))
    (folder / "a/features.tsv").write_text("\n".join(rows))


def _write_packed_mtx(folder: Path) -> None:
    _write_mtx(folder)
    for path in [*(folder / "a").iterdir()]:
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()


def _write_csv(folder: Path) -> None:
    table = pd.DataFrame(_counts().astype(int), _names("cell", CELLS), _names("gene", GENES))
    table.to_csv(folder / "a.csv")


def _write_packed_tsv(folder: Path) -> None:
    table = pd.DataFrame(_counts(), _names("cell", CELLS), _names("gene", GENES))
    content = gzip.compress(table.to_csv(sep="\t").encode(), mtime=0)
    (folder / "a.tsv.gz").write_bytes(content)


def _write_labels(folder: Path) -> None:
    rows = "".join(f"cell{i},{'ABC'[i % 3]}\n" for i in range(CELLS))
    (folder / "a.csv").write_text("cell,label\n" + rows)


def _write_cells(folder: Path) -> None:
    (folder / "a.txt").write_text("barcode\n" + "\n".join(_names("cell", 5)))


def _write_markers(folder: Path) -> None:
    (folder / "a.csv").write_text("cell_type,gene\nT,CD3E\nT,CD3D\n# B\nB,MS4A1 CD19\n")


def _write_gmt(folder: Path) -> None:
    (folder / "a.gmt").write_text("T\thttp\tCD3E\tCD3D\nB\t\tMS4A1\n")


def _prepared() -> ad.AnnData:
    """Return prepared data as a run writes them."""
    import preprocess

    counts = ad.AnnData(sp.csr_matrix(_counts()))
    counts.obs_names, counts.var_names = _names("cell", CELLS), _names("gene", GENES)
    preparation = Preparation(gene_selection="seurat", highly_genes=99, n_pcs=3, k_neighbors=3)
    prepared = preprocess.prepare(counts, preparation, seed=0)
    median = json.dumps(float(np.median(_counts().sum(axis=1))))
    prepared.uns["sctag"] = {**prepared.uns.get("sctag", {}), "median_depth": median}
    return prepared


def _write_run(folder: Path) -> None:
    run = folder / "run"
    run.mkdir()
    results.write_h5ad(run / results.PREPARED, _prepared())
    results.write_json(run / results.SETTINGS, {"settings": Settings().to_json(), "data": {}})


def _record() -> dict[str, object]:
    scores = {"ARI": 0.5, "NMI": 0.5, "ACC": 0.5, "macro_F1": 0.5}
    sizes = {"cells": 10, "n_clusters": 3, "seconds": 1.5, "message": None}
    job = {"dataset": "Young", "method": "sctag", "regime": "true", "seed": 1, "status": "ok"}
    command = ["train.py", "--out", "x", "--data_dir", "y"]
    return job | sizes | {"scores": scores, "command": command, "settings": {"out": "x"}}


def _write_record(folder: Path) -> None:
    (folder / "a.json").write_text(json.dumps(_record()))


def _write_records(folder: Path) -> None:
    lines = "".join(json.dumps(_record() | {"seed": seed}) + "\n" for seed in range(3))
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def _write_checkpoint(folder: Path) -> None:
    """Write a checkpoint without its tensors, which are read after everything else of it is."""
    path = folder / "kept" / "0001"
    path.mkdir(parents=True)
    state = {"identity": {"settings": {"seed": 1}}, "snapshot": {"phase": "pretrain", "epoch": 3}}
    results.write_json(path / checkpoints.STATE, state | {"sizes": {"network": 2}})
    sums = {checkpoints.STATE: utils.sha256(path / checkpoints.STATE)}
    results.write_json(path / checkpoints.SUMS, sums)


# --- What reads them ------------------------------------------------------------------------------


def _read_data(path: Path, number: int) -> None:
    adata = readers.read(path, whole=True, raw=True)
    if number % WRITTEN == 0:
        results.write_h5ad(path.parent / "written.h5ad", adata)
    true_labels.of(adata, Source(), None, needed=False, where=str(path))
    import preprocess

    preprocess.checked_counts(adata, Preparation(), str(path))


def _read_prepared(path: Path, number: int) -> None:
    """Read the prepared data of a run, and give new cells the same preparation."""
    new = ad.AnnData(sp.csr_matrix(_counts()[:3]))
    new.var_names = _names("gene", GENES)
    reference = prediction.read_prepared(path)
    preparing.values_like(new, reference, Preparation(), where="X")


def _read_settings(path: Path, number: int) -> None:
    prediction.settings_of(path)


def _read_labels(path: Path, number: int) -> None:
    true_labels.table(Source(labels=path))


def _read_cells(path: Path, number: int) -> None:
    selection.request(Settings(cells=path))


def _read_checkpoint(path: Path, number: int) -> None:
    assert checkpoints.newest(path) is None


def _read_records(path: Path, number: int) -> None:
    archive.unpack(path, path.parent / "unpacked")


class Seed(NamedTuple):
    """A kind of file: what writes a valid one into a folder, and what reads it.

    Parameters
    ----------
    write
        Is called with an empty folder, and leaves one file or folder there, which is read.
    read
        Is called with its path, and with the number of the case.
    changed
        Ends of the names of the files that are changed; all of them without any.
    share
        How often this kind is drawn, beside the others.
    """

    write: Callable[[Path], None]
    read: Callable[[Path, int], object]
    changed: tuple[str, ...] = ()
    share: int = 4


SEEDS = {
    "h5ad": Seed(_write_h5ad, _read_data, share=2),
    "packed h5ad": Seed(_write_packed_h5ad, _read_data, share=2),
    "h5mu": Seed(_write_h5mu, _read_data, share=1),
    "zarr": Seed(_write_zarr, _read_data, share=1),
    "10x h5": Seed(_write_tenx, _read_data, share=3),
    "loom": Seed(_write_loom, _read_data, share=3),
    "published": Seed(_write_published, _read_data, share=3),
    "X and Y": Seed(_write_xy, _read_data, share=3),
    "mtx": Seed(_write_mtx, _read_data),
    "packed mtx": Seed(_write_packed_mtx, _read_data),
    "csv": Seed(_write_csv, _read_data),
    "packed tsv": Seed(_write_packed_tsv, _read_data),
    "labels": Seed(_write_labels, _read_labels, share=6),
    "cells": Seed(_write_cells, _read_cells),
    "markers": Seed(_write_markers, lambda path, _: cell_types.read_sets(path), share=6),
    "gmt": Seed(_write_gmt, lambda path, _: cell_types.read_sets(path)),
    "settings": Seed(_write_run, _read_settings, (results.SETTINGS,), 6),
    "prepared": Seed(_write_run, _read_prepared, (results.PREPARED,), 1),
    "checkpoint": Seed(_write_checkpoint, _read_checkpoint, share=2),
    "record": Seed(_write_record, lambda path, _: records.read(path), share=6),
    "records": Seed(_write_records, _read_records, share=6),
}


def valid(kinds: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """Return the contents of the files of a valid case of each kind, by path."""
    corpus = {}
    with tempfile.TemporaryDirectory() as name:
        places = {kind: Path(name, kind) for kind in kinds}
        pid = os.fork()  # zarr starts threads, which this process must not have: it forks more
        if pid == 0:
            try:
                for kind, place in places.items():
                    place.mkdir()
                    SEEDS[kind].write(place)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        for kind, place in places.items():
            files = sorted(path for path in place.rglob("*") if path.is_file())
            corpus[kind] = {str(path.relative_to(place)): path.read_bytes() for path in files}
    return corpus


# --- Changes --------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, -1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63)
WORDS = (
    *(b'"', b"'", b"\0", b"\r", b"\n\n", b",,,", b"\t", b";", b"#", b"\xff\xfe", b"\xef\xbb\xbf"),
    *(b"nan", b"inf", b"-1", b"1e400", b"9" * 25, b"0x10", b"null", b"true", b"[]", b"{}", b'"\\u'),
    *(b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b"\\ud800", b"../../x", b"/", b"\xc3", b"%", b"."),
    *(b"\x1f\x8b\x08", b"\x89HDF\r\n\x1a\n", b"%%MatrixMarket", b"PK\x03\x04", b"\x80\x04."),
)


def changed(content: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return content with one to four changes, some of which take bytes from another one."""
    values = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        start = draw.randrange(len(values) + 1)
        length = min(draw.choice((1, 2, 4, 8, 16, 64, 512)), len(values) - start)
        stop = start + length
        match draw.randrange(10):
            case 0 | 1 if length:
                values[start] ^= 1 << draw.randrange(8)
            case 2:
                values[start:stop] = draw.randbytes(length)
            case 3 | 4:
                size, number = draw.choice("bhiq"), draw.choice(NUMBERS) + draw.choice((0, 0, 1))
                width = struct.calcsize(size)
                packed = (number % 2 ** (8 * width)).to_bytes(width, "little")
                values[start : start + width] = packed
            case 5:
                values[start:stop] = bytes(length)
            case 6:
                del values[start : draw.choice((stop, len(values)))]
            case 7:
                values[start:start] = values[start:stop] * draw.choice((1, 2, 50))
            case 8:
                values[start:start] = draw.choice(WORDS)
            case 9:
                at = draw.randrange(len(other) + 1)
                values[start:stop] = other[at : at + length]
    return bytes(values)


def case(corpus: dict[str, dict[str, bytes]], seed: int, number: int) -> tuple[str, dict]:
    """Return the kind and the files of a case; the same for the same seed and number."""
    draw = random.Random(f"{seed} {number}")
    kind = draw.choices([*corpus], [SEEDS[kind].share for kind in corpus])[0]
    files = dict(corpus[kind])
    names = [name for name in files if name.endswith(SEEDS[kind].changed or "")]
    name, others = draw.choice(names), corpus[draw.choice([*corpus])]
    content, other = files[name], others[draw.choice([*others])]
    if name.endswith(".gz") and draw.random() < 0.6:  # damaged before it was packed
        content = changed(gzip.decompress(content), other, draw)
        files[name] = gzip.compress(content, 1, mtime=0)
    else:
        files[name] = changed(content, other, draw)
    return kind, files


# --- The process that reads -----------------------------------------------------------------------


class _Mute(logging.Handler):
    """A handler that only makes the text of each line."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()


def _guard(folder: Path) -> None:
    """Have this process raise where it writes outside a folder, or does what is forbidden."""

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            mode, flags = arguments[1] or "", arguments[2] or 0
            writes = any(letter in mode for letter in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if writes and not path.startswith((f"{folder}/", "/dev/null")):
                raise AssertionError(f"it writes {path}")
        elif event in FORBIDDEN:
            raise AssertionError(f"{event} {arguments}")

    sys.addaudithook(hook)


def _write(files: dict[str, bytes], folder: Path) -> Path:
    """Write the files of a case into a folder; return the path that is read."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / next(iter(files)).partition("/")[0]


def _is_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def outcome(kind: str, path: Path, number: int) -> tuple[str, str]:
    """Read a case; return "read", "refused" or "failed", and why it failed or was refused."""
    try:
        SEEDS[kind].read(path, number)
    except utils.InputError as error:
        # A damaged chunk of texts in zarr makes room for any number of them, which it never uses.
        if _is_of_memory(error) and kind != "zarr":
            return "failed", f"it takes more than {MEMORY} bytes: {error}"
        if "\n" in str(error):
            return "failed", f"more than one line: {error}"
        return "refused", str(error)
    except BaseException:
        return "failed", traceback.format_exc()
    return "read", ""


def _peak() -> int:
    """Return the bytes of the largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _limit() -> None:
    """Give this process an end to its memory and no core, and make errors of warnings."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.getLogger("sctag").handlers = [_Mute()]
    logging.getLogger("sctag").propagate = False
    logging.getLogger("sctag").setLevel(logging.INFO)
    warnings.simplefilter("error")
    supervise._board, supervise.LEAST_SECONDS = supervise._Board(), SECONDS  # as in a command


def _work(corpus: dict, seed: int, numbers: range, board: mmap.mmap, place: Path) -> None:
    """Read the cases of these numbers in turn; the board says which one it is at."""
    _limit()
    _guard(place)
    with open(place / "outcomes", "a") as outcomes:
        for number in numbers:
            board[:8] = struct.pack("q", number)
            kind, files = case(corpus, seed, number)
            folder = place / "case"
            folder.mkdir()
            result, reason = outcome(kind, _write(files, folder), number)
            shutil.rmtree(folder)
            if _peak() > MEMORY:  # for good, so that the next case needs another process
                os._exit(TOO_LARGE)
            outcomes.write(json.dumps([number, kind, result, reason]) + "\n")
            outcomes.flush()


# --- The processes above it -----------------------------------------------------------------------


def _seconds_of(pid: int) -> float:
    """Return the seconds of the processor that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _watched(pid: int, board: mmap.mmap) -> str | None:
    """Wait for the end of a process; return why it ended before its time, or None."""
    at, since, taken = -1, time.monotonic(), 0.0
    pause = 0.001
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if os.WIFSIGNALED(status):
                return signal.Signals(os.WTERMSIG(status)).name
            if os.WEXITSTATUS(status) == TOO_LARGE:
                return f"it took more than {MEMORY} bytes"
            return f"exit status {os.WEXITSTATUS(status)}" if status else None
        number = struct.unpack("q", board[:8])[0]
        if number != at:
            at, since, taken = number, time.monotonic(), _seconds_of(pid)
        elif _seconds_of(pid) - taken > HANG or time.monotonic() - since > STUCK:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hang"
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def fuzz(corpus: dict, seed: int, numbers: range, place: Path) -> list[list]:
    """Read the cases of these numbers; return [number, kind, outcome, reason] of each.

    The outcome is that of `outcome`, or "crashed" where the library of HDF5 crashed.
    """
    board = mmap.mmap(-1, 8)
    more = []
    while numbers:
        board[:8] = struct.pack("q", numbers[0])
        shutil.rmtree(place / "case", ignore_errors=True)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _work(corpus, seed, numbers, board, place)
                status = 0
            finally:
                os._exit(status)
        reason = _watched(pid, board)
        if reason is None:
            break
        number = struct.unpack("q", board[:8])[0]
        kind, files = case(corpus, seed, number)
        is_hdf5 = any(b"\x89HDF" in content for content in files.values())
        result = "crashed" if is_hdf5 and reason in CONTAINED else "failed"
        more.append([number, kind, result, reason])
        numbers = range(number + numbers.step, numbers.stop, numbers.step)
    path = place / "outcomes"
    lines = path.read_text().splitlines() if path.exists() else []
    return more + [json.loads(line) for line in lines]


def _summary(outcomes: list[list], seed: int) -> dict[str, object]:
    """Return how many cases ended how, the failures by number, and what each kind refused."""
    counts = dict.fromkeys(("read", "refused", "crashed", "failed"), 0)
    failures = []
    kinds: dict[str, dict[str, int]] = {}
    for number, kind, result, reason in sorted(outcomes):
        counts[result] += 1
        of_kind = kinds.setdefault(kind, dict.fromkeys(counts, 0))
        of_kind[result] += 1
        if result == "failed":
            again = f"python tests/fuzzing.py --seed {seed} --only {number}"
            failures.append({"kind": kind, "again": again, "reason": reason})
    return {"tried": len(outcomes), **counts, "kinds": kinds, "failures": failures}


def main() -> None:
    """Run the command; print the summary."""
    parser = argparse.ArgumentParser(description="Damaged files for every reader.")
    parser.add_argument("--files", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0, help="seed of all changes")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--kinds", nargs="+", choices=SEEDS, default=[*SEEDS], help="of files")
    parser.add_argument("--only", type=int, help="number of one file, which is read here")
    parser.add_argument("--keep", type=Path, help="folder for the file of --only")
    given = parser.parse_args()
    corpus = valid(given.kinds)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        if given.only is not None:
            kind, files = case(corpus, given.seed, given.only)
            path = _write(files, given.keep or Path(name))
            print(kind, *outcome(kind, path, given.only))
            return
        places = [Path(name, str(job)) for job in range(given.jobs)]
        pids = []
        last = given.first + given.files
        for job, place in enumerate(places):
            place.mkdir()
            pids.append(os.fork())
            if pids[-1] == 0:
                numbers = range(given.first + job, last, given.jobs)
                outcomes = fuzz(corpus, given.seed, numbers, place)
                (place / "all").write_text(json.dumps(outcomes))
                os._exit(0)
        for pid in pids:
            os.waitpid(pid, 0)
        outcomes = [one for place in places for one in json.loads((place / "all").read_text())]
    print(json.dumps(_summary(outcomes, given.seed)))


if __name__ == "__main__":
    main()
