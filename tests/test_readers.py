"""Files of the real formats, whole and broken: what is read, and the sentence that refuses."""

import fcntl
import logging
import os
import re
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import readers
from formats import bounds, matrices
from formats.parts import Parts
from utils import InputError

COUNTS = np.array([[0, 3, 0], [1, 0, 2], [0, 0, 7], [5, 1, 0]])
CELLS, GENES = ["c0", "c1", "c2", "c3"], ["g0", "g1", "g2"]
LABELS = ["T", "B", "T", "NK"]

SHARED = Path(__file__).parents[2] / "shared" / "data"
SHARED_SETS = {  # name: cells, genes, classes
    "Mix_10x_3cl": (895, 894, 3),
    "Pollen": (299, 21471, 11),
    "Segerstolpe": (702, 2000, 6),
    "Joost_skin": (720, 20388, 5),
    "Zilionis_lung_800": (800, 22002, 4),
    "Mix_CELseq2_5cl": (909, 16074, 5),
    "Baron_mouse": (1886, 14861, 13),
    "Mouse_bladder_MCA_2100": (2100, 19079, 16),
    "PBMC_facs": (3774, 16791, 5),
    "Worm_neuron": (4186, 13488, 10),
    "PBMC_10x_4k": (4271, 2000, 8),
    "Young": (5685, 2000, 11),
    "Baron_human_2donors": (2812, 2000, 6),
    "Klein_1000": (1000, 900, 4),
    "Jaitin_spleen_sorted": (592, 13054, 9),
    "PBMC_sorted7": (3500, 15370, 7),
    "Mix_RNAmix_CELseq2": (340, 14804, 7),
    "Zeisel_3type": (1464, 1000, 3),
    "iPSC_time": (315, 15724, 5),
    "Deng": (259, 21489, 10),
}


def csr_pieces(counts=COUNTS, dtype=np.int16):
    matrix = sp.csr_matrix(counts)
    return {
        "data": matrix.data.astype(dtype),
        "indices": matrix.indices,
        "indptr": matrix.indptr,
        "shape": np.array(matrix.shape),
    }


def fixed(strings):
    return np.char.encode(strings, "utf-8")


def write(path, **changes):
    """The published layout, with datasets replaced ({name: array}) or left out ({name: None})."""
    content = {"exprs/" + name: piece for name, piece in csr_pieces().items()} | {
        "obs_names": fixed(CELLS),
        "var_names": fixed(GENES),
        "obs/cell_type1": fixed(LABELS),
        "uns/note": np.array([1]),
    }
    if "exprs" in changes:
        content = {name: value for name, value in content.items() if "exprs/" not in name}
    with h5py.File(path, "w") as file:
        for name, value in (content | changes).items():
            if value is not None:
                file[name] = value
    return path


@pytest.fixture
def h5(tmp_path):
    return tmp_path / "data.h5"


@pytest.fixture
def h5ad(tmp_path):
    return tmp_path / "cells.h5ad"


def annotated(counts=None):
    counts = COUNTS.astype(np.float32) if counts is None else counts
    obs = pd.DataFrame({"cell_type1": pd.Categorical(LABELS)}, index=CELLS)
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))


def write_column(path, name, values, **attributes):
    """Add a column to obs of an .h5ad as anndata would, or with other attributes."""
    attributes = attributes or {"encoding_type": "array", "encoding_version": "0.2.0"}
    with h5py.File(path, "r+") as file:
        file["obs"][name] = values
        file["obs"].attrs["column-order"] = [*file["obs"].attrs["column-order"], name]
        for key, value in attributes.items():
            file["obs"][name].attrs[key.replace("_", "-")] = value


def refused(path, words, **options):
    """Assert one InputError with the path and these words, on one line."""
    with pytest.raises(InputError, match=words) as error:
        readers.read(path, **options)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def check_content(adata):
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    assert adata.X.nnz == np.count_nonzero(COUNTS)
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == GENES
    assert readers.read_labels(adata, "cell_type1").tolist() == LABELS
    assert "cell_name" not in adata.obs
    assert "gene_name" not in adata.var


# ---- locate


def test_locate_finds_the_file(tmp_path):
    (tmp_path / "Young").mkdir()
    path = write(tmp_path / "Young" / "data.h5")
    assert readers.locate("Young", tmp_path) == path


def test_locate_names_what_is_present(tmp_path):
    for name in ("Young", "Pollen"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "data.h5")
    (tmp_path / "no_data_in_it").mkdir()
    with pytest.raises(InputError, match=r"no data set 'Yung' in .*: Pollen, Young$"):
        readers.locate("Yung", tmp_path)


def test_locate_names_twenty_of_many(tmp_path):
    for i in range(23):
        (tmp_path / f"set{i:02d}").mkdir()
        (tmp_path / f"set{i:02d}" / "data.h5").touch()
    with pytest.raises(InputError, match=r": set00, .*, set19 and 3 more$"):
        readers.locate("other", tmp_path)


def test_locate_in_an_empty_folder_and_in_none(tmp_path):
    with pytest.raises(InputError, match="none is there"):
        readers.locate("Young", tmp_path)
    with pytest.raises(InputError, match=r"data folder .*/absent does not exist"):
        readers.locate("Young", tmp_path / "absent")


# ---- read: what is the same however it is written


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float16, ">f8"])
def test_csr_pieces_of_any_type(h5, dtype):
    pieces = {f"exprs/{name}": piece for name, piece in csr_pieces(dtype=dtype).items()}
    check_content(readers.read(write(h5, **pieces)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float64])
def test_dense(h5, dtype):
    check_content(readers.read(write(h5, exprs=COUNTS.astype(dtype))))


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_h5ad(h5ad, form, dtype):
    annotated(form(COUNTS.astype(dtype))).write_h5ad(h5ad)
    check_content(readers.read(h5ad))


def test_h5ad_under_another_suffix(h5):
    annotated().write_h5ad(h5)
    check_content(readers.read(h5))
    with h5py.File(h5, "r+") as file:
        del file.attrs["encoding-type"]
    check_content(readers.read(h5))


def test_published_layout_under_the_suffix_of_anndata(h5ad):
    check_content(readers.read(write(h5ad)))


def test_h5ad_layer_and_what_is_left_behind(h5ad):
    adata = annotated(np.log1p(COUNTS))
    adata.layers["counts"] = COUNTS
    adata.obsm["X_pca"] = np.ones((4, 2))
    adata.obsp["connectivities"] = sp.eye(4, format="csr")
    adata.uns["too_new"] = np.ones(1)
    adata.write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        file["uns/too_new"].attrs["encoding-type"] = "of tomorrow"
    adata = readers.read(h5ad, layer="counts")
    check_content(adata)
    assert not any(map(len, (adata.layers, adata.obsm, adata.obsp, adata.uns)))


def test_h5ad_from_before_anndata_0_7(h5ad):
    with h5py.File(h5ad, "w") as file:
        file["X"] = COUNTS
        file["obs"] = np.array(
            [(name.encode(), code) for name, code in zip(CELLS, [2, 0, 2, 1], strict=True)],
            dtype=[("index", "S2"), ("cell_type1", "i1")],
        )
        file["var"] = np.array([(name.encode(),) for name in GENES], dtype=[("index", "S2")])
        file["uns/cell_type1_categories"] = fixed(["B", "NK", "T"])
    check_content(readers.read(h5ad))


def test_strings_of_variable_length(h5):
    check_content(
        readers.read(write(h5, obs_names=CELLS, var_names=GENES, **{"obs/cell_type1": LABELS}))
    )


def test_strings_beyond_ascii(h5):
    labels = ["é", "è", "é", "β"]
    for written in (labels, fixed(labels)):
        adata = readers.read(write(h5, **{"obs/cell_type1": written}))
        assert readers.read_labels(adata, "cell_type1").tolist() == labels
    latin1 = np.array([label.encode("latin-1") for label in ["é", "è", "é", "T"]])
    adata = readers.read(write(h5, **{"obs/cell_type1": latin1}))
    assert readers.read_labels(adata, "cell_type1").tolist() == [r"\xe9", r"\xe8", r"\xe9", "T"]


def test_columns_of_every_kind(h5):
    columns = {
        "obs/batch": np.array([3, 1, 3, 2]),
        "obs/kind/codes": np.array([1, 0, -1, 1], dtype=np.int8),
        "obs/kind/categories": fixed(["B", "T"]),
        "obs/nested/inner": np.arange(4),
        "obs/table": np.ones((4, 2)),
        "obs/scalar": 1.0,
        "obs/null": h5py.Empty("f4"),
        "obs/pairs": np.zeros(4, dtype=[("a", "i4"), ("b", "i4")]),
        "var/length": np.array([10.5, 2.0, 3.0]),
    }
    adata = readers.read(write(h5, **columns))
    assert sorted(adata.obs) == ["batch", "cell_type1", "kind"]
    assert readers.read_labels(adata, "kind").tolist() == ["T", "B", None, "T"]
    assert adata.var["length"].tolist() == [10.5, 2.0, 3.0]
    assert readers.read_labels(adata, "batch").tolist() == ["3", "1", "3", "2"]


def test_names_and_groups_may_be_absent(h5):
    with h5py.File(h5, "w") as file:
        file["exprs"] = COUNTS
    adata = readers.read(h5)
    assert adata.obs_names.tolist() == ["cell_0", "cell_1", "cell_2", "cell_3"]
    assert adata.var_names.tolist() == ["gene_0", "gene_1", "gene_2"]
    assert readers.read_labels(adata, "cell_type1") is None


def test_repeated_names_are_made_unique(h5, h5ad):
    cells, genes = ["a", "a", "a-1", "a"], ["g", "h", "g"]
    write(h5, obs_names=fixed(cells), var_names=fixed(genes))
    adata = annotated()
    adata.obs.index = pd.Index(cells, name="cell_name")
    adata.var.index = genes
    with pytest.warns(UserWarning, match="names are not unique"):
        ad.AnnData(adata.X, adata.obs, adata.var).write_h5ad(h5ad)
    for path in (h5, h5ad):
        adata = readers.read(path)
        assert adata.obs_names.is_unique
        assert adata.var_names.tolist() == ["g", "h", "g-1"]
        assert adata.obs["cell_name"].tolist() == cells
        assert adata.var["gene_name"].tolist() == genes
        assert readers.read_labels(adata, "cell_type1").tolist() == LABELS
        adata.write_h5ad(path.with_suffix(".again"))


def test_sparse_matrix_not_in_canonical_form(h5, h5ad):
    data, indices, indptr = np.array([200, 0, 100, 1], np.uint8), [2, 1, 2, 0], [0, 3, 4]
    with h5py.File(h5, "w") as file:
        pieces = {"data": data, "indices": indices, "indptr": indptr, "shape": [2, 3]}
        for name, piece in pieces.items():
            file[f"exprs/{name}"] = piece
    ad.AnnData(sp.csr_matrix((data, indices, indptr), shape=(2, 3))).write_h5ad(h5ad)
    for path in (h5, h5ad):
        adata = readers.read(path)
        assert adata.X.has_canonical_format
        assert adata.X.nnz == 2  # the stored zero is gone
        np.testing.assert_array_equal(adata.X.toarray(), [[0, 0, 300], [1, 0, 0]])


def test_counts_beyond_float32_stay_exact(h5):
    adata = readers.read(write(h5, exprs=np.where(COUNTS == 7, 2**24 + 1, COUNTS)))
    assert adata.X.dtype == np.float64
    assert adata.X[2, 2] == 2**24 + 1


# ---- read: an .h5ad that anndata itself reads badly or not at all


@pytest.fixture
def warned(monkeypatch, caplog):
    """Give the log lines of warnings so far, whether or not a command has taken the logger over."""
    monkeypatch.setattr(logging.getLogger("sctag"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


UNREADABLE = {  # name of a column: its value, its attributes and why it cannot be read
    "future": (
        [1, 2, 3, 4],
        {"encoding_type": "of tomorrow", "encoding_version": "9"},
        "tomorrow 9",
    ),
    "umap": (np.ones((4, 2)), {}, "not one number or text for each row"),
    "pairs": (
        np.zeros(4, dtype=[("a", "i4"), ("b", "i4")]),
        {"encoding_type": "rec-array", "encoding_version": "0.2.0"},
        "not one number or text for each row",
    ),
    "scalar": (1.0, {"encoding_type": "numeric-scalar", "encoding_version": "0.2.0"}, "not one"),
    "latin1": (
        np.array([b"\xe9"] * 4, dtype=object),
        {"encoding_type": "string-array", "encoding_version": "0.2.0"},
        "can't decode byte",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_column_that_cannot_be_read_is_left_out_and_named(h5ad, warned, name):
    values, attributes, words = UNREADABLE[name]
    annotated().write_h5ad(h5ad)
    if name == "latin1":
        values = np.array(values, dtype=h5py.string_dtype("utf-8"))
    write_column(h5ad, name, values, **attributes)
    adata = readers.read(h5ad)
    check_content(adata)
    assert list(adata.obs) == ["cell_type1"]
    (line,) = warned()
    assert line.startswith(
        f"warning: {h5ad}: columns that cannot be read are left out: obs[{name!r}]"
    )
    assert words in line
    assert words in adata.obs.attrs["left_out"][name]
    assert readers.read_labels(adata, name) is None
    adata.write_h5ad(h5ad)


def test_several_columns_left_out_are_one_line(h5ad, h5, warned):
    annotated().write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        file["obs"].attrs["column-order"] = ["cell_type1", "lost"]
        file["var/deep/inner"] = [1, 2, 3]
        file["var"].attrs["column-order"] = ["deep"]
    check_content(readers.read(h5ad))
    readers.read(write(h5, **{"obs/table": np.ones((4, 2)), "obs/kind/codes": [9, 0, 0, 0]}))
    of_anndata, of_published = warned()
    assert re.search(r"obs\['lost'\] \(.*doesn't exist\)\), var\['deep'\] \(it is not", of_anndata)
    assert re.search(r"obs\['kind'\] \(it is not .*, obs\['table'\] \(it is not", of_published)


def test_h5ad_without_encoding_attributes(h5ad):
    annotated(sp.csr_matrix(COUNTS)).write_h5ad(h5ad)

    def strip(_, item):
        for key in ("encoding-type", "encoding-version"):
            item.attrs.pop(key, None)

    with h5py.File(h5ad, "r+") as file:
        file["obs/batch"] = [3, 1, 3, 2]
        file["obs"].attrs["column-order"] = ["cell_type1", "batch"]
        file["X"].attrs["h5sparse_format"] = "csr"
        strip("", file)
        file.visititems(strip)
    adata = readers.read(h5ad)
    check_content(adata)
    assert readers.read_labels(adata, "batch").tolist() == ["3", "1", "3", "2"]
    adata.write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        for axis in ("obs", "var"):
            for key in [*file[axis].attrs]:
                del file[axis].attrs[key]
    check_content(readers.read(h5ad))


def test_h5ad_whose_attributes_are_bytes(h5ad):
    """The R package rhdf5 writes text of a fixed length, and a single name as no list."""
    annotated(sp.csr_matrix(COUNTS)).write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        file["obs"].attrs["_index"] = np.bytes_("_index")
        file["obs"].attrs["column-order"] = np.bytes_("cell_type1")
        file["var"].attrs["column-order"] = h5py.Empty("f8")
        file["X"].attrs["encoding-type"] = np.bytes_("csr_matrix")
    check_content(readers.read(h5ad))


def test_h5ad_of_anndata_0_7(h5ad):
    """Categories were datasets of their own, which the attribute of the codes refers to."""
    annotated().write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        obs = file["obs"]
        obs.attrs["encoding-version"] = "0.1.0"
        del obs["cell_type1"]
        obs["__categories/cell_type1"] = ["B", "NK", "T"]
        obs["cell_type1"] = np.array([2, 0, 2, 1], np.int8)
        obs["cell_type1"].attrs["categories"] = obs["__categories/cell_type1"].ref
    check_content(readers.read(h5ad))


def test_h5ad_of_anndata_0_6_with_sparse_counts_and_an_array_in_a_field(h5ad, warned):
    matrix = sp.csc_matrix(COUNTS)
    with h5py.File(h5ad, "w") as file:
        for name in ("data", "indices", "indptr"):
            file[f"X/{name}"] = getattr(matrix, name)
        file["X"].attrs.update({"h5sparse_format": b"csc", "h5sparse_shape": matrix.shape})
        text = h5py.string_dtype()
        obs = np.empty(4, dtype=[("index", text), ("cell_type1", text), ("pca", "f4", (2,))])
        obs["index"], obs["cell_type1"], obs["pca"] = CELLS, LABELS, 0
        file["obs"] = obs
        file["var"] = np.array([(name.encode(),) for name in GENES], dtype=[("index", "S2")])
        file["raw.X"] = "not looked at"
    check_content(readers.read(h5ad))
    assert "obs['pca'] (it is not one number" in warned()[0]


@pytest.mark.parametrize("absent", [["obs"], ["var"], ["obs", "var"], ["obs/_index", "var/_index"]])
def test_cells_and_genes_without_names_are_numbered(h5ad, absent):
    annotated().write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        for name in absent:
            del file[name]
    adata = readers.read(h5ad)
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    numbered = ["cell_0", "cell_1", "cell_2", "cell_3"]
    assert adata.obs_names.tolist() == (numbered if absent != ["var"] else CELLS)
    assert adata.var_names[0] == ("gene_0" if absent != ["obs"] else "g0")
    assert ("cell_type1" in adata.obs) == ("obs" not in absent)


def test_float16_counts_in_a_sparse_matrix(h5ad):
    for form in (sp.csr_matrix, sp.csc_matrix):
        annotated(form(COUNTS.astype(np.float32))).write_h5ad(h5ad)
        with h5py.File(h5ad, "r+") as file:
            data = file["X/data"][()].astype(np.float16)
            del file["X/data"]
            file["X/data"] = data
        check_content(readers.read(h5ad))


def test_names_that_are_numbers_and_a_column_with_a_slash(h5ad):
    annotated().write_h5ad(h5ad)
    write_column(h5ad, "G1/S_score", np.arange(4.0))
    with h5py.File(h5ad, "r+") as file:
        del file["obs/_index"]
        file["obs/_index"] = np.arange(4)
        file["obs/_index"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    adata = readers.read(h5ad)
    assert adata.obs_names.tolist() == ["0", "1", "2", "3"]
    assert adata.obs["G1/S_score"].tolist() == [0, 1, 2, 3]


def test_names_in_an_unknown_encoding(h5ad):
    annotated().write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        file["obs/_index"].attrs["encoding-type"] = "of tomorrow"
    refused(h5ad, r"the names in obs cannot be read \(anndata .* cannot read its encoding of tomo")


def test_what_is_read_can_be_written_again(h5, h5ad):
    adata = annotated()
    adata.obs["nullable"] = pd.array(["a", None, "b", "b"], dtype="string")
    adata.obs["whole"] = pd.array([1, None, 2, 3], dtype="Int64")
    adata.obs["flag"] = [True, False, True, True]
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.write_h5ad(h5ad)
    kind = {"obs/kind/codes": [1, 0, -1, 1], "obs/kind/categories": [7, 5]}
    for path in (h5ad, write(h5, **kind)):
        adata = readers.read(path)
        again = path.with_suffix(".again.h5ad")
        adata.write_h5ad(again)
        check_content(readers.read(again))
        assert list(ad.read_h5ad(again).obs) == list(adata.obs)
    assert readers.read_labels(adata, "kind").tolist() == ["5", "7", None, "5"]


# ---- read: the table of formats


def test_a_format_is_a_function_and_a_line(tmp_path, monkeypatch):
    def read_text(path, choices):
        matrix = np.loadtxt(path / "counts.dat", ndmin=2)
        return Parts(matrix, pd.DataFrame(index=CELLS), pd.DataFrame(index=GENES))

    def is_text(path):
        return (path / "counts.dat").is_file()

    monkeypatch.setattr(
        readers, "FORMATS", (*readers.FORMATS, readers.Format("text", is_text, read_text))
    )
    np.savetxt(tmp_path / "counts.dat", COUNTS)
    np.testing.assert_array_equal(readers.read(tmp_path).X.toarray(), COUNTS)
    refused(tmp_path / "counts.dat", "is not an HDF5 file.* or text$")


@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.tsv.gz", "\t"), ("a.TXT", "\t"), ("a.csv.gz", ",")]
)
def test_a_table_of_text(name, separator, tmp_path):
    table = pd.DataFrame(COUNTS, index=CELLS, columns=GENES)
    table.to_csv(tmp_path / name, sep=separator, compression="infer")
    adata = readers.read(tmp_path / name)
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == GENES
    refused(tmp_path / name, r"--layer counts is for .*AnnData \(\.h5ad\).* only", layer="counts")


def test_a_table_with_a_column_of_words_or_without_an_order_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    pd.DataFrame({"g0": [1, 2], "batch": ["x", "y"]}, index=["a", "b"]).to_csv(path)
    refused(path, "columns that are not numbers throughout: batch:")
    path.write_text(",g0\na,1\nb,2,3,4\n")
    refused(path, "is not a table that can be read .*a row for each cell")
    path.write_bytes(b",g0\na,\xff\xfe\n")
    refused(path, "is not text .*utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: b[: len(b) // 2], "cannot be unpacked .*copy or download it again"),
        (lambda b: b"no gzip" + b, "is not text .*: it is damaged"),
    ],
)
def test_a_compressed_table_that_is_damaged_is_refused(damage, words, tmp_path):
    path = tmp_path / "a.csv.gz"
    pd.DataFrame(np.arange(3000).reshape(60, 50)).to_csv(path)
    path.write_bytes(damage(path.read_bytes()))
    refused(path, words)


def test_the_path_may_be_text(h5):
    check_content(readers.read(str(write(h5))))


@pytest.mark.parametrize(
    "bug", [KeyError("X"), TypeError("no such argument"), ValueError("shape"), AttributeError("x")]
)
def test_a_mistake_of_the_program_is_not_blamed_on_the_file(h5, monkeypatch, bug):
    def read_wrongly(path, choices):
        raise bug

    monkeypatch.setattr(readers, "FORMATS", (readers.Format("any", Path.is_file, read_wrongly),))
    with pytest.raises(type(bug)) as error:
        readers.read(write(h5))
    assert error.value is bug


# ---- read: what is refused


def test_missing_file_names_the_data_files_beside_it(tmp_path):
    for name in ("b.h5ad", "a.h5", "notes.txt"):
        (tmp_path / name).touch()
    refused(tmp_path / "c.h5", r"no such file.*: a\.h5, b\.h5ad$")
    refused(tmp_path / "absent" / "c.h5", "folder .*/absent does not exist")


def test_not_a_file_that_can_be_read(tmp_path, h5, monkeypatch):
    refused(tmp_path, "is a directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    h5.touch()
    refused(h5, "is empty")
    h5.write_text("gene,cell\n")
    refused(h5, "not an HDF5 file")
    (tmp_path / "data.h5ad.gz").write_bytes(b"\x1f\x8b")
    refused(tmp_path / "data.h5ad.gz", "is packed, unpack it and name what comes out")
    refused(tmp_path / ("x" * 300), r"cannot be read \(.*name too long")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(h5, r"cannot be read \(Permission denied\): check the permissions of the file and")


@pytest.mark.parametrize("part", [0.02, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".h5", ".h5ad"])
def test_truncated(tmp_path, part, suffix):
    path = tmp_path / f"cut{suffix}"
    counts = np.random.default_rng(0).poisson(1.0, (60, 50))
    if suffix == ".h5":
        write(path, exprs=counts, obs_names=None, var_names=None, **{"obs/cell_type1": None})
    else:
        ad.AnnData(counts).write_h5ad(path)
    assert readers.read(path).shape == (60, 50)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    refused(path, "cannot be read .*truncated file.*: it is cut short")


@pytest.mark.parametrize("suffix", [".h5", ".h5ad"])
def test_damaged_inside(tmp_path, suffix):
    path = tmp_path / f"bad{suffix}"
    counts = np.random.default_rng(0).poisson(1.0, (60, 50))
    with h5py.File(path, "w") as file:
        name = "exprs" if suffix == ".h5" else "X"
        file.create_dataset(name, data=counts, compression="gzip", chunks=(60, 50))
        chunk = file[name].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    refused(path, r"cannot be read \(.*filter returned failure.*: it is damaged")


def test_larger_than_memory(h5, monkeypatch):
    monkeypatch.setattr(bounds, "check_hdf5", lambda path: None)  # which refuses such a lie
    with h5py.File(h5, "w") as file:
        file.create_dataset("exprs", shape=(2**32, 2**16), chunks=(1, 64), dtype="f8")
    refused(h5, r"not enough free memory to read it \(Unable to allocate .*\)$")


def filtered(path, name, number):
    """Add a dataset under a compression filter that is not there; its bytes stand for data."""
    with h5py.File(path, "r+") as file:
        shape = file[name].shape
        del file[name]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(shape)
        properties.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple(shape)
        dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.NATIVE_INT32, space, properties)
        dataset.write_direct_chunk((0,) * len(shape), bytes(48))


@pytest.mark.parametrize(("number", "label"), [(32015, "zstd"), (300, "number 300")])
def test_missing_compression_filter(h5, h5ad, warned, number, label):
    if h5py.h5z.filter_avail(number):
        pytest.skip("the filter is installed")
    words = f"compressed with the filter {label}, which is not installed: pip install -U hdf5plugin"
    filtered(write(h5, exprs=COUNTS), "exprs", number)
    refused(h5, rf"cannot be read \(.*\): it is {words}, or write the file again with gzip")
    annotated().write_h5ad(h5ad)
    write_column(h5ad, "n", np.arange(4))
    filtered(h5ad, "obs/n", number)
    check_content(readers.read(h5ad))
    assert re.search(rf"obs\['n'\] \(it is {words}", warned()[0])


def test_filters_of_hdf5plugin_are_registered(h5, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "hdf5plugin", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hdf5plugin.py").touch()
    readers.read(write(h5))
    assert sys.modules["hdf5plugin"].__file__ == str(tmp_path / "hdf5plugin.py")
    monkeypatch.delitem(sys.modules, "hdf5plugin")


def test_file_that_another_program_writes(h5, monkeypatch):
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    with write(h5).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(h5, "unable to lock file.*: another program has it open for writing")
    check_content(readers.read(h5))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(37, "Unable to open file (unable to lock file, errno = 37)"),
            "refuses to lock it",
        ),
        (PermissionError(13, "Permission denied"), "check the permissions of the file"),
        (OSError(5, "Input/output error"), "check its name, its disk and its permissions"),
        (OSError("Unable to open file (truncated file: eof = 1)"), "it is cut short"),
        (KeyError("Unable to open object (bad object header version number)"), "it is damaged"),
        (RuntimeError("Can't get link info (bad local heap signature)"), "it is damaged"),
        (OSError("Can't read data (can't open directory: /lib/plugin)"), "cause is not known"),
        (OSError("Unable to open file (bad superblock version number)"), "cause is not known"),
        (OSError("Something else"), r"\(Something else\): the cause is not known"),
        (MemoryError(), r"not enough free memory to read it \(MemoryError\)$"),
    ],
)
def test_no_cause_is_claimed_but_one_that_is_known(h5, monkeypatch, error, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(matrices, "matrix", fail)
    refused(write(h5), words)


def test_unknown_contents_name_the_keys(h5):
    with h5py.File(h5, "w") as file:
        file["matrix/data"] = [1]
        file["version"] = 2
    refused(h5, r"of none of the formats .*exprs.*AnnData.* \(the file holds: matrix, version\)")


@pytest.mark.parametrize("piece", ["data", "indices", "indptr", "shape"])
def test_exprs_lacks_a_piece(h5, piece):
    refused(write(h5, **{f"exprs/{piece}": None}), f"exprs lacks {piece} of its pieces")
    refused(write(h5, **{f"exprs/{piece}": fixed(["a", "b"])}), f"exprs: {piece} must be numbers")
    refused(write(h5, **{f"exprs/{piece}": 3}), f"exprs: {piece} must be numbers")


@pytest.mark.parametrize(
    ("piece", "value", "words"),
    [
        ("indptr", [0, 1, 3, 6], "index pointer size"),
        ("indptr", [0, 1, 3, 4, 5], "indptr ends at 5, data has 6"),
        ("indptr", [0, 1, 3, 4, 9], "index pointer"),
        ("indptr", [0, 3, 1, 4, 6], "indptr must be a non-decreasing sequence"),
        ("indptr", [], "index pointer size"),
        ("indices", [1, 0, 2, 2, 0, 3], "indices must be < 3"),
        ("indices", [1, 0, 2, 2, 0, -1], "indices must be >= 0"),
        ("indices", [1, 0, 2], "indices and data should have the same size"),
        ("data", [1, 2, 3], "indices and data should have the same size"),
        ("shape", [3, 4], "index pointer size"),
        ("shape", [4], "shape"),
        ("shape", [-4, 3], "shape"),
    ],
)
def test_pieces_disagree(h5, piece, value, words):
    write(h5, **{f"exprs/{piece}": np.array(value, dtype=np.int64)})
    refused(h5, f"exprs: its pieces do not make a CSR matrix of shape .*{words}")


def test_sizes_disagree(h5):
    refused(write(h5, obs_names=fixed(CELLS[:3])), "obs_names has 3 entries for the 4 cells")
    refused(write(h5, var_names=fixed(CELLS)), "var_names has 4 entries for the 3 genes")
    refused(write(h5, **{"obs/age": np.ones(5)}), "obs/age has 5 entries for the 4 cells")
    refused(write(h5, **{"var/length": np.ones(4)}), "var/length has 4 entries for the 3 genes")
    refused(write(h5, obs_names=np.ones((4, 1))), "obs_names is not a list of names")


@pytest.mark.parametrize(
    "exprs", [np.ones(3), np.ones((2, 2, 2)), 1.0, h5py.Empty("f4"), [[b"a", b"b"]], 1j * COUNTS]
)
def test_exprs_is_no_matrix_of_numbers(h5, exprs):
    refused(write(h5, exprs=exprs), "exprs is not a matrix of numbers, cells x genes")


def test_layer_of_the_published_layout(h5):
    refused(write(h5), r"--layer counts is for .*AnnData \(\.h5ad\).* only", layer="counts")


def test_h5ad_without_the_matrix_asked_for(h5ad):
    adata = annotated()
    adata.write_h5ad(h5ad)
    refused(h5ad, "no layer 'raw', choose --layer from: X$", layer="raw")
    adata.layers["spliced"] = adata.layers["counts"] = adata.X
    adata.X = None
    adata.write_h5ad(h5ad)
    refused(h5ad, "no layer 'raw', choose --layer from: counts, spliced", layer="raw")
    refused(h5ad, "X is absent, and several .* whole counts: choose --layer from: counts, spliced$")
    check_content(readers.read(h5ad, layer="counts"))


def test_h5ad_which_disagrees_with_itself(h5ad):
    annotated(sp.csr_matrix(COUNTS)).write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        file["X/indices"][0] = 3
    refused(h5ad, "X: its pieces do not make a CSR matrix of shape .*indices must be < 3")
    with h5py.File(h5ad, "r+") as file:
        file["X"].attrs["encoding-type"] = "of tomorrow"
    refused(h5ad, "X has the encoding 'of tomorrow', which is not of a matrix")
    annotated().write_h5ad(h5ad)
    with h5py.File(h5ad, "r+") as file:
        del file["X"]
        file["X"] = COUNTS[:3]
    refused(h5ad, re.escape("the shape of X, (3, 3), disagrees with 4 cells in obs"))
    write_column(h5ad, "age", np.ones(5))
    refused(h5ad, "obs/age has 5 entries for the 4 cells")


# ---- read_labels


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["T", "", None, "B"], ["T", None, None, "B"]),
        (pd.Categorical(["T", "B", None, "T"]), ["T", "B", None, "T"]),
        (pd.Categorical([2, 1, 2, 1]), ["2", "1", "2", "1"]),
        ([3, 1, 2, 3], ["3", "1", "2", "3"]),
        (np.array([3, np.nan, 1.5, 2], dtype=np.float32), ["3", None, "1.5", "2"]),
        (pd.array([1, None, 2, 3], dtype="Int64"), ["1", None, "2", "3"]),
        (pd.array(["a", None, "b", ""], dtype="string"), ["a", None, "b", None]),
        ([True, False, True, True], ["True", "False", "True", "True"]),
    ],
)
def test_labels_are_strings(column, expected):
    adata = annotated()
    adata.obs["label"] = column
    labels = readers.read_labels(adata, "label")
    assert labels.tolist() == expected
    assert labels.dtype == object
    assert labels.index.equals(adata.obs_names)
    assert labels.name == "label"
    assert readers.read_labels(adata, "absent") is None


# ---- the real data sets


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the folder {SHARED} is absent")
@pytest.mark.parametrize("name", SHARED_SETS)
def test_shared_data_set(name):
    adata = readers.read(readers.locate(name, SHARED))
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.rint(adata.X.data)).all()
    labels = readers.read_labels(adata, "cell_type1")
    assert labels.notna().all()
    assert (*adata.shape, labels.nunique()) == SHARED_SETS[name]
    assert ("cell_name" in adata.obs) == (name == "PBMC_facs")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the folder {SHARED} is absent")
def test_every_shared_folder_is_in_the_table():
    assert {folder.parent.name for folder in SHARED.glob("*/data.h5")} == {*SHARED_SETS}
