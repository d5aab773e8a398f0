"""Check that fits are the same at two commits, to the last bit, on one thread.

Fits the three estimators to generated rows with fixed seeds: four families, one, three
and eight components, weights, warm starts, restarts, labels, callbacks. Write the
results at one commit, and compare at another:

    python benchmarks/same_fits.py --write before.npz
    python benchmarks/same_fits.py --compare before.npz
"""

import argparse
import sys
import warnings

import numpy as np
import torch
from _options import make as make_estimator
from sklearn.datasets import make_blobs, make_moons

from skflowmix import FlowMixture, FlowMixtureClassifier, FlowMixtureOutlierDetector

NETWORKS = {
    "hidden_units": (16,),
    "posterior_units": (16,),
    "max_iter": 5,
    "n_iter_init": 4,
    "n_iter_no_change": 2,
    "random_state": 0,
}
FAMILIES = ("realnvp", "maf", "nsf", "nsf-ar")
COMPARED = ("score_samples", "predict", "predict_proba", "component_log_prob")


class Watcher:
    """A callback that keeps the scores of the models that it sees."""

    def __init__(self, X):
        self.X, self.scores = X, []

    def setup(self, estimator, context):
        """Nothing to set up."""

    def teardown(self, estimator, context):
        """Nothing to tear down."""

    def on_fit_task_begin(self, estimator, context):
        """Nothing to do."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        """Keep the mean score."""
        self.scores.append(float(fitted_estimator.score_samples(self.X).mean()))


def make(cls, *args, **parameters):
    """Make a small estimator that trains for few epochs."""
    return make_estimator(cls, *args, **NETWORKS | parameters)


def cases():
    """Yield a name, an estimator, and what it is fitted to."""
    rng = np.random.default_rng(0)
    moons, of_moons = make_moons(300, noise=0.08, random_state=0)
    blobs, of_blobs = make_blobs(300, 4, centers=8, random_state=1)
    blobs[:, 3] = np.round(blobs[:, 3])
    repeated = moons[rng.integers(200, size=300)]
    coded = blobs.copy()
    coded[:10, 0] = -999.0
    weights = rng.integers(0, 4, 300)
    for flow in FAMILIES:
        yield f"moons {flow}", make(FlowMixture, 2, flow=flow), (moons,)
        for k in (1, 3, 8):
            yield f"blobs {flow} {k}", make(FlowMixture, k, flow=flow), (blobs,)
    for init in ("kmeans", "spectral", "linkage", "gmm", "random"):
        yield f"start {init}", make(FlowMixture, 3, init_params=init), (moons,)
    yield "repeats", make(FlowMixture, 2), (repeated,)
    yield "codes", make(FlowMixture, 4), (coded,)
    yield "float32", make(FlowMixture, 2), (moons.astype(np.float32),)
    weighted = make(FlowMixture, 2)
    yield "weights", weighted, (moons, None, weights + rng.random(300))
    yield "counts", make(FlowMixture, 2), (moons, None, weights)
    yield "restarts", make(FlowMixture, 3, n_init=3), (moons,)
    yield "parallel", make(FlowMixture, 3, n_init=3, n_jobs=2), (moons,)
    yield "means", make(FlowMixture, 2, means_init=[[0, 1], [1, -0.5]]), (moons,)
    given = np.eye(2)[of_moons] * 0.8 + 0.1
    yield "given", make(FlowMixture, 2, init_params=given), (moons,)
    yield "Gaussians", make(FlowMixture, 3, n_transforms=0), (blobs,)
    layers = {"n_common_transforms": 1, "n_shared_transforms": 1}
    yield "shared", make(FlowMixture, 3, **layers), (blobs,)
    noises = {"input_noise": 0.0, "repeat_noise": 0.25, "label_noise": 1.0}
    yield "noises", make(FlowMixture, 3, **noises), (blobs,)
    yield "float64", make(FlowMixture, 2, dtype="float64"), (moons,)
    yield "few rows", make(FlowMixture, 2), (moons[:30],)
    half = np.where(np.arange(300) % 2, of_moons, -1)
    few = np.where(np.arange(300) % 20, -1, of_moons)
    for name, y in (("all", of_moons), ("half", half), ("few", few)):
        yield f"labels {name}", make(FlowMixtureClassifier), (moons, y)
    pairs = of_blobs // 2
    yield "classes", make(FlowMixtureClassifier, 2), (blobs, pairs)
    yield "weighted labels", make(FlowMixtureClassifier), (moons, half, weights)
    yield "detector", make(FlowMixtureOutlierDetector), (moons,)
    share = {"contamination": 0.05}
    yield "contaminated", make(FlowMixtureOutlierDetector, 2, **share), (coded,)


def answers(model, X):
    """What a fitted model says, by name."""
    table = {name: getattr(model, name)(X) for name in COMPARED if hasattr(model, name)}
    mixture = getattr(model, "mixture_", model)
    keys = ("score", "train_loss", "elbo", "temperature", "learning_rate")
    table["history"] = np.array(
        [[record[key] for key in keys] for record in mixture.history_]
    )
    table["bounds"] = np.array([mixture.lower_bound_, mixture.elbo_gap_])
    table["sample"] = mixture.sample(5)[0]
    return table


def all_answers():
    """Fit everything; answers by case and name."""
    table = {}
    for name, model, data in cases():
        model.fit(*data)
        table |= {f"{name}: {k}": v for k, v in answers(model, data[0]).items()}
        if name in ("moons nsf-ar", "labels half", "detector"):
            watcher = Watcher(data[0])
            model.set_callbacks(watcher).fit(*data)
            table[f"{name}: watched"] = np.array(watcher.scores)
            model.set_callbacks()
        if name == "moons realnvp":
            model.set_params(warm_start=True).fit(*data)
            warm = answers(model, data[0])
            table |= {f"{name}, warm: {k}": v for k, v in warm.items()}
    return table


def main() -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write")
    parser.add_argument("--compare")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    table = all_answers()
    if args.write:
        np.savez_compressed(args.write, **table)
        print(f"{len(table)} answers written")
    if args.compare:
        before = np.load(args.compare)
        n_other = 0
        for name in sorted({*before.files, *table}):
            if name not in table or name not in before.files:
                print(f"{name}: only at one of the two")
                n_other += 1
                continue
            old, new = before[name], table[name]
            if old.shape != new.shape:
                print(f"{name}: shape {old.shape} was, {new.shape} is")
                n_other += 1
            elif not np.array_equal(old, new, equal_nan=True):
                print(f"{name}: differs by up to {np.nanmax(np.abs(old - new)):.3g}")
                n_other += 1
        print(f"{len(table) - n_other} of {len(table)} answers are the same bits")
        sys.exit(n_other > 0)


if __name__ == "__main__":
    main()
