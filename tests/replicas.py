"""What test_strategies.py runs in processes of its own: TensorFlow settles its devices once.

python replicas.py mirrored FILE.npz      # trains on one device and on two, writes both ends
python replicas.py worker FLAGS...        # train.py, as one of several workers
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow as tf
from conftest import grouped_counts, network, prepared

function = tf.function
tf.function = lambda f=None, **_: function(f) if f else function  # XLA takes many seconds


def mirrored(path):
    """Train a network by sub-graphs on one device, and on two logical ones of the processor."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    import arrays
    import parts
    import strategies
    import training
    import views
    from settings import Settings, Training

    objective, adata = Settings.of(w_adj=0.3, batch_cells=60), prepared(grouped_counts(112))
    strategy = tf.distribute.MirroredStrategy(strategies._devices("mirrored"))
    trained = {}
    for name, shares in (("one", None), ("two", strategy)):
        net = network(hops=2, dropout=0.2)
        in_parts = parts.parts_of(views.graph(adata), 60, seed=1)
        data = arrays.parted_data(adata, net.architecture, objective, in_parts, block_bytes=2**20)
        data = data._replace(strategy=shares)
        net.place_centers(training.embed(net, data)[:3], trainable=True)
        phase = Training(maxiter=5, cluster_lr=1e-2, cluster_tol=0.0, update_interval=1)
        clustered = training.cluster(net, data, objective, phase, quiet=True)
        names = ("total", "adj", "zinb", "kl")
        trained[f"{name}_losses"] = [[row[n] for n in names] for row in clustered.history]
        trained[f"{name}_weights"] = np.concatenate([np.ravel(v) for v in net.variables])
        trained[f"{name}_q"] = clustered.q
    np.savez(path, replicas=strategy.num_replicas_in_sync, **trained)


def worker(*flags):
    """Run the command; exit with its status."""
    import train

    sys.exit(train.main(list(flags)))


if __name__ == "__main__":
    {"mirrored": mirrored, "worker": worker}[sys.argv[1]](*sys.argv[2:])
