"""Which cells go in: labels from a file, lists, columns, filters, a sample."""

import gzip
import io
import json
from dataclasses import dataclass, field

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from conftest import NETWORK_FLAGS, TINY, eagerly, grouped_counts, ran

import baselines
import sctag
from annotation import quality
from data_settings import Selection, Source
from inputs import selection, true_labels
from utils import InputError

CELLS = ["AAAC-1", "CCCG-1", "GGGT-1", "TTTA-1"]


@pytest.fixture
def lines(caplog):
    """Return the log so far, one text a line."""
    caplog.set_level("INFO", logger="sctag")
    return lambda: [record.getMessage() for record in caplog.records]


def kept(adata, *, seed=1, cells=None, **given):
    """The names of the cells that are kept; cells are the names of a list."""
    chosen = Selection(**given)
    request = selection.request(chosen)
    if cells is not None:
        request = request._replace(cells=cells)
    return adata.obs_names[selection.kept(adata, chosen, request, seed=seed)].tolist()


def poor():
    """Cells of different depth, of which some are mostly mitochondrial; genes MT-A, MTOR, B, C."""
    counts = np.array([[0, 5, 5, 0], [9, 0, 1, 0], [1, 3, 3, 3], [0, 0, 1, 0], [0, 0, 0, 0]])
    adata = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32))
    adata.obs_names = ["a", "b", "c", "d", "e"]
    adata.var_names = ["MT-A", "MTOR", "B", "C"]
    return adata


def annotated():
    adata = ad.AnnData(sp.csr_matrix(np.eye(4, dtype=np.float32)))
    adata.obs_names = CELLS
    adata.obs["donor"] = pd.Categorical(["A", "B", None, "A"])
    adata.obs["stage"] = [1.0, 2.0, np.nan, 2.0]
    adata.obs["type"] = ["T cell, CD4", "T cell", "B", "B"]
    return adata


# --- Filters --------------------------------------------------------------------------------------


def test_filters_are_those_of_scanpy_and_count_what_they_take(lines):
    adata = grouped_counts()
    adata.var_names = [f"mt-{i}" if i < 4 else f"g{i}" for i in range(adata.n_vars)]
    qc = sc.pp.calculate_qc_metrics(
        adata.copy(), qc_vars=[], percent_top=None, log1p=False, inplace=False
    )[0]
    depth, genes = qc["total_counts"], qc["n_genes_by_counts"]
    share = np.array([row[:4].sum() / row.sum() for row in adata.X.toarray()])
    masks = [depth >= 50, genes >= 15, share <= 0.35]
    names = kept(adata, min_counts=50, min_genes=15, max_mito=0.35)
    assert names == adata.obs_names[np.logical_and.reduce(masks)].tolist()
    assert 0 < len(names) < adata.n_obs
    expected, left = [], np.ones(adata.n_obs, bool)
    for mask, flag in zip(masks, ("min_counts 50", "min_genes 15", "max_mito 0.35"), strict=True):
        lost = (left & ~np.asarray(mask)).sum()
        assert lost
        expected.append(f"filtered  {lost} of {left.sum()} cells left out by --{flag}")
        left &= np.asarray(mask)
    assert lines() == expected


def test_without_a_flag_all_cells_stay_and_nothing_is_said(lines):
    assert kept(poor()) == ["a", "b", "c", "d", "e"]
    assert lines() == []


def test_bounds_belong_to_what_is_kept():
    assert kept(poor(), min_counts=10) == ["a", "b", "c"]
    assert kept(poor(), min_genes=2) == ["a", "b", "c"]
    assert kept(poor(), max_mito=0.1) == ["a", "c", "d", "e"]
    assert kept(poor(), max_mito=0.0) == ["a", "d", "e"]


def test_nothing_left_says_which_filter_took_how_many():
    words = r"no cell of 5 is left: --min_counts 10 left out 2, --min_genes 4 left out 2, .*0 left"
    with pytest.raises(InputError, match=words):
        kept(poor(), min_counts=10, min_genes=4, max_mito=0.0)


def test_a_count_that_is_no_number_is_not_filtered_away():
    adata = poor()
    adata.X[0, 1] = np.nan
    assert "a" in kept(adata, min_counts=100, min_genes=1, max_mito=0.0)


SHARE = [0, 0.9, 0.1, 0, 0]


def share_of(adata):
    return quality.mitochondrial_share(sp.csr_matrix(adata.X), adata.var)


@pytest.mark.parametrize("name", ["MT-CO1", "mt-Co1", "GRCh38_MT-CO1", "mm10___mt-Co1", "mt:CoI"])
def test_mitochondrial_share_by_name(name):
    adata = poor()
    adata.var_names = [name, "MTOR", "MT1X", "AMT-1"]
    np.testing.assert_allclose(share_of(adata), SHARE)


def test_mitochondrial_share_by_symbols(lines):
    adata = poor()
    adata.var_names = [f"ENSG0000000000{i}" for i in range(4)]
    assert share_of(adata) is None
    with pytest.raises(InputError, match="--max_mito: no gene is named"):
        kept(adata, max_mito=0.5)
    adata.var["feature_name"] = pd.Categorical(["MT-A", "MTOR", "B", "C"])
    np.testing.assert_allclose(share_of(adata), SHARE)
    assert kept(adata, max_mito=0.5) == ["a", "c", "d", "e"]


# --- Warnings -------------------------------------------------------------------------------------


def of_depths(depths, mitochondrial=0):
    """Cells of these depths; each has so many counts of a mitochondrial gene among them."""
    depths = np.array(depths, dtype=np.float32)
    adata = ad.AnnData(np.column_stack([np.full(len(depths), mitochondrial), depths]))
    adata.var_names = ["MT-A", "B"]
    return adata


@pytest.mark.parametrize(
    ("adata", "words"),
    [
        (of_depths([1000] * 94 + [90] * 6), ["6 % of the cells have fewer than 100 counts"]),
        (of_depths([1000] * 95 + [90] * 5), []),
        (of_depths([1000] * 94 + [100] * 6), []),
        (of_depths([1000] * 94 + [0] * 6), []),  # they are left out anyway
        (of_depths([300_000] * 90 + [5_000] * 10), []),  # full-length reads, as in Pollen
        (of_depths([3] * 90 + [5_000] * 10), ["90 % of the cells have fewer than 20 counts"]),
        (of_depths([900] * 94 + [300] * 6, 100), ["6 % of the cells have more than 20 %"]),
        (of_depths([900] * 95 + [300] * 5, 100), []),
    ],
)
def test_poor_cells_are_warned_of(adata, words, lines):
    selection.warn_of_poor_cells(adata)
    warnings = lines()
    assert len(warnings) == len(words)
    for warning, part in zip(warnings, words, strict=True):
        assert warning.startswith("warning: ")
        assert part in warning


# --- Cells by name and by column ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "positions"),
    [
        (["donor=A"], [0, 3]),
        (["donor!=A"], [1, 2]),
        (["donor=A,B"], [0, 1, 3]),
        (["donor!=A,B"], [2]),
        (["stage=2"], [1, 3]),
        (["stage=2", "donor=A"], [3]),
        (["type=T cell, CD4"], [0]),
        (["type=T cell,B"], [1, 2, 3]),
    ],
)
def test_a_subset_by_columns(words, positions):
    assert kept(annotated(), subset=words) == [CELLS[i] for i in positions]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("donr=A", "obs has no column 'donr', only donor, stage, type"),
        ("donor=C", "no cell has 'C' in 'donor', there are: A, B"),
        ("donor!=A,C", "no cell has 'C' in 'donor'"),
        ("donor", "is not KEY=VALUE, KEY=A,B or KEY!=VALUE"),
        ("donor=", "is not KEY=VALUE"),
        ("=A", "is not KEY=VALUE"),
    ],
)
def test_a_subset_that_cannot_be_is_refused(word, sentence):
    with pytest.raises(InputError, match=f"--subset {word}: {sentence}"):
        kept(annotated(), subset=[word])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TTTA-1\nAAAC-1\nTTTA-1\n", "2 of 4 cells"),
        ("barcode\nAAAC-1\nTTTA-1\n", "2 of 4 cells, its first row is a header ('barcode')"),
        ('"","x"\n"AAAC-1",2\n"TTTA-1",3\n', "2 of 4 cells, its first row is a header ('')"),
        ("AAAC-1\nTTTA-1\nX\n", "2 of 4 cells, names in it that are no cells: 1, as 'X'"),
    ],
)
def test_a_list_of_cells(text, said, tmp_path, lines):
    path = tmp_path / "cells.txt"
    path.write_text(text)
    assert kept(annotated(), cells=selection._names_in(path)) == ["AAAC-1", "TTTA-1"]
    assert lines()[0].endswith(said)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["AAAC", "TTTA"], "has 'AAAC' .* have 'AAAC-1'; 2 would .* suffix of the data's names"),
        (["AAAC-1-2"], "1 would match without the suffix of the file's names"),
        (["AAAC-2", "CCCG-2", "X"], "2 would match without the suffix of both their names"),
        (["X"], "it has 'X' and the like, the data have 'AAAC-1'$"),
    ],
)
def test_names_that_match_nothing_are_refused_with_a_hint(names, sentence):
    with pytest.raises(InputError, match=sentence):
        kept(annotated(), cells=names)


# --- The sample -----------------------------------------------------------------------------------


def test_a_sample_is_random_by_seed_and_in_the_order_of_the_file(lines):
    adata = grouped_counts()
    first = kept(adata, subsample=20)
    assert first == kept(adata, subsample=20) != kept(adata, subsample=20, seed=2)
    assert len({*first}) == 20
    assert first == sorted(first, key=int)
    assert lines()[0] == "subsample 20 of 75 cells, drawn by seed 1"


def test_a_sample_is_drawn_of_what_the_filters_leave(lines):
    assert {*kept(poor(), subsample=2, min_counts=10)} < {"a", "b", "c"}
    assert kept(poor(), subsample=3, min_counts=10) == ["a", "b", "c"]
    assert lines()[-1] == "subsample all 3 cells (3 were asked for)"


# --- Labels ---------------------------------------------------------------------------------------

ROWS = ["AAAC-1,T", "CCCG-1,NA", "TTTA-1,B cell", "X,T"]


def labels_in(path, text, adata=None):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    source = Source(labels=path)
    table = true_labels.table(source)
    adata = annotated() if adata is None else adata
    return true_labels.of(adata, source, table, needed=False, where="X")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(ROWS),
        "\n".join(["cell,label", *ROWS, ""]),
        "\n".join(ROWS).replace(",", "\t"),
        "\n".join(["barcode;cell type", *ROWS]).replace(",", ";"),
        "label\n" + "\n".join(ROWS),  # as R writes a table, without a title of the names
        '"","x"\n' + "\n".join('"' + row.replace(",", '","') + '"' for row in ROWS),
        "\r\n".join(ROWS),
        gzip.compress("\n".join(ROWS).encode()),
    ],
    ids=["plain", "titled", "tabs", "semicolons", "of_r", "quoted", "windows", "packed"],
)
def test_labels_of_a_file(text, tmp_path, lines):
    labels = labels_in(tmp_path / "labels.csv", text)
    assert labels.tolist() == ["T", None, None, "B cell"]
    assert labels.index.tolist() == CELLS
    assert true_labels.described(labels).startswith("2 cell types in ")
    assert true_labels.described(labels).endswith("labels.csv' (2 cells have none)")
    (line,) = lines()
    assert line.endswith(", names in it that are no cells: 1, as 'X'")
    assert f"{tmp_path / 'labels.csv'}: 3 of 4 cells" in line


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("AAAC-1,T,3\n", "the row of 'AAAC-1' the number of columns is 3: two are needed"),
        ("AAAC-1\nCCCG-1\n", "the row of 'AAAC-1' the number of columns is 1"),
        ("AAAC-1,T\nAAAC-1,B\n", "'AAAC-1' has two labels, 'T' and 'B'"),
        ("\n \n", "has no rows"),
        ("AAAC-1,T\nCCCG-1," + "B" * 200_000, "is not a table that can be read"),
        ("AAAC,T\nCCCG,B\n", "2 would match without the suffix of the data's names"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(text, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        labels_in(tmp_path / "labels.csv", text)


def test_labels_in_two_ways_and_no_file(tmp_path):
    source = Source(labels=tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"none.csv: cannot be read \(No such file"):
        true_labels.table(source)
    with pytest.raises(InputError, match="both name the true labels: give one of them"):
        true_labels.table(Source(labels=tmp_path / "none.csv", label_key="type"))


# --- Through the doors ----------------------------------------------------------------------------


@dataclass
class Result:
    """What a rival left, and the lines that it printed."""

    labels: pd.DataFrame
    metrics: dict
    data: dict
    lines: list[str] = field(default_factory=list)


def rival(out, *flags):
    """Run K-means of the components by the command."""
    done = ran(baselines.main, ["--method", "pca_kmeans", "--out", out, *flags], io.StringIO())
    assert done.status == 0, done.err
    return Result(
        pd.read_csv(out / "labels.csv"),
        json.loads((out / "metrics.json").read_text()),
        json.loads((out / "settings.json").read_text())["data"],
        done.out.splitlines(),
    )


def test_a_run_on_a_part_is_a_run_on_a_file_of_that_part(simulated, tmp_path):
    """Labels of a file, a list, a filter and a sample: the order is theirs, the scores the same."""
    depth = simulated.counts.sum(axis=1)
    bound = int(np.quantile(depth, 0.2))
    listed = np.arange(100)
    labels = pd.Series(simulated.labels, index=simulated.cells)
    labels.iloc[:90].to_csv(tmp_path / "labels.csv", header=["label"])
    (tmp_path / "cells.txt").write_text("\n".join(simulated.cells[listed]))
    flags = ["--data", simulated.path, "--labels", tmp_path / "labels.csv"]
    flags += ["--cells", tmp_path / "cells.txt", "--min_counts", bound, "--subsample", 60]
    result = rival(tmp_path / "out", *flags)
    left = listed[depth[listed] >= bound]
    drawn = np.sort(np.random.default_rng(1).choice(left, 60, replace=False))
    assert result.labels["cell"].tolist() == simulated.cells[drawn].tolist()
    assert (result.metrics["cells"], result.metrics["n_clusters"]) == (60, 3)
    assert (result.data["cells"], result.data["genes"]) == simulated.counts.shape
    assert {"labels_file", "cells_file"} < {*result.data}
    words = [line.split()[0] for line in result.lines]
    order = ["names", "data", "names", "cells", "filtered", "subsample"]
    assert [word for word in words if word in order] == order

    part = ad.AnnData(sp.csr_matrix(simulated.counts[drawn], dtype=np.float32))
    part.obs_names, part.var_names = simulated.cells[drawn], simulated.genes
    part.obs["cell_type1"] = [*labels.where(np.arange(120) < 90).iloc[drawn]]
    part.write_h5ad(tmp_path / "part.h5ad")
    alone = rival(tmp_path / "alone", "--data", tmp_path / "part.h5ad")
    pd.testing.assert_frame_equal(alone.labels, result.labels)
    assert alone.metrics["scores"] == result.metrics["scores"]


def test_the_labels_of_a_file_reach_the_scores_only(simulated, tiny, base, tmp_path):
    shuffled = np.random.default_rng(0).permutation(simulated.labels)
    pd.Series(shuffled, index=simulated.cells).to_csv(tmp_path / "l.tsv", sep="\t", header=False)
    result = tiny("--data", simulated.path, "--labels", tmp_path / "l.tsv")
    pd.testing.assert_frame_equal(result.labels, base.labels)
    assert result.metrics["scores"] != base.metrics["scores"]


@pytest.fixture
def in_notebook(simulated):
    adata = ad.AnnData(sp.csr_matrix(simulated.counts, dtype=np.float32))
    adata.obs["donor"] = np.where(np.arange(120) < 60, "A", "B")
    return adata


SMALL = NETWORK_FLAGS | {"no_report": True}


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_a_notebook_leaves_the_other_cells_without_a_cluster(in_notebook):
    adata = in_notebook
    adata.obs_names = ["same"] * 120  # names tell nothing
    adata.var_names = ["mt-A", *map(str, range(1, 200))]
    chosen = {"subset": "donor=B", "min_genes": 120, "max_mito": 0.02, "subsample": 40}
    with eagerly():
        result = sctag.cluster(adata, 3, **SMALL, **chosen)
        left = np.flatnonzero(result.obs["sctag"].notna())
        part = sctag.cluster(in_notebook[left], 3, **SMALL)
    counts = adata.X.toarray()[left]
    assert len(left) == 40
    assert left.min() >= 60
    assert (np.count_nonzero(counts, axis=1) >= 120).all()
    assert (counts[:, 0] <= 0.02 * counts.sum(axis=1)).all()
    np.testing.assert_array_equal(result.obsm["X_sctag"][left], part.obsm["X_sctag"])
    assert np.isnan(np.delete(result.obsm["X_sctag"], left, axis=0)).all()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"labels": "l.csv"}, "^the setting labels is for files"),
        ({"cells": "c.txt"}, "^the setting cells is for files"),
        ({"data": ["a.h5", "b.h5"]}, "^the setting data is for files"),
        ({"min_counts": 10**6}, "^no cell of 120 is left: min_counts 1000000 left out 120$"),
        ({"subset": "donor=C"}, "^subset donor=C: no cell has 'C'"),
    ],
)
def test_a_notebook_refuses_what_has_no_use_there(in_notebook, given, sentence):
    with pytest.raises(InputError, match=sentence):
        sctag.cluster(in_notebook, 3, **SMALL, **given)


def test_a_refusal_is_one_sentence_and_leaves_nothing(run, simulated, tmp_path):
    flags = ["--data", simulated.path, *TINY, "--out", tmp_path / "out", "--min_counts", 10**6]
    done = run(*flags, "--quiet")
    assert done.status == 2
    assert done.err == (
        "train.py: error: no cell of 120 is left: --min_counts 1000000 left out 120\n"
    )
    assert not (tmp_path / "out").exists()
