"""How much memory a run will take at its peak; one that cannot fit is refused before it starts.

The estimate follows what is alive in each stage: copies of the sparse counts, dense matrices of the
genes kept and of the second view, the network's arrays of a step, and lists of edges. Counts that
lie in files (`scratch.py`) do not count: the system takes their pages back when memory is short, so
that a process may look larger than it must be.
The constants, in bytes, were fitted to measured peaks, which tests/test_memory.py lists; they are
those of one thread on a CPU. Letters: N cells, G genes kept, L log genes, B propagations, E edges,
F features that are clustered.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import devices
import free_memory
import scratch
from data_size import Size, size_of_counts, size_of_prepared
from settings import Settings
from utils import InputError

if TYPE_CHECKING:
    import anndata as ad

MIB = 2**20
PACKAGES = 320 * MIB  # scanpy and what it imports
TENSORFLOW = 510 * MIB  # imported, and its compiler started
COMPILED = 390 * MIB  # what compiling both phases' steps leaves
PARTED = 150 * MIB  # what steps of sub-graphs leave beside: igraph, and the threads that gather
REPORTING = 110 * MIB  # what UMAP, the report and their compiled parts leave
COUNT = 8  # a stored count: its value and its column
# In the choice of genes scanpy holds so many bytes for each stored count: of all genes, or of those
# of a block, where it is given such (`gene_choice.residual_variances`).
CHOICE = {"pearson": 80.0, "seurat": 24.0, "seurat_v3": 24.0, "cell_ranger": 8.0}
CELL = 2_000  # of a cell: its name and its columns, in all the copies there are
FEW_GENES = 500  # to keep, the default of --highly_genes
# Bounds of modules that are slow to import: `views.EDGES` and `neighbours.EDGES`, `views.SAMPLE`,
# `clustering.LINKED_ROWS`, `novelty.ROWS`, `components.DENSE_CELLS` and `COVARIANCE_GENES`,
# `gene_choice.STORED` and `MOST_BLOCKS`.
EDGES_AT_ONCE, SAMPLE, LINKED_ROWS, NOVELTY_ROWS = 2**18, 6_000, 8_000, 4_096
DENSE_CELLS, COVARIANCE_GENES = 20_000, 5_000
CHOICE_STORED, CHOICE_BLOCKS = 2**23, 24
LABELINGS = 32  # of a consensus
RANKED_CELLS, RANKED_STORED, RANKED_BLOCK = 200_000, 2**27, 2**25  # of `markers`


# --- The estimate ---------------------------------------------------------------------------------


class Peaks(NamedTuple):
    """The memory that the process holds at the peak of each stage of a run, in bytes."""

    preparing: float
    training: float
    clustering: float
    writing: float


def estimated_peaks(size: Size, settings: Settings, *, on_gpu: bool = False) -> Peaks:
    """Return the peak of each stage of a run of the command.

    With a GPU, what lies there is left out, and CUDA's own libraries are not known: it is what the
    process holds at least.
    """
    counts, z_scores, _ = _matrices(size)
    features = _components(settings)
    # The counts as they were read, and their logarithms, with columns for the genes with counts.
    made = 3 * z_scores + 2 * _making_components(size)
    preparing = PACKAGES + 2 * counts + max(_choosing(size, settings), made)
    started = _data(size, settings) + TENSORFLOW
    trained = started + COMPILED
    if not on_gpu or _of_step(size, settings) is not None:  # its rows wait in the machine's memory
        trained += _tensors(size, settings) + _step(size, settings)
    # Differences along the edges, and two copies of them in float64.
    differences = min(size.edges / 2, EDGES_AT_ONCE) * features * 8 * 1.5
    metric = differences if settings.neighbour_metric else 0.0
    clustering = trained + metric
    if settings.init == "consensus":
        clustering = trained + max(metric, _consensus(size, settings))
    held = trained
    if _of_step(size, settings) is not None:  # arrays are given back, tensors may stay
        held -= _tensors(size, settings) - PARTED
    return Peaks(preparing, trained, clustering, held + _writing(size, settings))


def estimated_peak(size: Size, settings: Settings, *, on_gpu: bool = False) -> int:
    """Return the bytes that a run of the command holds at its peak.

    On a CPU it is within 20 % of what Linux calls the process's largest resident set, the
    `peak_memory_mb` of metrics.json, in the runs that tests/test_memory.py lists.
    """
    return int(max(estimated_peaks(size, settings, on_gpu=on_gpu)))


def _matrices(size: Size) -> tuple[float, float, float]:
    """Return the bytes of the counts in memory, the z-scores, and the second view's values."""
    counts = COUNT * (size.stored - size.mapped)
    return counts, 4.0 * size.cells * size.kept, 4.0 * size.cells * size.log_genes


def _components(settings: Settings) -> int:
    """Return F: how many numbers of a cell are clustered beside its embedding."""
    return settings.n_pcs + (50 if settings.log_genes else 0)


def _blocks(settings: Settings) -> int:
    """Return B: how many propagations [X, AX, A^2X, ...] the first layer reads."""
    return 1 + (settings.hops if settings.tag_blocks == "powers" else min(settings.hops, 1))


def _data(size: Size, settings: Settings) -> float:
    """Return the bytes of the process with the prepared data, before TensorFlow is started."""
    counts, z_scores, _ = _matrices(size)
    copies = 1 if settings.no_h5ad else 2
    graphs = 2 * COUNT * size.edges + 4 * size.cells * _components(settings)
    counted = copies * counts + z_scores + COUNT * size.kept_stored
    return PACKAGES + counted + graphs + CELL * size.cells


def _tensors(size: Size, settings: Settings) -> float:
    """Return the bytes of what does not change in training: propagations, targets, graph."""
    _, z_scores, _ = _matrices(size)
    if _of_step(size, settings) is not None:  # arrays: the targets and the z-scores are there
        return PARTED + (_blocks(settings) - 1) * z_scores + 28.0 * size.edges
    return (_blocks(settings) + 2) * z_scores + 28.0 * size.edges


def _step(size: Size, settings: Settings) -> float:
    """Return the bytes that a compiled step holds: activations and gradients of its cells."""
    size = _of_step(size, settings) or size
    _, z_scores, _ = _matrices(size)
    widths = settings.hidden_dim + sum(settings.decoder_dims)
    inputs = (2.5 if settings.dropout else 0.0) * _blocks(settings) * z_scores
    cells = 4.0 * size.cells * 3 * widths
    pairs = 2 if settings.graph_loss == "jaccard" else 1
    edges = 4.0 * size.edges * pairs * 2 * (settings.latent_dim + 1)
    return inputs + cells + edges


def _of_step(size: Size, settings: Settings) -> Size | None:
    """Return the size of the cells of a step, or None where each step has all cells."""
    import parts

    cells = parts.cells_of_step(settings, size.cells)
    return None if cells is None else _with_cells(size, cells)


def _with_cells(size: Size, cells: int) -> Size:
    """Return the size of data with fewer cells of the same kind."""
    fewer = Size(*(int(value * cells / size.cells) for value in size))
    return fewer._replace(kept=size.kept, log_genes=size.log_genes)


def _is_large(size: Size) -> bool:
    """Return whether components of logarithms come of a covariance; see `components.Source`."""
    return size.cells > DENSE_CELLS and size.log_genes <= COVARIANCE_GENES


def _making_components(size: Size) -> float:
    """Return the bytes of the log genes, sparse with their covariance or dense twice."""
    if not _is_large(size):
        return 2.0 * _matrices(size)[2]
    of_logs = min(1.0, size.kept_stored / max(size.stored, 1) * size.log_genes / max(size.kept, 1))
    return COUNT * size.stored * of_logs + 3 * 8.0 * size.log_genes**2


def _choosing(size: Size, settings: Settings) -> float:
    """Return the bytes that the choice of genes takes beside the counts; see `CHOICE`."""
    stored = size.stored
    if settings.gene_selection == "pearson":
        stored = min(stored, max(CHOICE_STORED, stored // CHOICE_BLOCKS))
    return CHOICE[settings.gene_selection] * stored


def _consensus(size: Size, settings: Settings) -> float:
    """Return the bytes of a consensus over halves of the genes; see `views.consensus`."""
    _, z_scores, _ = _matrices(size)
    # The values of all genes, and of half of them; distances for Ward's linkage.
    halves = _making_components(size) if size.log_genes else z_scores
    ward = 8.0 * min(size.cells, SAMPLE) ** 2
    # Of many cells the components of a half, beside each other and as they are mapped.
    points = 0.0
    if size.cells > SAMPLE:
        points = 3 * 4.0 * size.cells * (_components(settings) + settings.latent_dim)
    # Distances between rows of labels, and a copy, if 70 % of the cells have a row of their own.
    rows = min(0.7 * size.cells, LINKED_ROWS)
    labels = 20.0 * LABELINGS * size.cells  # of 64 bits, of 32, and these sorted
    return max(halves + ward + points, 8.0 * rows**2 + labels)


def _writing(size: Size, settings: Settings) -> float:
    """Return the bytes that looking at the outcome and writing it takes beside all that is held."""
    _, z_scores, _ = _matrices(size)
    features = _components(settings) + settings.latent_dim
    needs = [0.0]
    if not settings.no_h5ad:
        # What new cells are judged by: counts in float64 and their terms, in blocks of cells.
        of_block = size.stored * min(1.0, NOVELTY_ROWS / max(size.cells, 1))
        needs.append(82.0 * of_block)
        needs.append(2.0 * min(size.edges, EDGES_AT_ONCE) * features * 8)
    if not settings.no_report:
        ranked = size.stored * min(1.0, RANKED_CELLS / max(size.cells, 1))
        copies = 3 * ranked if ranked <= RANKED_STORED else 4 * RANKED_BLOCK
        needs.append(REPORTING + COUNT * copies)
    denoised = 2 * z_scores if settings.denoised else 0.0
    return denoised + max(needs)


# --- What cannot fit ------------------------------------------------------------------------------


def check_counts(adata: ad.AnnData, settings: Settings) -> None:
    """Refuse raw counts of which the command cannot make its results in the memory that there is.

    Raises
    ------
    InputError
        With the estimate, what there is, and the flags that help.
    """
    scratch.give_back()  # pages that are the process's by chance
    free = free_memory.available()
    if free is not None:
        size = size_of_counts(adata, settings)
        estimate = partial(estimated_peak, on_gpu=_may_use_gpu(settings))
        _refuse(size, settings, estimate, free + free_memory.resident())


def check_prepared(adata: ad.AnnData, settings: Settings) -> None:
    """Refuse prepared data whose network cannot be trained in the memory that there is.

    It is meant to be called before TensorFlow is started, by a command or in a notebook, of which
    no more is counted than what the training adds.

    Raises
    ------
    InputError
        As `check_counts`.
    """
    free = free_memory.available()
    if free is not None:
        size = size_of_prepared(adata, settings)
        held = _data(size, settings) + TENSORFLOW * ("tensorflow" in sys.modules)
        estimate = partial(_peak_of_fit, on_gpu=_may_use_gpu(settings))
        _refuse(size, settings, estimate, free + held)


def check_device(adata: ad.AnnData, settings: Settings, device: devices.Device) -> None:
    """Refuse prepared data whose tensors alone are more than the memory of a GPU.

    Raises
    ------
    InputError
        As `check_counts`.
    """
    if device.memory is not None:
        size = size_of_prepared(adata, settings)
        _refuse(size, settings, _least_on_device, device.memory, of=f"the GPU {device.name}")


def _may_use_gpu(settings: Settings) -> bool:
    """Return whether this machine has a GPU that the run may use; TensorFlow is not asked."""
    visible = settings.gpu_option or os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return visible not in ("", "-1") and Path("/dev/nvidiactl").exists()


def _peak_of_fit(size: Size, settings: Settings, *, on_gpu: bool) -> float:
    peaks = estimated_peaks(size, settings, on_gpu=on_gpu)
    return max(peaks.training, peaks.clustering)


def _least_on_device(size: Size, settings: Settings) -> float:
    """Return the bytes that a GPU needs at least: the tensors, and the inputs after dropout."""
    size = _of_step(size, settings) or size
    _, z_scores, _ = _matrices(size)
    return _tensors(size, settings) + _blocks(settings) * z_scores * (settings.dropout > 0)


Estimate = Callable[[Size, Settings], float]


def _refuse(
    size: Size, settings: Settings, estimate: Estimate, room: float, *, of: str = "this process"
) -> None:
    """Raise InputError if the estimate is more than the room, in bytes, that `of` has for it."""
    needed = estimate(size, settings)
    if needed <= room:
        return
    helping = [
        f"{flag} ({_gib(estimate(smaller, changed))})"
        for flag, smaller, changed in _changes(size, settings, estimate, room)
        if estimate(smaller, changed) <= room
    ]
    advice = f"pass {' or '.join(helping)}, or use" if helping else "use"
    raise InputError(
        f"clustering {size.cells} cells and {size.kept} genes takes about {_gib(needed)} of memory "
        f"at its peak, and {of} can have {_gib(room)}: {advice} a machine with more"
    )


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


def _changes(
    size: Size, settings: Settings, estimate: Estimate, room: float
) -> Iterator[tuple[str, Size, Settings]]:
    """Yield flags that may help, each with the size and the settings that it leads to."""
    if size.kept > FEW_GENES:
        share = FEW_GENES / size.kept
        smaller = size._replace(kept=FEW_GENES, kept_stored=int(share * size.kept_stored))
        yield f"--highly_genes {FEW_GENES}", smaller, settings
    if settings.hops > 1:
        yield "--hops 1", size, dataclasses.replace(settings, hops=1)
    if not settings.no_report:
        yield "--no_report", size, dataclasses.replace(settings, no_report=True)
    if not settings.no_h5ad:
        yield "--no_h5ad", size, dataclasses.replace(settings, no_h5ad=True)
    step = 10 ** max(0, len(str(size.cells)) - 2)  # two digits are shown
    for cells in range(size.cells // step * step, 0, -step):
        smaller = _with_cells(size, cells)
        if estimate(smaller, settings) <= room:
            yield f"--subsample {cells}", smaller, settings
            return
