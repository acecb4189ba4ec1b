"""Batches: what differs between them is taken from the views, and the cell types are left."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import N_CELLS, NETWORK_FLAGS, eagerly, grouped_counts, network, prepared, ran
from sklearn.metrics import adjusted_rand_score

import baselines
import batches
import preprocess
import scanpy_steps
import sctag
import tensors
import training
import views
from settings import Settings
from utils import InputError

DONOR = np.where(np.random.default_rng(0).random(150) < 0.5, "left", "right")
TYPES = np.random.default_rng(2).integers(0, 3, 150)
WITHOUT = {"highly_genes": 60, "log_genes": 100, "n_pcs": 8}
SETTINGS = Settings.of(**WITHOUT, batch_key="donor")


def shifted(types):
    """Counts of cells of some types, of which one donor's have another rate of every gene."""
    rng = np.random.default_rng(1)
    profiles = rng.lognormal(0, 0.5, (3, 200))
    shift = np.where(DONOR[:, None] == "left", 1.0, rng.lognormal(0, 0.6, 200))
    counts = sp.csr_matrix(rng.poisson(2 * profiles[types] * shift).astype(np.float32))
    adata = ad.AnnData(counts)
    adata.obs["donor"] = DONOR
    return adata


@pytest.fixture(scope="module")
def corrected():
    return preprocess.prepare(shifted(TYPES), SETTINGS, seed=1)


@pytest.fixture(scope="module")
def plain():
    return preprocess.prepare(shifted(TYPES), Settings.of(**WITHOUT), seed=1)


# --- What the correction is worth -----------------------------------------------------------------


def agreement(labels, truth):
    return adjusted_rand_score(truth, labels)


@pytest.mark.slow
def test_clusters_follow_the_types_with_batches_and_the_donors_without():
    adata = shifted(TYPES)
    small = {"hidden_dim": 16, "decoder_dims": [16], "pretrain_epochs": 20, "maxiter": 5}
    small |= WITHOUT | {"gpu_option": "-1", "init": "kmeans"}
    with eagerly():
        aware = sctag.cluster(adata, 3, batch_key="donor", **small).obs["sctag"]
        unaware = sctag.cluster(adata, 3, **small).obs["sctag"]
    assert agreement(aware, TYPES) > 0.9
    assert abs(agreement(aware, DONOR)) < 0.05
    assert agreement(unaware, TYPES) < 0.7
    assert agreement(unaware, DONOR) > 0.3


def test_both_views_are_mixed_and_keep_what_they_were(corrected, plain):
    codes = batches.codes_of(corrected)
    for name in (views.COMPONENTS, views.LOGS):
        before, after = corrected.obsm[name + "_uncorrected"], corrected.obsm[name]
        assert batches.ilisi(after, codes) > batches.ilisi(before, codes) + 0.25
        assert after.dtype == before.dtype
    assert [key for key in plain.obsm if "uncorrected" in key] == []
    assert crossing(views.graph(corrected)) > 2 * crossing(views.graph(plain))


def crossing(graph):
    """The share of a graph's edges that join cells of both donors."""
    edges = graph.tocoo()
    return np.mean(DONOR[edges.row] != DONOR[edges.col])


def test_halves_of_the_genes_are_corrected_too(corrected):
    codes = batches.codes_of(corrected)
    after = next(views.halves(corrected, seed=1))
    blind = corrected.copy()
    del blind.obs[batches.COLUMN]
    before = next(views.halves(blind, seed=1))
    for one, other in zip(after, before, strict=True):
        assert batches.ilisi(one, codes) > batches.ilisi(other, codes) + 0.1
    np.testing.assert_array_equal(after[1], batches.corrected(corrected, before[1], seed=1))


def test_the_seed_decides_the_correction_whatever_its_size(corrected):
    points = corrected.obsm["X_pca_uncorrected"]
    once, again = (batches.corrected(corrected, points, seed=2**32 - 1) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(
        batches.corrected(corrected, points, seed=1), corrected.obsm["X_pca"]
    )


def test_a_few_cells_are_corrected():
    """Of fewer than 15 harmonypy by itself would make no group, and refuse them."""
    adata = shifted(TYPES)[:12].copy()
    adata.obs["donor"] = ["a", "b"] * 6
    with pytest.raises(InputError, match="needs 10 cells on average"):
        preprocess.prepare(adata, SETTINGS, seed=1)
    adata.obs[batches.COLUMN] = adata.obs["donor"].astype("category")
    points = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    points[::2] += 100
    after = batches.corrected(adata, points, seed=1)
    gap = np.abs(after[::2].mean(axis=0) - after[1::2].mean(axis=0))
    assert (gap < 50).all()


def test_without_batches_nothing_is_added(plain):
    assert batches.key_of(plain) is None
    assert batches.codes_of(plain) is None
    assert batches.one_hot(plain).shape == (150, 0)
    assert batches.large_enough(plain).all()
    points = plain.obsm["X_pca"]
    assert batches.corrected(plain, points, seed=1) is points
    assert batches.COLUMN not in plain.obs
    assert "highly_variable_nbatches" not in plain.var


# --- The choice of genes --------------------------------------------------------------------------


def with_a_gene_of_one_batch():
    """Three groups; gene 19, of none of them, is only counted in every second cell."""
    adata = grouped_counts(n_cells=90)
    counts = adata.X.toarray()
    counts[:, 19] = np.random.default_rng(3).poisson(np.where(np.arange(90) % 2, 12, 0))
    adata.X = sp.csr_matrix(counts)
    adata.obs["chip"] = np.arange(90) % 2
    return adata


@pytest.mark.parametrize("method", ["pearson", "seurat", "seurat_v3"])
def test_a_gene_that_only_batches_differ_in_is_not_chosen(method):
    adata = with_a_gene_of_one_batch()
    names = {}
    for key in (None, "chip"):
        chosen = prepared(adata, highly_genes=4, gene_selection=method, batch_key=key)
        names[key] = set(chosen.var_names)
    assert "19" not in names["chip"]
    if method == "pearson":
        assert "19" in names[None]


def test_genes_do_not_depend_on_which_batch_comes_first():
    """Scanpy clips the residuals of all batches by the size of the first, unless it is told."""
    rng = np.random.default_rng(0)
    mean = rng.lognormal(0, 1.5, 300) * rng.lognormal(0, 1, (120, 300))
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(mean).astype(np.float32)))
    chosen = []
    for first, second in (("a", "b"), ("b", "a")):
        adata.obs["chip"] = [first] * 12 + [second] * 108
        done = prepared(adata, highly_genes=100, gene_selection="pearson", batch_key="chip")
        chosen.append([*done.var_names])
    assert chosen[0] == chosen[1]


def test_a_batch_of_one_cell_has_no_say_and_is_warned_of(caplog):
    adata = with_a_gene_of_one_batch()
    adata.obs["chip"] = adata.obs["chip"].astype(str)
    adata.obs.loc["7", "chip"] = "alone"
    done = prepared(adata, highly_genes=6, gene_selection="pearson", batch_key="chip")
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "(alone) have no say in the choice of genes" in warning
    rest = adata[adata.obs["chip"] != "alone"].copy()
    expected = prepared(rest, highly_genes=6, gene_selection="pearson", batch_key="chip")
    assert [*done.var_names] == [*expected.var_names]
    assert done.n_obs == 90
    assert np.isfinite(done.obsm["X_pca"]).all()
    np.testing.assert_array_equal(batches.one_hot(done).sum(axis=0), [45, 44, 1])


# --- The network ----------------------------------------------------------------------------------


def test_one_hot_has_a_column_a_batch(corrected):
    expected = np.stack([DONOR == "left", DONOR == "right"], axis=1)
    np.testing.assert_array_equal(batches.one_hot(corrected), expected)


def test_the_count_decoder_reads_the_batch_and_the_embedding_does_not(corrected, tmp_path):
    settings = Settings.of(hidden_dim=16, latent_dim=4, decoder_dims=[8], batch_key="donor")
    data = tensors.training_data(corrected, settings, settings)
    net = network(n_genes=corrected.n_vars, n_batches=2, hops=1, decoder_dims=[8])
    z = training.embed(net, data)
    left, right = (np.tile(row, (150, 1)).astype(np.float32) for row in np.eye(2))
    first = net.count_decoder[0]
    assert first.kernel.shape == (4 + 2, 8)
    by_hand = np.maximum(np.hstack([z, left]) @ first.kernel.numpy() + first.bias.numpy(), 0)
    np.testing.assert_allclose(net.decode_counts(z, left).hidden, by_hand, rtol=1e-4, atol=1e-5)
    assert (
        np.abs(net.decode_counts(z, left).hidden - net.decode_counts(z, right).hidden).max() > 0.01
    )
    before = first.kernel.numpy()
    with eagerly():
        phase = training.Phase(3, 1e-2)
        training.Pretraining(net, data, settings, phase, quiet=True).run(1)
    assert (np.abs(first.kernel.numpy() - before)[4:] > 1e-3).any()

    import model

    net.place_centers(np.zeros((3, 4)), trainable=True)
    net.save(tmp_path)
    loaded = model.load(tmp_path)
    assert loaded.n_batches == 2
    np.testing.assert_array_equal(
        loaded.decode_counts(z, left).hidden, net.decode_counts(z, left).hidden
    )


# --- The measures ---------------------------------------------------------------------------------


def slow_ilisi(points, codes, perplexity=30):
    """LISI by its definition: all distances, and the kernel's width by plain bisection."""
    values = []
    for cell in range(len(points)):
        distances = np.linalg.norm(points - points[cell], axis=1)
        nearest = np.argsort(distances, kind="stable")
        nearest = nearest[nearest != cell][: 3 * perplexity - 1]
        low, high = 1e-6, 1e6
        for _ in range(200):
            beta = np.sqrt(low * high)
            weights = np.exp(-(distances[nearest] - distances[nearest[0]]) * beta)
            weights /= weights.sum()
            entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)))
            low, high = (beta, high) if entropy > np.log(perplexity) else (low, beta)
        shares = np.bincount(codes[nearest], weights)
        values.append(1 / np.sum(shares**2))
    return np.median(values)


@pytest.mark.parametrize("gap", [0.0, 1.0, 10.0])
def test_ilisi_is_its_definition(gap):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 240)
    points = rng.normal(size=(240, 4))
    points[:, 0] += gap * codes
    assert batches.ilisi(points, codes) == pytest.approx(slow_ilisi(points, codes), rel=0.01)


def test_ilisi_of_batches_apart_and_of_few_cells():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1], 150)
    points = rng.normal(size=(300, 3))
    assert batches.ilisi(points, codes) > 1.8
    assert batches.ilisi(points + 100 * codes[:, None], codes) == pytest.approx(1.0)
    few = batches.ilisi(points[120:180:3], codes[120:180:3])
    assert 1 <= few <= 2


def slow_silhouette(points, codes, labels):
    """The batch silhouette by loops over cells."""
    means = []
    for label in np.unique(labels):
        cells = [i for i in range(len(points)) if labels[i] == label]
        if not 1 < len({codes[i] for i in cells}) < len(cells):
            continue
        widths = []
        for i in cells:
            mean = {}
            for code in {codes[j] for j in cells}:
                others = [j for j in cells if codes[j] == code and j != i]
                if others:
                    mean[code] = np.mean([np.linalg.norm(points[i] - points[j]) for j in others])
            own = mean.pop(codes[i], None)
            nearest = min(mean.values())
            width = 0.0 if own is None else (nearest - own) / max(own, nearest)
            widths.append(1 - abs(width))
        means.append(np.mean(widths))
    return np.mean(means) if means else None


def test_the_batch_silhouette_is_its_definition():
    rng = np.random.default_rng(0)
    codes, labels = rng.integers(0, 3, 80), rng.integers(0, 4, 80)
    codes[labels == 3] = 1  # one batch: left out
    labels[:2], codes[:2] = 4, [0, 1]  # a batch for each cell: left out
    cells = np.flatnonzero(labels == 0)
    codes[cells] = 0
    codes[cells[0]] = 2  # the only cell of its batch there
    points = rng.normal(size=(80, 3)) + 0.7 * codes[:, None]
    value = batches.batch_silhouette(points, codes, labels)
    assert value == pytest.approx(slow_silhouette(points, codes, labels), rel=1e-6)
    assert batches.batch_silhouette(points, codes, codes) is None


def test_large_clusters_are_looked_at_in_part(monkeypatch):
    rng = np.random.default_rng(0)
    codes, points = rng.integers(0, 2, 900), rng.normal(size=(900, 3))
    points += codes[:, None]
    whole = batches.batch_silhouette(points, codes, np.zeros(900, int))
    monkeypatch.setattr(batches, "SILHOUETTE_CELLS", 300)
    part = batches.batch_silhouette(points, codes, np.zeros(900, int))
    assert part != whole
    assert part == pytest.approx(whole, abs=0.03)


# --- Input that cannot be used --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, r"X has no column 'donor' in obs \(present: plate\): name .*--batch_key"),
        (["a", "b", None] * 50, "50 of 150 cells have no value in the column 'donor'"),
        (["a", "b", ""] * 50, "50 of 150 cells have no value"),
        ([2.0] * 150, "all cells have the value '2' in the column 'donor'.*nothing to correct"),
        (np.arange(150), "names 150 batches of 150 cells"),
        (np.arange(150) % 16, "names 16 batches of 150 cells.*coarser"),
    ],
)
def test_a_column_that_names_no_batches_is_refused(column, message):
    adata = shifted(TYPES)
    adata.obs["plate"] = adata.obs.pop("donor")
    if column is not None:
        adata.obs["donor"] = column
    with pytest.raises(InputError, match=message):
        preprocess.prepare(adata, SETTINGS, seed=1)


def test_a_batch_whose_cells_are_all_empty_is_none():
    adata = shifted(TYPES)
    counts = adata.X.toarray()
    counts[DONOR == "left"] = 0
    adata.X = sp.csr_matrix(counts)
    with pytest.raises(InputError, match="all cells have the value 'right'"):
        preprocess.prepare(adata, SETTINGS, seed=1)


# --- The doors ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(simulated, tmp_path_factory):
    """The simulated data with a column `chip`, as a file."""
    adata = ad.AnnData(sp.csr_matrix(simulated.counts.astype(np.float32)))
    adata.obs_names, adata.var_names = simulated.cells, simulated.genes
    adata.obs["chip"] = np.arange(N_CELLS) % 2
    adata.obs["cell_type1"] = simulated.labels
    path = tmp_path_factory.mktemp("batches") / "data.h5ad"
    adata.write_h5ad(path)
    return path


def test_true_labels_are_no_batches(run, file, tmp_path):
    done = run("--data", file, "--batch_key", "cell_type1", "--out", tmp_path / "out")
    assert done.status == 2
    assert "the column 'cell_type1' of obs has the true labels" in done.err


@pytest.fixture(scope="module")
def by_chip(tiny, file):
    return tiny("--data", file, "--batch_key", "chip", "--init", "kmeans")


def test_the_command_says_how_well_batches_are_mixed(by_chip):
    mixing = by_chip.metrics["batches"]
    assert mixing["batches"] == 2
    for when in ("before", "after"):
        assert 1 <= mixing[when]["ilisi"] <= 2
        assert 0 <= mixing[when]["silhouette"] <= 1
    assert "batches   2 in 'chip', of cells 0: 60, 1: 60" in by_chip.ran.out
    assert "of 2 in a cell's neighbourhood" in by_chip.ran.out
    assert by_chip.prepared.obs["sctag_batch"].tolist() == ["0", "1"] * (N_CELLS // 2)
    assert {"X_pca_uncorrected", "X_pca_logs_uncorrected"} <= set(by_chip.adata.obsm)
    assert by_chip.settings["settings"]["batch_key"] == "chip"


def test_the_notebook_gives_the_commands_labels(by_chip, file):
    adata = ad.read_h5ad(file)
    flags = NETWORK_FLAGS | {"no_report": True, "init": "kmeans"}
    with eagerly():
        clustered = sctag.cluster(adata, 3, batch_key="chip", **flags)
    np.testing.assert_array_equal(clustered.obsm["X_sctag"], by_chip.adata.obsm["X_sctag"])
    assert "X_pca_uncorrected" in clustered.obsm
    assert "sctag_batch" not in clustered.obs
    with eagerly():
        again = sctag.cluster(clustered, 3, **flags)
    assert "X_pca_uncorrected" not in again.obsm
    with pytest.raises(InputError, match=r"no column 'lane' in obs \(present: chip, cell_type1"):
        sctag.cluster(adata, 3, batch_key="lane")


def test_new_cells_cannot_be_embedded(by_chip, file):
    with pytest.raises(InputError, match="has corrected the batches of its cells"):
        sctag.embed(by_chip.out, ad.read_h5ad(file))


def test_rivals_cluster_what_is_corrected(corrected, plain):
    aware, unaware = (
        baselines.pca_kmeans(adata, n_clusters=3, seed=1) for adata in (corrected, plain)
    )
    assert agreement(aware, TYPES) > 0.9
    assert agreement(unaware, TYPES) < 0.7
    aware, unaware = (scanpy_steps.graph(adata, seed=1) for adata in (corrected, plain))
    assert crossing(aware) > 2 * crossing(unaware)


def test_the_rivals_command_takes_the_flag(file, tmp_path):
    import io

    flags = ["--method", "pca_kmeans", "--data", file, "--batch_key", "chip"]
    done = ran(baselines.main, [*flags, "--out", tmp_path / "out"], io.StringIO())
    assert done.status == 0, done.err
    text = (tmp_path / "out" / "metrics.json").read_text()
    assert '"ilisi"' in text
