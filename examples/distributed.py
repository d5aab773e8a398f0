"""Fit one mixture by several processes that each hold a part of the rows.

Run ``torchrun --nproc-per-node 2 examples/distributed.py``. Run without torchrun, as
``python examples/distributed.py``, a single process fits the same rows.
"""

import argparse
import os

import numpy as np
from sklearn.datasets import make_moons
from sklearn.metrics import adjusted_rand_score

from skflowmix import FlowMixture, data_parallel

COMMAND = "torchrun --nproc-per-node 2 examples/distributed.py"


def main(n_rows, checkpoint):
    # Set by torchrun.
    rank = int(os.environ.get("RANK", 0))
    n_ranks = int(os.environ.get("WORLD_SIZE", 1))
    X, y = make_moons(n_rows, noise=0.06, random_state=0)
    # As if each process had read its own file.
    X, y = np.array_split(X, n_ranks)[rank], np.array_split(y, n_ranks)[rank]
    with data_parallel():
        model = FlowMixture(2, hidden_units=(32,), tol=0.01, random_state=0)
        model.fit(X, checkpoint=checkpoint)
    index = adjusted_rand_score(y, model.labels_)
    test, _ = make_moons(1000, noise=0.06, random_state=1)
    print(
        f"process {rank} of {n_ranks}: fitted to {len(X)} rows of its own, Rand index "
        f"of their clusters {index:.3f}, log-likelihood of new rows "
        f"{model.score(test):.3f}",
        flush=True,
    )
    if n_ranks == 1:
        print(f"With several processes: {COMMAND}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument(
        "--checkpoint",
        help="folder; torchrun --max-restarts 3 then resumes",
    )
    arguments = parser.parse_args()
    main(arguments.rows, arguments.checkpoint)
