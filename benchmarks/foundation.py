"""Measure what the README says of FlowMixture: pinwheel, circles, fit times.

``python benchmarks/foundation.py --seeds 5`` prints one line per fit and a summary.
One thread; times need a quiet machine.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import torch
from _results import environment
from scipy.optimize import brentq
from scipy.special import logsumexp
from sklearn.datasets import make_blobs, make_circles
from sklearn.metrics import adjusted_rand_score

from skflowmix import FlowMixture

WINGS, RADIAL, TANGENTIAL, RATE = 5, 0.3, 0.05, 0.4


def pinwheel(rng, n_per_wing=512):
    """Gaussian wings, bent by a rotation that grows with the radius."""
    wings = np.repeat(np.arange(WINGS), n_per_wing)
    points = rng.normal(size=(len(wings), 2)) * [RADIAL, TANGENTIAL] + [1, 0]
    return rotate(points, angle(wings, points[:, 0])), wings


def angle(wing, radius):
    return 2 * np.pi * wing / WINGS + RATE * np.exp(radius)


def rotate(points, angles):
    cosines, sines = np.cos(angles), np.sin(angles)
    x, y = points.T
    return np.stack([cosines * x - sines * y, sines * x + cosines * y], 1)


def pinwheel_log_density(X):
    """Log-density of the generator: the bend keeps areas, so invert it."""
    return np.array([logsumexp(list(_wing_terms(*x))) for x in X]) - np.log(WINGS)


def _wing_terms(x, y):
    radius, direction = np.hypot(x, y), np.arctan2(y, x)
    bearings = np.linspace(-np.pi, np.pi, 181)
    for wing in range(WINGS):

        def mismatch(bearing, wing=wing):
            return direction - bearing - angle(wing, radius * np.cos(bearing))

        def wrapped(bearing, mismatch=mismatch):
            return np.sin(mismatch(bearing) / 2)

        values = wrapped(bearings)
        for i in np.flatnonzero(values[:-1] * values[1:] < 0):
            bearing = brentq(wrapped, bearings[i], bearings[i + 1])
            u = (radius * np.cos(bearing) - 1) / RADIAL
            v = radius * np.sin(bearing) / TANGENTIAL
            yield -0.5 * (u**2 + v**2) - np.log(2 * np.pi * RADIAL * TANGENTIAL)


def timed_fit(model, X):
    start = time.perf_counter()
    model.fit(X)
    return time.perf_counter() - start


def run_pinwheel(seed):
    X, _ = pinwheel(np.random.default_rng(seed))
    X_test, wings = pinwheel(np.random.default_rng(seed + 1000))
    model = FlowMixture(n_components=WINGS, random_state=seed)
    seconds = timed_fit(model, X)
    return {
        "ari": adjusted_rand_score(wings, model.predict(X_test)),
        "gap_nats": pinwheel_log_density(X_test).mean() - model.score(X_test),
        "seconds": seconds,
    }


def run_circles(seed):
    X, _ = make_circles(1024, noise=0.02, factor=0.5, random_state=seed)
    X_test, y = make_circles(1024, noise=0.02, factor=0.5, random_state=seed + 1000)
    model = FlowMixture(n_components=2, random_state=seed)
    seconds = timed_fit(model, 0.8 * X)
    return {
        "ari": adjusted_rand_score(y, model.predict(0.8 * X_test)),
        "seconds": seconds,
    }


def run_fit_time(n_samples, n_features, n_components):
    def run(seed):
        X, _ = make_blobs(
            n_samples, n_features, centers=n_components, random_state=seed
        )
        X = np.sinh(0.2 * X)
        model = FlowMixture(n_components=n_components, random_state=seed)
        return {"seconds": timed_fit(model, X)}

    return run


def import_seconds():
    code = (
        "import torch, sklearn.mixture, time; t = time.perf_counter(); "
        "import skflowmix; print(time.perf_counter() - t)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return float(output.stdout)


RUNS = {
    "pinwheel 2560 x 2, K=5": run_pinwheel,
    "two circles 1024 x 2, K=2": run_circles,
    "fit 1000 x 2, K=3": run_fit_time(1000, 2, 3),
    "fit 10000 x 10, K=5": run_fit_time(10_000, 10, 5),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = environment()
    print(machine)
    results = {"import seconds": import_seconds()}
    print(f"import beyond torch and sklearn: {results['import seconds']:.2f} s")
    for name, run in RUNS.items():
        results[name] = []
        for seed in range(arguments.seeds):
            results[name].append(run(seed))
            figures = {k: round(float(v), 3) for k, v in results[name][-1].items()}
            print(f"{name}, seed {seed}: {figures}", flush=True)
    if arguments.output:
        with open(arguments.output, "w") as file:
            json.dump({"machine": machine, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
