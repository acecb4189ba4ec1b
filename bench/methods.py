"""Methods of the benchmark, each written as a word or a word with flags: "sctag hops=1 kl=qp".

The words are the methods of `baselines.py` and the variants of `train.py`. A flag is NAME=VALUE,
where the value is yes or no if the command has --NAME and --no-NAME, and has commas between its
items if it is a list.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import baselines
import command
import settings
from settings import RENAMED
from utils import InputError

log = logging.getLogger("sctag")

OWN = ("official", "sctag")  # the methods that `train.py` runs
# The flags that the benchmark sets itself.
RESERVED = (
    "dataname",
    "data",
    "data_dir",
    "out",
    "overwrite",
    "quiet",
    "seed",
    "variant",
    "n_clusters",
    "round_counts",
)
# The flags of one data set; the benchmark compares methods on all cells of many.
OF_ONE_DATA_SET = ("labels", "cells", "subset")

# Ready-made ablations by what they change; each is compared with `sctag` itself.
ABLATIONS: dict[str, dict[str, str]] = {
    "hops": {
        "sctag hops=2": "two hops",
        "sctag hops=3": "three hops",
        "sctag hops=4": "four hops",
        "sctag hops=3 tag_blocks=repeated": "the published blocks [X, AX, AX, AX]",
    },
    "counts": {
        "sctag zinb_target=scaled": "ZINB of the z-scores, as published",
        "sctag reconstruction=mse": "squared error of the z-scores instead of a ZINB",
        "sctag zinb_clip=stop": "no way back from a bound of the ZINB, as published",
    },
    "losses": {
        "sctag w_adj=0": "without the graph's reconstruction",
        "sctag graph_loss=mse w_adj=0.3": "the graph's squared error over all pairs, as published",
        "sctag maxiter=0": "without the KL phase: the initial clusters",
        "sctag kl=qp": "KL(q || p), as published",
        "sctag w_kl=10": "a KL loss of weight 10 in place of 1.5",
    },
    "centres": {
        "sctag train_centers=no": "centres that do not train, as published",
        "sctag init=spectral": "initial clusters from the graph, as published",
        "sctag init=kmeans": "initial clusters by K-means of what is clustered",
    },
    "clustered": {
        "sctag cluster_on=embedding": "the embedding alone, as published",
        "sctag final_labels=refresh": "labels of the last refresh of p, as published",
        "sctag latent_dim=32": "an embedding of 32 dimensions in place of 15",
    },
    "graph": {
        "sctag symmetric_graph=no": "a directed graph, as published",
        "sctag symmetric_graph=no direction=atx": "directed, and A^T X, as in spektral since 1.0",
        "sctag k_neighbors=8": "8 neighbours",
        "sctag k_neighbors=30": "30 neighbours",
        "sctag neighbour_metric=no": "Euclidean distances, as published",
    },
    "input": {
        "sctag dropout=0": "without dropout, as published",
        "sctag clip=none": "z-scores without bounds, as published",
        "sctag n_pcs=50": "50 principal components in place of 20, as published",
        "sctag gene_selection=seurat": "genes chosen as published",
        "sctag log_genes=0": "one view of the genes, as published",
        "sctag highly_genes=1000": "1000 genes",
        "sctag highly_genes=2000": "2000 genes",
    },
    "training": {
        "sctag pretrain_lr=0.0001": "learning rate of pretraining as published",
        "sctag pretrain_tol=0 cluster_tol=0": "all 1000 + 300 epochs, as published",
    },
}


def command_flags(method: str) -> list[str]:
    """Return the flags of a method as its command takes them.

    "sctag hops=1 train_centers=no decoder_dims=64,128" gives --hops 1 --no-train_centers
    --decoder_dims 64 128.
    """
    flags = []
    for flag in method.split()[1:]:
        name, _, value = flag.partition("=")
        if value in ("yes", "no"):
            flags.append(f"--{name}" if value == "yes" else f"--no-{name}")
        else:
            flags += [f"--{name}", *value.split(",")]
    return flags


def flag_names(method: str) -> list[str]:
    """Return the names of the settings that a method's flags change."""
    return [flag.partition("=")[0] for flag in method.split()[1:]]


def present_name(method: str) -> str:
    """Return the method with each flag under its present name, see settings.RENAMED."""
    word, *flags = method.split(" ")
    return " ".join([word, *map(_present_flag, flags)])


def _present_flag(flag: str) -> str:
    name, equals, value = flag.partition("=")
    return RENAMED.get(name, name) + equals + value


def present_settings(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a run has recorded, under their present names."""
    return {RENAMED.get(name, name): value for name, value in recorded.items()}


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Check a method and look up its settings.

    Parameters
    ----------
    text
        The method as a user writes it, perhaps with several spaces or a flag's former name.

    Returns
    -------
    method
        Its name everywhere else: single spaces, present names of the flags.
    settings
        Every setting that it runs with, as JSON types.

    Raises
    ------
    InputError
        If its command would refuse the word or a flag, if the benchmark itself sets the flag, or
        if the method needs scvi-tools, which is not installed.
    """
    method = present_name(" ".join(text.split()))
    word, *flags = method.split(" ")
    if word not in (*OWN, *baselines.METHODS):
        known_words = ", ".join((*baselines.METHODS, *OWN))
        raise InputError(f"there is no method {word!r}, choose from: {known_words}")
    known_flags = list(settings.specs())
    if word not in OWN:
        known_flags = settings.used_by(*baselines.STAGES)
    fault = _fault(word, flags, known_flags)
    if fault:
        raise InputError(f"method {method!r}: {fault}")
    if needs_scvi(method) and not has_scvi():
        raise InputError(f"{method} needs scvi-tools: `pip install scvi-tools`, or leave it out")
    return method, _settings(word, method)


def _fault(word: str, flags: Sequence[str], known: Sequence[str]) -> str | None:
    """Return what is wrong with the form or the names of a method's flags; None if nothing is.

    The values are left to the command's own parser. `known` has the names that the command takes.
    """
    names = set()
    for flag in flags:
        name = flag.partition("=")[0]
        if name in RESERVED:
            return f"the benchmark itself sets {name}"
        if name in OF_ONE_DATA_SET:
            return f"{name} is for a single data set, and a method runs on all of them"
        if not re.fullmatch(r"[a-z_]+=[\w.,-]+", flag):
            return f"{flag!r} is not NAME=VALUE"
        if name not in known:
            near = difflib.get_close_matches(name, set(known) - set(RESERVED), n=1)
            return f"{word} has no flag {name}" + (f", did you mean {near[0]}?" if near else "")
        if name in names:
            return f"{name} is given twice"
        names.add(name)
    return None


def _settings(word: str, method: str) -> dict[str, Any]:
    """Return the settings of a method, from the parser of its own command.

    Raises InputError with the parser's message if it refuses a flag.
    """
    message, flags = io.StringIO(), command_flags(method)
    try:
        with contextlib.redirect_stderr(message):
            if word in OWN:
                return command.parse_settings(["--variant", word, *flags]).to_json()
            name, parsed = baselines.parse(["--method", word, *flags])
            return parsed.to_json() | {"method": name}
    except SystemExit:
        reason = message.getvalue().strip().partition("error: ")[2].removesuffix(" (see --help)")
        raise InputError(f"method {method!r}: {reason}") from None


def described(method: str) -> str:
    """Return what a ready-made ablation changes, in words; an empty text for other methods."""
    return next((group[method] for group in ABLATIONS.values() if method in group), "")


def needs_n_clusters(method: str) -> bool:
    """Return whether the method takes a number of clusters; with a resolution flag it does not."""
    if "resolution" in flag_names(method):
        return False
    word = method.split()[0]
    return word in OWN or baselines.METHODS[word].needs_k


def has_scvi() -> bool:
    """Return whether the optional package scvi-tools is installed, without importing it."""
    return importlib.util.find_spec("scvi") is not None


def needs_scvi(method: str) -> bool:
    """Return whether the method runs on the optional package scvi-tools."""
    word = method.split()[0]
    return word not in OWN and baselines.METHODS[word].needs_scvi


def in_order(methods: Iterable[str]) -> list[str]:
    """Return the different methods in the order of the report's tables.

    Rivals come first, as `baselines.METHODS` lists them, then our own, each followed by its
    variations.
    """
    rank = {word: i for i, word in enumerate((*baselines.METHODS, *OWN))}
    return sorted(set(methods), key=lambda m: (rank.get(m.split()[0], -1), " " in m, m))


def default_methods() -> list[str]:
    """Return all rivals that are installed, then our own; the log names those left out."""
    absent = [] if has_scvi() else [name for name in baselines.METHODS if needs_scvi(name)]
    if absent:
        log.info("left out  %s: scvi-tools is not installed", ", ".join(absent))
    return [name for name in (*baselines.METHODS, *OWN) if name not in absent]
