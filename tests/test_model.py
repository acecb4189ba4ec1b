"""The joined model: one road to the embedding, tensors made at one place, save and load."""

import anndata as ad
import conftest
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tensorflow as tf

import model
import results
import room
import tensors
from settings import Architecture, Settings

GENES, CELLS = 6, 9


def network(*, seed=3, **changes):
    sizes = {"hidden_dim": 5, "latent_dim": 3, "decoder_dims": [4, 7], "dropout": 0.5}
    return conftest.network(n_genes=GENES, seed=seed, **(sizes | changes))


def prepared():
    """A prepared AnnData with a directed graph of unequal row degrees."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(size=(CELLS, GENES)).astype(np.float32))
    graph = np.eye(CELLS, dtype=np.float32)
    graph[rng.random((CELLS, CELLS)) < 0.2] = 1
    adata.obsp["connectivities"] = sp.csr_matrix(graph)
    return adata


def dense_encoding(net, adata, direction):
    """The formula with dense matrices: two TAGConvs over powers of D^-1/2 A D^-1/2."""
    a = adata.obsp["connectivities"].toarray()
    degree = a.sum(axis=1)
    p = a / np.sqrt(degree[:, None] * degree[None, :])
    p = p.T if direction == "atx" else p
    value = np.asarray(adata.X)
    for layer, activation in ((net.encoder_1, lambda x: np.maximum(x, 0)), (net.encoder_2, id)):
        kernel, bias = (w.numpy() for w in layer.linear.weights)
        powers = [np.linalg.matrix_power(p, e) @ value for e in layer.exponents]
        value = np.concatenate(powers, axis=1) @ kernel + bias
        value = activation(value) if activation is not id else value
    return value


@pytest.mark.parametrize("direction", ["ax", "atx"])
@pytest.mark.parametrize("tag_blocks", ["powers", "repeated"])
def test_encode_is_the_formula(direction, tag_blocks):
    net, adata = network(tag_blocks=tag_blocks, direction=direction), prepared()
    for layer in (net.encoder_1, net.encoder_2):
        layer.linear.bias.assign(np.linspace(-1, 1, layer.channels))
    graph = tensors.graph_tensors(adata, net.architecture)
    z = net.encode(graph, training=False)
    np.testing.assert_allclose(z, dense_encoding(net, adata, direction), atol=1e-5)


def test_the_direction_matters_on_a_directed_graph_only():
    directed, symmetric = prepared(), prepared()
    a = directed.obsp["connectivities"]
    symmetric.obsp["connectivities"] = a.maximum(a.T).tocsr()
    for adata, same in ((directed, False), (symmetric, True)):
        ax, atx = (
            tensors.graph_tensors(
                adata, Architecture(hops=2, direction=direction)
            ).propagated.numpy()
            for direction in ("ax", "atx")
        )
        assert np.allclose(ax, atx, atol=1e-6) == same


def test_edges_are_the_ones_of_the_adjacency_whatever_the_direction():
    adata = prepared()
    edges = tensors.graph_tensors(adata, Architecture(direction="atx")).edges
    rebuilt = np.zeros((CELLS, CELLS))
    rebuilt[edges.rows.numpy(), edges.cols.numpy()] = 1
    np.testing.assert_array_equal(rebuilt, adata.obsp["connectivities"].toarray())


def test_dropout_acts_in_training_only():
    net = network()
    graph = tensors.graph_tensors(prepared(), net.architecture)
    still = [net.encode(graph, training=False).numpy() for _ in range(2)]
    moving = [net.encode(graph, training=True).numpy() for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert (moving[0] != moving[1]).any()
    assert (moving[0] != still[0]).any()


def test_outputs_have_their_shapes():
    net = network()
    z = tf.zeros([CELLS, 3])
    assert [part.shape for part in net.decode_counts(z)] == [(CELLS, 7), (7, 18), (18,)]
    assert {factor.shape for factor in net.decode_graph(z)} == {(CELLS, 4)}
    net.place_centers(np.zeros((2, 3)), trainable=True)
    np.testing.assert_allclose(tf.reduce_sum(net.assign(z), axis=1), 1.0)


def test_the_seed_decides_every_weight():
    first, same, other = network(), network(), network(seed=4)
    for a, b in zip(first.weights, same.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [w for w in first.weights if "kernel" in w.path]
    changed = [w for w in other.weights if "kernel" in w.path]
    assert all((a.numpy() != b.numpy()).any() for a, b in zip(kernels, changed, strict=True))
    heads = [head.kernel.numpy() for head in first.heads]
    assert (heads[0] != heads[1]).any()  # one seed, not one matrix


@pytest.mark.parametrize("trainable", [False, True])
def test_placed_centers_are_trainable_as_asked(trainable):
    net = network()
    before = len(net.trainable_variables)
    net.place_centers(np.ones((4, 3)), trainable=trainable)
    assert len(net.trainable_variables) == before + trainable


def test_save_and_load_give_the_same_network(tmp_path):
    net = network()
    net.place_centers(np.random.default_rng(0).normal(size=(4, 3)), trainable=False)
    net.heads[0].bias.assign(np.arange(GENES))
    net.save(tmp_path)
    loaded = model.load(tmp_path)
    graph = tensors.graph_tensors(prepared(), net.architecture)
    z = net.encode(graph, training=False)
    np.testing.assert_array_equal(loaded.encode(graph, training=False), z)
    np.testing.assert_array_equal(loaded.assign(z), net.assign(z))
    for a, b in zip(loaded.decode_counts(z), net.decode_counts(z), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_room_that_is_asked_for_holds_the_weights(tmp_path):
    sizes = {"hidden_dim": 64, "latent_dim": 8, "decoder_dims": [32, 64], "hops": 2}
    net = conftest.network(n_genes=3_000, **sizes)
    net.place_centers(np.zeros((8, 8)), trainable=True)
    net.save(tmp_path)
    adata = ad.AnnData(sp.csr_matrix((1, 3_000)), obs=pd.DataFrame(index=["cell"]))
    settings = Settings.of(no_report=True, **sizes)
    sizes = room.sizes_of(adata, None, settings, n_clusters=8, packing=room.packed)
    bound = sizes[results.NETWORK[1]]
    assert bound / 1.3 <= (tmp_path / results.NETWORK[1]).stat().st_size <= bound


def test_weights_fill_the_room_that_is_taken_for_them(tmp_path, monkeypatch):
    """On a full disk the room is not there, and HDF5 is not let near it."""
    net = network()
    net.place_centers(np.zeros((3, 3)), trainable=True)
    taken = []

    def look(path):
        taken.append(path.stat().st_size)

    save_weights = net.save_weights
    monkeypatch.setattr(net, "save_weights", look)
    net.save(tmp_path)
    save_weights(tmp_path / results.NETWORK[1], overwrite=True)
    assert (tmp_path / results.NETWORK[1]).stat().st_size <= taken[0]
