"""Small files that claim to be large, or that point to themselves and to other files."""

import gzip

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from fuzzing import _adata

import readers
from bench import records
from formats import bounds, raw_counts, text
from utils import InputError


def refused(path, words, read=readers.read):
    with pytest.raises(InputError, match=words) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def h5ad(tmp_path):
    """An .h5ad of all parts, which a test changes."""
    path = tmp_path / "a.h5ad"
    _adata().write_h5ad(path)
    return path


# --- Other files, and the file itself -------------------------------------------------------------


def _external_link(file, other):
    file["uns/other"] = h5py.ExternalLink(other, "X")


def _virtual(file, other):
    layout = h5py.VirtualLayout((5, 4), "f8")
    layout[:] = h5py.VirtualSource(other, "X", shape=(5, 4))
    file.create_virtual_dataset("uns/other", layout)


def _external_data(file, other):
    file.create_dataset("uns/other", (9,), "i1", external=[(str(other), 0, 9)])


@pytest.mark.parametrize("point", [_external_link, _virtual, _external_data])
def test_other_files_are_not_opened(point, h5ad, tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["X"] = np.ones((5, 4))
    with h5py.File(h5ad, "a") as file:
        point(file, other)
    refused(h5ad, r"/uns/other (is a link to another file|has its data in other files)")


@pytest.mark.parametrize("is_soft", [False, True])
def test_a_group_that_contains_itself(is_soft, h5ad):
    with h5py.File(h5ad, "a") as file:
        file["uns/more/again"] = h5py.SoftLink("/uns") if is_soft else file["uns"]
    refused(h5ad, "contains itself")


def test_links_inside_the_file_that_lead_somewhere_or_nowhere_are_no_danger(h5ad):
    with h5py.File(h5ad, "a") as file:
        file["uns/gone"] = h5py.SoftLink("/nowhere")
        file["uns/round"] = h5py.SoftLink("/uns/round")
        file["uns/twice"] = h5py.SoftLink("/uns/more")
    adata = readers.read(h5ad, whole=True)
    assert {*adata.uns} == {"colors", "more", "twice"}


def test_few_groups_that_many_paths_lead_to(h5ad):
    with h5py.File(h5ad, "a") as file:
        group = file["uns/more"]
        for level in range(30):
            outer = file.create_group(f"level{level}")
            outer["left"] = outer["right"] = group
            group = outer
        file["uns/all"] = group
    refused(h5ad, "has too many parts")


def test_groups_in_groups(h5ad):
    with h5py.File(h5ad, "a") as file:
        file.create_group("uns/" + "g/" * 200)
    refused(h5ad, "is nested too deeply")


def test_what_anndata_could_not_write_again_is_left_out(h5ad, tmp_path):
    with h5py.File(h5ad, "a") as file:
        uns = file["uns"]
        uns.create_dataset("references", data=np.array([file.ref] * 3, h5py.ref_dtype))
        uns.create_dataset("nothing", data=h5py.Empty("f"))
        uns["raw_bytes"] = np.void(b"x")
        uns.create_dataset("lists", (2,), h5py.vlen_dtype("i4"))
        uns["table"] = np.zeros(3, [("a", "i4"), ("b", "f8")])
        file["obs"].create_dataset("cells", data=np.array([file.ref] * 12, h5py.ref_dtype))
        file["obs"].attrs["column-order"] = [*file["obs"].attrs["column-order"], "cells"]
    adata = readers.read(h5ad, whole=True)
    assert {*adata.uns} == {"colors", "more", "table"}
    assert "cells" in adata.obs.attrs["left_out"]
    adata.write_h5ad(tmp_path / "again.h5ad")


# --- Shapes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "chunks", "words"),
    [
        ((10**6, 10**6), (10**3, 10**3), "4000000000000 bytes, which is too much"),
        ((10**12, 0), (10, 1), "the shape is given as 1000000000000 x 0"),
        ((5, 4), (2**13, 2**13), "268435456 bytes"),  # unpacked as a whole
    ],
)
def test_a_dense_matrix_that_is_not_there(shape, chunks, words, tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("X", shape, "f4", chunks=chunks, maxshape=(None, None))
    refused(path, words)


def test_values_that_are_packed_beyond_what_counts_are(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["other"] = np.random.default_rng(0).integers(256, size=300_000, dtype="u1")
        file.create_dataset("X", (2**14, 2**14), "i1", chunks=(2**10, 2**14), compression="gzip")
    assert bounds.RATIO * path.stat().st_size > 2**28  # the bytes alone would pass
    refused(path, "268435456 values")


@pytest.mark.parametrize("by_genes", [False, True])
def test_a_sparse_matrix_of_a_shape_that_is_not_there(by_genes, h5ad):
    with h5py.File(h5ad, "a") as file:
        file["X"].attrs["shape"] = [12, 10**14]
    refused(h5ad, "the shape is given as 12 x 100000000000000, with")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (
            "coordinate integer general\n2000000000 2000000000 1\n1 1 1",
            "the shape is given as 2000",
        ),
        ("coordinate integer general\n20 20 1000000000000\n1 1 1", "1000000000000 numbers"),
        ("array integer general\n60000 60000\n1", "3600000000 numbers"),
    ],
)
def test_a_matrix_market_that_is_not_there(size, words, tmp_path):
    path = tmp_path / "a.mtx"
    path.write_text(f"%%MatrixMarket matrix {size}\n")
    refused(path, words)


@pytest.mark.parametrize("end", [b"", b" ", b"x", b"\t%"])
def test_a_matrix_market_whose_last_line_has_no_end(end, tmp_path):
    """The reader of SciPy crashes on all but the first and the last of these."""
    path = tmp_path / "a.mtx"
    head = b"%%MatrixMarket matrix coordinate integer general\n2 3 2\n1 1 4\n2 3 5"
    path.write_bytes(head + end)
    np.testing.assert_array_equal(readers.read(path).X.toarray(), [[4, 0], [0, 0], [0, 5]])


def test_a_null_character_in_a_matrix_market(tmp_path):
    path = tmp_path / "a.mtx"
    path.write_bytes(b"%%MatrixMarket matrix coordinate integer general\n2 3 1\n1 1\0\0 4\n")
    refused(path, "null bytes")


def test_a_folder_of_zarr_whose_array_is_not_there(tmp_path):
    import zarr

    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w")
    group.create_array("X", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))
    refused(path, "its arrays are given as 4000000000000 bytes")


# --- Text -----------------------------------------------------------------------------------------


def packed(path, *parts):
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part in parts:
            file.write(part)
    return path


def test_a_packed_table_of_one_endless_row(tmp_path):
    refused(packed(tmp_path / "a.csv.gz", b"0," * 2**24), "its first row is longer than")


def test_a_packed_table_of_too_many_rows(tmp_path):
    rows = b"0,0,0\n" * 2**17
    refused(packed(tmp_path / "a.csv.gz", b"a,b,c\n", rows), "has more than 65536 rows")


def test_a_table_of_too_many_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1," * 2**17)
    refused(path, "its first row has 131073 entries")


def test_a_packed_list_that_never_ends(tmp_path):
    path = packed(tmp_path / "a.csv.gz", *[b"cell1,A\n" * 2**20] * 5)
    refused(path, "unpacks to more than 100 times its size", read=text.entries)


def test_null_characters_are_not_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("cell,a\0,b\nc1,1,2\n")
    refused(path, "it has null characters")
    refused(path, "it has null characters", read=text.entries)


def test_json_in_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    refused(path, "not JSON: maximum recursion depth", read=records.read)


# --- What is well within the bounds ---------------------------------------------------------------


def test_ordinary_data_are_within_the_bounds(tmp_path):
    """A dense matrix of few counts, which packs better than any other, and many empty droplets."""
    path = tmp_path / "a.h5"
    counts = np.zeros((3000, 2000))
    counts[::10, ::20] = np.random.default_rng(0).poisson(1, (300, 100))  # 0.3 % are not zero
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=counts, compression="gzip", compression_opts=9)
    np.testing.assert_array_equal(readers.read(path).X.toarray(), counts)
    bounds.check_shape((6_800_000, 36_000), 20_000_000, "of all barcodes")


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i8", "u1", "bool"])
def test_dense_counts_are_made_sparse_in_blocks_as_in_one(kind, monkeypatch):
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.5, (7, 5)).astype(kind)
    whole = sp.csr_matrix(counts.astype(np.float64)).astype(np.float32)
    monkeypatch.setattr(raw_counts, "BLOCK", 10)
    blocks = raw_counts.canonical(counts, "X")
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(blocks, part), getattr(whole, part))
    assert blocks.dtype == np.float32
    if kind in ("f8", "i8"):
        counts[6, 4] = 2**24 + 1
        assert raw_counts.canonical(counts, "X")[6, 4] == 2**24 + 1
