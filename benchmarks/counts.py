"""Compare the number of clusters found with the true number.

Generated tables: bent, elongated, nested (rings around cores) and mixed clusters eight
standard deviations apart, with and without 5 % of uniform noise, shares down to 2 %;
Gaussians that touch (3.5 to 5 standard deviations apart); and tables of one cluster.
``FlowMixture``'s count is compared with other ways to count. Only the counting is run,
no flows are trained. Examples::

    python benchmarks/counts.py --output counts.json
    python benchmarks/counts.py --output counts.json --rows 500 2000 --seeds 2
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from _results import Results, environment, header, table_row
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.mixture import BayesianGaussianMixture
from sklearn.preprocessing import StandardScaler

from skflowmix.starts.cluster_count import count_clusters

GAP = 8.0
NOISE = 0.05
MOST = 20
KINDS = ("bent", "elongated", "nested", "mixed", "touching", "one")
SINGLE = ("normal", "uniform", "student", "ring", "banana")


def curve(rng, shape, angles_of):
    """Points of a curve in a plane; `angles_of` draws or spaces them in an interval."""
    if shape == "round":
        return 0.0 * angles_of(0.0, 1.0)[:, None] * np.ones(2)
    if shape == "elongated":
        along = angles_of(-0.5, 0.5) * rng.uniform(8, 20)
        return np.column_stack([along, 0.0 * along])
    radius, reach = (10.0, 2 * np.pi) if shape == "ring" else (6.0, 3.2)
    angle = angles_of(0.0, reach)
    return radius * np.column_stack([np.cos(angle), np.sin(angle)])


def cluster(rng, shape, n, n_columns):
    """Rows around a curve, one standard deviation wide, and points of the curve."""
    state = rng.bit_generator.state
    sides = []
    for angles_of in (
        lambda low, high: np.linspace(low, high, 40),
        lambda low, high: rng.uniform(low, high, n),
    ):
        rng.bit_generator.state = state
        plane = curve(rng, shape, angles_of)
        sides.append(np.pad(plane, [(0, 0), (0, n_columns - 2)]))
    turn = np.linalg.qr(rng.normal(size=(n_columns, n_columns)))[0]
    rows = sides[1] + rng.normal(size=(n, n_columns))
    return rows @ turn, sides[0] @ turn


def sizes(n, n_clusters, smallest):
    """Geometric down to a share; equal without one."""
    ratios = np.linspace(0.05, 1.0, 2000)[:, None] ** np.arange(n_clusters)
    shares = ratios / ratios.sum(axis=1, keepdims=True)
    best = -1 if smallest is None else np.abs(shares[:, -1] - smallest).argmin()
    return np.maximum(np.round(n * shares[best]), 10).astype(int)


def separated(rng, kind, n, n_columns, smallest, noise):
    n_clusters = int(rng.integers(3, 8))
    names = ("bent", "elongated", "round")
    shapes = [kind if kind in names else str(rng.choice(names)) for _ in range(7)]
    if kind == "nested":
        n_clusters = 2 * (n_clusters // 2)
        shapes = ["ring", "round"] * 4
    counts = sizes(n, n_clusters, smallest)
    scales = np.exp(rng.uniform(0, np.log(3), n_clusters))
    X, y, placed = [], [], []
    step = 2 if kind == "nested" else 1
    for first in range(0, n_clusters, step):
        scale = scales[first]
        parts = [
            cluster(rng, shapes[k], counts[k], n_columns)
            for k in range(first, first + step)
        ]
        points = scale * np.concatenate([own for _, own in parts])
        distance = 2.0
        while True:
            move = rng.normal(size=n_columns)
            move *= distance * rng.random() / np.linalg.norm(move)
            if all(
                np.linalg.norm(points[:, None] + move - other, axis=2).min()
                >= GAP * (scale + size) / 2
                for other, size in placed
            ):
                break
            distance *= 1.05
        placed.append((points + move, scale))
        for k, (rows, _) in enumerate(parts):
            X.append(scale * rows + move)
            y.append(np.full(len(rows), first + k))
    X, y = np.concatenate(X), np.concatenate(y)
    if noise:
        n_noise = int(NOISE * len(X) / (1 - NOISE))
        uniform = rng.uniform(X.min(0), X.max(0), size=(n_noise, n_columns))
        X, y = np.r_[X, uniform], np.r_[y, np.full(n_noise, -1)]
    return X, y


def touching(rng, n, n_columns):
    n_clusters, distance = int(rng.integers(2, 5)), rng.uniform(3.5, 5.0)
    centres = [np.zeros(n_columns)]
    while len(centres) < n_clusters:
        move = rng.normal(size=n_columns)
        move *= distance / np.linalg.norm(move)
        new = centres[rng.integers(len(centres))] + move
        if min(np.linalg.norm(new - other) for other in centres) > distance - 1e-9:
            centres.append(new)
    y = np.arange(n) % n_clusters
    return np.array(centres)[y] + rng.normal(size=(n, n_columns)), y


def one(rng, shape, n, n_columns):
    X = rng.normal(size=(n, n_columns))
    if shape == "uniform":
        X = rng.random((n, n_columns))
    elif shape == "student":
        X /= np.sqrt(rng.chisquare(3, size=(n, 1)) / 3)
    elif shape in ("ring", "banana"):
        angle = rng.uniform(0, 2 * np.pi if shape == "ring" else 3.0, n)
        X *= 0.12
        X[:, 0] += np.cos(angle)
        X[:, 1] += np.sin(angle)
    return X, np.zeros(n, dtype=int)


def draw(kind, n, n_columns, seed, noise):
    rng = np.random.default_rng([seed, n, n_columns, KINDS.index(kind), int(noise)])
    if kind == "touching":
        X, y = touching(rng, n, n_columns)
    elif kind == "one":
        X, y = one(rng, SINGLE[seed % len(SINGLE)], n, n_columns)
    else:
        smallest = (None, 0.04, 0.02)[seed % 3]
        X, y = separated(rng, kind, n, n_columns, smallest, noise)
    order = rng.permutation(len(X))
    return StandardScaler().fit_transform(X[order]), y[order]


def of_flow_mixture(X, seed):
    random_state = np.random.RandomState(seed)
    return count_clusters(X, np.ones(len(X)), MOST, random_state).labels


def of_hdbscan(X, seed):
    return HDBSCAN(min_cluster_size=10).fit_predict(X)


def of_bayesian_mixture(X, seed):
    model = BayesianGaussianMixture(n_components=MOST, max_iter=200, random_state=seed)
    labels = model.fit_predict(X)
    # A component of less than a hundredth of the rows is not in use.
    labels[~np.isin(labels, np.flatnonzero(model.weights_ >= 0.01))] = -1
    return labels


def of_silhouette(X, seed):
    best = (-1.0, np.zeros(len(X), dtype=int))
    for k in range(2, 11):
        labels = KMeans(k, n_init=3, random_state=seed).fit_predict(X)
        score = silhouette_score(
            X, labels, sample_size=min(2000, len(X)), random_state=seed
        )
        best = max(best, (score, labels), key=lambda pair: pair[0])
    return best[1]


METHODS = {
    "skflowmix": of_flow_mixture,
    "HDBSCAN": of_hdbscan,
    "BayesianGaussianMixture": of_bayesian_mixture,
    "silhouette of k-means": of_silhouette,
}


def measure(method, X, y, seed):
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = METHODS[method](X, seed)
    seconds = time.process_time() - start
    real = y >= 0
    return {
        "score": len(np.unique(labels[labels >= 0])),
        "true": len(np.unique(y[real])),
        "ari": float(adjusted_rand_score(y[real], labels[real])),
        "cpu_seconds": seconds,
    }


def report(records):
    """Shares of right numbers, and of those within one, by kind and method."""
    lines = header(["clusters", "method", "right", "within one", "mean ARI", "tables"])
    for kind in KINDS:
        for method in METHODS:
            own = [
                record
                for key, record in records.items()
                if key.startswith(f"{kind}/") and key.endswith(f"/{method}")
            ]
            if own:
                off = np.array([abs(r["score"] - r["true"]) for r in own])
                ari = np.mean([r["ari"] for r in own])
                cells = [kind, method, f"{(off == 0).mean():.2f}"]
                cells += [f"{(off <= 1).mean():.2f}", f"{ari:.2f}", str(len(own))]
                lines.append(table_row(cells))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("counts.json"))
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2000, 20_000])
    parser.add_argument("--columns", type=int, nargs="+", default=[2, 5, 15])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    results, machine = Results(args.output, {"most": MOST, "gap": GAP}), environment()
    for kind in args.kinds:
        for noise in (False, True) if kind not in ("touching", "one") else (False,):
            for n_columns in args.columns:
                for n in args.rows:
                    for seed in range(args.first_seed, args.first_seed + args.seeds):
                        X, y = draw(kind, n, n_columns, seed, noise)
                        name = f"{kind}/{n}x{n_columns}{'+noise' if noise else ''}"
                        for method in args.methods:
                            key = f"{name}/{seed}/{method}"
                            if not results.has(key):
                                results.add(key, measure(method, X, y, seed), machine)
    print(report(results.records))


if __name__ == "__main__":
    main()
