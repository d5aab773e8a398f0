"""What the families of flows cost, and which densities they fit.

`FlowMixture(5)` with each family on 2000 x 10 rows of five groups: *smooth* ones are
Gaussians bent to parabolas, *sharp* ones are arcs with uniform noise in the other
columns. Scores are log-likelihoods of 10 000 other rows, in nats per row; times are
seconds of the processor. *Smeared* is the share of samples in which a binary column,
which depends on another one, is off by more than 0.05 (1000 x 3 rows, one component).

Example::

    python benchmarks/families.py --output families.json
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _results import environment, table

from skflowmix import FlowMixture
from skflowmix.model.flows import FLOWS

N_GROUPS, N_COLUMNS, N_ROWS, N_NEW = 5, 10, 2000, 10_000
OFF = 0.05
HEADS = ["family", "fit, smooth", "fit, sharp", "score, smooth", "score, sharp"]
HEADS += ["scoring 10 000 rows", "sampling 10 000 rows", "smeared"]


def smooth(rng, n):
    """Gaussians bent to parabolas."""
    places = 4 * np.random.default_rng(0).standard_normal((N_GROUPS, N_COLUMNS))
    rows = rng.standard_normal((n, N_COLUMNS))
    rows[:, 1::2] += 0.5 * rows[:, ::2] ** 2
    return rows + places[rng.integers(N_GROUPS, size=n)]


def sharp(rng, n):
    """Arcs of uniform density with uniform noise in the other columns."""
    places = 4 * np.random.default_rng(0).standard_normal((N_GROUPS, N_COLUMNS))
    angle = rng.uniform(0, np.pi, n)
    rows = rng.random((n, N_COLUMNS))
    rows[:, 0] = 2 * np.cos(angle) + 0.2 * rows[:, 0]
    rows[:, 1] = 2 * np.sin(angle) + 0.2 * rows[:, 1]
    return rows + places[rng.integers(N_GROUPS, size=n)]


def with_binary_column(rng, n):
    """A column of zeros and ones that depends on another one."""
    rows = rng.standard_normal((n, 3))
    rows[:, 2] = rng.random(n) < 1 / (1 + np.exp(-4 * np.sin(2 * rows[:, 0])))
    return rows


def timed(call, *args):
    """Return what a call returns, and its seconds."""
    start = time.process_time()
    answer = call(*args)
    return answer, time.process_time() - start


def measure(flow, seed):
    """All figures of a family, by the names of the columns."""
    record = {}
    for name, draw in (("smooth", smooth), ("sharp", sharp)):
        rng = np.random.default_rng(seed)
        X, new = draw(rng, N_ROWS), draw(rng, N_NEW)
        model = FlowMixture(N_GROUPS, flow=flow, random_state=seed)
        _, record[f"fit, {name}"] = timed(model.fit, X)
        score, seconds = timed(model.score, new)
        record[f"score, {name}"] = score
    record["scoring 10 000 rows"] = seconds
    record["sampling 10 000 rows"] = timed(model.sample, N_NEW)[1]
    X = with_binary_column(np.random.default_rng(seed), 1000)
    model = FlowMixture(flow=flow, random_state=seed).fit(X)
    drawn = model.sample(N_NEW, random_state=seed)[0][:, 2]
    record["smeared"] = float((np.abs(drawn - drawn.round().clip(0, 1)) > OFF).mean())
    return record


def report(records):
    """The table."""
    return table(
        HEADS,
        [[flow, *(f"{own[head]:.2f}" for head in HEADS[1:])] for flow, own in records],
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = {"environment": environment(), "records": []}
    for flow in FLOWS:
        results["records"].append([flow, measure(flow, args.seed)])
        if args.output:
            args.output.write_text(json.dumps(results, indent=1) + "\n")
    print(report(results["records"]))


if __name__ == "__main__":
    main()
