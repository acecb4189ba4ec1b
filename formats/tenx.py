"""The .h5 of 10x Genomics' Cell Ranger, versions 2 and 3, and what its folder shares with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

import csr_blocks
from formats import hdf5, matrices
from formats.parts import Choices, Parts, check_length, listed, named_frame
from utils import InputError

if TYPE_CHECKING:  # half a second to import: only the functions that read a file do it
    import pandas as pd

V3 = "matrix"  # the group of version 3; version 2 has a group for each genome
EXPRESSION = "Gene Expression"
# Types of features that are no genes. A type that is not known may be what others call genes.
NO_GENES = {
    "Antibody Capture",
    "Antigen Capture",
    "CRISPR Guide Capture",
    "Custom",
    "Multiplexing Capture",
    "Peaks",
}


def is_tenx(path: Path) -> bool:
    """Return whether a path is an HDF5 file laid out as Cell Ranger writes its count matrices."""
    if not hdf5.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return _is_v3(file) or bool(_genomes_of_v2(file))


def read_tenx(path: Path, choices: Choices) -> Parts:
    """Read the genes of one genome: symbols as names, var["gene_ids"], var["feature_types"]."""
    with h5py.File(path, "r") as file:
        if _is_v3(file):
            return _read_v3(file, choices.genome)
        genomes = _genomes_of_v2(file)
        genome = _chosen(str(path), genomes, choices.genome)
        group, where = file[genome], f"{path}: {genome}"
        matrix = matrices.sparse(group, where, by_genes=True)
        cells, genes = matrix.shape
        names = _names(group, "gene_names", where, genes, "gene")
        var = named_frame(names, gene_ids=_names(group, "genes", where, genes, "gene"))
        obs = named_frame(_names(group, "barcodes", where, cells, "cell"))
    return Parts(matrix, obs, var)


def _is_v3(file: h5py.File) -> bool:
    return isinstance(file.get(V3), h5py.Group) and "features" in file[V3]


def _genomes_of_v2(file: h5py.File) -> list[str]:
    pieces = {"barcodes", "genes", *matrices.PIECES}
    groups = ((name, item) for name, item in file.items() if isinstance(item, h5py.Group))
    return [name for name, item in groups if pieces <= {*item}]


def _read_v3(file: h5py.File, genome: str | None) -> Parts:
    group, where = file[V3], f"{file.filename}: {V3}"
    matrix = matrices.sparse(group, where, by_genes=True)
    cells, features = matrix.shape
    columns = {
        title: _names(group, f"features/{key}", where, features, "feature")
        for key, title in (
            ("name", "gene"),
            ("id", "gene_ids"),
            ("feature_type", "feature_types"),
            ("genome", "genome"),
        )
        if f"features/{key}" in group or key == "name"
    }
    var = named_frame(columns.pop("gene"), **columns)
    obs = named_frame(_names(group, "barcodes", where, cells, "cell"))
    parts = genes_only(Parts(matrix, obs, var), file.filename)
    if "genome" not in var:
        return parts
    of_genome = parts.var["genome"].to_numpy()
    chosen = _chosen(file.filename, sorted({*of_genome}), genome)
    return _of_features(parts, of_genome == chosen)


def _names(group: h5py.Group, key: str, where: str, length: int, item: str) -> np.ndarray:
    """Return a list of names in a group, one for each cell or feature."""
    names = hdf5.vector(group.get(key))
    if names is None:
        raise InputError(f"{where}/{key} is not a list of names: write the file again")
    check_length(f"{where}/{key}", names, length, item)
    return names


def _chosen(where: str, genomes: list[str], genome: str | None) -> str:
    """Return the genome that is asked for, or the only one; InputError if neither is there."""
    if genome is None and len(genomes) == 1:
        return genomes[0]
    if genome is None:
        raise InputError(
            f"{where}: has the genes of {len(genomes)} genomes, {listed(genomes)}: choose one with "
            "--genome"
        )
    if genome not in genomes:
        raise InputError(
            f"{where}: has no genome {genome!r}, choose --genome from: {listed(genomes)}"
        )
    return genome


# ---- features that are genes, of the .h5 and of the folder


def genes_only(parts: Parts, where: str) -> Parts:
    """Return the features that are genes, with a note on the others.

    Without types in var["feature_types"], or with types that are not of 10x, all are genes.

    Raises
    ------
    InputError
        If there are features of other types only.
    """
    if "feature_types" not in parts.var:
        return parts
    types: pd.Series = parts.var["feature_types"]
    is_gene = (types == EXPRESSION).to_numpy()
    if is_gene.all() or not (is_gene.any() or {*types} & NO_GENES):
        return parts
    if not is_gene.any():
        raise InputError(
            f"{where}: has no features of the type {EXPRESSION!r}, only {listed({*types})}: give a "
            "file with the counts of genes"
        )
    counted = listed(f"{number} of {kind}" for kind, number in Counter(types[~is_gene]).items())
    note = f"features that are not genes are left out: {counted}"
    return _of_features(parts._replace(notes=(*parts.notes, note)), is_gene)


def _of_features(parts: Parts, mask: np.ndarray) -> Parts:
    """Return the parts with some of the features only."""
    if mask.all():
        return parts
    matrix: Any = parts.matrix
    if csr_blocks.is_canonical(matrix):
        matrix = csr_blocks.subset(matrix, genes=mask)
    else:
        matrix = matrix[:, np.flatnonzero(mask)]
    return parts._replace(matrix=matrix, var=parts.var[mask])
