"""How many threads the libraries of linear algebra get: one where the data are small.

On small data a second thread of BLAS or OpenMP gains nothing: each product, and each round of
K-means, is over before the threads have met. Where other work wants the cores too the threads wait
for each other in turns: the consensus of 700 cells took 59 s on 2 busy cores, and 1.7 s with one
thread. TensorFlow has threads of its own, which nothing here changes.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

SMALL = 2_000  # cells, up to which one thread is as fast as two on cores that nobody else wants
# What brings the libraries along: only those that are loaded can be limited.
LIBRARIES = ("scipy.linalg", "sklearn.cluster")


@contextlib.contextmanager
def suited_to(n_cells: int) -> Iterator[None]:
    """Have BLAS and OpenMP compute on one thread during a block, if there are few cells.

    With one thread the sums of small data are the same on machines of any number of cores. What the
    environment asks for (OMP_NUM_THREADS, say) is for larger data, and is back after the block.
    Source: `threadpoolctl.threadpool_limits`, as scikit-learn's documentation advises.
    """
    if n_cells > SMALL:
        yield
        return
    from threadpoolctl import threadpool_limits

    for name in LIBRARIES:
        importlib.import_module(name)
    with threadpool_limits(1):
        yield
