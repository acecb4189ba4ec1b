"""Steps of a few parts of the graph: what they are made of, what they expect, that they repeat."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import EAGER_DATA, TINY, grouped_counts, network, opened
from conftest import prepared as prepare

import arrays
import checkpoints
import clustering
import fitting
import losses
import memory
import parts
import tensors
import training
import views
import whole_graph
from checkpoints import Saved
from parts import TOGETHER, Parts
from settings import BATCH_CELLS, WHOLE_CELLS, Objective, Settings, Training
from subgraphs import SubGraphs

OBJECTIVE = Objective(w_adj=0.3)


@pytest.fixture(scope="module")
def prepared():
    """112 cells, which 16 parts of 7 cells cover; on a directed graph."""
    return prepare(grouped_counts(112))


def both(adata, net, objective=OBJECTIVE, *, batch_cells=60):
    """The data for steps of all cells, and for steps of two to a pass."""
    in_parts = parts.parts_of(views.graph(adata), batch_cells, seed=1)
    return (
        tensors.training_data(adata, net.architecture, objective),
        arrays.parted_data(adata, net.architecture, objective, in_parts, block_bytes=2**20),
    )


def placed(net, data):
    """Place random centres; return the target p of the assignment to them."""
    net.place_centers(np.random.default_rng(1).normal(size=(3, 4)), trainable=True)
    return losses.target_distribution(net.assign(net.encode(data.graph, training=False)))


# --- Parts ----------------------------------------------------------------------------------------

CIRCLES = [Parts(np.random.default_rng(0).permutation(n), t) for n, t in ((112, 2), (83, 3))]


@pytest.mark.parametrize("circle", CIRCLES)
def test_a_pass_has_each_cell_once_but_for_fewer_than_there_are_parts(circle):
    n_cells, passes = len(circle.order), []
    for number in range(3):
        pass_steps = range(number * circle.steps, (number + 1) * circle.steps)
        of_steps = [circle.of_step(step, seed=5) for step in pass_steps]
        assert {len(places) for places in of_steps} == {circle.cells}
        places = np.concatenate(of_steps)
        assert len(np.unique(places)) == len(places) == n_cells - circle.left_out
        passes.append(tuple(places))
    assert circle.left_out < TOGETHER * circle.steps
    assert len(set(passes)) == 3
    again, other = (circle.of_step(4, seed=seed) for seed in (5, 6))
    np.testing.assert_array_equal(again, circle.of_step(4, seed=5))
    assert set(again) != set(other)


@pytest.mark.parametrize("circle", CIRCLES)
def test_the_weights_are_one_over_the_probability_that_two_cells_meet(circle):
    """Against every cut of the circle, and against the share of many steps."""
    n_cells, n_parts = len(circle.order), TOGETHER * circle.steps
    together = np.zeros(n_cells)  # the cell 0 and the one at each place
    for start in range(n_cells):
        part = np.full(n_cells, -1)
        covered = (start + np.arange(n_parts * circle.size)) % n_cells
        part[covered] = np.repeat(np.arange(n_parts), circle.size)
        if part[0] < 0:
            continue
        same, other = part == part[0], (part >= 0) & (part != part[0])
        together += same * TOGETHER / n_parts
        together += other * TOGETHER * (TOGETHER - 1) / (n_parts * (n_parts - 1))
    at = circle.distance(np.zeros(n_cells, int), np.arange(n_cells))
    np.testing.assert_allclose(1 / circle.weights()[at], together / n_cells, rtol=1e-5)
    seen, many = np.zeros(n_cells), 4_000
    for step in range(many):
        places = circle.of_step(step, seed=1)
        seen[places] += 0 in places
    share = together / n_cells
    assert (np.abs(seen / many - share) < 5 * np.sqrt(share / many)).all()


def test_neighbours_are_near_each_other_on_the_circle(prepared):
    graph = views.graph(prepared)
    rows, cols = graph.nonzero()

    def in_one_part(order):
        place = np.argsort(order) // 7
        return np.mean(place[rows] == place[cols])

    order = parts.community_order(graph, 7, seed=1)
    np.testing.assert_array_equal(np.sort(order), np.arange(112))
    assert in_one_part(order) > 2.5 * in_one_part(np.random.default_rng(0).permutation(112))
    groups = clustering.leiden(clustering.undirected(graph), resolution=1.0, seed=1)[order]
    assert np.sum(groups[1:] != groups[:-1]) == groups.max()  # each community in one piece


def test_the_cells_of_a_step_are_few_only_where_that_is_asked_for_or_the_cells_are_many():
    def cells(n_cells, **given):
        return parts.cells_of_step(Settings.of(**given), n_cells)

    few = WHOLE_CELLS
    assert (cells(few), cells(few + 1)) == (None, BATCH_CELLS)
    assert cells(few + 1, graph_loss="mse") is cells(few + 1, variant="official") is None
    assert (cells(100, batch_cells=99), cells(100, batch_cells=100)) == (99, None)


# --- A step ---------------------------------------------------------------------------------------

SHAPES = [{"hops": 1}, {"hops": 2, "direction": "atx"}, {"hops": 3, "tag_blocks": "repeated"}]


@pytest.mark.parametrize("shape", SHAPES)
def test_all_cells_in_chunks_are_all_cells_at_once(prepared, shape, monkeypatch):
    monkeypatch.setattr("subgraphs.BLOCK_CELLS", 50)
    net = network(**shape)
    data, in_parts = both(prepared, net)
    placed(net, data)
    features = views.features(prepared, metric=False).astype(np.float32)
    data, in_parts = (d.with_components(features) for d in (data, in_parts))
    net.place_centers(np.ones((3, tensors.join(tf.zeros([112, 4]), data).shape[1])), trainable=True)
    z = net.encode(data.graph, training=False)
    np.testing.assert_allclose(training.embed(net, in_parts), z, rtol=1e-5, atol=1e-6)
    q = net.assign(tensors.join(z, data))
    np.testing.assert_allclose(SubGraphs(net, in_parts).assign(), q, rtol=1e-5)


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_sends_and_remembers_the_messages_of_the_whole_graph(prepared, shape):
    """Of the cells of a step, with what is remembered of their neighbours."""
    net = network(**shape)
    _, in_parts = both(prepared, net)
    road = SubGraphs(net, in_parts)
    road.begin()
    exact = [remembered.numpy() for remembered in road.remembered]
    assert len(exact) == (1 if "tag_blocks" in shape else net.architecture.hops)
    batch = road.batch(0)
    cells = batch.cells.numpy()
    _, messages = road.losses(batch, road.stale(batch), None, OBJECTIVE)
    for computed, expected in zip(messages, exact, strict=True):
        np.testing.assert_allclose(computed, expected[cells], rtol=1e-4, atol=1e-5)
    optimizer = training.adam(net, training.Phase(5, 1e-2))
    step = road.make_step(OBJECTIVE, optimizer)
    net.trainable_variables[0].assign_add(net.trainable_variables[0] * 0.1)
    step(1, None)
    others = np.setdiff1d(np.arange(112), cells)
    for remembered, before in zip(road.remembered, exact, strict=True):
        np.testing.assert_array_equal(remembered.numpy()[others], before[others])
        assert (np.abs(remembered.numpy()[cells] - before[cells]).max(axis=1) > 0).all()


def averages(net, in_parts, p, objective, n_steps):
    """Mean and standard error of the losses and gradients of many steps, as flat arrays."""
    road = SubGraphs(net, in_parts)
    road.begin()

    @tf.function
    def compute(batch, stale, p):
        with tf.GradientTape() as tape:
            computed, _ = road.losses(batch, stale, p, objective)
        return computed, tape.gradient(computed.total, [v.value for v in net.trainable_variables])

    rows = []
    for step in range(n_steps):
        batch = road.batch(step)
        rows.append([np.ravel(x) for x in tf.nest.flatten(compute(batch, road.stale(batch), p))])
    columns = [np.stack(column) for column in zip(*rows, strict=True)]
    return [(c.mean(axis=0), c.std(axis=0) / np.sqrt(n_steps)) for c in columns]


def whole_gradients(net, data, p, objective):
    with tf.GradientTape() as tape:
        computed = whole_graph.step_losses(net, data, p, objective)
    gradients = tape.gradient(computed.total, [v.value for v in net.trainable_variables])
    return [np.ravel(x) for x in tf.nest.flatten((computed, gradients))]


def test_a_pass_has_the_losses_of_all_cells(prepared):
    """The means over cells are those of the whole graph exactly, where a pass has all cells."""
    net = network(hops=2)
    data, in_parts = both(prepared, net)
    assert (in_parts.parts.left_out, in_parts.parts.steps) == (0, 2)
    p = placed(net, data)
    computed = averages(net, in_parts, p, OBJECTIVE, 2)
    expected = whole_gradients(net, data, p, OBJECTIVE)
    for place in (2, 3):  # zinb and kl
        assert computed[place][0] == pytest.approx(expected[place], rel=1e-5)


def test_the_expectation_of_a_step_is_that_of_the_whole_graph():
    """Losses over cells, with gradients through neighbours; cells are left out, it has batches."""
    net, objective = network(hops=1), Objective(w_adj=0.0)
    adata = prepare(grouped_counts(83))
    data, in_parts = both(adata, net, objective, batch_cells=30)
    assert in_parts.parts.left_out > 0
    p = placed(net, data)
    computed = averages(net, in_parts, p, objective, 600)
    expected = whole_gradients(net, data, p, objective)
    for (mean, error), value in zip(computed, expected, strict=True):
        assert (np.abs(mean - value) <= 5 * error + 1e-5 * np.abs(value).max()).all()
    for place in (4, 6):  # the kernels of both graph convolutions
        mean, value = computed[place][0], expected[place]
        assert np.linalg.norm(mean - value) < 0.05 * np.linalg.norm(value)


@pytest.mark.parametrize("direction", ["ax", "atx"])
def test_the_expectation_of_the_graphs_loss_is_that_of_the_whole_graph(direction):
    """And of its gradient in the decoder's weights, with pairs drawn anew in each step."""
    net, objective = network(hops=1, direction=direction), Objective(w_adj=1.0, w_zinb=0.0)
    adata = prepare(grouped_counts(83))
    data, in_parts = both(adata, net, objective, batch_cells=30)
    computed = averages(net, in_parts, None, objective, 600)
    whole = np.stack(
        [np.concatenate(whole_gradients(net, data, None, objective)) for _ in range(100)]
    ).mean(axis=0)
    sizes = [len(mean) for mean, _ in computed]
    expected = np.split(whole, np.cumsum(sizes)[:-1])
    decoder = [4 + i for i, v in enumerate(net.trainable_variables) if "graph_decoder" in v.path]
    assert len(decoder) == 3
    for place in (1, *decoder):
        mean, error = computed[place]
        scale = np.abs(expected[place]).max()
        assert (np.abs(mean - expected[place]) <= 5 * error + 0.02 * scale).all()
        assert np.linalg.norm(mean - expected[place]) < 0.1 * np.linalg.norm(expected[place])


def test_all_steps_are_one_compiled_shape(prepared, monkeypatch):
    made, function = [], tf.function

    def collect(compute=None, **_):
        if compute is None:
            return collect
        made.append(function(compute))
        return made[-1]

    net = network(hops=1)
    _, in_parts = both(prepared, net)
    road = SubGraphs(net, in_parts)
    monkeypatch.setattr(tf, "function", collect)
    step = road.make_step(OBJECTIVE, training.adam(net, training.Phase(9, 1e-2)))
    monkeypatch.setattr(tf, "function", function)
    for epoch in range(1, 10):
        step(epoch, None)
    assert [compiled.experimental_get_tracing_count() for compiled in made] == [1]


# --- Training -------------------------------------------------------------------------------------


def pretrain(net, data, **changes):
    phase = training.Phase(changes.pop("epochs", 12), 1e-2)
    pretraining = training.Pretraining(net, data, OBJECTIVE, phase, quiet=True)
    return pretraining.run(net.seed, **changes)


def cluster(net, data, **changes):
    net.place_centers(training.embed(net, data)[:3], trainable=True)
    settings = Training(maxiter=12, cluster_lr=1e-2, cluster_tol=0.0, update_interval=1)
    return training.cluster(net, data, OBJECTIVE, settings, quiet=True, **changes)


@pytest.mark.usefixtures("without_xla")
def test_training_by_parts_comes_to_where_training_on_all_cells_does(prepared):
    """Two steps of half of the cells for one of all; the loss is that of all cells, at the end."""
    whole, in_steps = network(hops=1), network(hops=1)
    data, in_parts = both(prepared, whole)
    at_start = float(whole_graph.step_losses(whole, data, None, OBJECTIVE).zinb)
    for net, of in ((whole, data), (in_steps, in_parts)):
        pretrain(net, of, epochs=60)
    expected, computed = (
        float(whole_graph.step_losses(net, data, None, OBJECTIVE).zinb) for net in (whole, in_steps)
    )
    assert expected < 0.95 * at_start
    assert abs(computed - expected) < 0.2 * (at_start - expected)


@pytest.mark.usefixtures("without_xla")
def test_the_seed_decides_the_steps(prepared):
    """A restart repeats them to the bit, whatever was trained before."""
    net = network(dropout=0.2, hops=1)
    _, in_parts = both(prepared, net)
    phase = training.Phase(7, 1e-2)
    pretraining = training.Pretraining(net, in_parts, OBJECTIVE, phase, quiet=True)
    computed = [(pretraining.run(s), training.embed(net, in_parts)) for s in (5, 6, 5)]
    assert computed[2][0] == computed[0][0] != computed[1][0]
    np.testing.assert_array_equal(computed[2][1], computed[0][1])


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("phase", ["pretrain", "cluster"])
def test_a_phase_that_goes_on_ends_with_the_same_bits(prepared, phase, tmp_path):
    """From a checkpoint on disk, in the middle of a pass: the messages are part of it."""
    train, kept = {"pretrain": pretrain, "cluster": cluster}[phase], []
    net = network(dropout=0.2, hops=2)
    _, in_parts = both(prepared, net)
    whole = train(net, in_parts, keep=kept.append)
    snapshot = next(snapshot for snapshot in kept if snapshot.epoch == 7)
    path = checkpoints.write(tmp_path, Saved({}, snapshot, None, tmp_path))
    again = network(dropout=0.2, hops=2)
    ended = train(again, in_parts, start=checkpoints.read(path).snapshot)
    if phase == "cluster":
        np.testing.assert_array_equal(ended.q, whole.q)
        ended, whole = ended.history, whole.history
    assert ended == whole
    for a, b in zip(net.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings(EAGER_DATA)
def test_the_command_takes_steps_of_so_many_cells(run, simulated, tmp_path):
    flags = [*TINY, "--data", simulated.path, "--batch_cells", "40", "--out", tmp_path / "out"]
    done = opened(run(*flags, compiled=False), tmp_path / "out")
    assert "subgraphs steps of 40 of 120 cells, 3 steps a pass" in done.ran.out
    assert done.metrics["epochs"] == {"pretrain": 3, "cluster": 2}
    assert done.metrics["batch_cells"] == 40
    assert done.adata.obsm["X_sctag"].shape == (120, 4)


@pytest.mark.filterwarnings(EAGER_DATA)
@pytest.mark.parametrize(("flags", "stay"), [(["--batch_cells", "40"], True), ([], False)])
def test_of_parts_a_cell_leaves_its_initial_cluster_only_if_it_is_moved(
    run, simulated, tmp_path, monkeypatch, flags, stay
):
    """Ten cells begin in a cluster whose centre is not the nearest to them."""
    begun, wrong, initial_clusters = [], slice(10), fitting.initial_clusters

    def initial(*args):
        labels, notes = initial_clusters(*args)
        labels[wrong] = (labels[wrong] + 1) % (labels.max() + 1)
        begun.append(labels)
        return labels, notes

    monkeypatch.setattr(fitting, "initial_clusters", initial)
    flags = [*TINY, "--data", simulated.path, "--out", tmp_path / "out", *flags]
    done = opened(run(*flags, compiled=False), tmp_path / "out")
    labels, q = done.labels["cluster"].to_numpy(), done.adata.obsm["sctag_proba"]
    nearest = q.argmax(axis=1)
    kept = labels == begun[0]
    assert (labels == nearest)[~kept].all()
    assert (kept[wrong].mean() > 0.5) == stay
    assert (labels == nearest).all() != stay
    of_labels = q[np.arange(len(q)), labels]
    np.testing.assert_allclose(done.labels["probability"], of_labels, rtol=1e-5)


def test_all_pairs_of_cells_are_no_loss_of_parts(refused, simulated):
    sentence = refused("--data", simulated.path, "--batch_cells", "40", "--graph_loss", "mse")
    assert "--batch_cells is for the graph loss of edges" in sentence


def test_fewer_cells_of_a_step_take_less_memory():
    size = memory.Size(50_000, 10**7, 500, 2_000, 3 * 10**6, 10**6)
    few, many = (
        memory.estimated_peaks(size, Settings.of(batch_cells=cells)).training
        for cells in (1_024, 16_384)
    )
    # Its activations, its inputs, and the pairs of its 20 edges.
    step_of_cell = 4 * (3 * 1_024 + 2.5 * 2 * 500 + 20 * 2 * 2 * 16)
    assert many - few == pytest.approx(step_of_cell * (16_384 - 1_024), rel=0.05)
