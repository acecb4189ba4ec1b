"""The page of a run: its parts, its numbers, its escaping, and that it needs no network."""

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import scipy.sparse as sp
from matplotlib.image import imread

import estimation
from report import (
    Content,
    Report,
    alternatives,
    colours,
    figures,
    maps,
    numbers,
    page,
    static,
    words,
)
from settings import Settings

EVIL = "</script><script>document.documentElement.dataset.evil=1</script><!--<b>&amp;"
SECTIONS = (
    *("map", "sizes", "markers", "types", "labels", "batches", "training", "number", "settings"),
    "methods",
)


def run_content(n_cells=90, **changes) -> Content:
    """Content of a run of three clusters, with everything that a page can show."""
    rng = np.random.default_rng(0)
    codes = np.arange(n_cells) % 3
    umap = rng.normal(0, 0.4, (n_cells, 2)) + 3 * np.eye(3)[codes][:, :2]
    genes = [f"gene{i}" for i in range(12)]
    values = rng.poisson(0.4 + 4 * (np.arange(12) // 4 == codes[:, None]))
    proba = rng.dirichlet([1, 1, 1], n_cells)
    curves = [
        {"k": k, "dispersion": 9.0 / k, "calinski_harabasz": 8.0 - k, "stability": 0.1 * k}
        | {"prediction_strength": 1 - 0.1 * k}
        for k in range(2, 7)
    ]
    markers = [
        (str(c), rank, genes[4 * c + rank - 1], 9.5 - rank, 2.25, 0.912, 0.084, 1e-12)
        for c in range(3)
        for rank in (1, 2, 3, 4)
    ]
    columns = ["cluster", "rank", "gene", "score", "log2_fold_change", "share_in", "share_out"]
    clusters = pd.Categorical.from_codes(codes, [0, 1, 2])
    criteria = ("elbow", "calinski_harabasz", "stability", "prediction_strength", "spectrum")
    losses = {"total": 1.5, "adj": 0.25, "zinb": 1.0}
    content = Content(
        name="blood",
        version="0.3.0",
        settings=Settings.of(n_clusters=3).to_json(),
        source={"path": "blood.h5", "sha256": "abc", "cells": n_cells, "genes": 20},
        environment={"versions": {"tensorflow": "2.21.0"}, "machine": {"cores": 2}},
        metrics={
            "scores": {"ACC": 0.91, "NMI": 0.82, "ARI": 0.73, "macro_F1": 0.6},
            "n_clusters": 3,
            "n_clusters_source": "of the labels",
            "genes": 12,
            "agreement": 0.65,
            "epochs": {"pretrain": 2, "cluster": 1},
            "seconds": {"total": 754.0},
        },
        cells=np.array([f"cell{i}" for i in range(n_cells)]),
        clusters=clusters,
        proba=proba,
        uncertain=proba.max(axis=1) < 0.4,
        umap=umap,
        depth=rng.uniform(0.5, 2, n_cells),
        mito=rng.uniform(0, 0.2, n_cells),
        labels=pd.Series([None, *np.array(["B", "T", "NK"])[codes[1:]]]),
        batches=np.array(["one", "two"])[rng.integers(0, 2, n_cells)],
        logs=ad.AnnData(sp.csr_matrix(np.log1p(values)), var=pd.DataFrame(index=genes)),
        markers=pd.DataFrame(markers, columns=[*columns, "p_adjusted"]),
        suggestions=pd.DataFrame(
            {"cluster": ["0", "1"], "cell_type": ["B cell", "unclear"], "score": [1.25, 0.1]}
        ),
        estimate=estimation.Estimate(3, dict.fromkeys(criteria, 3), curves, [1.0, 0.9, 0.4]),
        splits=alternatives.alternatives(umap, clusters, seed=1),
        history=[
            {"phase": "pretrain", "epoch": 1, "kl": 0.0} | losses,
            {"phase": "pretrain", "epoch": 2, "kl": 0.0} | losses,
            {"phase": "cluster", "epoch": 1, "kl": 0.125} | losses,
        ],
        mixing={"before": {"ilisi": 1.25}, "after": {"ilisi": 1.75}},
        warnings=["Cluster 1 is mostly mitochondrial."],
    )
    return replace(content, **changes)


OPTIONAL = dict.fromkeys(
    (
        *("proba", "uncertain", "umap", "depth", "mito", "labels", "batches", "logs", "markers"),
        *("suggestions", "estimate", "splits", "mixing"),
    )
)


class Parsed(HTMLParser):
    """The tags of a page with their attributes, its scripts, and its text without them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text, self.comments = [], [], "", 0
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = self._in_script and tag != "script"

    def handle_comment(self, data):
        self.comments += 1

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def content():
    return run_content()


@pytest.fixture(scope="module")
def parsed(content):
    return Parsed(page.html(content))


def unpacked(array):
    return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"])


def entry(data, name):
    return next(entry for entry in data["map"]["entries"] if entry["name"] == name)


# --- The page -------------------------------------------------------------------------------------


def test_the_page_has_its_parts_in_order(parsed):
    ids = [attrs.get("id") for tag, attrs in parsed.tags if tag == "section"]
    assert [name for name in ids if name] == list(SECTIONS)
    text = " ".join(parsed.text.split())
    assert text.index("Cluster 1 is mostly mitochondrial.") < text.index(
        "scTAG sorted the 90 cells"
    )
    for part in ("0.73", "12.6 minutes", "highly_genes", "2.21.0", "1.75", "B cell", "1e-12"):
        assert part in text


def test_what_is_missing_is_left_out(content):
    bare = replace(content, **OPTIONAL, history=(), warnings=(), metrics={"n_clusters": 3})
    bare = replace(bare, settings={"method": "leiden", "seed": 1})
    parsed = Parsed(page.html(bare))
    ids = [attrs["id"] for tag, attrs in parsed.tags if tag == "section"]
    assert ids == ["sizes", "settings", "methods"]
    anchors = {attrs["href"] for tag, attrs in parsed.tags if tag == "a"}
    assert anchors == {"#sizes", "#settings", "#methods", words.DOI}
    assert parsed.data["figures"] == {}
    assert parsed.data["map"] is None
    assert "The baseline leiden sorted the 90 cells of blood into 3 clusters." in parsed.text


def test_clusters_without_markers_leave_the_rest(content):
    none = Parsed(page.html(replace(content, markers=content.markers[:0])))
    assert "markers" not in [attrs.get("id") for _, attrs in none.tags]
    some = content.markers[content.markers["cluster"] != "1"]
    drawn = Parsed(page.html(replace(content, markers=some))).data["figures"]["dots"]
    assert len(drawn["layout"]["yaxis"]["ticktext"]) == 6


def test_texts_of_the_data_are_inert(content, parsed):
    genes = [EVIL, *content.logs.var_names[1:]]
    logs = ad.AnnData(content.logs.X, var=pd.DataFrame(index=genes))
    evil = replace(
        content,
        name=EVIL,
        cells=np.array([EVIL, *content.cells[1:]]),
        clusters=content.clusters.rename_categories([EVIL, 1, 2]),
        labels=[EVIL, *content.labels[1:]],
        batches=[EVIL, *content.batches[1:]],
        logs=logs,
        markers=content.markers.replace({"gene": {"gene0": EVIL}, "cluster": {"0": EVIL}}),
        suggestions=content.suggestions.replace("B cell", EVIL),
        settings={**content.settings, "dataname": EVIL},
        source={"path": EVIL},
        warnings=[EVIL],
    )
    written = page.html(evil)
    read = Parsed(written)
    assert len(read.scripts) == 3
    assert read.comments == 0
    assert not [tag for tag, _ in read.tags if tag == "b"]
    assert EVIL in read.text
    assert entry(read.data, "Known label")["groups"].count(EVIL) == 1
    assert read.data["map"]["names"][0] == EVIL
    assert "<" not in read.scripts[0]
    assert "&" not in read.scripts[0]
    # Plotly reads its own texts as HTML: there the name is escaped once more
    ticks = read.data["figures"]["dots"]["layout"]["yaxis"]["ticktext"]
    assert html.unescape(ticks[0]) == EVIL
    assert "<" not in "".join(ticks)


def test_only_the_two_scripts_may_run_and_nothing_is_fetched(parsed):
    allowed = next(a["content"] for _, a in parsed.tags if "http-equiv" in a)
    for script in parsed.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in allowed
    assert allowed.startswith("default-src 'none'; ")
    assert "unsafe-inline" not in allowed.split("style-src")[0]
    for tag, attrs in parsed.tags:
        assert not {"src", "srcset", "action", "data"} & attrs.keys(), tag
        assert tag not in ("link", "iframe", "object", "embed", "base")
        if "href" in attrs:
            assert attrs["href"].startswith("#") or attrs["href"] == words.DOI
        assert not [name for name in attrs if name.startswith("on")]
    style = (page.FOLDER / page.PAGE).read_text()
    assert not re.search(r"url\(|@import|@font-face", style)


def test_fields_of_other_cells_are_refused(content):
    with pytest.raises(ValueError, match="umap has 89 cells, not 90"):
        replace(content, umap=content.umap[1:])
    with pytest.raises(ValueError, match="logs has 3 cells, not 90"):
        replace(content, logs=content.logs[:3])


def test_a_report_shows_itself_in_a_frame(content, tmp_path):
    report = Report(content)
    shown = report._repr_html_()
    (frame,) = Parsed(shown).tags
    assert frame[0] == "iframe"
    assert frame[1]["srcdoc"] == report.html
    assert "allow-same-origin" not in frame[1]["sandbox"]
    assert report.save(tmp_path / "x.html").read_text(encoding="utf-8") == report.html


# --- The numbers ----------------------------------------------------------------------------------


def test_the_map_has_the_cells_where_they_are(content, parsed):
    drawn = parsed.data["map"]
    for axis, name in enumerate("xy"):
        low, high = drawn["ranges"][axis]
        values = low + unpacked(drawn[name]) / 65534 * (high - low)
        np.testing.assert_allclose(values, content.umap[:, axis], atol=(high - low) / 65534)
    assert drawn["names"] == content.cells.tolist()
    own = [content.proba[i, code] for i, code in enumerate(content.codes)]
    np.testing.assert_allclose(unpacked(drawn["probability"]) / 254, own, atol=1 / 254)
    for x, y, code in drawn["marks"]:
        assert [x, y] in content.umap[content.codes == code].tolist()


def test_the_menu_has_every_colouring(content, parsed):
    names = [entry["name"] for entry in parsed.data["map"]["entries"]]
    cells = ["Cluster", "Known label", "Batch", "Certainty", "Uncertain cells", "Depth"]
    top = [f"gene{4 * c + rank}" for c in range(3) for rank in range(3)]
    assert names == [*cells, "Mitochondrial share", *top]
    labels = entry(parsed.data, "Known label")
    codes = unpacked(labels["values"])
    assert codes[0] == 255
    assert labels["without"] == 1
    assert [labels["groups"][code] for code in codes[1:]] == content.labels[1:].tolist()
    for name, wanted in (
        ("gene5", content.logs[:, "gene5"].X.toarray()[:, 0]),
        ("Mitochondrial share", content.mito),
        ("Depth", np.log10(content.depth)),
    ):
        drawn = entry(parsed.data, name)
        low, high = drawn["low"], drawn["high"]
        values = low + unpacked(drawn["values"]) / 254 * (high - low)
        np.testing.assert_allclose(values, wanted, atol=(high - low) / 254)


def test_the_dot_plot_shows_means_and_shares(content, parsed):
    figure = parsed.data["figures"]["dots"]
    trace = figure["data"][0]
    genes = figure["layout"]["yaxis"]["ticktext"]
    dense = content.logs.to_df()
    means = {gene: [dense[gene][content.codes == c].mean() for c in range(3)] for gene in genes}
    dots = zip(
        trace["x"], trace["y"], trace["marker"]["size"], trace["marker"]["color"], strict=True
    )
    for cluster, row, size, colour in dots:
        values = dense[genes[row]][content.codes == cluster]
        assert size == pytest.approx(figures.DOT * (values > 0).mean() ** 0.5, abs=0.01)
        assert colour == pytest.approx(values.mean() / max(means[genes[row]]), abs=1e-4)


def test_a_gene_of_two_clusters_is_drawn_once_and_one_that_is_not_there_never(content):
    table = content.markers.replace({"gene": {"gene4": "gene0", "gene8": "nowhere"}})
    drawn = numbers.top_markers(replace(content, markers=table))
    assert [(marker.cluster, marker.gene) for marker in drawn] == [
        *(("0", "gene0"), ("0", "gene1"), ("0", "gene2"), ("1", "gene5"), ("1", "gene6")),
        *(("2", "gene9"), ("2", "gene10")),
    ]
    named = replace(content, markers=content.markers.assign(symbol=[*"ABCDEFGHIJK", None]))
    assert [marker.shown for marker in numbers.top_markers(named, 1)] == ["A", "E", "I"]
    assert numbers.symbols(named.markers).iloc[-1] == "gene11"


def test_the_confusion_counts(content):
    labels, counts = numbers.confusion(content)
    wanted = pd.crosstab(content.labels, np.asarray(content.clusters))
    assert labels == ["B", "T", "NK"]  # the diagonal
    np.testing.assert_array_equal(counts, wanted.loc[labels])
    assert counts.sum() == 89
    cells = [a for tag, a in Parsed(page.html(content)).tags if tag == "td" and "style" in a]
    assert sum(a["style"] == "--share: 1.000" for a in cells) == 3


def test_the_overview_has_medians(content):
    row = numbers.overview(content)[1]
    inside = content.codes == 1
    assert row["cells"] == 30
    assert row["share"] == pytest.approx(1 / 3)
    assert row["probability"] == pytest.approx(np.median(content.proba[inside, 1]))
    assert row["uncertain"] == pytest.approx(content.uncertain[inside].mean())
    assert row["cell_type"] == "unclear"
    empty = replace(content, clusters=content.clusters.add_categories([3]), proba=None)
    assert numbers.overview(empty)[3]["depth"] is None
    assert "3" in page.html(replace(empty, splits=None))


def test_losses_and_curves_are_drawn(content, parsed):
    drawn = parsed.data["figures"]
    titles = [figure["layout"]["title"]["text"] for figure in list(drawn.values())[:4]]
    assert titles == list(figures.LOSSES.values())
    kl = drawn["losses-3"]["data"]
    assert [(trace["x"], trace["y"]) for trace in kl] == [([3], [0.125])]
    assert [trace["x"] for trace in drawn["losses-0"]["data"]] == [[1, 2], [3]]
    elbow = drawn["curves-0"]
    assert elbow["data"][0]["y"] == [row["dispersion"] for row in content.estimate.curves]
    assert elbow["layout"]["shapes"][0]["x0"] == 3
    broken = replace(content, history=[{**content.history[0], "zinb": float("nan")}])
    assert figures.losses(broken)[1]["data"][0]["y"] == [None]
    assert Parsed(page.html(broken)).data


def test_figures_are_what_plotly_knows(content):
    """Plotly's own classes refuse what is no property of a figure."""
    themed = {"@ink": "#000", "@soft": "#000", "@accent": "#000", "@scale": colours.SCALE}
    drawn = [figures.dot_plot(content), *figures.losses(content), *figures.curves(content)]
    for figure in drawn:
        text = json.dumps(figure)
        for name, colour in themed.items():
            text = text.replace(json.dumps(name), json.dumps(colour))
        assert "@" not in text
        go.Figure(json.loads(text))


# --- Many cells -----------------------------------------------------------------------------------


def test_many_cells_are_a_picture_on_a_small_page():
    rng = np.random.default_rng(0)
    n_cells, n_clusters = 60_000, 12
    codes = rng.integers(0, n_clusters, n_cells)
    genes = [f"gene{i}" for i in range(3 * n_clusters)]
    content = Content(
        **{
            name: getattr(run_content(), name) for name in ("name", "version", "settings", "source")
        },
        environment={},
        metrics={"n_clusters": 12, "genes": 36},
        cells=np.array([f"AAACCTGAGAAACCAT-{i}" for i in range(n_cells)]),
        clusters=pd.Categorical.from_codes(codes, range(n_clusters)),
        umap=rng.normal(0, 1, (n_cells, 2)) + rng.normal(0, 6, (n_clusters, 2))[codes],
        proba=rng.dirichlet(np.ones(n_clusters), n_cells),
        depth=rng.uniform(0.1, 3, n_cells),
        logs=ad.AnnData(
            sp.random(n_cells, len(genes), 0.3, "csr", np.float32, rng),
            var=pd.DataFrame(index=genes),
        ),
        markers=pd.DataFrame(
            {"cluster": np.repeat(np.arange(n_clusters), 3), "rank": [1, 2, 3] * n_clusters}
            | {"gene": genes, "score": 1.0}
        ),
    )
    text = page.html(content)
    assert len(text.encode()) < 10e6
    entries = Parsed(text).data["map"]["entries"]
    assert len(entries) == 3 + 36
    assert all(entry["picture"].startswith("data:image/png;base64,") for entry in entries)
    assert content.cells[0] not in text


def test_a_pixel_has_the_colour_of_most_cells_or_of_their_mean(monkeypatch, content):
    monkeypatch.setattr(maps, "POINTS", 10)
    monkeypatch.setattr(maps, "SIDE", 4)
    data = maps.data(content)
    ranges, entries = data["ranges"], {entry.name: entry for entry in maps.colourings(content)}
    for drawn in data["entries"]:
        name = drawn["name"]
        if name not in ("Known label", "Mitochondrial share"):
            continue
        picture = imread(io.BytesIO(base64.b64decode(drawn["picture"].split(",")[1])))
        cells = {}
        for i, (x, y) in enumerate(content.umap):
            column = int((x - ranges[0][0]) / (ranges[0][1] - ranges[0][0]) * 4)
            row = 3 - int((y - ranges[1][0]) / (ranges[1][1] - ranges[1][0]) * 4)
            cells.setdefault((row, column), []).append(entries[name].values[i])
        assert {(int(r), int(c)) for r, c in np.argwhere(picture[..., 3] > 0)} == set(cells)
        for place, values in cells.items():
            rgb = (picture[place][:3] * 255).round().astype(int)
            if name == "Known label":
                code = pd.Series(values).value_counts().sort_index().idxmax()
                colour = colours.MISSING if code < 0 else colours.GROUPS[code]
                assert "#{:02x}{:02x}{:02x}".format(*rgb) == colour
            else:
                share = np.mean(values) / content.mito.max()
                reds = [int(colour[1:3], 16) for _, colour in colours.SCALE]
                wanted = np.interp(share, [stop for stop, _ in colours.SCALE], reds)
                assert abs(rgb[0] - wanted) < 12  # a step of the 24


def test_fewer_genes_are_in_the_menu_where_there_is_no_room(monkeypatch, content):
    monkeypatch.setattr(maps, "GENE_BYTES", content.n_cells * 4 / 3 * 7)
    genes = [entry.name for entry in maps.colourings(content) if "Markers" in entry.section]
    assert len(genes) == 6
    assert "3 top markers are not in the menu" in page.html(content)
    monkeypatch.setattr(maps, "GENE_BYTES", content.n_cells * 4 / 3 * 2)
    assert [entry.name for entry in maps.colourings(content)][-2:] == ["gene0", "gene4"]


# --- Colours, words, splits, files ----------------------------------------------------------------

# Machado et al. 2009, severity 1, for linear RGB.
BLIND = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def lab(colour, kind):
    """CIE Lab of a colour as a reader with this sight sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.array(BLIND[kind]) @ linear, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_twelve_colours_can_be_told_apart_by_colour_blind_readers():
    for kind in BLIND:
        seen = [lab(colour, kind) for colour in colours.GROUPS[: colours.BLIND_SAFE]]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20, kind
    seen = [lab(colour, "normal") for colour in colours.GROUPS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20
    assert colours.of_groups(41)[40] == colours.GROUPS[0]


def test_scales_run_evenly_from_dark_to_light_or_back():
    for scale, sign in ((colours.SCALE, -1), (colours.DARK_SCALE, 1)):
        lightness = [lab(colour, "normal")[0] for _, colour in scale]
        assert (sign * np.diff(lightness) > 5).all()


def test_the_citation_is_that_of_the_repository():
    text = Path(page.__file__).parents[1].joinpath("CITATION.cff").read_text()
    for key in ("title", "doi", "volume", "issue", "start", "end", "year", "collection-title"):
        value = re.findall(rf'^  {key}: "?(.*?)"?$', text, flags=re.M)[0]
        assert value in words.CITATION, key
    given, family = (re.findall(rf"{key}: (.*)", text) for key in ("given-names", "family-names"))
    initials = ["-".join(part[0] for part in name.split("-")) for name in given]
    pairs = [f"{name} {first}" for name, first in zip(family, initials, strict=True)]
    assert words.CITATION.startswith(", ".join(pairs) + ". ")
    assert words.DOI.endswith(re.findall(r"doi: (.*)", text)[0])


@pytest.mark.parametrize("variant", ["sctag", "official"])
def test_the_methods_say_what_the_settings_decide(content, variant):
    settings = Settings.of(variant, min_cells=3, hops=1).to_json()
    text = words.methods(replace(content, settings=settings))
    assert "fewer than 3 cells" in text
    assert ("Pearson" in text) is (variant == "sctag")
    assert ("clipped to ±10" in text) is (variant == "sctag")
    assert ("spectral clustering" in text) is (variant == "official")
    assert ("of the z-scores" in text) is (variant == "official")
    assert "1 hop," in text
    assert "2 epochs of pretraining" in text
    assert "1 epoch by" in text
    without = {**content.metrics, "epochs": {"pretrain": 2}}
    assert "KL" not in words.methods(replace(content, settings=settings, metrics=without))


def test_sentences_for_what_came_out(content):
    text = " ".join(words.summary(content))
    assert "into 3 clusters" in text
    assert "median of five criteria, which name 3 to 3" in text
    assert "0.65: trust the clusters less" in text
    one = replace(content, uncertain=np.arange(90) == 5, estimate=None)
    assert "1 cell (1%) lies between clusters." in words.summary(one)
    assert "as many as known labels" in words.summary(one)[0]
    assert words.duration(7300) == "2.0 hours"
    assert words.listed(["a", "b", "c"]) == "a, b and c"


def within(points, codes):
    """The sum of squared distances to the centres of the clusters."""
    return sum(
        ((points[codes == c] - points[codes == c].mean(axis=0)) ** 2).sum() for c in set(codes)
    )


def test_a_join_costs_what_the_spread_rises_by():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 5, 80)
    points = rng.normal(0, 1, (80, 3)) + 3 * codes[:, None]
    clusters = pd.Categorical.from_codes(codes, list("abcde"))
    table = alternatives.alternatives(points, clusters, seed=0)
    total = within(points, np.zeros(80, int))
    costs = {}
    for one, other in combinations(range(5), 2):
        joined = np.where(codes == other, one, codes)
        costs["abcde"[one], "abcde"[other]] = (
            within(points, joined) - within(points, codes)
        ) / total
    cheapest = sorted(costs, key=costs.get)[:3]
    joins = table[table["change"] == "join"]
    assert [tuple(pair) for pair in joins["clusters"]] == cheapest
    np.testing.assert_allclose(joins["share"], [costs[pair] for pair in cheapest])
    pd.testing.assert_frame_equal(table, alternatives.alternatives(points, clusters, seed=0))


def test_the_cluster_of_two_groups_is_split():
    points = np.concatenate([np.zeros((10, 2)), np.full((4, 2), 9.0), np.full((6, 2), -9.0)])
    points += np.random.default_rng(0).normal(0, 0.1, points.shape)
    codes = np.repeat([0, 0, 1], [10, 4, 6])
    clusters = pd.Categorical.from_codes(codes, [0, 1])
    table = alternatives.alternatives(points, clusters, seed=0)
    assert table["change"].tolist() == ["split", "split"]  # two clusters are not joined to one
    first = table.iloc[0]
    assert (first["clusters"], first["cells"]) == (["0"], [10, 4])
    gain = within(points, codes) - within(points, np.repeat([0, 1, 2], [10, 4, 6]))
    assert first["share"] == pytest.approx(gain / within(points, np.zeros(20, int)))
    same = alternatives.alternatives(np.ones((20, 2)), clusters, seed=0)
    assert same.empty


def test_figures_are_written_twice_alike(content, tmp_path):
    page.write(tmp_path, content)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page.html(content)
    files = {path.name for path in (tmp_path / "report_figures").iterdir()}
    names = {"sizes", "markers", "labels", "losses", "n_clusters", "umap_cluster", "umap_batch"}
    names |= {"umap_known_label", "umap_certainty", "umap_uncertain_cells", "umap_depth"}
    names |= {"umap_mitochondrial_share"}
    assert files == {name + suffix for name in names for suffix in (".png", ".svg")}
    svg = (tmp_path / "report_figures" / "sizes.svg").read_text()
    assert ">30<" in svg
    bare = replace(content, **OPTIONAL, history=())
    written = static.write(tmp_path / "again", bare)
    assert [path.name for path in written] == ["sizes.png", "sizes.svg"]
    assert written[1].read_text() == svg


def test_the_legend_of_the_dots_has_all_three_sizes_where_no_marker_is_in_all_cells(content):
    counts = np.zeros(content.logs.shape)
    counts[:30, :] = 1.0  # in a third of each cluster's cells
    logs = ad.AnnData(sp.csr_matrix(counts), var=content.logs.var)
    legend = static.markers(replace(content, logs=logs)).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["25 % of cells", "50 %", "100 %"]
    areas = [handle.get_sizes()[0] for handle in legend.legend_handles]
    np.testing.assert_allclose(areas, static.DOT * np.array([0.25, 0.5, 1]))


@pytest.mark.parametrize("name", ["a", "红细胞", "a cell of one type " * 5, "x" * 10_000])
def test_figures_have_room_for_names_of_any_length_in_any_script(name, content, tmp_path):
    """Warnings are errors in the tests, also those of a layout that has no room."""
    cells = np.arange(content.n_cells) % 3 < 2
    clusters = pd.Categorical.from_codes(content.codes[cells], [0, 1])
    genes = [name, *content.logs.var_names[1:]]
    logs = ad.AnnData(content.logs.X[cells], var=pd.DataFrame(index=genes))
    table = pd.DataFrame({"cluster": ["0"], "rank": [1], "gene": [name], "score": [1.0]})
    few = Content(
        name="few",
        version=content.version,
        settings=content.settings,
        source=content.source,
        environment=content.environment,
        metrics=content.metrics,
        cells=content.cells[cells],
        clusters=clusters,
        umap=content.umap[cells],
        labels=pd.Series([name, *["B"] * (cells.sum() - 1)]),
        logs=logs,
        markers=table,
    )
    written = {path.stem for path in static.write(tmp_path, few)}
    assert written == {"sizes", "markers", "labels", "umap_cluster", "umap_known_label"}


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")
def test_a_browser_draws_the_page_without_an_error(content, tmp_path):
    evil = "<img src=x onerror=document.documentElement.dataset.evil=1>"
    labels = [evil, *content.labels[1:]]
    path = Report(replace(content, labels=labels, name=EVIL)).save(tmp_path / "report.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [BROWSER, *flags, "--virtual-time-budget=20000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert [line for line in console if "GL Driver" not in line] == []
    drawn = Parsed(done.stdout)
    root = next(attrs for tag, attrs in drawn.tags if tag == "html")
    assert root["data-drawn"] == "yes"
    assert "data-evil" not in root
    plots = [
        attrs["class"] for tag, attrs in drawn.tags if "plot" in attrs.get("class", "").split()
    ]
    assert len(plots) == 1 + 1 + 4 + 5
    assert all("js-plotly-plot" in classes for classes in plots)
    assert sum(tag == "option" for tag, _ in drawn.tags) == 16
