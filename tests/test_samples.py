"""Several files in one run: which files a path stands for, and how their cells are joined."""

import io
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
from conftest import grouped_counts, ran

import baselines
import readers
import utils
from inputs import samples
from utils import InputError


@pytest.fixture
def lines(caplog):
    """Return the log so far, one text a line."""
    caplog.set_level("INFO", logger="sctag")
    return lambda: [record.getMessage() for record in caplog.records]


def sample(cells, genes, seed=0, **columns):
    """Random counts with these names, and columns of obs."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (len(cells), len(genes))).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(counts), obs=pd.DataFrame(columns, index=[*cells]))
    adata.var_names = [*genes]
    return adata


def write_mtx(folder, prefix="", *, barcodes=True, seed=0):
    """A matrix as 10x writes it, genes x cells, with its names beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    adata = sample(["AAAC-1", "CCCG-1"], ["CD3E", "ACTB", "GNLY"], seed)
    scipy.io.mmwrite(folder / f"{prefix}matrix.mtx", sp.coo_matrix(adata.X.T.astype(int)))
    (folder / f"{prefix}features.tsv").write_text("\n".join(adata.var_names))
    if barcodes:
        (folder / f"{prefix}barcodes.tsv").write_text("\n".join(adata.obs_names))


# --- Which files ----------------------------------------------------------------------------------


def test_a_folder_of_files(tmp_path, lines):
    for name in ("b.h5ad", "a.h5ad"):
        sample("xy", "gh").write_h5ad(tmp_path / name)
    (tmp_path / "about.csv").write_text("of,mine\n")
    (tmp_path / "notes.md").write_text("of mine")
    (tmp_path / "._a.h5ad").write_text("of a Mac")
    assert samples.paths_of([tmp_path]) == [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    assert lines() == [f"read      {tmp_path}: left out, as they are no samples: about.csv"]


def test_a_folder_of_tables_and_one_with_a_single_file(tmp_path):
    for name in ("b.csv", "a.tsv.gz", "c.txt"):
        (tmp_path / name).write_text("a table")
    assert samples.paths_of([tmp_path]) == [tmp_path / "a.tsv.gz", tmp_path / "b.csv"]
    (tmp_path / "b.csv").unlink()
    assert samples.paths_of([tmp_path]) == [tmp_path]


def test_folders_of_10x_and_prefixes_of_geo(tmp_path):
    write_mtx(tmp_path / "folders" / "s1")
    write_mtx(tmp_path / "folders" / "s2" / "filtered_feature_bc_matrix")
    (tmp_path / "folders" / "notes").mkdir()
    write_mtx(tmp_path / "geo", "GSM1_")
    write_mtx(tmp_path / "geo", "GSM2_")
    folders, geo = tmp_path / "folders", tmp_path / "geo"
    expected = [folders / "s1", folders / "s2"]
    assert samples.paths_of([folders]) == expected
    expected += [geo / "GSM1_matrix.mtx", geo / "GSM2_matrix.mtx"]
    assert samples.paths_of([folders, geo]) == expected
    assert samples.read(expected).shape == (8, 3)


def test_what_belongs_to_one_sample_is_no_folder_of_samples(tmp_path):
    outs, velocyto, tenx = tmp_path / "outs", tmp_path / "velocyto", tmp_path / "10x"
    for kind in ("filtered", "raw"):
        write_mtx(outs / f"{kind}_feature_bc_matrix")
    for kind in ("spliced_", "unspliced_"):
        write_mtx(velocyto, kind, barcodes=False)
    (velocyto / "barcodes.tsv").write_text("AAAC-1\nCCCG-1\n")
    write_mtx(tenx)
    write_mtx(tenx, "EM_")
    both_formats = tmp_path / "both"
    write_mtx(both_formats / "brain")
    sample("xy", "gh").write_h5ad(both_formats / "brain.h5ad")
    for folder in (outs, velocyto, tenx, both_formats):
        assert samples.paths_of([folder]) == [folder]
    with pytest.raises(InputError, match="holds 2 folders with a matrix: name one of them"):
        samples.read([outs])


def test_the_same_data_twice_and_missing_files_are_refused(tmp_path):
    write_mtx(tmp_path / "a")
    matrix = tmp_path / "a" / "matrix.mtx"
    with pytest.raises(InputError, match="is given twice"):
        samples.paths_of([matrix, tmp_path / "a" / ".." / "a" / "matrix.mtx"])
    with pytest.raises(InputError, match=r"matrix\.mtx is a part of .*a: name one of them"):
        samples.paths_of([matrix, tmp_path / "a"])
    with pytest.raises(InputError, match=r"b\.h5ad: no such file"):
        samples.paths_of([matrix, tmp_path / "b.h5ad"])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a.h5ad", "y/b.csv.gz"], ["a", "b"]),
        (["x/data.h5", "y/data.h5"], ["x", "y"]),
        (["x/outs/filtered.h5", "y/outs/filtered.h5"], ["x", "y"]),
        (["x/a.h5", "x/a.h5ad"], ["a-1", "a-2"]),
    ],
)
def test_names_of_samples(paths, names):
    assert utils.data_names([Path(path) for path in paths]) == names


# --- Their cells ----------------------------------------------------------------------------------


def test_joined_cells_are_those_of_the_files_gene_by_gene(lines):
    parts = {
        "a": sample(["c1", "c2", "c3"], ["g1", "g2", "g3", "g4"], 1, day=[1, 2, 3], only=1),
        "b": sample(["c4", "c2"], ["g4", "g5", "g2", "g1"], 2, day=[4, 5]),
        "c": sample(["c2", "c6"], ["g2", "g1", "g4"], 3, day=["x", "y"]),
    }
    for part in parts.values():
        part.var["ids"] = "of " + part.var_names
        part.var["of_file"] = np.arange(part.n_vars)
        part.layers["double"] = part.X * 2
    parts["b"].layers["spliced"] = parts["b"].X
    before = {name: part.copy() for name, part in parts.items()}
    joined = samples.joined(parts)
    assert [*joined.layers] == ["double"]
    assert joined.var_names.tolist() == ["g1", "g2", "g4"]
    assert joined.obs_names.tolist() == ["c1", "c2-a", "c3", "c4", "c2-b", "c2-c", "c6"]
    assert joined.obs["cell_name"].tolist() == ["c1", "c2", "c3", "c4", "c2", "c2", "c6"]
    assert joined.obs["sample"].tolist() == [*"aaabbcc"]
    assert joined.obs["day"].tolist() == [*"12345xy"]  # of two types, so text
    assert joined.var["ids"].tolist() == ["of g1", "of g2", "of g4"]
    assert "of_file" not in joined.var
    assert (joined.layers["double"] != joined.X * 2).nnz == 0
    assert joined.obs.attrs["left_out"].keys() == {"only"}
    for i, cell in enumerate(joined.obs["cell_name"]):
        part = before[joined.obs["sample"].iloc[i]]
        for j, gene in enumerate(joined.var_names):
            expected = part[part.obs_names == cell, part.var_names == gene].X.toarray().item()
            assert joined.X[i, j] == expected
    assert lines() == [
        "joined    7 cells of 3 samples on the 3 genes that they share (left out: 1 of a, 1 of b, "
        "0 of c)",
        "joined    3 cells have the sample's name behind their own",
        "joined    columns of obs that are not in all samples: only",
        "joined    layers that are not in all samples, and left out: spliced",
    ]


def test_columns_of_that_name_are_kept_and_the_data_can_be_written(tmp_path):
    parts = {
        "a": sample("xy", "gh", 1, sample=["own", "own2"], kind=pd.Categorical([1, 2])),
        "b": sample("zw", "gh", 2, sample=["own3", "own"], kind=pd.Categorical(["p", "q"])),
    }
    samples.joined(parts).write_h5ad(tmp_path / "joined.h5ad")
    joined = ad.read_h5ad(tmp_path / "joined.h5ad")
    assert joined.obs_names.tolist() == [*"xyzw"]
    assert joined.obs["sample"].tolist() == [*"aabb"]
    assert joined.obs["sample_before"].tolist() == ["own", "own2", "own3", "own"]
    assert joined.obs["kind"].tolist() == [*"12pq"]


def test_names_that_clash_even_with_the_sample_behind_them():
    joined = samples.joined({"a": sample(["x", "x-a"], "gh"), "b": sample(["x"], "gh", 5)})
    assert joined.obs_names.is_unique
    assert {"x-b", "x-a"} < {*joined.obs_names}


def test_no_gene_in_common_is_refused_with_examples():
    parts = {"a": sample("xy", ["CD3E", "ACTB"]), "b": sample("xy", ["ENSG1", "ENSG2"])}
    with pytest.raises(InputError, match="ENSG1, ENSG2 and so on in b, CD3E, ACTB in a"):
        samples.joined(parts)


@pytest.mark.parametrize(("shared", "warned"), [("ghij", False), ("ghi", True)])
def test_few_genes_in_common_are_warned_of(shared, warned, lines):
    own = "klmnopqr"[: 8 - len(shared)]
    samples.joined({"a": sample("xy", shared + own), "b": sample("zw", shared + own.upper() + "Z")})
    expected = "warning: the samples share only 3 genes, of the 8 of a: are genes named alike?"
    assert (expected in lines()) is warned


@pytest.mark.parametrize(("n_same", "warned"), [(10, False), (11, True)])
def test_a_sample_given_twice_in_disguise_is_warned_of(n_same, warned, lines):
    genes = [str(i) for i in range(50)]
    first = sample([f"c{i}" for i in range(40)], genes, 1)
    second = sample([f"d{i}" for i in range(20)], genes, 2)
    second.X = sp.vstack([first.X[:n_same], second.X[n_same:]]).tocsr()
    second.obs_names = [*first.obs_names[:n_same], *second.obs_names[n_same:]]
    samples.joined({"a": first, "b": second})
    warning = "warning: 55 % of the cells of b seem to be in another sample too"
    assert any(line.startswith(warning) for line in lines()) is warned


# --- Through the command --------------------------------------------------------------------------


def run_rival(out, *flags):
    return ran(baselines.main, ["--method", "pca_kmeans", "--out", out, *flags], io.StringIO())


def test_a_run_on_two_files_is_a_run_on_their_cells(simulated, tmp_path):
    """The two halves of a file, from a list of files and from a folder, and the whole file."""
    adata = readers.read(simulated.path)
    (tmp_path / "halves").mkdir()
    paths = [tmp_path / "halves" / name for name in ("first.h5ad", "second.h5ad")]
    for path, cells in zip(paths, (slice(0, 50), slice(50, 120)), strict=True):
        adata[cells].copy().write_h5ad(path)
    whole = run_rival(tmp_path / "whole", "--data", simulated.path)
    by_list = run_rival(tmp_path / "list", "--data", *paths)
    by_folder = run_rival(tmp_path / "folder", "--data", tmp_path / "halves")
    one = run_rival(tmp_path / "one", "--data", *paths, "--subset", "sample=first")
    assert [done.status for done in (whole, by_list, by_folder, one)] == [0, 0, 0, 0], by_list.err
    labels = (tmp_path / "whole" / "labels.csv").read_bytes()
    assert (tmp_path / "list" / "labels.csv").read_bytes() == labels
    assert (tmp_path / "folder" / "labels.csv").read_bytes() == labels
    assert pd.read_csv(tmp_path / "one" / "labels.csv")["cell"].tolist() == [*simulated.cells[:50]]
    assert f"data      {paths[0]} and 1 more: 120 cells" in by_list.out
    record = json.loads((tmp_path / "list" / "settings.json").read_text())
    assert record["settings"]["data"] == [*map(str, paths)]
    assert record["data"]["files"] == [
        {"path": str(path), "sha256": utils.sha256(path), "sample": path.stem} for path in paths
    ]
    of_folder = json.loads((tmp_path / "folder" / "settings.json").read_text())
    assert of_folder["data"] == record["data"]
    assert of_folder["settings"]["data"] == str(tmp_path / "halves")
    assert record["data"]["sha256"] not in [file["sha256"] for file in record["data"]["files"]]


def test_a_label_key_that_one_file_lacks_is_refused(tmp_path):
    adata = grouped_counts()
    adata.obs["type"] = "T"
    adata.write_h5ad(tmp_path / "a.h5ad")
    del adata.obs["type"]
    adata.write_h5ad(tmp_path / "b.h5ad")
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    done = run_rival(tmp_path / "out", "--quiet", "--data", *paths, "--label_key", "type")
    assert done.status == 2
    assert "the column 'type' of obs cannot be read (b has none)" in done.err
