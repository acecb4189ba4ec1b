"""Full runs on real data: minutes, not seconds (`make test-slow`)."""

import json
import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

import readers
import sctag
from new_cells import preparing
from settings import Settings

SHARED = Path(__file__).parents[2] / "shared" / "data"

pytestmark = pytest.mark.slow

# ARI and NMI of the published computation at full length (1000 + 300 epochs), measured on the same
# files with a transcription that shares no code with this suite; one seed.
PUBLISHED = {
    "Pollen": (0.787, 0.887),
    "Segerstolpe": (0.751, 0.888),
    "Mix_CELseq2_5cl": (0.952, 0.924),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_official_stands_near_the_published_computation(name, run, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the real data set shared/data/{name} beside the repository")
    ran = run("--data_dir", SHARED, "--dataname", name, "--variant", "official", "--out", tmp_path)
    assert ran.status == 0, ran.err
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert (scores["ARI"], scores["NMI"]) == pytest.approx(PUBLISHED[name], abs=0.05)


def test_the_default_run_on_the_embedded_cells_finds_their_types(run, tmp_path):
    """K-means of its 20 components scores an ARI of 0.51; the reference is itself imperfect."""
    ran = run("--dataname", "pbmc68k_reduced", "--out", tmp_path)
    assert ran.status == 0, ran.err
    ari = float(re.search(r"ARI= ([\d.]+)$", ran.out.strip()).group(1))
    assert ari > 0.4


@pytest.mark.parametrize("name", ["PBMC_facs", "Young"])
def test_held_out_cells_get_the_clusters_of_all_cells_together(name, run, tmp_path):
    """A fifth of the cells, and a vote of neighbours in the components as the one to beat.

    Where the run's own cells are clustered otherwise than with the others, so are the new ones.
    """
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the real data set shared/data/{name} beside the repository")
    adata = readers.read(SHARED / name / "data.h5")
    held_out = np.zeros(adata.n_obs, bool)
    held_out[np.random.default_rng(1).choice(adata.n_obs, adata.n_obs // 5, replace=False)] = True
    adata[~held_out].copy().write_h5ad(tmp_path / "known.h5ad")
    for data, out in ((SHARED / name / "data.h5", "all"), (tmp_path / "known.h5ad", "known")):
        assert run("--data", data, "--out", tmp_path / out).status == 0
    held = adata[held_out].copy()
    result = sctag.predict(tmp_path / "known", held)
    joint = pd.read_csv(tmp_path / "all" / "labels.csv", index_col="cell")["cluster"]
    own = pd.read_csv(tmp_path / "known" / "labels.csv", index_col="cell")["cluster"]
    agreement = adjusted_rand_score(joint.loc[own.index], own)
    joint = joint.loc[result.obs_names]
    reference = ad.read_h5ad(tmp_path / "known" / "prepared.h5ad")
    settings = Settings.of("sctag")
    new = preparing.values_like(held, reference, settings)
    vote = KNeighborsClassifier(15).fit(reference.obsm["X_pca"], reference.obs["sctag"])
    ari = adjusted_rand_score(joint, result.obs["sctag"])
    assert ari >= min(0.9, agreement - 0.02)
    assert ari >= adjusted_rand_score(joint, vote.predict(new.obsm["X_pca"]))
    assert result.obs["sctag_unlike"].mean() < 0.03
