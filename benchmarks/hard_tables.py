"""Fit tables with codes, distant groups and ties; score rows far from the data.

Generated data and sets of scikit-learn; every line is printed as soon as it is ready.

- ``codes``: 1 to 20 % of one or two columns hold a code. Adjusted Rand index, and the
  log-likelihood of the rows without a code less that of `GaussianMixture`; with a
  component for each code and, for shares of up to 5 %, without.
- ``distances``: three tight groups far apart, compared with `GaussianMixture`.
- ``ties``: ages rounded to five years; standard deviations of the components, compared
  with `GaussianMixture`.
- ``tails``: number of rays on which log p(x) rises beyond a Mahalanobis distance of 10
  from all components, four families, three seeds.
- ``regions``: connected parts of the components' regions within 20 standard deviations,
  and their agreement with the regions of the Gaussians far from all components.
- ``outliers``: training rows hold codes. AUC of rows 30 standard deviations out,
  compared with `IsolationForest`, and the share of them that is flagged.

Example::

    python benchmarks/hard_tables.py --parts codes tails --output hard_tables.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import _datasets
import numpy as np
import torch
from _results import environment, header, table_row
from scipy.ndimage import label
from sklearn import datasets
from sklearn.ensemble import IsolationForest
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from sklearn.mixture import GaussianMixture

from skflowmix import FlowMixture, FlowMixtureOutlierDetector
from skflowmix.model.flows import FLOWS


def blobs(rng, n=1000):
    y = rng.integers(0, 2, n)
    return np.c_[rng.normal(size=n), 6.0 * y + rng.normal(size=n)], y


def with_codes(draw, share, code, n_columns, seed):
    """Rows, their groups, those of codes last, and which rows hold a code."""
    rng = np.random.default_rng(seed)
    X, y = draw(rng)
    coded = np.zeros(len(X), dtype=bool)
    n_groups = y.max() + 1
    for j in range(n_columns):
        rows = (rng.random(len(X)) < share) & ~coded
        value = np.round(np.median(X[:, -1 - j]), 1) if code == "among" else code
        X[rows, -1 - j], y[rows] = value, n_groups + j
        coded |= rows
    return X, y, coded


def codes():
    shapes = {"blobs": blobs, "moons": _datasets.moons, "pinwheel": _datasets.pinwheel}
    yield ["rows", "share", "columns", "room", "code: ARI (others' likelihood)"]
    for name, draw in shapes.items():
        for share in (0.01, 0.05, 0.2):
            for n_columns in (1, 2):
                for room in (True, False) if share <= 0.05 else (True,):
                    cells = []
                    for code in (-999.0, -20.0, 99.0, "among"):
                        X, y, coded = with_codes(draw, share, code, n_columns, 0)
                        k = y.max() + 1 - (0 if room else n_columns)
                        model = FlowMixture(k, random_state=0).fit(X)
                        peer = GaussianMixture(k, n_init=3, random_state=0).fit(X)
                        rows = slice(None) if room else ~coded
                        ari = adjusted_rand_score(y[rows], model.labels_[rows])
                        gain = model.score(X[~coded]) - peer.score(X[~coded])
                        cells.append(f"{code}: {ari:.3f} ({gain:+.2f})")
                    where = "yes" if room else "no"
                    yield [name, share, n_columns, where, ", ".join(cells)]


def distances():
    yield ["distance", "held-out nats", "GaussianMixture", "samples off the data"]
    for distance in (1e2, 1e3, 1e4, 1e5, 1e6):
        rng = np.random.default_rng(0)
        centres = distance * np.array([[0, 0], [1, 0.3], [0.2, 1]])
        X, new = (
            centres[rng.integers(0, 3, 1200)] + rng.normal(size=(1200, 2)) for _ in "ab"
        )
        model = FlowMixture(3, random_state=0).fit(X)
        peer = GaussianMixture(3, random_state=0).fit(X)
        samples = model.sample(2000, random_state=0)[0]
        off = np.linalg.norm(samples[:, None] - centres, axis=2).min(axis=1) > 8
        scores = [f"{fitted.score(new):.3f}" for fitted in (model, peer)]
        yield [f"{distance:.0e}", *scores, f"{off.mean():.4f}"]


def ties():
    yield ["rows", "standard deviations", "GaussianMixture"]
    for n in (1000, 10_000, 100_000):
        rng = np.random.default_rng(0)
        young = rng.random(n) < 0.5
        ages = np.where(young, rng.normal(25, 4, n), rng.normal(70, 12, n))
        X = np.rint(ages / 5)[:, None] * 5
        cells = []
        for model in (
            FlowMixture(2, random_state=0),
            GaussianMixture(2, random_state=0),
        ):
            spread = np.sqrt(model.fit(X).covariances_.ravel())
            cells.append(" ".join(f"{v:.2f}" for v in np.sort(spread)))
        yield [n, *cells]


def tail_sets(rng):
    t = rng.uniform(0, 3, 600)
    return {
        "thin curve": (1, np.c_[t, np.sin(3 * t)] + 0.01 * rng.normal(size=(600, 2))),
        "heavy tails": (1, rng.standard_t(2, (600, 2)) @ rng.normal(size=(2, 2))),
        "three tight blobs": (
            3,
            datasets.make_blobs(600, cluster_std=0.1, random_state=0)[0],
        ),
        "iris": (3, datasets.load_iris().data),
        "wine": (3, datasets.load_wine().data),
        "diabetes": (2, datasets.load_diabetes().data),
        "moons": (2, _datasets.moons(rng, 600)[0]),
        "circles": (2, _datasets.circles(rng, 600)[0]),
        "spirals": (3, _datasets.spirals(rng, per_arm=200)[0]),
        "zero-inflated": (2, _datasets.zero_inflated(rng, 600)),
        "bounded": (2, _datasets.bounded(rng, 600)),
        "one column": (
            2,
            np.r_[rng.normal(size=400), 8 + rng.gamma(1, size=200)][:, None],
        ),
    }


def distances_to(model, x):
    """Mahalanobis distances to the Gaussians of all flows: (n, n_flows)."""
    inverse = np.linalg.inv(model.flow_covariances_)
    away = x[:, None] - model.flow_means_
    return np.sqrt(np.einsum("nki,kij,nkj->nk", away, inverse, away))


def tails():
    radii = np.geomspace(1, 1e6, 60)
    yield ["set", "family: rays that rise, of 3 seeds x (1 + K) x 200"]
    for name in tail_sets(np.random.default_rng(0)):
        cells = []
        for flow in FLOWS:
            rising = 0
            for seed in range(3):
                k, X = tail_sets(np.random.default_rng(seed))[name]
                model = FlowMixture(k, flow=flow, random_state=seed).fit(X)
                rng = np.random.default_rng(7)
                ways = rng.normal(size=(200, X.shape[1]))
                ways /= np.linalg.norm(ways, axis=1, keepdims=True)
                for start in (X.mean(axis=0), *model.means_):
                    x = start + X.std(axis=0) * ways[:, None] * radii[:, None]
                    flat = x.reshape(-1, X.shape[1])
                    r = distances_to(model, flat).reshape(*x.shape[:2], -1)
                    score = model.score_samples(flat).reshape(x.shape[:2])
                    grows = (np.diff(r, axis=1) > 0).all(axis=2)
                    beyond = r[:, :-1].min(axis=2) > 10
                    rises = np.diff(score, axis=1) >= 0
                    rising += int((rises & grows & beyond).any(axis=1).sum())
            cells.append(f"{flow} {rising}")
        yield [name, ", ".join(cells)]


def regions():
    rng = np.random.default_rng(0)
    sets = {
        "pinwheel": (5, _datasets.pinwheel(rng, per_arm=512)[0]),
        "moons": (2, _datasets.moons(rng)[0]),
        "circles": (2, _datasets.circles(rng)[0]),
    }
    yield ["rows", "parts", "parts of the Gaussians", "agreement far from all"]
    steps = np.linspace(-20, 20, 400)
    for name, (k, X) in sets.items():
        model = FlowMixture(k, random_state=0).fit(X)
        grid = np.stack(np.meshgrid(steps, steps), axis=2).reshape(-1, 2)
        x = X.mean(axis=0) + X.std(axis=0) * grid
        r = distances_to(model, x)
        log_det = np.linalg.slogdet(model.flow_covariances_)[1]
        of_gaussians = np.log(model.flow_weights_) - 0.5 * (r**2 + log_det)
        expected = model.flow_components_[of_gaussians.argmax(axis=1)]
        found = model.predict(x)
        parts = [
            " ".join(str(label((a == i).reshape(400, 400))[1]) for i in range(k))
            for a in (found, expected)
        ]
        far = r.min(axis=1) > 10
        agreement = (found == expected)[far].mean()
        yield [name, *parts, f"{agreement:.4f}"]


def outliers():
    yield ["share of codes", "flagged at 30 sd", "AUC", "IsolationForest"]
    for share in (0.01, 0.05, 0.1):
        X, _, coded = with_codes(blobs, share, -999.0, 1, 0)
        rng = np.random.default_rng(1)
        usual = blobs(rng)[0]
        ways = rng.normal(size=(300, 2))
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        far = usual.mean(axis=0) + 30 * usual.std(axis=0) * ways
        model = FlowMixtureOutlierDetector(
            2, contamination=coded.mean(), random_state=0
        ).fit(X)
        peer = IsolationForest(random_state=0).fit(X)
        new, is_outlier = np.r_[usual, far], np.arange(1300) >= 1000
        auc = [roc_auc_score(is_outlier, -m.score_samples(new)) for m in (model, peer)]
        flagged = (model.predict(far) == -1).mean()
        yield [share, f"{flagged:.3f}", *(f"{value:.4f}" for value in auc)]


PARTS = {
    "codes": codes,
    "distances": distances,
    "ties": ties,
    "tails": tails,
    "regions": regions,
    "outliers": outliers,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {"environment": environment(), "parts": {}}
    for name in args.parts:
        start = time.perf_counter()
        print(f"\n## {name}\n", flush=True)
        rows = results["parts"][name] = []
        for row in PARTS[name]():
            print(
                table_row(map(str, row)) if rows else "\n".join(header(row)), flush=True
            )
            rows.append(row)
        print(f"\n{time.perf_counter() - start:.0f} seconds", flush=True)
        if args.output:
            args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
