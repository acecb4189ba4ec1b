"""Files as other programs lay them out: 10x, Matrix Market, loom, X and Y, tables of text."""

import gzip
import logging

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from test_readers import CELLS, COUNTS, GENES, LABELS, refused

import readers
from formats import text

SYMBOLS = ["CD3E", "MT-CO1", "ACTB"]
IDS = ["ENSG00000198851", "ENSG00000198804", "ENSG00000075624"]
BARCODES = ["AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCGC-1", "AAACCTGAGAAACCTA-1", "AAACCTGAGAAACGAG-1"]
GENES_AND_OTHERS = ["Gene Expression"] * 3 + ["Antibody Capture", "CRISPR Guide Capture"]


@pytest.fixture
def notes(monkeypatch, caplog):
    """Give the log lines so far."""
    monkeypatch.setattr(logging.getLogger("sctag"), "propagate", True)
    caplog.set_level(logging.INFO, "sctag")
    return lambda: [record.getMessage().removeprefix("read      ") for record in caplog.records]


def check(path, cells=BARCODES, genes=SYMBOLS, counts=COUNTS, **options):
    """Read a file, compare all that is in it, and return the AnnData."""
    adata = readers.read(path, **options)
    np.testing.assert_array_equal(adata.X.toarray(), counts)
    assert adata.obs_names.tolist() == list(cells)
    assert adata.var_names.tolist() == list(genes)
    adata.write_h5ad(path.parent / "again.h5ad")
    return adata


# ---- 10x .h5


def write_pieces(group, counts):
    """The counts, cells x genes, as Cell Ranger stores them: genes x cells in CSC."""
    matrix = sp.csc_matrix(counts.T)
    group["data"] = matrix.data.astype(np.int32)
    group["indices"], group["indptr"] = matrix.indices.astype(np.int64), matrix.indptr
    group["shape"] = np.array(matrix.shape, np.int32)
    group["barcodes"] = np.array(BARCODES, "S18")


def write_v2(path, *genomes):
    with h5py.File(path, "w") as file:
        for i, genome in enumerate(genomes):
            group = file.create_group(genome)
            write_pieces(group, COUNTS * (i + 1))
            group["genes"], group["gene_names"] = np.array(IDS, "S"), np.array(SYMBOLS, "S")
    return path


def write_v3(
    path, counts=COUNTS, names=SYMBOLS, types=GENES_AND_OTHERS[:3], genomes=("GRCh38",) * 3
):
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        write_pieces(group, counts)
        ids = [*IDS, "CD4_TotalSeqB", "guide1"][: len(names)]
        columns = {"id": ids, "name": names, "feature_type": types, "genome": genomes}
        for key, values in columns.items():
            if values is not None:
                group[f"features/{key}"] = np.array(values, "S")
        group["features/_all_tag_keys"] = np.array(["genome"], "S")
    return path


def test_tenx_v2(tmp_path):
    adata = check(write_v2(tmp_path / "v2.h5", "GRCh38"))
    assert adata.var["gene_ids"].tolist() == IDS
    check(tmp_path / "v2.h5", genome="GRCh38")
    refused(tmp_path / "v2.h5", "no genome 'mm10', choose --genome from: GRCh38", genome="mm10")


def test_tenx_v2_with_several_genomes(tmp_path):
    path = write_v2(tmp_path / "v2.h5", "hg19", "mm10")
    refused(path, "has the genes of 2 genomes, hg19, mm10: choose one with --genome$")
    check(path, genome="mm10", counts=2 * COUNTS)


@pytest.mark.parametrize(
    "absent", [[], ["feature_type"], ["genome"], ["feature_type", "genome", "id"]]
)
def test_tenx_v3(tmp_path, absent):
    path = write_v3(tmp_path / "v3.h5")
    with h5py.File(path, "r+") as file:
        for key in absent:
            del file["matrix/features"][key]
    adata = check(path)
    kept = {"id": "gene_ids", "feature_type": "feature_types", "genome": "genome"}
    assert list(adata.var) == [title for key, title in kept.items() if key not in absent]


def test_tenx_v3_with_antibodies_and_guides(tmp_path, notes):
    counts = np.hstack([COUNTS, np.full((4, 2), 1000)])
    genomes = ["GRCh38"] * 3 + ["", ""]
    names = [*SYMBOLS, "CD4", "guide1"]
    check(write_v3(tmp_path / "v3.h5", counts, names, GENES_AND_OTHERS, genomes))
    expected = "1 of Antibody Capture, 1 of CRISPR Guide Capture"
    assert notes() == [f"features that are not genes are left out: {expected}"]
    write_v3(tmp_path / "v3.h5", types=["Antibody Capture"] * 2 + ["Peaks"])
    refused(
        tmp_path / "v3.h5", "no features of the type 'Gene Expression', only Antibody Capt.*Peaks"
    )


def test_tenx_v3_with_several_genomes(tmp_path):
    path = write_v3(tmp_path / "v3.h5", genomes=["hg19", "mm10", "hg19"])
    refused(path, "2 genomes, hg19, mm10: choose one with --genome$")
    check(path, genes=["CD3E", "ACTB"], counts=COUNTS[:, [0, 2]], genome="hg19")


def test_tenx_repeated_symbols_keep_their_ids(tmp_path):
    path = write_v3(tmp_path / "v3.h5", names=["TBCE", "ACTB", "TBCE"])
    adata = check(path, genes=["TBCE", "ACTB", "TBCE-1"])
    assert adata.var["gene_name"].tolist() == ["TBCE", "ACTB", "TBCE"]
    assert adata.var["gene_ids"].tolist() == IDS


def test_tenx_that_disagrees_with_itself(tmp_path):
    path = write_v3(tmp_path / "v3.h5")
    refused(path, "is 10x Cell Ranger .*--layer counts is for .*AnnData", layer="counts")
    refused(path, "--no-transpose is for .*a table of text", transpose=False)
    table(BARCODES, SYMBOLS).to_csv(tmp_path / "a.csv")
    refused(tmp_path / "a.csv", "--genome hg19 is for 10x Cell Ranger", genome="hg19")
    with h5py.File(path, "r+") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array(BARCODES[:3], "S")
        file["matrix/indices"][0] = 3
    refused(path, r"do not make a CSR matrix of shape \[4, 3\], cells x genes")
    with h5py.File(path, "r+") as file:
        file["matrix/indices"][0] = 1
    refused(path, "matrix/barcodes has 3 entries for the 4 cells")
    with h5py.File(path, "r+") as file:
        del file["matrix/features/name"]
    refused(path, "matrix/features/name is not a list of names")


# ---- Matrix Market


def write_names(path, rows):
    content = "".join("\t".join(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mtx(folder, *, prefix="", version=3, counts=COUNTS, types=None):
    """A folder as Cell Ranger writes it, with a prefix as GEO has it."""
    folder.mkdir(exist_ok=True)
    end = ".gz" if version == 3 else ""
    path = folder / f"{prefix}matrix.mtx{end}"
    with gzip.open(path, "wb") if end else path.open("wb") as file:
        scipy.io.mmwrite(file, sp.coo_matrix(counts.T), field="integer")
    write_names(folder / f"{prefix}barcodes.tsv{end}", [[name] for name in BARCODES])
    types = types or ["Gene Expression"] * 3
    genes = [*zip(IDS, SYMBOLS, types, strict=True)]
    title = "features" if version == 3 else "genes"
    write_names(folder / f"{prefix}{title}.tsv{end}", [row[:version] for row in genes])
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("prefix", ["", "GSM123_", "GSM123_sample-1."])
def test_mtx_folder_and_the_matrix_alone(tmp_path, version, prefix):
    folder = tmp_path / "sample"
    path = write_mtx(folder, prefix=prefix, version=version)
    (folder / "notes.txt").write_text("of mine")
    for data in (folder, path, tmp_path):
        adata = check(data)
        assert adata.var["gene_ids"].tolist() == IDS
        assert ("feature_types" in adata.var) == (version == 3)


def test_mtx_of_several_samples(tmp_path, notes):
    first = write_mtx(tmp_path, prefix="GSM1_")
    write_mtx(tmp_path, prefix="GSM2_", counts=2 * COUNTS)
    refused(
        tmp_path, "2 matrices: name one of them with --data: GSM1_matrix.mtx.gz, GSM2_matrix.mtx.gz"
    )
    check(first)
    check(tmp_path / "GSM2_matrix.mtx.gz", counts=2 * COUNTS)
    assert notes() == []


def test_mtx_folders_below(tmp_path):
    write_mtx(tmp_path / "filtered")
    (tmp_path / "analysis").mkdir()
    check(tmp_path)
    write_mtx(tmp_path / "raw")
    refused(tmp_path, "holds 2 folders with a matrix: name one of them with --data: filtered, raw")


def test_mtx_with_antibodies(tmp_path, notes):
    write_mtx(tmp_path, types=["Gene Expression", "Antibody Capture", "Gene Expression"])
    check(tmp_path, genes=["CD3E", "ACTB"], counts=COUNTS[:, [0, 2]])
    assert notes() == ["features that are not genes are left out: 1 of Antibody Capture"]


def test_mtx_unpacked_beside_the_packed_one(tmp_path):
    path = write_mtx(tmp_path)
    (tmp_path / "matrix.mtx").write_bytes(gzip.decompress(path.read_bytes()))
    check(tmp_path)


def test_mtx_whose_rows_are_cells(tmp_path, notes):
    scipy.io.mmwrite(tmp_path / "cells_x_genes.mtx", sp.coo_matrix(COUNTS))
    write_names(tmp_path / "cells_x_genes.barcodes.txt", [[name] for name in BARCODES])
    write_names(tmp_path / "cells_x_genes.genes.txt", [[name] for name in SYMBOLS])
    check(tmp_path)
    assert notes() == ["the rows of cells_x_genes.mtx are cells, by the number of names beside it"]
    refused(tmp_path, r"barcodes\.txt: has 4 names for the 3 cells", transpose=True)


def test_mtx_with_headers_in_the_files_of_names(tmp_path):
    scipy.io.mmwrite(tmp_path / "DGE.mtx", sp.coo_matrix(COUNTS))
    ids = pd.DataFrame({"gene_id": IDS, "gene_name": SYMBOLS, "genome": "hg38"})
    ids.to_csv(tmp_path / "all_genes.csv", index=False)
    cells = pd.DataFrame({"bc_wells": BARCODES, "sample": "s"})
    cells.to_csv(tmp_path / "cell_metadata.csv", index=False)
    assert list(check(tmp_path).var) == ["gene_ids"]


def test_mtx_without_names(tmp_path, notes):
    path = tmp_path / "counts.mtx"
    scipy.io.mmwrite(path, sp.coo_matrix(COUNTS.T))
    cells, genes = [f"cell_{i}" for i in range(4)], [f"gene_{i}" for i in range(3)]
    check(path, cells, genes)
    assert notes() == [
        "the rows of counts.mtx are taken for genes: --no-transpose if they are cells",
        "no names of cells are beside counts.mtx: they are numbered",
        "no names of genes are beside counts.mtx: they are numbered",
    ]
    assert readers.read(path, transpose=False).shape == (3, 4)
    (tmp_path / "counts").write_bytes(path.read_bytes())
    assert readers.read(tmp_path / "counts").shape == (4, 3)
    scipy.io.mmwrite(path, COUNTS.T)  # dense
    check(path, cells, genes)


def test_mtx_that_cannot_be_read(tmp_path):
    path = write_mtx(tmp_path, version=2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "is not a matrix that can be read")
    path.write_text("1 2 3\n")
    refused(path, "is not a matrix that can be read")
    path.write_bytes(whole)
    write_names(tmp_path / "barcodes.tsv", [[name] for name in BARCODES[:2]])
    with pytest.raises(readers.InputError, match=r"barcodes\.tsv: has 2 names for the 4 cells"):
        readers.read(path)
    path = write_mtx(tmp_path / "packed")
    path.write_bytes(path.read_bytes()[:-20])
    refused(path, "cannot be unpacked .*cut short or damaged")
    refused(path, "is Matrix Market .*--genome hg19 is for 10x Cell Ranger", genome="hg19")


# ---- loom


def write_loom(path, **changes):
    content = {
        "matrix": COUNTS.T.astype(np.float32),
        "row_attrs/Gene": np.array(SYMBOLS, "S"),
        "row_attrs/Accession": np.array(IDS, dtype=h5py.string_dtype()),
        "col_attrs/CellID": np.array(BARCODES, "S"),
        "col_attrs/ClusterName": np.array(LABELS, "S"),
        "layers/spliced": 2 * COUNTS.T,
    }
    with h5py.File(path, "w") as file:
        for key, value in (content | changes).items():
            if value is not None:
                file[key] = value
    return path


def test_loom(tmp_path):
    path = write_loom(tmp_path / "a.loom")
    adata = check(path)
    assert adata.var["Accession"].tolist() == IDS
    assert readers.read_labels(adata, "ClusterName").tolist() == LABELS
    check(path, counts=2 * COUNTS, layer="spliced")
    refused(path, "no layer 'counts', choose --layer from: spliced", layer="counts")


def test_names_of_hdf5_that_are_no_text(tmp_path):
    path = write_loom(tmp_path / "a.loom", **{"layers/spliced": None})
    with h5py.File(path, "r+") as file:
        file[b"layers/spli\xe3ed"] = 2 * COUNTS.T
    assert not readers.read(path, whole=True).layers
    refused(path, r"choose --layer from: spli.ed|none is there", layer="counts")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file[b"spli\xe3ed"] = COUNTS
    refused(tmp_path / "b.h5", r"the file holds: spli.*ed")


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, ">f4", ">i8"])
def test_loom_in_blocks_and_of_any_type(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(readers.loom, "BLOCK", 1)
    path = write_loom(tmp_path / "a.loom", matrix=COUNTS.T.astype(dtype))
    check(path)


def test_loom_without_names_or_with_other_ones(tmp_path):
    absent = dict.fromkeys(["row_attrs/Gene", "col_attrs/CellID"])
    path = write_loom(tmp_path / "a.loom", **absent)
    check(path, cells=[f"cell_{i}" for i in range(4)], genes=IDS)
    absent = dict.fromkeys(["row_attrs/Gene", "row_attrs/Accession", "col_attrs/CellID"])
    named = {"col_attrs/obs_names": np.array(BARCODES, "S")}
    path = write_loom(tmp_path / "b.loom", **absent, **named)
    check(path, genes=["gene_0", "gene_1", "gene_2"])


def test_loom_that_disagrees_with_itself(tmp_path):
    path = write_loom(tmp_path / "a.loom", **{"row_attrs/Gene": np.array(SYMBOLS[:2], "S")})
    refused(path, "row_attrs/Gene has 2 entries for the 3 genes")
    refused(write_loom(path, matrix=np.ones(3)), "matrix is not a matrix of numbers, genes x cells")


# ---- X and Y


@pytest.mark.parametrize("labels", [[2, 1, 2, 0], np.array(["T", "B", "T", "NK"], "S"), None])
def test_x_and_y(tmp_path, labels):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["X"] = COUNTS.astype(np.float64)
        if labels is not None:
            file["Y"] = labels
    cells, genes = [f"cell_{i}" for i in range(4)], [f"gene_{i}" for i in range(3)]
    adata = check(path, cells, genes)
    if labels is None:
        assert "cell_type1" not in adata.obs
    else:
        expected = LABELS if isinstance(labels, np.ndarray) else ["2", "1", "2", "0"]
        assert readers.read_labels(adata, "cell_type1").tolist() == expected


def test_x_of_genes_by_cells(tmp_path, notes):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["X"], file["Y"] = COUNTS.T, np.array([[2], [1], [2], [0]])
    assert readers.read(path).shape == (4, 3)
    assert notes() == ["the rows of X are genes, as Y labels its 4 columns"]
    assert readers.read(path, transpose=True).shape == (4, 3)
    refused(path, "Y has 4 entries for the 3 cells", transpose=False)
    with h5py.File(path, "r+") as file:
        del file["Y"]
        file["Y"] = np.ones((4, 2))
    refused(path, "Y is not one label for each cell")


# ---- tables of text


def table(cells, genes, *, by_genes=False):
    frame = pd.DataFrame(COUNTS, index=cells, columns=genes)
    return frame.T if by_genes else frame


@pytest.mark.parametrize("by_genes", [False, True])
@pytest.mark.parametrize(
    ("cells", "genes"),
    [
        (BARCODES, SYMBOLS),
        (BARCODES, ["x", "y", "z"]),
        (["p", "q", "r", "s"], IDS),
        (["p", "q", "r", "s"], ["x", "y", "mt-Co1"]),
        (["s1_AAACCTGAGAAACCAT", "s2_AAACCTGAGAAACCAT", "cell1", "cell2"], ["a", "b", "c"]),
    ],
)
def test_the_names_tell_which_side_is_genes(tmp_path, notes, cells, genes, by_genes):
    path = tmp_path / "a.csv"
    table(cells, genes, by_genes=by_genes).to_csv(path)
    check(path, cells, genes)
    expected = "genes, guessed from the names: --no-transpose if they are cells"
    if not by_genes:
        expected = "cells, guessed from the names: --transpose if they are genes"
    assert notes() == [f"rows are {expected}"]


def test_which_side_of_a_table_is_genes_where_nothing_tells(tmp_path, notes):
    path = tmp_path / "a.tsv"
    table(["p", "q", "r", "s"], ["x", "y", "z"]).to_csv(path, sep="\t")
    assert readers.read(path).shape == (3, 4)
    assert notes() == ["rows are genes, guessed from the shape: --no-transpose if they are cells"]
    assert readers.read(path, transpose=False).shape == (4, 3)
    assert readers.read(path, transpose=True).shape == (3, 4)
    assert len(notes()) == 1
    assert text.guess((3, 4), None, None) == (False, "the shape")


def test_a_table_as_r_and_excel_write_it(tmp_path):
    frame = table(BARCODES, SYMBOLS)
    content = frame.to_csv(sep="\t", quoting=2)
    path = tmp_path / "a.txt"
    path.write_text(content.removeprefix('""\t'))  # R's write.table: nothing above the row names
    check(path)
    path.write_text(frame.to_csv(sep="\t"), encoding="utf-16")  # Excel's Unicode text
    check(path)
    path.write_text(frame.to_csv(sep=";"))
    check(path)
    path.write_text("\ufeff" + frame.to_csv(lineterminator="\r\n"), encoding="utf-8")
    check(path)


def test_a_table_in_blocks_with_names_that_repeat_or_look_like_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 1)
    path = tmp_path / "a.csv"
    genes = ["MT-CO1", "NA", "MT-CO1"]
    table(["001", "002", "NA", "nan"], genes).to_csv(path)
    adata = check(path, ["001", "002", "NA", "nan"], ["MT-CO1", "NA", "MT-CO1-1"])
    assert adata.var["gene_name"].tolist() == genes


def test_a_table_without_any_names(tmp_path):
    path = tmp_path / "a.csv"
    np.savetxt(path, COUNTS, fmt="%d", delimiter=",")
    cells, genes = [f"cell_{i}" for i in range(4)], [f"gene_{i}" for i in range(3)]
    check(path, cells, genes, transpose=False)


def test_tables_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",g0,g1,g2\na,1\n")
    refused(path, "its first row has 4 names, and its other rows have 1 numbers")
    path.write_text(",g0,g1\n")
    refused(path, "is not a table that can be read")
    path.write_text("\n\n")
    refused(path, "is not a table that can be read")


def test_a_table_of_the_older_tests_is_not_turned(tmp_path):
    table(CELLS, GENES).to_csv(tmp_path / "a.csv")
    check(tmp_path / "a.csv", CELLS, GENES)
