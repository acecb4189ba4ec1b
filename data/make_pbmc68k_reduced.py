"""Make the embedded data set, data/pbmc68k_reduced/data.h5, from the copy that scanpy ships.

`scanpy.datasets.pbmc68k_reduced()` needs no download: 700 of the 68 thousand peripheral blood
cells of Zheng et al. 2017, 765 genes. Its `raw` holds y = log1p(1e4 * count / n_counts), rounded
to three decimals, where n_counts is the cell's total over all genes before 765 were chosen. So

    count = expm1(y) * n_counts / 1e4

is a whole number but for the rounding, which moves it by at most 0.0005 * (count + n_counts / 1e4):
0.13 for the largest count, 259, well under the 0.5 that would make it ambiguous. Measured over all
700 x 765 values: the largest distance to a whole number is 0.0815 (at a count of 213, gene IGLL5),
all other distances are below 0.05, and no value that was positive rounds to 0.

Run as `python data/make_pbmc68k_reduced.py`; the bytes are the same every time.
"""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import scanpy as sc
import scipy.sparse as sp

OUTPUT = Path(__file__).resolve().parent / "pbmc68k_reduced" / "data.h5"
TARGET_SUM = 1e4  # scanpy's recipe scaled each cell to this total before the logarithm
MAX_RESIDUAL = 0.15  # rounding explains 0.13; anything more means that the source has changed
MAX_COUNT = 259


def recover_counts(adata: ad.AnnData) -> sp.csr_matrix:
    """Whole counts behind `adata.raw`, int16, cells x genes (see the module's formula)."""
    totals = adata.obs["n_counts"].to_numpy(dtype=np.float64)  # (N,)
    y = adata.raw.X.toarray().astype(np.float64)  # (N, G)
    exact = np.expm1(y) * totals[:, None] / TARGET_SUM  # (N, G)
    counts = np.rint(exact)

    residual = np.abs(exact - counts).max()
    assert residual < MAX_RESIDUAL, f"not whole counts: {residual:.3f} from the nearest"
    assert counts.min() >= 0, f"smallest count {counts.min():.0f}, expected none below 0"
    assert counts.max() == MAX_COUNT, f"largest count {counts.max():.0f}, expected {MAX_COUNT}"
    return sp.csr_matrix(counts.astype(np.int16))


def write_published_layout(
    path: Path, counts: sp.csr_matrix, labels: np.ndarray, cells: np.ndarray, genes: np.ndarray
) -> None:
    """Write the benchmark's file layout (data/README.md) to `path`, whole or not at all.

    Names and labels are written as fixed-length bytes. No time is recorded and no chunk size is
    left to h5py's guess, so that equal input gives equal bytes.
    """
    pieces = {
        "obs/cell_type1": labels.astype(np.bytes_),
        "obs_names": cells.astype(np.bytes_),
        "var_names": genes.astype(np.bytes_),
        "exprs/data": counts.data,
        "exprs/indices": counts.indices.astype(np.int32),
        "exprs/indptr": counts.indptr.astype(np.int32),
        "exprs/shape": np.array(counts.shape, dtype=np.int64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as file:
            for group in ("obs", "var", "uns", "exprs"):
                file.create_group(group)
            for name, values in pieces.items():
                file.create_dataset(
                    name,
                    data=values,
                    chunks=values.shape,
                    compression="gzip",
                    compression_opts=9,
                    shuffle=True,
                    track_times=False,
                )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(output: Path = OUTPUT) -> None:
    """Recover the counts, write them to `output`, and print one line on what was written."""
    adata = sc.datasets.pbmc68k_reduced()
    counts = recover_counts(adata)
    labels = adata.obs["bulk_labels"].to_numpy(dtype=str)
    write_published_layout(
        output,
        counts,
        labels,
        adata.obs_names.to_numpy(dtype=str),
        adata.raw.var_names.to_numpy(dtype=str),
    )
    n_cells, n_genes = counts.shape
    print(
        f"wrote {output}: {n_cells} cells, {n_genes} genes, {len(set(labels))} classes, "
        f"counts up to {counts.max()}, {output.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
