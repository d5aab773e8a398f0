"""Fit a table on disk that is never in memory as a whole, and a stream of rows.

Run ``python examples/out_of_core.py``: it writes a memory map to a temporary folder,
fits it, labels it slice by slice, and learns from a stream of small batches of rows.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import make_moons

from skflowmix import FlowMixture, FlowMixtureOptions

N_ROWS, SLICE = 100_000, 25_000


def moons(n_rows, random_state):
    """Draw rows of two moons; also return the moon that each row belongs to."""
    X, y = make_moons(n_rows, noise=0.08, random_state=random_state)
    return X.astype(np.float32), y


def main(path):
    table = np.lib.format.open_memmap(path, "w+", np.float32, (N_ROWS, 2))
    for i, start in enumerate(range(0, N_ROWS, SLICE)):
        table[start : start + SLICE], _ = moons(SLICE, i)
    table.flush()
    test, moon = moons(5000, 100)

    X = np.load(path, mmap_mode="r")
    # Small networks and early stopping, for a quick example.
    parameters = {
        "n_transforms": 1,
        "hidden_units": (8,),
        "tol": 0.05,
        "n_iter_no_change": 1,
        "options": FlowMixtureOptions(n_iter_init=2),
    }
    model = FlowMixture(2, n_flows_per_component=1, random_state=0, **parameters)
    model.fit(X)
    print(f"{len(X)} rows on disk, held-out log-likelihood {model.score(test):.3f}")

    counts = np.zeros(2, dtype=int)
    for start in range(0, N_ROWS, SLICE):
        counts += np.bincount(model.predict(X[start : start + SLICE]), minlength=2)
    agreement = np.mean(model.predict(test) == moon)
    print(f"rows of the clusters: {counts}")
    print(f"share of rows in their moon's cluster: {max(agreement, 1 - agreement):.3f}")

    stream = FlowMixture(2, random_state=0, **parameters)
    for i in range(10):
        stream.partial_fit(moons(1000, i)[0])
        if i in (0, 9):
            score = stream.score(test)
            print(f"after {1000 * (i + 1)} rows of a stream: {score:.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder) / "rows.npy")
