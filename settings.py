"""Every setting of a run: its flag, its one sentence, its default in each variant, its bounds.

Nothing slow is imported here, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

VARIANTS: dict[str, dict[str, Any]] = {
    # The method done right, with the choices that our own measurements favour (README, "Variants").
    "sctag": {
        "round_counts": False,
        "gene_selection": "pearson",
        "clip": 10.0,
        "k_neighbors": 15,
        "n_pcs": 20,
        "hops": 1,
        "tag_blocks": "powers",
        "dropout": 0.2,
        "zinb_target": "counts",
        "zinb_clip": "return",
        "kl": "pq",
        "train_centers": True,
        "cluster_on": "joint",
        "init": "kmeans",
        "symmetric_graph": True,
        "restarts": "auto",
        "final_labels": "final",
        "pretrain_lr": 3e-3,
        "cluster_lr": 5e-4,
        "pretrain_tol": 0.02,
        "cluster_tol": 0.005,
    },
    # The published code to the letter.
    "official": {
        "round_counts": True,
        "gene_selection": "seurat",
        "clip": None,
        "k_neighbors": 15,
        "n_pcs": 50,
        "hops": 3,
        "tag_blocks": "repeated",
        "dropout": 0.0,
        "zinb_target": "scaled",
        "zinb_clip": "stop",
        "kl": "qp",
        "train_centers": False,
        "cluster_on": "embedding",
        "init": "spectral",
        "symmetric_graph": False,
        "restarts": 1,
        "final_labels": "refresh",
        "pretrain_lr": 1e-4,
        "cluster_lr": 5e-4,
        "pretrain_tol": 0.0,
        "cluster_tol": 0.0,
    },
}
DEFAULT_VARIANT = "sctag"
# `--restarts auto`: few cells are where another start changes most and costs least.
FEW_CELLS, RESTARTS_OF_FEW = 1000, 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides a run; one field for each flag, documented by `--help`."""

    dataname: str
    data: Path | None
    data_dir: Path
    layer: str | None
    label_key: str | None
    round_counts: bool
    out: Path | None
    overwrite: bool
    quiet: bool
    gpu_option: str
    precision: str
    seed: int
    variant: str
    n_clusters: int | str | None
    resolution: float | None
    highly_genes: int
    gene_selection: str
    clip: float | None
    k_neighbors: int
    n_pcs: int
    exact_knn_cells: int
    symmetric_graph: bool
    hops: int
    tag_blocks: str
    direction: str
    hidden_dim: int
    latent_dim: int
    decoder_dims: list[int]
    dropout: float
    zinb_target: str
    zinb_clip: str
    reconstruction: str
    w_adj: float
    w_zinb: float
    w_kl: float
    pretrain_epochs: int
    pretrain_lr: float
    pretrain_tol: float
    restarts: int | str
    lr_schedule: str
    init: str
    cluster_on: str
    maxiter: int
    cluster_lr: float
    cluster_tol: float
    update_interval: int
    kl: str
    train_centers: bool
    final_labels: str

    @property
    def name(self) -> str:
        """What the data are called in the results: --dataname, or the file's own name."""
        if self.data is None:
            return self.dataname
        is_published = self.data.name == "data.h5"
        return self.data.resolve().parent.name if is_published else self.data.stem

    @property
    def out_dir(self) -> Path:
        """Where the run's files go: --out, or results/NAME/VARIANT-seedS."""
        return self.out or Path("results", self.name, f"{self.variant}-seed{self.seed}")

    def n_restarts(self, n_cells: int) -> int:
        """How many networks are pretrained on so many cells."""
        if self.restarts != "auto":
            return self.restarts
        return RESTARTS_OF_FEW if n_cells <= FEW_CELLS else 1

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON types."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of printing the whole usage first."""

    def error(self, message: str) -> NoReturn:
        """Print one sentence and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


class _Refused(argparse.Action):
    """A flag that exists, but not for this program: using it is an error that says why."""

    def __init__(self, *args: Any, why: str, **kwargs: Any) -> None:
        super().__init__(*args, nargs="*", help=argparse.SUPPRESS, **kwargs)
        self.why = why

    def __call__(self, parser, namespace, values, option_string=None) -> NoReturn:
        parser.error(f"{option_string} {self.why}")


def number(kind: type, low: float, *, below: float = float("inf"), strict: bool = False):
    """An argparse type: a finite number of `kind`, >= low (> low, if `strict`) and < below.

    Text that is none raises argparse.ArgumentTypeError with half a sentence.
    """
    bound = f"above {low:g}" if strict else f"at least {low:g}"
    if below != float("inf"):
        bound += f" and below {below if kind is int else format(below, 'g')}"
    noun = "a whole number" if kind is int else "a number"

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun}") from None
        # `not` around the condition refuses NaN too.
        if not ((value > low if strict else value >= low) and value < below):
            raise argparse.ArgumentTypeError(f"must be {bound}, not {text}")
        return value

    return parse


def _or_word(word: str, meaning: Any, parse):
    """An argparse type: the word itself, standing for `meaning`, or what `parse` accepts."""

    def parse_or_word(text: str):
        return meaning if text == word else parse(text)

    return parse_or_word


_COUNT = number(int, 1)
SEED = number(int, 0, below=2**32)
_WEIGHT = number(float, 0.0)
_RATE = number(float, 0.0, strict=True)
_SHARE = number(float, 0.0, below=1.0)


def _describe_default(name: str, common: Any) -> str:
    """The default as `--help` shows it: one value, or one for each variant."""
    show = {True: "yes", False: "no", None: "none"}

    def text(value: Any) -> str:
        if isinstance(value, list):
            return " ".join(map(str, value))
        return show[value] if isinstance(value, bool) or value is None else f"{value}"

    by_variant = {v: text(d[name]) for v, d in VARIANTS.items() if name in d}
    if not by_variant:
        return text(common)
    if len(set(by_variant.values())) == 1:
        return next(iter(by_variant.values()))
    return ", ".join(f"{value} in {variant}" for variant, value in by_variant.items())


ALL = frozenset(field.name for field in fields(Settings))


def build_parser(
    prog: str = "train.py",
    description: str = "Cluster single-cell RNA-seq counts with scTAG: a graph autoencoder with a "
    "ZINB decoder over the kNN graph of the cells.",
    *,
    run_name: str = "VARIANT",
    offered: Collection[str] = ALL,
    refusal: str = "is not for this program",
) -> argparse.ArgumentParser:
    """A program's flags; a flag whose default depends on the variant is absent until given.

    run_name: what comes before the seed in the name of the results folder, for --help.
    offered: the settings that the program has flags for. Any other one's flag is refused with a
    sentence that ends in `refusal`, and `--help` does not show it.
    """
    parser = Parser(
        prog=prog,
        description=description,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=100),
    )

    def flag(
        group,
        name: str,
        sentence: str,
        default: Any = None,
        shown: str | None = None,
        **kwargs: Any,
    ) -> None:
        if name not in offered:
            options = [f"--{name}", f"--no-{name}"][: 2 if kwargs.get("action") is YES_NO else 1]
            absent = argparse.SUPPRESS
            group.add_argument(*options, action=_Refused, why=refusal, dest=name, default=absent)
            return
        if any(name in defaults for defaults in VARIANTS.values()):
            default_of_parser = argparse.SUPPRESS
        else:
            default_of_parser = default
        if kwargs.get("action") == "store_true":
            default_of_parser = False
        else:
            sentence += f" (default: {shown or _describe_default(name, default)})"
        group.add_argument(f"--{name}", default=default_of_parser, help=sentence, **kwargs)

    _add_data_flags(flag, parser.add_argument_group("data"))
    _add_run_flags(flag, parser.add_argument_group("run"), run_name)
    _add_preparation_flags(flag, parser.add_argument_group("genes and graph"))
    _add_model_flags(flag, parser.add_argument_group("model"))
    _add_training_flags(flag, parser.add_argument_group("training"))
    return parser


YES_NO = argparse.BooleanOptionalAction


def _add_data_flags(flag, group) -> None:
    flag(
        group,
        "dataname",
        "read DATA_DIR/NAME/data.h5",
        "Quake_Smart-seq2_Limb_Muscle",
        metavar="NAME",
    )
    flag(
        group,
        "data",
        "read this file, an .h5ad or an .h5 of the published layout, instead of --dataname",
        type=Path,
        metavar="FILE",
    )
    flag(group, "data_dir", "where --dataname looks", Path("data"), type=Path)
    flag(group, "layer", "layer of an .h5ad that holds the counts, instead of X")
    flag(
        group,
        "label_key",
        "column of obs with the true labels, for the scores only; one that you name must be there",
        shown="cell_type1, if there",
    )
    flag(
        group,
        "round_counts",
        "round counts that are not whole up, as the published suite does, instead of refusing them",
        action=YES_NO,
    )


def _add_run_flags(flag, group, run_name: str) -> None:
    shown = f"results/NAME/{run_name}-seedS"
    flag(group, "out", "folder of the results", type=Path, shown=shown)
    flag(group, "overwrite", "replace results that are already there", action="store_true")
    flag(group, "quiet", "print the last line and warnings only", action="store_true")
    flag(group, "gpu_option", "GPU to use, as in CUDA_VISIBLE_DEVICES; -1 for none", "0")
    flag(
        group,
        "precision",
        "mixed_bfloat16 makes the large products in bfloat16, for GPUs with tensor cores; on a CPU "
        "it is slower; weights and losses are float32 in both",
        "float32",
        choices=["float32", "mixed_bfloat16"],
    )
    flag(group, "seed", "seed of everything random", 1, type=SEED)
    flag(
        group,
        "variant",
        "sctag: the method done right; official: the published code to the letter; sets the "
        "defaults of other flags, nothing else",
        DEFAULT_VARIANT,
        choices=list(VARIANTS),
    )
    flag(
        group,
        "n_clusters",
        "number of clusters; `labels`: that of the distinct true labels; `auto`: estimated without "
        "them",
        type=_or_word("labels", "labels", _or_word("auto", "auto", number(int, 2))),
        shown="labels if there are any, else auto",
        metavar="{labels,auto,INT}",
    )
    flag(
        group,
        "resolution",
        "initial clusters, and so their number, from Leiden of the graph at this resolution, in "
        "place of --n_clusters and --init",
        type=_RATE,
    )


def _add_preparation_flags(flag, group) -> None:
    flag(group, "highly_genes", "number of variable genes to keep", 500, type=_COUNT)
    flag(
        group,
        "gene_selection",
        "how variable genes are chosen (scanpy's methods)",
        choices=["seurat", "seurat_v3", "cell_ranger", "pearson"],
    )
    flag(
        group,
        "clip",
        "largest absolute z-score of a gene, or `none`",
        type=_or_word("none", None, _RATE),
    )
    flag(group, "k_neighbors", "neighbours of a cell in the graph, itself included", type=_COUNT)
    flag(group, "n_pcs", "principal components in which neighbours are sought", type=_COUNT)
    flag(
        group,
        "exact_knn_cells",
        "neighbours are exact in data of up to so many cells, approximate (pynndescent) beyond",
        30_000,
        type=number(int, 0),
    )
    flag(
        group,
        "symmetric_graph",
        "join two cells if either lists the other, instead of a directed graph",
        action=YES_NO,
    )


def _add_model_flags(flag, group) -> None:
    flag(group, "hops", "hops K of each graph convolution", type=_COUNT)
    flag(
        group,
        "tag_blocks",
        "what the hops read: powers [X, AX, A^2X, ...] or, as published, repeated [X, AX, AX, ...]",
        choices=["powers", "repeated"],
    )
    flag(
        group,
        "direction",
        "ax: a cell averages those it lists; atx: it sums those that list it (spektral >= 1.0); "
        "on a symmetric graph they are the same",
        "ax",
        choices=["ax", "atx"],
    )
    flag(group, "hidden_dim", "width of the first graph convolution", 128, type=_COUNT)
    flag(group, "latent_dim", "size of the embedding", 15, type=_COUNT)
    flag(
        group,
        "decoder_dims",
        "hidden widths of the count decoder",
        [128, 256, 512],
        type=_COUNT,
        nargs="+",
        metavar="INT",
    )
    flag(
        group,
        "dropout",
        "dropout rate of the input in training",
        type=_SHARE,
    )
    flag(
        group,
        "zinb_target",
        "what the ZINB is fitted to: counts, with the mean scaled by the size factor, or z-scores",
        choices=["counts", "scaled"],
    )
    flag(
        group,
        "zinb_clip",
        "a mean or dispersion beyond its bounds gets a gradient where that leads back (return) or, "
        "as published, never (stop)",
        choices=["return", "stop"],
    )
    flag(
        group,
        "reconstruction",
        "what the count decoder is trained by: the ZINB, or, to see what the ZINB is worth, the "
        "mean squared error of the z-scores",
        "zinb",
        choices=["zinb", "mse"],
    )


def _add_training_flags(flag, group) -> None:
    flag(group, "w_adj", "weight of the graph's reconstruction loss", 0.3, type=_WEIGHT)
    flag(
        group,
        "w_zinb",
        "weight of the ZINB loss, or of the squared error in its place",
        1.0,
        type=_WEIGHT,
    )
    flag(group, "w_kl", "weight of the KL loss", 1.5, type=_WEIGHT)
    flag(group, "pretrain_epochs", "epochs of pretraining, at most", 1000, type=_COUNT)
    flag(group, "pretrain_lr", "learning rate of pretraining (Adam)", type=_RATE)
    flag(
        group,
        "pretrain_tol",
        "stop pretraining when the mean loss of 25 epochs falls by less than this share; 0: never",
        type=_SHARE,
    )
    flag(
        group,
        "restarts",
        "networks pretrained from different weights, of which the one whose clusters are the most "
        f"distinct (silhouette) goes on; `auto`: {RESTARTS_OF_FEW} of up to {FEW_CELLS} cells, 1 "
        "of more",
        type=_or_word("auto", "auto", _COUNT),
        metavar="{auto,INT}",
    )
    flag(
        group,
        "lr_schedule",
        "learning rates of both phases: constant, or falling to 0 along a cosine at the last epoch "
        "allowed, for phases of fixed length (tolerances 0)",
        "constant",
        choices=["constant", "cosine"],
    )
    flag(
        group,
        "init",
        "initial clusters: K-means of what is clustered, or spectral clustering or Leiden of the "
        "graph",
        choices=["kmeans", "spectral", "leiden"],
    )
    flag(
        group,
        "cluster_on",
        "what is clustered: the embedding, or the embedding joined with the principal components "
        "that the graph is made of",
        choices=["embedding", "joint"],
    )
    flag(
        group,
        "maxiter",
        "epochs of the clustering phase, at most; 0 leaves it out: the initial clusters stay",
        300,
        type=number(int, 0),
    )
    flag(group, "cluster_lr", "learning rate of the clustering phase (Adam)", type=_RATE)
    flag(
        group,
        "cluster_tol",
        "stop clustering when 3 updates of p in a row change less than this share of the labels; "
        "0: never",
        type=_SHARE,
    )
    flag(group, "update_interval", "epochs between two updates of p", 8, type=_COUNT)
    flag(group, "kl", "pq: KL(p || q), as in DEC; qp: KL(q || p)", choices=["pq", "qp"])
    flag(group, "train_centers", "train the cluster centres with the network", action=YES_NO)
    flag(
        group,
        "final_labels",
        "labels from the q of the final weights, or of the last refresh of p",
        choices=["final", "refresh"],
    )


def parse_settings(argv: list[str] | None = None) -> Settings:
    """Flags to settings: what the user gave over the variant's defaults.

    Exits with status 2 and one sentence on stderr where a flag cannot be used.
    """
    given = vars(build_parser().parse_args(argv))
    return Settings(**(VARIANTS[given["variant"]] | given))
