"""What the clusters are: the map, marker genes, likely types, and doubts, against slow ways."""

import gzip
import importlib
import logging
from contextlib import nullcontext

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from conftest import grouped_counts, prepared
from scipy import stats
from sklearn.metrics import silhouette_score

from annotation import cell_types, genes, markers, projection, quality
from utils import InputError

IDS = [f"ENSG{number:011}" for number in range(20)]


@pytest.fixture
def logs():
    """Logarithms of 75 cells of three groups, of 20 genes; genes 0 to 5 are high in group 0."""
    return prepared().raw.to_adata()


@pytest.fixture
def groups():
    """The three groups, and a category that no cell has."""
    return pd.Categorical([str(i % 3) for i in range(75)], ["0", "1", "2", "3"])


@pytest.fixture
def logged(caplog):
    """The text of the suite's log."""
    caplog.set_level(logging.INFO, "sctag")
    return lambda: caplog.text


# --- The map --------------------------------------------------------------------------------------


def of_groups(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(60, 5)) + np.repeat(np.eye(3, 5) * 20, 20, axis=0)).astype(np.float32)


def test_the_map_keeps_groups_apart_and_a_seed_repeats_it(capfd):
    points = of_groups()
    before = points.copy()
    first = projection.umap(points, n_neighbors=15, seed=3)
    assert first.shape == (60, 2)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, projection.umap(points, n_neighbors=15, seed=3))
    assert not np.array_equal(first, projection.umap(points, n_neighbors=15, seed=4))
    assert silhouette_score(first, np.repeat(np.arange(3), 20)) > 0.7
    np.testing.assert_array_equal(points, before)
    assert capfd.readouterr() == ("", "")


def test_numba_keeps_what_it_compiles_for_the_map():
    projection.umap(of_groups(), n_neighbors=15, seed=3)
    for module, names in projection.COMPILED.items():
        for name in names:
            kept = getattr(importlib.import_module(module), name).stats
            assert kept.cache_path is not None
            assert kept.cache_hits or kept.cache_misses  # the map was made with it


@pytest.mark.slow  # pynndescent takes long to compile
@pytest.mark.parametrize(("bound", "cells"), [("EXACT_CELLS", 0), ("LAID_OUT", 45)])
def test_the_map_of_many_cells_keeps_groups_apart_too(bound, cells, monkeypatch):
    monkeypatch.setattr(projection, bound, cells)
    points = of_groups()
    first = projection.umap(points, n_neighbors=15, seed=3)
    np.testing.assert_array_equal(first, projection.umap(points, n_neighbors=15, seed=3))
    assert silhouette_score(first, np.repeat(np.arange(3), 20)) > 0.7


@pytest.mark.parametrize("n_cells", [1, 2, 3, 4, 5, 9])
def test_the_map_of_few_cells(n_cells):
    points = of_groups()[::7][:n_cells]
    mapped = projection.umap(points, n_neighbors=15, seed=0)
    assert mapped.shape == (n_cells, 2)
    assert mapped.dtype == np.float32
    assert np.isfinite(mapped).all()
    if n_cells < projection.FEWEST and n_cells > 2:  # components: two of them keep most distances
        assert len(np.unique(mapped, axis=0)) == n_cells


def test_two_cells_lie_as_far_apart_as_they_are():
    points = np.array([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    mapped = projection.umap(points, n_neighbors=15, seed=0)
    np.testing.assert_allclose(np.linalg.norm(mapped[0] - mapped[1]), 5, rtol=1e-6)


def test_cells_that_are_alike_are_mapped():
    alike = np.ones((30, 4))
    np.testing.assert_allclose(projection.umap(alike, n_neighbors=15, seed=0), 0, atol=1e-6)
    in_two = np.repeat(np.array([[0.0, 0.0], [5.0, 1.0]]), 20, axis=0)
    mapped = projection.umap(in_two, n_neighbors=15, seed=0)
    assert np.isfinite(mapped).all()
    one_feature = projection.umap(of_groups()[:, :1], n_neighbors=1, seed=0)
    assert np.isfinite(one_feature).all()


# --- Marker genes ---------------------------------------------------------------------------------


def slow_markers(logs, clusters, name):
    """Score, adjusted p-value, fold change and shares of all genes, one gene at a time."""
    x = logs.X.toarray().astype(np.float64)
    inside = np.asarray(clusters) == name
    n, m = inside.sum(), (~inside).sum()
    rows = []
    for values in x.T:
        ranks = stats.rankdata(values)
        expected, sd = n * (n + m + 1) / 2, np.sqrt(n * m * (n + m + 1) / 12)
        score = (ranks[inside].sum() - expected) / sd
        means = [np.expm1(values[cells].mean()) for cells in (inside, ~inside)]
        shares = [(values[cells] > 0).mean() for cells in (inside, ~inside)]
        rows.append((score, 2 * stats.norm.sf(abs(score)), np.log2(means[0] / means[1]), *shares))
    table = pd.DataFrame(rows, columns=["score", "p", "fold", "share_in", "share_out"])
    table["p_adjusted"] = stats.false_discovery_control(table["p"])
    return table.set_index(logs.var_names)


def test_markers_are_those_of_the_rank_sum_test(logs, groups):
    before = logs.X.copy()
    table = markers.rank(logs, groups).table
    assert table.columns.tolist() == [
        *("cluster", "rank", "gene", "score", "log2_fold_change", "share_in", "share_out"),
        "p_adjusted",
    ]
    assert table["cluster"].unique().tolist() == ["0", "1", "2"]
    for name, of_cluster in table.groupby("cluster", observed=True):
        expected = slow_markers(logs, groups, name)
        higher = expected[expected["score"] > 0]
        assert set(of_cluster["gene"]) == set(higher.index)
        assert (of_cluster["score"].diff().dropna() <= 0).all()
        higher = higher.loc[of_cluster["gene"]]
        assert of_cluster["rank"].tolist() == list(range(1, len(higher) + 1))
        for column, slow in (("score", "score"), ("log2_fold_change", "fold")):
            np.testing.assert_allclose(of_cluster[column], higher[slow], rtol=1e-4)
        for column in ("share_in", "share_out", "p_adjusted"):
            np.testing.assert_allclose(of_cluster[column], higher[column], rtol=1e-4)
        first = [f"{int(name) * 6 + i}" for i in range(6)]
        assert sorted(of_cluster["gene"][:6]) == sorted(first)
    np.testing.assert_array_equal(logs.X.data, before.data)
    few = markers.rank(logs, groups, n_genes=2).table
    top = table[table["rank"] <= 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, top)


def test_genes_ranked_in_blocks_have_the_ranks_of_all(logs, groups, monkeypatch):
    """Where two genes have the same score, either may come first."""
    expected = markers.rank(logs, groups)
    monkeypatch.setattr(markers, "STORED", logs.X.nnz - 1)
    monkeypatch.setattr(markers, "BLOCK", 200)
    ranked = markers.rank(logs, groups)
    tables = [of.table.drop(columns="rank") for of in (ranked, expected)]
    one, other = (table.sort_values(["cluster", "gene"], ignore_index=True) for table in tables)
    pd.testing.assert_frame_equal(one, other)
    np.testing.assert_array_equal(ranked.table["score"], expected.table["score"])
    assert ranked.entry["params"] == expected.entry["params"]
    assert {*ranked.entry} == {*expected.entry}
    for name in markers.COLUMNS_OF_ENTRY:
        assert ranked.entry[name].dtype == expected.entry[name].dtype
    for name in ("pts", "pts_rest"):
        pd.testing.assert_frame_equal(ranked.entry[name], expected.entry[name])
    few = markers.rank(logs, groups, n_genes=3)
    assert few.table["cluster"].tolist() == [name for name in "012" for _ in range(3)]
    first = ranked.table[ranked.table["rank"] <= 3]
    np.testing.assert_array_equal(few.table["score"], first["score"])
    np.testing.assert_array_equal(few.table["p_adjusted"], first["p_adjusted"])


def test_scanpy_reads_the_entry_of_a_written_file(logs, groups, tmp_path):
    ranked = markers.rank(logs, groups, n_genes=5)
    adata = prepared()
    adata.uns["rank_genes_groups"] = ranked.entry
    adata.write_h5ad(tmp_path / "data.h5ad")
    read = sc.get.rank_genes_groups_df(ad.read_h5ad(tmp_path / "data.h5ad"), group="1")
    of_cluster = ranked.table[ranked.table["cluster"] == "1"]
    assert read["names"].tolist() == of_cluster["gene"].tolist()
    np.testing.assert_allclose(read["pct_nz_group"], of_cluster["share_in"])
    assert ranked.entry["params"]["groupby"] == "sctag"
    assert ranked.entry["params"]["use_raw"] is True
    # anndata before 0.12 cannot read the encoding of None
    assert None not in ranked.entry["params"].values()


def test_a_cluster_of_one_cell_has_no_markers_and_is_among_the_others(logs, groups, logged):
    names = np.asarray(groups).astype(object)
    names[4] = "alone"
    clusters = pd.Categorical(names, ["alone", "0", "1", "2"])
    table = markers.rank(logs, clusters).table
    assert table["cluster"].unique().tolist() == ["0", "1", "2"]
    assert "markers   none of cluster alone: " in logged()
    expected = slow_markers(logs, clusters, "1")
    of_cluster = table[table["cluster"] == "1"].set_index("gene")
    np.testing.assert_allclose(
        of_cluster["score"], expected.loc[of_cluster.index, "score"], rtol=1e-4
    )


def test_the_markers_of_many_cells_are_those_of_a_sample(logs, groups, monkeypatch):
    monkeypatch.setattr(markers, "RANKED_CELLS", 60)
    cells = np.sort(np.random.default_rng(0).permutation(75)[:60])
    expected = slow_markers(logs[cells].copy(), groups[cells], "1")
    table = markers.rank(logs, groups).table
    of_cluster = table[table["cluster"] == "1"].set_index("gene")
    np.testing.assert_allclose(
        of_cluster["score"], expected.loc[of_cluster.index, "score"], rtol=1e-4
    )


def test_only_one_cluster_that_can_be_ranked(logs):
    clusters = pd.Categorical(["a"] * 74 + ["b"])
    table = markers.rank(logs, clusters).table
    assert set(table["cluster"]) == {"a"}
    assert table["rank"].tolist() == list(range(1, len(table) + 1))


def test_one_cluster_of_all_cells_has_no_markers(logs, logged):
    table, entry = markers.rank(logs, pd.Categorical(["0"] * 75))
    assert entry is None
    assert table.empty
    assert table.columns[:3].tolist() == ["cluster", "rank", "gene"]
    assert "none of cluster 0" in logged()


def test_markers_named_by_identifiers_have_their_symbols(logs, groups):
    logs.var_names = IDS
    logs.var["feature_name"] = [f"GENE{i}" for i in range(19)] + [None]
    table = markers.rank(logs, groups).table
    assert table.columns[2:4].tolist() == ["gene", "symbol"]
    for gene, symbol in zip(table["gene"], table["symbol"], strict=True):
        position = IDS.index(gene)
        assert symbol == (f"GENE{position}" if position < 19 else gene)


def test_columns_that_are_no_symbols_of_identifiers():
    symbols = pd.DataFrame({"symbol": ["A", "B"]}, index=["x", "y"])
    assert genes.symbols(symbols) is None  # the names are symbols already
    ids = pd.DataFrame({"gene_name": [IDS[0], IDS[0]]}, index=[IDS[0], f"{IDS[0]}-1"])
    assert genes.symbols(ids) is None  # `readers` keeps repeated names there
    empty = pd.DataFrame({"symbol": ["", None]}, index=IDS[:2])
    assert genes.symbols(empty) is None
    categories = pd.DataFrame(
        {"symbol": pd.Categorical(["A", None])}, index=[f"{IDS[0]}.4", IDS[1]]
    )
    assert genes.symbols(categories).tolist() == ["A", IDS[1]]


# --- The list of marker genes ---------------------------------------------------------------------

SETS = {"T cell": ["CD3D", "CD3E", "IL7R"], "B cell": ["CD79A", "MS4A1"]}
PAIRS = [("T cell", "CD3D"), ("B cell", "CD79A"), ("T cell", "CD3E"), ("B cell", "MS4A1")]
PAIRS += [("T cell", "IL7R"), ("T cell", "CD3D")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "cell_type,gene\n" + "\n".join(map(",".join, PAIRS))),
        ("no_titles.csv", "\n".join(map(",".join, PAIRS))),
        ("swapped.tsv", "Gene Symbol\tspecies\tCell type\n" + "\n".join(
            f"{gene}\thuman\t{cell_type}" for cell_type, gene in PAIRS
        )),
        ("rows.csv", "T cell,CD3D,CD3E,IL7R\nB cell,CD79A,MS4A1,\n"),
        ("titled_rows.csv", "cell_type,marker1,marker2,marker3\nT cell,CD3D,CD3E,IL7R\n"
         "B cell,CD79A,MS4A1\n"),
        ("fields.tsv", "# mine\n\ntype\tmarkers\nT cell\tCD3D, CD3E,IL7R\nB cell\tCD79A;MS4A1\n"),
        ("quoted.csv", 'T cell,"CD3D, CD3E, IL7R"\r\nB cell,"CD79A, MS4A1"\r\n'),
        ("semicolons.csv", "T cell;CD3D,CD3E;IL7R\nB cell;CD79A;MS4A1\n"),
        ("ids.csv", "cell_type,gene_id,symbol\n" + "\n".join(
            f"{cell_type},ENSG0,{gene}" for cell_type, gene in PAIRS
        )),
        ("list.gmt", "T cell\tCL:84\tCD3D\tCD3E\tIL7R\nB cell\t\tCD79A\tMS4A1\n"),
    ],
)  # fmt: skip
def test_a_list_is_read_in_every_form(name, text, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    assert cell_types.read_sets(path) == SETS
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert cell_types.read_sets(packed) == SETS


def test_identifiers_are_read_where_there_are_no_symbols(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_text(f"Cell_Type,ensembl_id\nB,{IDS[0]}\n")
    assert cell_types.read_sets(path) == {"B": [IDS[0]]}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("list.xlsx", b"", "is a table of text"),
        ("list.csv", b"", "names no cell type"),
        ("list.csv", b"cell_type,gene\n", "names no cell type"),
        ("list.csv", b"T cell,CD3D\nB cell\n", "line 2 names no gene"),
        ("list.csv", b"cell_type,gene\n\n,CD3D\n", "line 3 names no cell type"),
        ("list.gmt", b"T cell\tCD3D\n", "line 1 names no gene"),
        ("list.txt", b"CD3D\nCD3E\n", "line 1 names no gene"),
        ("list.csv", b"\xff\xfa\x00T", "is not text"),
        ("list.csv.gz", b"\x1f\x8bcut", "cannot be unpacked"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(name, content, sentence, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as refused:
        cell_types.read_sets(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", ["none.csv", "none.xlsx", "none"])
def test_a_list_that_is_not_there_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="No such file"):
        cell_types.read_sets(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("T,B\nCD3D,CD79A\nIL7R,MS4A1\n", True),  # a column for each type
        ("CD3D,T\nCD79A,B\nMS4A1,CD3D\n", True),
        ("CD3D,CD3D IL7R\nMS4A1,MS4A1\n", False),  # types that are called by a gene of theirs
        ("CD3D,IL7R\nB,MS4A1 CD79A\n", False),
    ],
)
def test_a_list_whose_types_are_genes_is_refused(text, turned, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(text)
    var = pd.DataFrame(index=["CD3D", "CD79A", "IL7R", "MS4A1"])
    with pytest.raises(InputError, match="are genes") if turned else nullcontext():
        cell_types.check(var, path)


# --- The types it suggests ------------------------------------------------------------------------

OF_GROUPS = {"zero": ["0", "1", "2"], "one": ["6", "7"], "two": ["12", "13", "14", "19"]}


def test_scores_of_genes_in_blocks_are_the_same(logs, groups, monkeypatch):
    expected = cell_types.suggest(logs, groups, OF_GROUPS)
    monkeypatch.setattr(cell_types, "STORED", 1)
    pd.testing.assert_frame_equal(
        cell_types.suggest(logs, groups, OF_GROUPS), expected, check_exact=True
    )


def test_scores_are_weighed_z_scores_and_the_best_type_is_suggested(logs, groups):
    unequal = np.r_[0:75:3, 1:20:3, 2:8:3]  # 25, 7 and 2 cells of the groups
    logs, groups = logs[unequal].copy(), groups[unequal]
    table = cell_types.suggest(logs, groups, OF_GROUPS).set_index("cluster")
    assert table.index.tolist() == ["0", "1", "2"]
    x = logs.X.toarray().astype(np.float64)
    repeated = np.concatenate(  # each cluster as often as gives it the same weight
        [np.repeat(x[groups == name], 350 // (groups == name).sum(), axis=0) for name in "012"]
    )
    z = (x - repeated.mean(axis=0)) / repeated.std(axis=0)
    for name, cell_type in zip("012", OF_GROUPS, strict=True):
        row = table.loc[name]
        assert row["suggestion"] == row["best"] == cell_type
        scores = {
            of_type: z[groups == name][:, [int(gene) for gene in listed]].mean()
            for of_type, listed in OF_GROUPS.items()
        }
        for of_type, score in scores.items():
            np.testing.assert_allclose(row[f"score of {of_type}"], score, rtol=1e-4)
        second = sorted(scores, key=scores.get)[-2]
        assert row["runner_up"] == second
        np.testing.assert_allclose(
            [row["best_score"], row["runner_up_score"], row["margin"]],
            [scores[cell_type], scores[second], scores[cell_type] - scores[second]],
            rtol=1e-4,
        )
    assert table["best_genes"].tolist() == ["3 of 3", "2 of 2", "4 of 4"]


def test_two_types_in_one_cluster_and_a_cluster_of_none_are_unclear(logs, groups):
    joined = pd.Categorical(np.where(groups == "2", "rest", "both"))
    table = cell_types.suggest(logs, joined, {"zero": ["0", "1"], "one": ["6", "7"]})
    assert table["suggestion"].tolist() == ["unclear", "unclear"]
    both, rest = table.itertuples()
    assert both.best_score > cell_types.LEAST_SCORE
    assert both.runner_up_score > 2 / 3 * both.best_score
    assert rest.best_score < 0
    alone = cell_types.suggest(logs, groups, {"zero": ["0", "1"]})
    assert alone["suggestion"].tolist() == ["zero", "unclear", "unclear"]
    assert alone["runner_up"].tolist() == ["", "", ""]
    assert alone["margin"].isna().all()
    one = cell_types.suggest(logs, pd.Categorical(["all"] * 75), OF_GROUPS)
    assert one["suggestion"].tolist() == ["unclear"]


def test_genes_are_matched_in_any_case_and_by_symbol(logs, groups, logged, tmp_path):
    expected = cell_types.suggest(logs, groups, {"zero": ["0", "1"], "one": ["6"]})
    logs.var_names = [f"{gene}.2" for gene in IDS]
    logs.var["gene_symbols"] = [f"Gene{i}" for i in range(20)]
    sets = {"zero": ["GENE0", "Gene1", IDS[1]], "one": [IDS[6].lower(), "absent"], "x": ["absent"]}
    table = cell_types.suggest(logs, groups, sets)
    for column in ("best", "best_score", "runner_up_score", "score of zero", "score of one"):
        assert table[column].tolist() == expected[column].tolist()
    assert table["best_genes"].tolist()[:2] == ["2 of 3", "1 of 2"]
    assert "score of x" not in table
    path = tmp_path / "list.csv"
    path.write_text("".join(f"{name},{gene}\n" for name in sets for gene in sets[name]))
    cell_types.check(logs.var, path)
    assert "types     3 cell types with 5 marker genes, from" in logged()
    assert "warning: cell types without a gene in the data: x" in logged()


def test_a_name_as_it_is_written_comes_before_one_in_another_case():
    positions = genes.Positions(pd.DataFrame(index=["SOS1", "Sos1", "Sos2"]))
    assert [positions.of(name) for name in ("Sos1", "SOS1", "sos1", "SOS2", "x")] == [
        1,
        0,
        0,
        2,
        None,
    ]


def test_a_list_of_other_genes_is_refused(logs, groups):
    with pytest.raises(InputError, match="none of the 2 marker genes"):
        cell_types.suggest(logs, groups, {"T": ["CD3D", "CD3E"]})


# --- Doubts ---------------------------------------------------------------------------------------


def cells(depth, mitochondrial=None):
    depth = np.asarray(depth, float)
    return quality.Cells(depth, np.full(len(depth), 50), mitochondrial)


HALVES = pd.Categorical(["0"] * 20 + ["1"] * 20, ["0", "1", "none"])
EVEN = np.tile([900, 1100], 20)


def test_cells_are_measured_from_their_logarithms():
    adata = grouped_counts()
    adata.var_names = ["MT-CO1", *(f"gene{i}" for i in range(18)), "mt-Nd1"]
    counts = adata.X.toarray()
    data = prepared(adata)
    depth = counts.sum(axis=1)
    measured = quality.measure(data.raw.to_adata(), data.obs["size_factor"] * np.median(depth))
    np.testing.assert_allclose(measured.depth, depth, rtol=1e-6)
    np.testing.assert_array_equal(measured.n_genes, (counts > 0).sum(axis=1))
    np.testing.assert_allclose(
        measured.mitochondrial, counts[:, [0, 19]].sum(axis=1) / depth, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "share"),
    [
        *(("MT-CO1", 0.25), ("mt-Co1", 0.25), ("MT.CO1", 0.25), ("hg19_MT-CO1", 0.25)),
        *(("ENSG00000198804", 0.25), ("ENSG00000198804.2", 0.25), ("ENSMUSG00000064351", 0.25)),
        *(("MTOR", None), ("MT1X", None), ("MTRNR2L1", None), ("SMT-1", None)),
    ],
)
def test_mitochondrial_genes_are_known_by_name(name, share):
    counts = sp.csr_matrix(np.array([[1.0, 3.0], [0.0, 0.0]]))
    computed = quality.mitochondrial_share(counts, pd.DataFrame(index=[name, "ACTB"]))
    assert (computed is None) == (share is None)
    if computed is not None:
        assert computed.tolist() == [share, 0]


def test_good_clusters_raise_no_doubt():
    proba = np.tile([0.3, 0.1, 0.1], (40, 1))  # low, but one cluster stands out
    batches = pd.Series(["a", "b"] * 20)
    shares = np.full(40, 0.3)  # high, but in all cells
    good = cells(EVEN, shares)
    assert quality.warnings_of(good, HALVES, batches=batches, proba=proba, agreement=0.7) == []
    assert quality.warnings_of(good, pd.Categorical(["0"] * 40)) == []


def test_a_damaged_and_a_shallow_cluster():
    shares = np.r_[np.full(20, 0.35), np.full(20, 0.1)]
    (sentence,) = quality.warnings_of(cells(EVEN, shares), HALVES)
    assert sentence.startswith("cluster 0 is rich in mitochondrial counts")
    assert "35%, and 10%" in sentence
    assert quality.warnings_of(cells(EVEN, shares * 0.5), HALVES) == []  # below 20 %
    assert quality.warnings_of(cells(EVEN, shares + 0.3), HALVES) == []  # not twice the rest
    depth = np.r_[EVEN[:20], np.tile([100, 140], 10)]
    empty, follows = quality.warnings_of(cells(depth), HALVES)
    assert empty.startswith("cluster 1 is shallow")
    assert "12% of the counts of that of the others, in 50 genes" in empty
    assert follows.startswith("the clusters follow depth")


def test_what_clusters_explain_is_eta_squared_less_chance():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 200)
    values = rng.normal(size=200) + codes
    clusters = pd.Categorical(codes, range(6))
    of_each = [values[codes == code] for code in range(4)]
    f = stats.f_oneway(*of_each).statistic
    between = f * 3 / (f * 3 + 196)  # eta squared by the F of an analysis of variance
    np.testing.assert_allclose(quality.explained(values, clusters), 1 - (1 - between) * 199 / 196)
    random = [
        quality.explained(rng.normal(size=30), pd.Categorical(rng.integers(0, 10, 30)))
        for _ in range(50)
    ]
    assert np.mean(random) < 0.15  # eta squared itself is 0.3
    assert quality.explained(np.ones(200), clusters) == 0
    assert quality.explained(values[:5], pd.Categorical(range(5))) == 0


def test_clusters_that_follow_depth():
    depth = np.r_[np.tile([900, 1100], 10), np.tile([1900, 2300], 10)]
    (sentence,) = quality.warnings_of(cells(depth), HALVES)
    share = quality.explained(np.log(depth), HALVES)
    assert f"they explain {share:.0%} of the variance" in sentence


def test_a_cluster_of_one_batch():
    batches = pd.Series(["a"] * 19 + ["b"] + ["c"] * 10 + ["b"] * 7 + ["a"] * 3)
    assert quality.warnings_of(cells(EVEN), HALVES, batches=batches) == []  # a has 55 % of all
    batches[[37, 38, 39, 18]] = "b"
    assert quality.warnings_of(cells(EVEN), HALVES, batches=batches) == []  # exactly 90 %
    batches[18] = "a"
    (sentence,) = quality.warnings_of(cells(EVEN), HALVES, batches=batches.astype("category"))
    assert sentence == ("cluster 0 is of one batch: 95% from 'a', which has 48% of all cells")
    thirds = pd.Categorical(np.repeat(["0", "1", "2"], [13, 13, 14]))
    (sentence,) = quality.warnings_of(cells(EVEN), thirds, batches=pd.Series(np.asarray(thirds)))
    assert sentence.startswith("clusters 0, 1 and 2 are each of one batch: 100% from '0', ")
    small = pd.Categorical(["0"] * 9 + ["1"] * 31)
    batches = pd.Series(["a"] * 9 + ["b"] * 16 + ["c"] * 15)
    assert quality.warnings_of(cells(EVEN), small, batches=batches) == []  # by chance, it may be
    assert quality.warnings_of(cells(EVEN), HALVES, batches=pd.Series(["a"] * 40)) == []


def test_a_consensus_that_agrees_little():
    (sentence,) = quality.warnings_of(cells(EVEN), HALVES, agreement=0.55)
    assert "mean ARI 0.55, below 0.7" in sentence


def test_single_cells():
    names = ["a", "b", *["0"] * 19, *["1"] * 19]
    (sentence,) = quality.warnings_of(cells(EVEN), pd.Categorical(names))
    assert sentence.startswith("clusters a and b are of a single cell")


def test_cells_are_uncertain_if_the_second_cluster_is_half_as_probable():
    proba = np.array([[0.2, 0.4, 0.1, 0.3], [0.8, 0.1, 0.05, 0.05], [0.25, 0.12, 0.12, 0.12]])
    assert quality.uncertain(proba).tolist() == [True, False, False]
    assert quality.uncertain(np.array([[0.4, 0.2], [0.4, 0.19]])).tolist() == [True, False]
    assert quality.uncertain(np.ones((2, 1))).tolist() == [False, False]


def test_many_uncertain_cells():
    proba = np.tile([0.8, 0.2], (40, 1))
    proba[:13] = [0.5, 0.5]
    (in_one,) = quality.warnings_of(cells(EVEN), HALVES, proba=proba)  # 13 of 20, and of 40
    assert in_one.startswith("cluster 0 is uncertain")
    proba[20:24] = [0.5, 0.5]
    share, in_one = quality.warnings_of(cells(EVEN), HALVES, proba=proba)
    assert share.startswith("42% of the cells are uncertain")
    assert in_one.startswith("cluster 0 is uncertain")
