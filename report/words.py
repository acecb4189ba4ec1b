"""The sentences of the page: what was run on what, what came out, and the methods to cite.

`CITATION` says what CITATION.cff has; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from report.content import Content

CITATION = (
    "Yu Z, Lu Y, Wang Y, Tang F, Wong K-C, Li X. ZINB-Based Graph Embedding Autoencoder for "
    "Single-Cell RNA-Seq Interpretations. Proceedings of the AAAI Conference on Artificial "
    "Intelligence 36(4), 4671-4679 (2022). doi:10.1609/aaai.v36i4.20392"
)
DOI = "https://doi.org/10.1609/aaai.v36i4.20392"
AGREEMENT = 0.7  # of the consensus; docs/outputs.md says what less means

GENE_SELECTION = {
    "pearson": "the largest variance of analytic Pearson residuals",
    "seurat": "the largest normalised dispersion (scanpy's flavour seurat)",
    "seurat_v3": "the largest standardised variance (scanpy's flavour seurat_v3)",
    "cell_ranger": "the largest normalised dispersion (scanpy's flavour cell_ranger)",
}
RECONSTRUCTION = {
    "zinb": "a zero-inflated negative binomial distribution of the {target}",
    "nb": "a negative binomial distribution of the counts",
    "mse": "the z-scores, by their mean squared error",
}
INITIAL = {
    "consensus": "a consensus of clusterings of random halves of the genes",
    "kmeans": "K-means of what is clustered",
    "spectral": "spectral clustering of the graph",
}
MIXING = {
    "ilisi": "iLISI, batches in the neighbourhood of a cell (1: one alone)",
    "silhouette": "batch silhouette (1: mixed, 0: apart)",
}


def count(number: int, thing: str) -> str:
    """Return a number with its noun, in the plural unless it is one: "1,886 cells"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(parts: Sequence[str]) -> str:
    """Return parts as a list in a sentence: "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def program(content: Content) -> str:
    """Return what clustered the cells: scTAG, or the rival that the settings name."""
    method = content.settings.get("method")
    return f"the baseline {method}" if method else "scTAG"


def summary(content: Content) -> list[str]:
    """Return sentences that say what was run, on what, and what came out."""
    metrics, settings = content.metrics, content.settings
    who = program(content)
    variant = " (variant official)" if settings.get("variant") == "official" else ""
    used = len(set(content.codes[content.codes >= 0].tolist()))
    sentences = [
        f"{who[0].upper() + who[1:] if who != 'scTAG' else who}{variant} sorted the "
        f"{count(content.n_cells, 'cell')} of {content.name} into {count(used, 'cluster')}. "
        f"{_number(content)}"
    ]
    read = content.source.get("genes")
    if read is not None and "genes" in metrics and not settings.get("method"):
        sentences.append(
            f"Of {count(read, 'gene')} in the file the network read the "
            f"{metrics['genes']:,} most variable."
        )
    scores = metrics.get("scores")
    if scores:
        sentences.append(
            f"Against the known labels the clusters have an ARI of {scores['ARI']:.2f}, an NMI of "
            f"{scores['NMI']:.2f} and an accuracy of {scores['ACC']:.2f} (1 is perfect; an ARI of "
            "0 is what chance gives). The labels were used for this score"
            + (
                " and for the number of clusters, never in training."
                if metrics.get("n_clusters_source") == "of the labels"
                else " only."
            )
        )
    if (agreement := metrics.get("agreement")) is not None:
        verdict = "a stable result" if agreement >= AGREEMENT else "trust the clusters less"
        sentences.append(
            f"Clusterings of random halves of the genes agree with the consensus by a mean ARI of "
            f"{agreement:.2f}: {verdict}."
        )
    if content.uncertain is not None and (n_uncertain := int(sum(content.uncertain))):
        share = n_uncertain / content.n_cells
        verb = "lies" if n_uncertain == 1 else "lie"
        sentences.append(f"{count(n_uncertain, 'cell')} ({share:.0%}) {verb} between clusters.")
    if seconds := metrics.get("seconds", {}).get("total"):
        sentences.append(f"The run took {duration(seconds)}.")
    return sentences


def _number(content: Content) -> str:
    """Return a sentence on where the number of clusters is from."""
    source = content.metrics.get("n_clusters_source")
    if content.estimate is not None:
        named = sorted(content.estimate.criteria.values())
        return (
            f"Their number was estimated: {content.estimate.n_clusters} is the median of five "
            f"criteria, which name {named[0]} to {named[-1]}."
        )
    if source == "of the labels":
        return "There are as many as known labels."
    if source == "given":
        return "Their number was given."
    return f"Their number is from {source}." if source else ""


def duration(seconds: float) -> str:
    """Return a time in words: "52 seconds", "12.5 minutes", "3.1 hours"."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def medians(content: Content) -> str:
    """Return which columns of the table of clusters are medians: "Probability and depth"."""
    optional = {
        "probability": content.proba,
        content.depth_name: content.depth,
        "mitochondrial share": content.mito,
    }
    text = listed([name for name, values in optional.items() if values is not None])
    return text[:1].upper() + text[1:]


def methods(content: Content) -> str:
    """Return a paragraph for the methods section of a paper, with what the settings decide."""
    settings, metrics = content.settings, content.metrics
    if settings.get("method"):
        return (
            f"{count(content.n_cells, 'cell')} were clustered by the method {settings['method']} "
            f"of the scTAG suite (version {content.version}), on the data as it prepares them for "
            f"scTAG (seed {settings['seed']}). {_environment(content.environment)}"
        )
    parts = [
        f"{count(content.n_cells, 'cell')} were clustered with scTAG (Yu et al. 2022), a graph "
        f"autoencoder, as implemented in the scTAG suite (version {content.version}, variant "
        f"{settings['variant']}, seed {settings['seed']}).",
        _preparation(settings, metrics),
        _network(settings),
        _clustering(content),
        _environment(content.environment),
    ]
    return " ".join(parts)


def _preparation(settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return how counts became what the network reads."""
    rare = settings["min_cells"]
    filtered = f"Genes with counts in fewer than {rare} cells were left out. " if rare > 1 else ""
    clip = "" if settings["clip"] is None else f", clipped to ±{settings['clip']:g}"
    views = f"{settings['n_pcs']} principal components of these z-scores"
    if settings["log_genes"]:
        views += (
            f", and those of the logarithms of the {settings['log_genes']:,} most variable genes"
        )
    metric = ""
    if settings["neighbour_metric"]:
        metric = ", in units of how far neighbours differ in each direction"
    batches = ""
    if settings.get("batch_key"):
        batches = (
            f" The components were corrected for batches ({settings['batch_key']}) by Harmony."
        )
    return (
        f"{filtered}Counts were divided by the size factor of the cell (its depth over the median "
        f"depth) and log-transformed; the {metrics['genes']:,} genes with "
        f"{GENE_SELECTION[settings['gene_selection']]} were scaled to z-scores{clip}. Each cell "
        f"was joined to its {settings['k_neighbors']} nearest neighbours (itself among them) by "
        f"the {views}{metric}.{batches}"
    )


def _network(settings: Mapping[str, Any]) -> str:
    """Return what the network is, and what it must reproduce."""
    target = "counts" if settings["zinb_target"] == "counts" else "z-scores"
    counts = RECONSTRUCTION[settings["reconstruction"]].format(target=target)
    return (
        f"Topology-adaptive graph convolutions ({count(settings['hops'], 'hop')}, width "
        f"{settings['hidden_dim']}) embedded each cell in {settings['latent_dim']} dimensions, "
        f"from which one decoder reproduced {counts} (weight {settings['w_zinb']:g}) and another "
        f"the graph (weight {settings['w_adj']:g})."
    )


def _clustering(content: Content) -> str:
    """Return how the clusters began and how they were trained."""
    settings, metrics = content.settings, content.metrics
    epochs = metrics.get("epochs", {})
    number = {"given": "as given", "of the labels": "the number of known labels"}.get(
        str(metrics.get("n_clusters_source")), f"{metrics.get('n_clusters_source')}"
    )
    if content.estimate is not None:
        number = "the median of five criteria"
    start = INITIAL[settings["init"]]
    if settings["resolution"] is not None:
        start = f"Leiden's method at resolution {settings['resolution']:g}"
    clustered = "the embedding"
    if settings["cluster_on"] == "joint":
        clustered += ", joined with the principal components,"
    text = (
        f"After {count(epochs.get('pretrain', 0), 'epoch')} of pretraining, the "
        f"{metrics['n_clusters']} clusters ({number}) of {clustered} began as {start}"
    )
    if epochs.get("cluster"):
        direction = {"pq": "KL(p || q)", "qp": "KL(q || p)"}[settings["kl"]]
        text += (
            f" and were trained for {count(epochs['cluster'], 'epoch')} by the "
            f"divergence {direction} (weight {settings['w_kl']:g})"
        )
    return text + "."


def _environment(environment: Mapping[str, Any]) -> str:
    """Return which packages computed the result."""
    versions = environment.get("versions", {})
    names = {"tensorflow": "TensorFlow", "scanpy": "scanpy", "scikit-learn": "scikit-learn"}
    known = [f"{name} {versions[key]}" for key, name in names.items() if versions.get(key)]
    return f"Software: {listed(known)}." if known else ""


def split_sentences(content: Content) -> list[str]:
    """Return a sentence for each row of the table of splits."""
    if content.splits is None:
        return []
    sentences = []
    for row in content.splits.itertuples():
        first, second = (f"{size:,}" for size in row.cells)
        if row.change == "join":
            one, other = row.clusters
            sentences.append(
                f"join {one} ({first} cells) and {other} ({second}): the spread within clusters "
                f"rises by {row.share:.1%} of the total"
            )
        else:
            sentences.append(
                f"split {row.clusters[0]} into {first} and {second} cells: the spread within "
                f"clusters falls by {row.share:.1%} of the total"
            )
    return sentences
