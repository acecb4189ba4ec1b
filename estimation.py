"""The number of clusters, estimated without labels: five criteria, and their median.

Letters: N cells, F features, K a candidate number. No criterion is right on all data: some count
the dense groups, some the separate ones, some what comes back in another sample. Their median is
nearer to the truth than any of them, and where there are several embeddings of the cells, the
median of what the criteria say on all is nearer than that of one (docs/recipe.md has both
comparisons). No function here has a parameter for true labels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score

log = logging.getLogger("sctag")

LARGEST = 25  # candidate; data of fewer than 10 times as many cells have fewer candidates
CELLS_EACH = 10  # a candidate's clusters have at least so many cells on average
SAMPLE = 6_000  # cells on which the candidates are tried, drawn at random where there are more
SPLITS = 3  # of the cells into halves, for the two criteria that ask what comes back
STARTS = 5  # of K-means for each candidate
STARTS_OF_HALVES = 2
STRENGTH = 0.6  # of prediction: at least this share of pairs stays together
EIGENVALUE = 0.95  # of the random walk's: above it, a group is nearly closed
EIGENVALUES = 30  # computed


class Estimate(NamedTuple):
    """The number of clusters chosen, what each criterion says, and the curves behind them.

    criteria: by the criterion's name its numbers, one for each embedding; curves: for each
    embedding one row for each candidate K with dispersion (mean squared distance to the centre),
    calinski_harabasz, stability and prediction_strength; eigenvalues: of the graph, largest first.
    """

    n_clusters: int
    criteria: dict[str, list[int]]
    curves: list[list[dict[str, float]]]
    eigenvalues: list[float]


def estimate_n_clusters(
    embeddings: Sequence[np.ndarray], adjacency: sp.csr_matrix, *, seed: int
) -> Estimate:
    """The median of five criteria over all embeddings, rounded down.

    The log has what each says, and before it the scores of every number that one of them says.

    embeddings: one or more of (N, F), of the same cells: what may be clustered; adjacency: (N, N)
    the kNN graph, directed or not.

    elbow: the K at which the dispersion lies farthest below the chord of its curve (Satopaa 2011).
    calinski_harabasz: the K of the largest ratio of variances (Calinski and Harabasz 1974).
    stability: the K >= 3 at which K-means of two random halves, each applied to all cells, agree
    best, by ARI (Ben-Hur 2002; Lange 2004).
    prediction_strength: the largest K at which, in the weakest cluster of one half, `STRENGTH` of
    the pairs are together by K-means of the other half too (Tibshirani and Walther 2005).
    spectrum: how many eigenvalues of D^-1/2 A D^-1/2 exceed `EIGENVALUE` (von Luxburg 2007), the
    same for each embedding.
    Each says at least 2.
    """
    rng = np.random.default_rng(seed)
    cells = np.arange(len(embeddings[0]))
    if len(cells) > SAMPLE:
        cells = rng.choice(len(cells), SAMPLE, replace=False)
    largest = max(2, min(LARGEST, len(cells) // CELLS_EACH))
    halves = [np.array_split(rng.permutation(len(cells)), 2) for _ in range(SPLITS)]
    eigenvalues = spectrum(adjacency)
    groups = int(np.clip(np.sum(eigenvalues > EIGENVALUE), 2, largest))
    curves = []
    with warnings.catch_warnings():
        # Fewer distinct points than clusters: such candidates score badly, which is all it means.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        for points in embeddings:
            sample = np.asarray(points[cells], np.float64)
            curves.append([_try(sample, k, halves, seed) for k in range(2, largest + 1)])
    said = [_read_off(rows) | {"spectrum": groups} for rows in curves]
    criteria = {name: [numbers[name] for numbers in said] for name in said[0]}
    chosen = int(np.median([*criteria.values()]))
    for k in sorted({number for numbers in criteria.values() for number in numbers}):
        log.info("candidate %2d  %s", k, _scores_of(k, curves))
    shown = (f"{name} {'/'.join(map(str, numbers))}" for name, numbers in criteria.items())
    log.info("estimate  %s", ", ".join(shown))
    log.info("clusters  %d (the median of these)", chosen)
    return Estimate(chosen, criteria, curves, eigenvalues.tolist())


def _read_off(rows: list[dict[str, float]]) -> dict[str, int]:
    """What the four criteria that look at an embedding say, from the rows of its curves."""

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    candidates = column("k").astype(int)
    stable = candidates >= min(3, candidates[-1])
    strong = candidates[column("prediction_strength") >= STRENGTH]
    said = {
        "elbow": candidates[elbow(column("dispersion"))],
        "calinski_harabasz": candidates[column("calinski_harabasz").argmax()],
        "stability": candidates[stable][column("stability")[stable].argmax()],
        "prediction_strength": strong.max(initial=2),
    }
    return {name: int(k) for name, k in said.items()}


def _scores_of(k: int, curves: list[list[dict[str, float]]]) -> str:
    """The scores of one candidate as text, each the mean over the embeddings."""
    rows = [row for rows in curves for row in rows if row["k"] == k]
    means = {name: np.mean([row[name] for row in rows]) for name in rows[0] if name != "k"}
    return ", ".join(f"{name} {mean:.4g}" for name, mean in means.items())


def _try(points: np.ndarray, k: int, halves: list, seed: int) -> dict[str, float]:
    """One row of the curves: K-means with k clusters of all points, and of their halves."""
    found = KMeans(k, n_init=STARTS, random_state=seed).fit(points)
    groups = len(np.unique(found.labels_))
    stability, strength = [], []
    for first, second in halves:
        one, other = (
            KMeans(k, n_init=STARTS_OF_HALVES, random_state=seed + i).fit(points[half])
            for i, half in enumerate((first, second))
        )
        stability.append(adjusted_rand_score(one.predict(points), other.predict(points)))
        strength.append(prediction_strength(one.predict(points[second]), other.labels_))
    return {
        "k": k,
        "dispersion": found.inertia_ / len(points),
        "calinski_harabasz": (
            float(calinski_harabasz_score(points, found.labels_)) if groups > 1 else 0.0
        ),
        "stability": float(np.mean(stability)),
        "prediction_strength": float(np.mean(strength)),
    }


def prediction_strength(predicted: np.ndarray, clusters: np.ndarray) -> float:
    """The smallest share, over clusters, of pairs of their cells that `predicted` keeps together.

    predicted, clusters: (N,) labels of the same cells; a cluster of one cell has no pair and is
    left out; 0 if no cluster has one. Source: Tibshirani and Walther 2005, equation 2.1.
    """
    shares = []
    for cluster in np.unique(clusters):
        sizes = np.unique(predicted[clusters == cluster], return_counts=True)[1]
        n = sizes.sum()
        if n > 1:
            shares.append((sizes * (sizes - 1)).sum() / (n * (n - 1)))
    return float(min(shares, default=0.0))


def elbow(curve: np.ndarray) -> int:
    """Where a falling curve lies farthest below the chord from its first to its last point."""
    span = curve[0] - curve[-1]
    if len(curve) < 3 or span <= 0:
        return 0
    chord = np.linspace(1.0, 0.0, len(curve))
    return int((chord - (curve - curve[-1]) / span).argmax())


def spectrum(adjacency: sp.csr_matrix) -> np.ndarray:
    """The largest eigenvalues, at most `EIGENVALUES`, of D^-1/2 A D^-1/2, in falling order.

    adjacency: (N, N); a directed graph is joined if either cell lists the other, a cell's edge to
    itself is left out. 1 occurs once for each component.
    """
    graph = adjacency.maximum(adjacency.T).tolil()
    graph.setdiag(0)
    graph = graph.tocsr().astype(np.float64)
    degree = np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1.0)
    scale = sp.diags(degree**-0.5)
    walk = (scale @ graph @ scale).tocsr()
    n_cells = walk.shape[0]
    if n_cells <= 2 * EIGENVALUES:
        values = np.linalg.eigvalsh(walk.toarray())[-EIGENVALUES:]
    else:
        start = np.random.default_rng(0).random(n_cells)
        try:
            values = eigsh(walk, k=EIGENVALUES, which="LA", return_eigenvectors=False, v0=start)
        except ArpackNoConvergence as error:  # the largest are found first
            values = error.eigenvalues
    return np.sort(values)[::-1]


def plot(estimate: Estimate, path: Path) -> None:
    """Draw the curves, a line for each embedding, what each criterion says and the choice (PNG)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    titles = {
        "elbow": ("dispersion", "mean squared distance to the centre"),
        "calinski_harabasz": ("calinski_harabasz", "Calinski-Harabasz ratio"),
        "stability": ("stability", "ARI between two halves"),
        "prediction_strength": ("prediction_strength", "pairs kept, weakest cluster"),
    }
    for ax, (criterion, (column, title)) in zip(axes, titles.items(), strict=False):
        for rows, said in zip(estimate.curves, estimate.criteria[criterion], strict=True):
            values = [row[column] for row in rows]
            (line,) = ax.plot([row["k"] for row in rows], values, ".-", linewidth=1)
            ax.axvline(said, color=line.get_color(), linestyle="--")
        ax.set_title(f"{criterion}: {', '.join(map(str, estimate.criteria[criterion]))}")
        ax.set_xlabel("number of clusters")
        ax.set_ylabel(title)
    ax = axes[4]
    ax.plot(range(1, len(estimate.eigenvalues) + 1), estimate.eigenvalues, "k.-", linewidth=1)
    ax.axhline(EIGENVALUE, color="k", linestyle="--")
    ax.set_title(f"spectrum: {estimate.criteria['spectrum'][0]}")
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue of the graph")
    ax = axes[5]
    for i, numbers in enumerate(zip(*estimate.criteria.values(), strict=True), 1):
        ax.plot(numbers, [*estimate.criteria], "o", alpha=0.6, label=f"embedding {i}")
    if len(estimate.curves) > 1:
        ax.legend()
    ax.axvline(estimate.n_clusters, color="k")
    ax.set_title(f"the median: {estimate.n_clusters} clusters")
    ax.set_xlabel("number of clusters")
    figure.savefig(path, dpi=120)
