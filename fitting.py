"""Cluster prepared data with scTAG: both training phases, and the clusters between them.

Letters: N cells, D latent size, F features that are clustered, C clusters.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

import batches
import console
import memory
import strategies
import utils
from checkpoints import Beginning
from keeper import Keeper, identity_of
from results import Fitted, Trained
from settings import Settings
from utils import InputError, Stopwatch

if TYPE_CHECKING:
    import anndata as ad

    from estimation import Number

log = logging.getLogger("sctag")


def start_network(settings: Settings, adata: ad.AnnData) -> tuple[Any, utils.Device, Any]:
    """Start TensorFlow on the device, or the devices, that were asked for.

    Returns a new network that suits the genes and the batches of the prepared data, the device, and
    the strategy by which several share the steps, or None.
    """
    device, strategy = strategies.start(settings, adata.n_obs)
    missing = settings.gpu_option != "-1" and device.name == "CPU"
    log.info("device    %s%s", device.name, " (no GPU found)" if missing else "")
    from model import SCTAG

    with utils.tensorflow_session():
        network = SCTAG(
            settings,
            n_genes=adata.n_vars,
            n_batches=batches.one_hot(adata).shape[1],
            seed=settings.seed,
        )
    return network, device, strategy


def training_data(
    adata: ad.AnnData, network: Any, device: utils.Device, strategy: Any, settings: Settings
) -> Any:
    """Return what `start_network` has returned is trained on, made of prepared data.

    It is a `tensors.TrainingData`, or an `arrays.PartedData` where steps have a part of the cells.
    """
    import arrays
    import parts
    import tensors
    import views

    cells = parts.cells_of_step(settings, adata.n_obs)
    if cells is None:
        return tensors.training_data(
            adata, settings, settings, dtype=network.product_dtype, block_bytes=device.block_bytes
        )
    in_parts = parts.parts_of(views.graph(adata), cells, seed=settings.seed)
    data = arrays.parted_data(adata, settings, settings, in_parts, block_bytes=device.block_bytes)
    return data._replace(strategy=strategy)


def check(settings: Settings) -> None:
    """Raise InputError, before anything is read, if the settings of the network cannot be used.

    That is if counts are to be denoised that the decoder is not fitted to, if steps of sub-graphs
    are to fit all pairs of cells, if devices are to share steps that cannot be shared, if the
    losses cannot be written to the folder that TensorBoard is to show, or if a list of marker genes
    cannot be read or is for a report that there is not to be.
    """
    if settings.batch_cells is not None and settings.graph_loss == "mse":
        raise InputError(
            "--batch_cells is for the graph loss of edges, and all pairs of cells are asked for: "
            "leave it out, or give --graph_loss jaccard"
        )
    strategies.check(settings)
    fits_counts = settings.reconstruction != "mse" and settings.zinb_target == "counts"
    if settings.denoised and not fits_counts:
        raise InputError(
            "--denoised is for a count decoder that fits counts: leave it out, or give "
            "--reconstruction zinb --zinb_target counts"
        )
    if settings.tensorboard is not None and not utils.is_writable(settings.tensorboard):
        raise InputError(
            f"cannot write to the folder {settings.tensorboard}: choose another one with "
            "--tensorboard"
        )
    if settings.markers is not None:
        from annotation import cell_types

        if settings.no_report:
            raise InputError("--markers is for the report, which --no_report leaves out: drop one")
        cell_types.read_sets(settings.markers)


def fit(
    adata: ad.AnnData,
    number: Number,
    settings: Settings,
    stopwatch: Stopwatch,
    *,
    keeper: Keeper | None = None,
) -> Fitted:
    """Cluster prepared data with scTAG: both training phases.

    The settings are those that `check` accepts. The keeper gets the state from time to time, and
    knows that of an earlier run, with which this one goes on; None for neither.

    Raises
    ------
    TrainingError
        If a loss is not finite, also at a tenth of the learning rate.
    InputError
        If the memory is too small, or the keeper's checkpoint is of another run.
    """
    keeper = keeper or Keeper(None, minutes=0, resume=False)
    quiet = settings.quiet
    strategies.check(settings, adata.n_obs)
    memory.check_prepared(adata, settings)
    with stopwatch("start_tensorflow"), console.status("starting TensorFlow", quiet=quiet):
        network, device, strategy = start_network(settings, adata)
        memory.check_device(adata, settings, device)
        import arrays
        import clustering
        import epochs
        import tensors
        import training
        import views
    keeper.open(adata, number, settings, device.name)
    resumed = keeper.shown() if keeper.snapshot else None
    if settings.strategy == "multiworker":
        identity = identity_of(adata, number, settings, device.name)
        strategies.check_same(strategy, "what they train", [identity, resumed])
    record = strategies.record(settings, strategy) | ({"resumed": resumed} if resumed else {})
    with utils.tensorflow_session(), epochs.tensorboard(settings.tensorboard) as watch:
        with stopwatch("pretrain"):
            data = training_data(adata, network, device, strategy, settings)
        if isinstance(data, arrays.PartedData):
            record["batch_cells"] = data.parts.cells
        features = None
        if settings.cluster_on == "joint":
            with stopwatch("initial_clusters"):
                features = views.features(adata, metric=settings.neighbour_metric)
        if keeper.beginning is None:
            keeper.beginning = _beginning(
                *(network, data, features, adata, number, settings, stopwatch),
                keeper=keeper,
                watch=watch,
            )
        start = keeper.beginning
        if settings.strategy == "multiworker":
            strategies.check_same(strategy, "the initial clusters", start.initial.tolist())
        data = _with_features(data, features, start.z)
        points = tensors.points_of(start.z, data)
        centers = clustering.centers_of(points, start.initial)
        network.place_centers(centers, trainable=settings.train_centers)
        with stopwatch("cluster"):
            clustered = training.cluster(
                network,
                data,
                settings,
                settings,
                quiet=quiet,
                watch=watch,
                start=keeper.of_phase("cluster"),
                keep=keeper.keep,
            )
        z = training.embed(network, data)
        expected = None
        if settings.denoised:
            expected = network.expected_counts(z, batches.one_hot(adata))
    history = start.history + clustered.history
    labels = clustered.labels
    if not settings.maxiter:  # the nearest centre may be that of another cluster
        labels = start.initial
    elif isinstance(data, arrays.PartedData):
        nearest = clustering.nearest_center(points, centers)
        labels = _moved(start.initial, nearest, clustered.labels)
    return Fitted(
        labels=labels,
        number=start.number,
        metrics=start.notes
        | record
        | {
            "epochs": dict(Counter(row["phase"] for row in history)),
            "final_losses": {name: history[-1][name] for name in ("total", "adj", "zinb", "kl")},
        },
        trained=Trained(
            network=network,
            initial=start.initial,
            z=z,
            points=tensors.points_of(z, data),
            q=clustered.q,
            history=history,
            expected=expected,
        ),
    )


def _beginning(
    network: Any,
    data: Any,
    features: np.ndarray | None,
    adata: ad.AnnData,
    number: Number,
    settings: Settings,
    stopwatch: Stopwatch,
    *,
    keeper: Keeper,
    watch: Any,
) -> Beginning:
    """Pretrain the network, and return what the clustering phase begins from."""
    import tensors
    import training
    import views

    quiet = settings.quiet
    with stopwatch("pretrain"):
        phase = training.phases(settings)[0]
        pretraining = training.Pretraining(network, data, settings, phase, quiet=quiet, watch=watch)
        history = pretraining.run(
            settings.seed, start=keeper.of_phase("pretrain"), keep=keeper.keep
        )
        z = training.embed(network, data)
    with stopwatch("initial_clusters"):
        points = tensors.points_of(z, _with_features(data, features, z))
        with console.status("finding the number of clusters", quiet=quiet):
            number = number.estimated_on(points, views.graph(adata), seed=settings.seed)
        with console.status("placing the initial clusters", quiet=quiet):
            initial, notes = initial_clusters(adata, z, points, number, settings)
    return Beginning(z, initial, number, notes, history)


def _moved(initial: np.ndarray, nearest: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the initial clusters (N,) but for the cells that the clustering phase has moved.

    `nearest` has the centre that was nearest to a cell before the phase, and `labels` the one that
    is after it. Where they are the same nothing was learned of the cell. The nearest centre alone
    knows neither that clusters are of unequal size nor how far each spreads, as the consensus does:
    to give each cell to it costs up to .07 of the ARI of large atlases (docs/speed.md).
    """
    return np.where(nearest == labels, initial, labels)


def _with_features(data: Any, features: np.ndarray | None, z: np.ndarray) -> Any:
    """Return the data of a run with features (N, P) beside z where cells are clustered."""
    import tensors

    if features is None:
        return data
    return data.with_components(tensors.scaled_components(features, z))


def initial_clusters(
    adata: ad.AnnData, z: np.ndarray, points: np.ndarray, number: Number, settings: Settings
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the labels (N,) from which the clustering phase starts, and what is said of them.

    Parameters
    ----------
    adata
        Prepared data.
    z
        Embedding by the pretrained network, shape (N, D).
    points
        What is clustered, shape (N, F).
    number
        The number of clusters C; labels that came with it are taken as they are.
    settings
        `init` names the method.
    """
    import clustering
    import views

    notes: dict[str, Any] = {}
    assert number.n_clusters is not None
    if number.labels is not None:
        labels = number.labels
    elif settings.init == "consensus":
        labels, agreement = views.consensus(
            adata,
            z,
            metric=settings.neighbour_metric,
            n_clusters=number.n_clusters,
            seed=settings.seed,
        )
        notes["agreement"] = round(agreement, 4)
        log.info("consensus of clusterings that agree with it by a mean ARI of %.2f", agreement)
    elif settings.init == "kmeans":
        labels = clustering.kmeans(points, n_clusters=number.n_clusters, seed=settings.seed)
    else:
        graph = views.graph(adata)
        labels = clustering.spectral(graph, n_clusters=number.n_clusters, seed=settings.seed)
    if (found := len(np.unique(labels))) < number.n_clusters:
        name = settings.init
        log.warning("warning: %s found %d clusters, not %d", name, found, number.n_clusters)
    return labels, notes
