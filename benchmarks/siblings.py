"""Compare the classifier and the outlier detector with other models.

- ``digits``: scikit-learn's digits, five labels per class, accuracy on all other rows.
  LabelSpreading and SelfTrainingClassifier(QuadraticDiscriminantAnalysis) have the
  settings, of those tried, with the best mean accuracy over the seeds, which favours
  them; the flows have their defaults.
- ``log-loss``: half of each set is labelled; log-loss of the other half in nats.
  QuadraticDiscriminantAnalysis has the regularisation, of those tried, that is best on
  the rows it is scored on.
- ``moons``: a detector fitted to two moons with a fifth of uniform outliers, compared
  with the density of a `FlowMixture` fitted to the moons alone. Area under the ROC
  curve.

``python benchmarks/siblings.py --seeds 10`` prints a line per fit and a summary.
"""

import argparse
import json
import warnings

import numpy as np
import torch
from _results import environment
from sklearn import datasets
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skflowmix import (
    FlowMixture,
    FlowMixtureClassifier,
    FlowMixtureOutlierDetector,
)

N_LABELS = 5
SPREADING_PEERS = {
    f"LabelSpreading, {n} neighbours, alpha {alpha}": LabelSpreading(
        kernel="knn", n_neighbors=n, alpha=alpha, max_iter=300
    )
    for n in (5, 7, 10)
    for alpha in (0.05, 0.2, 0.8)
}
SELF_TRAINING_PEERS = {
    f"SelfTraining(QDA), shrinkage {shrinkage}, threshold {threshold}": (
        SelfTrainingClassifier(
            QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage),
            threshold=threshold,
        )
    )
    for shrinkage in (0.05, 0.2, 0.5, 0.9)
    for threshold in (0.75, 0.95)
}
QDA_REGULARISATIONS = (1e-3, 1e-2, 0.1, 0.5)


def run_digits(seed):
    X, y = datasets.load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    few = [rng.choice(np.flatnonzero(y == k), N_LABELS, False) for k in range(10)]
    known = np.full(len(y), -1)
    known[np.concatenate(few)] = y[np.concatenate(few)]
    others = known < 0
    models = {"ours": FlowMixtureClassifier(random_state=seed)}
    scores = {}
    for name, model in (models | SPREADING_PEERS | SELF_TRAINING_PEERS).items():
        scale = 1.0 if name == "ours" else 16.0
        model.fit(X / scale, known)
        scores[name] = float(np.mean(model.predict(X / scale)[others] == y[others]))
    return scores


def run_log_loss(seed):
    scores = {}
    for name in ("iris", "wine", "breast_cancer", "digits"):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        X, X_test, y, y_test = train_test_split(
            X, y, test_size=0.5, stratify=y, random_state=seed
        )
        models = {
            "ours": [FlowMixtureClassifier(random_state=seed)],
            "GaussianNB": [GaussianNB()],
            "QDA": [
                QuadraticDiscriminantAnalysis(reg_param=share)
                for share in QDA_REGULARISATIONS
            ],
        }
        for model_name, versions in models.items():
            scores[f"{name} {model_name}"] = min(
                float(log_loss(y_test, model.fit(X, y).predict_proba(X_test)))
                for model in versions
            )
    return scores


def run_moons(seed):
    rng = np.random.default_rng(seed)
    clean, _ = datasets.make_moons(800, noise=0.08, random_state=seed)
    low, high = clean.min(0) - 1, clean.max(0) + 1
    outliers = rng.uniform(low, high, (200, 2))
    X, marks = np.concatenate([clean, outliers]), np.repeat([0, 1], [800, 200])
    detector = FlowMixtureOutlierDetector(2, contamination=0.2, random_state=seed).fit(
        X
    )
    reference = FlowMixture(2, random_state=seed).fit(clean)
    return {
        "detector": float(roc_auc_score(marks, -detector.score_samples(X))),
        "fitted to the clean rows": float(
            roc_auc_score(marks, -reference.score_samples(X))
        ),
        "flagged": float(np.mean(detector.predict(X) == -1)),
    }


RUNS = {"digits": run_digits, "log-loss": run_log_loss, "moons": run_moons}


def best_of(means, peers):
    """The best of a peer's settings, as it would be after a perfect search."""
    name = max(peers, key=means.get)
    return f"{name}: {means[name]:.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--output", help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = environment()
    print(machine)
    results: dict[str, list[dict[str, float]]] = {}
    for name in arguments.runs:
        results[name] = []
        for seed in range(arguments.seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                record = RUNS[name](seed)
            results[name].append(record)
            peers = SPREADING_PEERS | SELF_TRAINING_PEERS
            shown = {k: round(v, 4) for k, v in record.items() if k not in peers}
            print(f"{name}, seed {seed}: {shown}", flush=True)
        means = {
            key: float(np.mean([r[key] for r in results[name]]))
            for key in results[name][0]
        }
        if name == "digits":
            print(f"digits, means: ours {means['ours']:.4f}")
            print("  ", best_of(means, SPREADING_PEERS))
            print("  ", best_of(means, SELF_TRAINING_PEERS))
        else:
            print(f"{name}, means: { {k: round(v, 4) for k, v in means.items()} }")
        if arguments.output:
            with open(arguments.output, "w") as file:
                json.dump({"machine": machine, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
