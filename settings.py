"""Every setting of a run, declared once: its type, default, bounds and the sentence of `--help`.

A setting is a field of the group of settings that uses it, and `Settings` is all groups together.
Everything else that concerns a flag is derived from its declaration: the command line and its help
(`command.py`), the defaults of both variants, and which flags the rivals and the benchmark accept.
The settings of what is read, and of how it is prepared, are those of `data_settings.py`.
Nothing slow is imported here, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import utils
from data_settings import Preparation, Selection, Source
from declare import Spec, check_values, setting, specs_of
from utils import InputError

VARIANTS = ("sctag", "official")
# Names that settings had in earlier versions, and have now; commands and records still accept them.
RENAMED: dict[str, str] = {}
# Flags of earlier versions that are gone, and the one value that still says what is done.
RETIRED = {"restarts": "1", "networks": "1"}

# Cells up to which each step of training has all of them, and cells of a step of more.
WHOLE_CELLS, BATCH_CELLS = 8_000, 2_048

_run = partial(setting, group="run", stage="run")
_model = partial(setting, group="model", stage="model")
_training = partial(setting, group="training", stage="training")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where results go, how much is printed, and what is true of the whole run."""

    out: Path | None = _run(
        None, "folder of the results", shown="results/NAME/{run_name}-seedS", neutral=True
    )
    overwrite: bool = _run(
        False, "replace results that are already there", switch=True, neutral=True
    )
    resume: bool = _run(
        False,
        "go on with a run that was stopped or killed, from its last checkpoint; without one the "
        "run starts anew",
        switch=True,
        stage="training",
        neutral=True,
    )
    checkpoint_minutes: float = _run(
        5.0,
        "minutes between two checkpoints of the training, from which --resume goes on; 0 for never",
        low=0,
        stage="training",
        neutral=True,
    )
    no_h5ad: bool = _run(
        False,
        "write neither sctag.h5ad nor prepared.h5ad (which new cells need): where labels are all "
        "that is wanted",
        switch=True,
        stage="training",
        neutral=True,
    )
    no_report: bool = _run(
        False,
        "make no report.html and what it shows: UMAP, markers of the clusters, figures",
        switch=True,
        stage="training",
        neutral=True,
    )
    denoised: bool = _run(
        False,
        "write denoised.h5ad: what the count decoder expects of each cell and gene of the network, "
        "and the probability of a dropout",
        switch=True,
        stage="training",
        neutral=True,
    )
    markers: Path | None = _run(
        None,
        "list of marker genes, .csv, .tsv or .gmt, by which cell types are suggested for clusters",
        metavar="FILE",
        shown="none are suggested",
        stage="training",
    )
    tensorboard: Path | None = _run(
        None,
        "folder to which the losses of both phases are written while they run, for TensorBoard; "
        "one for each run",
        metavar="DIR",
        stage="training",
        neutral=True,
    )
    quiet: bool = _run(False, "print the last line and warnings only", switch=True, neutral=True)
    log_file: Path | None = _run(
        None,
        "append all lines to this file, each with its time, also with --quiet and when the run "
        "fails",
        metavar="FILE",
        neutral=True,
    )
    gpu_option: str | None = _run(
        None,
        "GPU to use, as in CUDA_VISIBLE_DEVICES; -1 for none",
        shown="CUDA_VISIBLE_DEVICES if set, else 0",
        stage="training",
        neutral=True,
    )
    strategy: str = _run(
        "auto",
        "which devices share the steps of --batch_cells: one; mirrored, the GPUs that are visible; "
        "multiworker, those of all processes that TF_CONFIG or SLURM names; or auto, mirrored "
        "where --gpu_option or CUDA_VISIBLE_DEVICES names several GPUs",
        choices=("auto", "one", "mirrored", "multiworker"),
        stage="training",
    )
    seed: int = _run(1, "seed of everything random", low=0, below=2**32)
    variant: str = _run(
        "sctag",
        "sctag: the method done right; official: the published code to the letter; sets the "
        "defaults of other flags, nothing else",
        choices=VARIANTS,
        shown="sctag",
    )


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of the network; see `model.SCTAG`."""

    hops: int = _model(1, "hops H of each graph convolution", official=3, low=1)
    tag_blocks: str = _model(
        "powers",
        "what the hops read: powers [X, AX, A^2X, ...] or, as published, repeated [X, AX, AX, ...]",
        official="repeated",
        choices=("powers", "repeated"),
    )
    direction: str = _model(
        "ax",
        "ax: a cell averages those it lists; atx: it sums those that list it (spektral >= 1.0); "
        "on a symmetric graph they are the same",
        choices=("ax", "atx"),
    )
    hidden_dim: int = _model(128, "width of the first graph convolution", low=1)
    latent_dim: int = _model(15, "size of the embedding", low=1)
    decoder_dims: list[int] = _model(
        [128, 256, 512], "hidden widths of the count decoder", low=1, metavar="INT"
    )
    dropout: float = _model(
        0.2, "dropout rate of the input in training", official=0.0, low=0, below=1
    )
    precision: str = _model(
        "float32",
        "mixed_bfloat16 makes the large products in bfloat16, for GPUs with tensor cores; on a CPU "
        "it is slower; weights and losses are float32 in both",
        choices=("float32", "mixed_bfloat16"),
    )


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What training lowers; see `whole_graph.step_losses`."""

    reconstruction: str = _model(
        "zinb",
        "what the count decoder is trained by: the ZINB or, to see what it is worth, a negative "
        "binomial without zero inflation (nb), or the mean squared error of the z-scores (mse)",
        choices=("zinb", "nb", "mse"),
    )
    zinb_target: str = _model(
        "counts",
        "what the ZINB is fitted to: counts, with the mean scaled by the size factor, or z-scores",
        official="scaled",
        choices=("counts", "scaled"),
    )
    zinb_clip: str = _model(
        "return",
        "a mean or dispersion beyond its bounds gets a gradient where that leads back (return) or, "
        "as published, never (stop)",
        official="stop",
        choices=("return", "stop"),
    )
    graph_loss: str = _model(
        "jaccard",
        "what the graph decoder is trained by: the mean squared error over all pairs of cells, as "
        "published, or how well it tells neighbours, by the share of neighbours that they have in "
        "common, from random pairs",
        official="mse",
        choices=("mse", "jaccard"),
    )
    w_adj: float = _training(0.1, "weight of the graph's reconstruction loss", official=0.3, low=0)
    w_zinb: float = _training(
        1.0, "weight of the ZINB loss, or of the squared error in its place", low=0
    )
    w_kl: float = _training(1.5, "weight of the KL loss", low=0)
    kl: str = _training(
        "pq", "pq: KL(p || q), as in DEC; qp: KL(q || p)", official="qp", choices=("pq", "qp")
    )


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """How many clusters there are, and the clusters from which the clustering phase starts."""

    n_clusters: int | str | None = _run(
        None,
        "number of clusters; `labels`: that of the distinct true labels; `auto`: estimated without "
        "them",
        low=2,
        words={"labels": "labels", "auto": "auto"},
        shown="labels if there are any, else auto",
        metavar="{labels,auto,INT}",
    )
    resolution: float | None = _run(
        None,
        "initial clusters, and so their number, from Leiden of the graph at this resolution, in "
        "place of --n_clusters and --init",
        stage="training",
        above=0,
    )
    init: str = _training(
        "consensus",
        "initial clusters: what many clusterings of random halves of the genes agree on, K-means "
        "of what is clustered, or spectral clustering of the graph",
        official="spectral",
        choices=("consensus", "kmeans", "spectral"),
    )
    cluster_on: str = _training(
        "joint",
        "what is clustered: the embedding, or the embedding joined with the principal components "
        "of the genes and of their logarithms",
        official="embedding",
        choices=("embedding", "joint"),
    )


@dataclass(frozen=True, kw_only=True)
class Training:
    """The two phases of training: pretraining, then clustering."""

    pretrain_epochs: int = _training(1000, "epochs of pretraining, at most", low=1)
    pretrain_lr: float = _training(
        3e-3, "learning rate of pretraining (Adam)", official=1e-4, above=0
    )
    pretrain_tol: float = _training(
        0.02,
        "stop pretraining when the mean loss of 25 epochs falls by less than this share; 0: never",
        official=0.0,
        low=0,
        below=1,
    )
    lr_schedule: str = _training(
        "constant",
        "learning rates of both phases: constant, or falling to 0 along a cosine at the last epoch "
        "allowed, for phases of fixed length (tolerances 0)",
        choices=("constant", "cosine"),
    )
    batch_cells: int | None = _training(
        None,
        "cells of a step of training, at most, drawn as parts of the graph; an epoch of the log, "
        "of history.csv and of the other flags is then such a step, not a pass over all cells",
        low=32,
        shown=f"all cells up to {WHOLE_CELLS}, else {BATCH_CELLS}",
    )
    maxiter: int = _training(
        300,
        "epochs of the clustering phase, at most; 0 leaves it out: the initial clusters stay",
        low=0,
    )
    cluster_lr: float = _training(5e-4, "learning rate of the clustering phase (Adam)", above=0)
    cluster_tol: float = _training(
        0.005,
        "stop clustering when 3 updates of p in a row change less than this share of the labels, "
        "times the root of the steps of a pass; 0: never",
        official=0.0,
        low=0,
        below=1,
    )
    update_interval: int = _training(
        8, "epochs between two updates of p; with --batch_cells at least a quarter of a pass", low=1
    )
    train_centers: bool = _training(
        True, "train the cluster centres with the network", official=False
    )
    final_labels: str = _training(
        "final",
        "labels from the q of the final weights, or of the last refresh of p",
        official="refresh",
        choices=("final", "refresh"),
    )


@dataclass(frozen=True, kw_only=True)
class Settings(
    Training, Initialisation, Objective, Architecture, Preparation, Run, Selection, Source
):
    """All that decides a run: every group of settings in one value.

    `Settings()` has the defaults of the variant "sctag"; `Settings.of` those of either variant, and
    checks what it is given. A function that needs one group declares it by that group's type and
    takes the settings as they are.
    """

    @classmethod
    def of(cls, variant: str = "sctag", **given: Any) -> Settings:
        """Return the settings of a variant with some of them given.

        Raises
        ------
        InputError
            If a name is no setting, or a value is of the wrong type or out of bounds.
        """
        given = {RENAMED.get(name, name): value for name, value in given.items()}
        checked = check_values(specs(), given | {"variant": variant})
        return cls(**(defaults(variant) | checked))

    @property
    def name(self) -> str:
        """What the data are called in the results: `dataname`, or the file's own name.

        Several files have the name of the first and the number of the others: "A+2". Raises
        InputError for a `dataname` that leads out of the folder of the data, and so of the results.
        """
        if self.data is None:
            if Path(self.dataname).is_absolute() or ".." in Path(self.dataname).parts:
                raise InputError(
                    f"--dataname {self.dataname} is a path, not the name of a data set: give the "
                    "file with --data"
                )
            return self.dataname
        first, *others = utils.data_names(self.data)
        return f"{first}+{len(others)}" if others else first

    @property
    def out_dir(self) -> Path:
        """Where the run's files go: `out`, or results/NAME/VARIANT-seedS."""
        return self.out or Path("results", self.name, f"{self.variant}-seed{self.seed}")

    def to_json(self) -> dict[str, Any]:
        """Return the settings by name, as types that JSON has; a single path of data as text."""
        values = dataclasses.asdict(self)
        if self.data is not None:
            paths = [str(path) for path in self.data]
            values["data"] = paths if len(paths) > 1 else paths[0]
        return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


@cache
def specs() -> dict[str, Spec]:
    """Return the declaration of each setting by name, in the order of its group."""
    return specs_of(Settings)


def defaults(variant: str) -> dict[str, Any]:
    """Return the default of every setting in a variant."""
    values = {name: spec.default_in(variant) for name, spec in specs().items()}
    return values | {"variant": variant}


def used_by(*stages: str) -> list[str]:
    """Return the names of the settings that one of these stages reads."""
    return [name for name, spec in specs().items() if spec.stage in stages]
