"""The number of clusters: as asked for, or estimated without labels by the median of five criteria.

Letters: N cells, F features that are clustered, C a number of clusters that is tried. No criterion
is right on all data: some count the dense groups, some the separate ones, some what comes back in
another sample. Their median is nearer to the truth than any of them (docs/recipe.md has the
comparison). No function here has a parameter for true labels.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, calinski_harabasz_score

import clustering
from settings import Initialisation
from utils import InputError

log = logging.getLogger("sctag")

LARGEST = 25  # number that is tried; data of fewer than 10 times as many cells have fewer
CELLS_EACH = 10  # clusters of a number that is tried have at least so many cells on average
SAMPLE = 6_000  # cells on which the numbers are tried, drawn at random where there are more
SPLITS = 3  # of the cells into halves, for the two criteria that ask what comes back
STARTS = 5  # starts of K-means for each number
STARTS_OF_HALVES = 2
STRENGTH = 0.6  # prediction strength: at least this share of pairs stays together
EIGENVALUE = 0.95  # eigenvalue of the random walk above which a group is nearly closed
EIGENVALUES = 30  # how many eigenvalues are computed


class Estimate(NamedTuple):
    """The number of clusters that was estimated, and why.

    Parameters
    ----------
    n_clusters
        The number.
    criteria
        By the criterion's name its number.
    curves
        A row for each number that was tried, with dispersion (mean squared distance to the
        centre), calinski_harabasz, stability and prediction_strength.
    eigenvalues
        Of the graph, largest first.
    """

    n_clusters: int
    criteria: dict[str, int]
    curves: list[dict[str, float]]
    eigenvalues: list[float]


class Number(NamedTuple):
    """The number of clusters of a run, and where it is from.

    Parameters
    ----------
    n_clusters
        None as long as it is to be estimated.
    source
        Where it is from, in words.
    labels
        Labels (N,) that came with the number, where Leiden decided it; else None.
    estimate
        How it was estimated, if it was.
    """

    n_clusters: int | None
    source: str
    labels: np.ndarray | None = None
    estimate: Estimate | None = None

    def estimated_on(self, points: np.ndarray, adjacency: sp.csr_matrix, *, seed: int) -> Number:
        """Return a number that is no longer to be estimated; see `estimate_n_clusters`."""
        if self.n_clusters is not None:
            return self
        estimate = estimate_n_clusters(points, adjacency, seed=seed)
        return self._replace(n_clusters=estimate.n_clusters, estimate=estimate)


def requested_number(
    initialisation: Initialisation,
    adjacency: sp.csr_matrix,
    *,
    n_cell_types: int | None,
    seed: int,
) -> Number:
    """Return the number of clusters that the settings ask for, and log it.

    Parameters
    ----------
    initialisation
        `n_clusters` and `resolution` decide.
    adjacency
        The kNN graph, shape (N, N).
    n_cell_types
        Number of distinct true labels, None if there are none. It is the number of clusters if the
        settings say so, or if they say nothing.
    seed
        Of Leiden.

    Raises
    ------
    InputError
        If the number cannot be used.
    """
    asked, resolution = initialisation.n_clusters, initialisation.resolution
    labels = None
    if resolution is not None:
        if asked is not None:
            raise InputError(
                "--n_clusters and --resolution both decide the number of clusters: give one of them"
            )
        labels = clustering.leiden(
            clustering.undirected(adjacency), resolution=resolution, seed=seed
        )
        n_clusters = int(labels.max()) + 1
        source, advice = f"Leiden at resolution {resolution:g}", "raise --resolution"
    elif isinstance(asked, int):
        n_clusters, source, advice = asked, "given", ""
    elif asked == "labels" or (asked is None and n_cell_types is not None):
        n_clusters, source = n_cell_types or 0, "of the labels"
        advice = "give the number with --n_clusters, or auto"
    else:
        return Number(None, "estimated")
    if n_clusters < 2:
        raise InputError(
            f"{n_clusters} cluster ({source}) is too few, clustering needs 2 or more: {advice}"
        )
    if n_clusters > adjacency.shape[0]:
        raise InputError(
            f"--n_clusters {n_clusters} is more than the {adjacency.shape[0]} cells that are left: "
            "choose a smaller number"
        )
    log.info("clusters  %d (%s)", n_clusters, source)
    return Number(n_clusters, source, labels)


def estimate_n_clusters(points: np.ndarray, adjacency: sp.csr_matrix, *, seed: int) -> Estimate:
    """Return the number of clusters by the median of five criteria.

    The log has what each criterion says, and the scores of every number that one of them says.
    Each criterion says at least 2.

    - elbow: the number at which the dispersion lies farthest below the chord of its curve
      (Satopaa 2011).
    - calinski_harabasz: the number of the largest ratio of variances (Calinski and Harabasz 1974).
    - stability: the number, 3 or more, at which K-means of two random halves, each applied to all
      cells, agree best, by ARI (Ben-Hur 2002; Lange 2004).
    - prediction_strength: the largest number at which, in the weakest cluster of one half,
      `STRENGTH` of the pairs are together by K-means of the other half too (Tibshirani and Walther
      2005).
    - spectrum: how many eigenvalues of D^-1/2 A D^-1/2 exceed `EIGENVALUE` (von Luxburg 2007).

    Parameters
    ----------
    points
        What is clustered, shape (N, F).
    adjacency
        The kNN graph, directed or not, shape (N, N).
    seed
        Of the sample, of the halves and of K-means.

    Raises
    ------
    InputError
        If there are too few cells for two halves of two clusters.
    """
    if len(points) < 4:
        raise InputError(
            f"{len(points)} cells are too few to estimate the number of clusters: give it with "
            "--n_clusters"
        )
    rng = np.random.default_rng(seed)
    cells = np.arange(len(points))
    if len(cells) > SAMPLE:
        cells = rng.choice(len(cells), SAMPLE, replace=False)
        log.info("estimate  numbers are tried on %d of the %d cells", SAMPLE, len(points))
    largest = max(2, min(LARGEST, len(cells) // CELLS_EACH))
    halves = [np.array_split(rng.permutation(len(cells)), 2) for _ in range(SPLITS)]
    eigenvalues = spectrum(adjacency)
    groups = int(np.clip(np.sum(eigenvalues > EIGENVALUE), 2, largest))
    sample = np.asarray(points[cells], np.float64)
    with warnings.catch_warnings():
        # Fewer distinct points than clusters: such numbers score badly, which is all it means.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        curves = [_try(sample, number, halves, seed) for number in range(2, largest + 1)]
    criteria = _read_off(curves) | {"spectrum": groups}
    chosen = int(np.median([*criteria.values()]))
    for row in curves:
        if row["k"] in criteria.values():
            scores = (f"{name} {score:.4g}" for name, score in row.items() if name != "k")
            log.info("candidate %2d  %s", row["k"], ", ".join(scores))
    shown = (f"{name} {number}" for name, number in criteria.items())
    log.info("estimate  %s", ", ".join(shown))
    log.info("clusters  %d (the median of these)", chosen)
    return Estimate(chosen, criteria, curves, eigenvalues.tolist())


def _read_off(rows: list[dict[str, float]]) -> dict[str, int]:
    """Return what the four criteria that look at an embedding say, from the rows of its curves."""

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    numbers = column("k").astype(int)
    stable = numbers >= min(3, numbers[-1])
    strong = numbers[column("prediction_strength") >= STRENGTH]
    return {
        "elbow": int(numbers[elbow(column("dispersion"))]),
        "calinski_harabasz": int(numbers[column("calinski_harabasz").argmax()]),
        "stability": int(numbers[stable][column("stability")[stable].argmax()]),
        "prediction_strength": int(strong.max(initial=2)),
    }


def _try(points: np.ndarray, number: int, halves: list, seed: int) -> dict[str, float]:
    """Return a row of the curves: K-means of all points, and of their halves, at one number."""
    whole = KMeans(number, n_init=STARTS, random_state=seed).fit(points)
    groups = len(np.unique(whole.labels_))
    stability, strength = [], []
    for first, second in halves:
        one, other = (
            KMeans(number, n_init=STARTS_OF_HALVES, random_state=seed + i).fit(points[half])
            for i, half in enumerate((first, second))
        )
        stability.append(adjusted_rand_score(one.predict(points), other.predict(points)))
        strength.append(prediction_strength(one.predict(points[second]), other.labels_))
    return {
        "k": number,
        "dispersion": whole.inertia_ / len(points),
        "calinski_harabasz": (
            float(calinski_harabasz_score(points, whole.labels_)) if groups > 1 else 0.0
        ),
        "stability": float(np.mean(stability)),
        "prediction_strength": float(np.mean(strength)),
    }


def prediction_strength(predicted: np.ndarray, clusters: np.ndarray) -> float:
    """Return the smallest share, over clusters, of pairs of cells that `predicted` keeps together.

    Both arguments are labels (N,) of the same cells. A cluster of one cell has no pair and is left
    out; the result is 0 if no cluster has one. Source: Tibshirani and Walther 2005, equation 2.1.
    """
    shares = []
    for cluster in np.unique(clusters):
        sizes = np.unique(predicted[clusters == cluster], return_counts=True)[1]
        n = sizes.sum()
        if n > 1:
            shares.append((sizes * (sizes - 1)).sum() / (n * (n - 1)))
    return float(min(shares, default=0.0))


def elbow(curve: np.ndarray) -> int:
    """Return where a falling curve lies farthest below the chord from its first to last point."""
    span = curve[0] - curve[-1]
    if len(curve) < 3 or span <= 0:
        return 0
    chord = np.linspace(1.0, 0.0, len(curve))
    return int((chord - (curve - curve[-1]) / span).argmax())


def spectrum(adjacency: sp.csr_matrix) -> np.ndarray:
    """Return the largest eigenvalues, at most `EIGENVALUES`, of D^-1/2 A D^-1/2, largest first.

    Cells of a directed graph (N, N) are joined if either lists the other, and a cell's edge to
    itself is left out. The eigenvalue 1 occurs once for each connected component.
    """
    edges = adjacency.maximum(adjacency.T).tocoo()
    others = edges.row != edges.col
    ends = (edges.row[others], edges.col[others])
    graph = sp.csr_matrix((edges.data[others].astype(np.float64), ends), shape=adjacency.shape)
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
    """Draw the curves, what each criterion says, and the choice, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    titles = {
        "elbow": ("dispersion", "mean squared distance to the centre"),
        "calinski_harabasz": ("calinski_harabasz", "Calinski-Harabasz ratio"),
        "stability": ("stability", "ARI between two halves"),
        "prediction_strength": ("prediction_strength", "pairs kept, weakest cluster"),
    }
    numbers = [row["k"] for row in estimate.curves]
    for ax, (criterion, (column, title)) in zip(axes, titles.items(), strict=False):
        ax.plot(numbers, [row[column] for row in estimate.curves], "k.-", linewidth=1)
        ax.axvline(estimate.criteria[criterion], color="k", linestyle="--")
        ax.set_title(f"{criterion}: {estimate.criteria[criterion]}")
        ax.set_xlabel("number of clusters")
        ax.set_ylabel(title)
    ax = axes[4]
    ax.plot(range(1, len(estimate.eigenvalues) + 1), estimate.eigenvalues, "k.-", linewidth=1)
    ax.axhline(EIGENVALUE, color="k", linestyle="--")
    ax.set_title(f"spectrum: {estimate.criteria['spectrum']}")
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue of the graph")
    ax = axes[5]
    ax.plot([*estimate.criteria.values()], [*estimate.criteria], "ko")
    ax.axvline(estimate.n_clusters, color="k")
    ax.set_title(f"the median: {estimate.n_clusters} clusters")
    ax.set_xlabel("number of clusters")
    figure.savefig(path, dpi=120)
