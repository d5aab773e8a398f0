"""Compare the densities, clusters and anomaly scores of FlowMixture and other models.

All models are compared in one run. Every result is written to a JSON file as soon as it
is ready; what the file holds already is not run again.

- ``density``: held-out log-likelihood, mean nats per row, K = 5. Columns are
  standardised by the training part (80 %); Gaussian noise of 0.02 standard deviations
  is added, since ties would reward spikes.
- ``clustering``: adjusted Rand index at known K. Rows labelled 0 are noise and not
  scored. With several labelings, each has its own K and the best index counts.
- ``anomaly``: area under the ROC curve, K = 5, in two protocols: *contaminated*
  (fitted to a bootstrap of all rows, all scored) and *clean* (fitted to half of the
  normal rows, the rest scored). *detector* is our `FlowMixtureOutlierDetector()`.

Every model sees standardised columns, and constant ones are dropped.

Examples::

    python benchmarks/quality.py --data DIR --output results.json --table results.md
    python benchmarks/quality.py --data DIR --output results.json --tasks clustering \
        --models ours --ours '{"flow": "realnvp"}' --label realnvp
    python benchmarks/quality.py --data DIR --output results.json --dry-run
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _datasets
import _peers
import numpy as np
import torch
from _options import make as make_estimator
from _results import Results, environment, environment_text, header, table_row
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from threadpoolctl import threadpool_limits

N_COMPONENTS = 5
TIE_NOISE = 0.02
LEVEL = 0.0005
"""Scores closer than this, half of the last printed digit, are level."""
TASKS = ("density", "clustering", "anomaly_contaminated", "anomaly_clean")
TITLES = {
    "density": "Density: held-out log-likelihood, nats per row",
    "clustering": "Clustering: adjusted Rand index at known K",
    "anomaly_contaminated": "Anomaly, fitted to a bootstrap of all rows: AUC",
    "anomaly_clean": "Anomaly, fitted to half of the normal rows: AUC",
}
SET_SOURCES = {
    "density": _datasets.density_sets,
    "clustering": _datasets.clustering_sets,
    "anomaly_contaminated": _datasets.anomaly_sets,
    "anomaly_clean": _datasets.anomaly_sets,
}
PEERS = {
    "density": _peers.DENSITY,
    "clustering": _peers.CLUSTERING,
    "anomaly_contaminated": _peers.ANOMALY,
    "anomaly_clean": _peers.ANOMALY,
}


# Our model, in the shape of a peer


def our_scorer(overrides: dict[str, Any]) -> Callable:
    """`make(seed)` of a FlowMixture with K = 5, imported when called."""

    def make(seed):
        from skflowmix import FlowMixture

        parameters = {"n_components": N_COMPONENTS, "random_state": seed}
        return make_estimator(FlowMixture, **parameters | overrides)

    return make


def our_detector() -> Callable:
    """`make(seed)` of the outlier detector as it is, imported when called."""

    def make(seed):
        from skflowmix import FlowMixtureOutlierDetector

        return FlowMixtureOutlierDetector(random_state=seed)

    return make


def our_labels(overrides: dict[str, Any]) -> Callable:
    """`cluster(X, K, seed) -> labels` by a FlowMixture, imported when called."""

    def cluster(X, k, seed):
        from skflowmix import FlowMixture

        parameters = {"n_components": k, "random_state": seed}
        return make_estimator(FlowMixture, **parameters | overrides).fit_predict(X)

    return cluster


def our_model(task: str, overrides: dict[str, Any]) -> Callable:
    return (our_labels if task == "clustering" else our_scorer)(overrides)


# One result


def standardise(train, *others):
    """All arrays by the mean and deviation of the first, without its constants."""
    keep = np.ptp(train, axis=0) > 0
    mean, deviation = train[:, keep].mean(axis=0), train[:, keep].std(axis=0)
    return [(X[:, keep] - mean) / deviation for X in (train, *others)]


def run_density(make, data, seed, max_rows):
    (X,) = data
    rng = np.random.default_rng(seed)
    X = X[rng.permutation(len(X))[:max_rows]]
    cut = int(0.8 * len(X))
    parts = standardise(X[:cut], X[cut:])
    train, test = (part + TIE_NOISE * rng.normal(size=part.shape) for part in parts)
    log_prob, record = fit_and_score(make(seed), train, test)
    error = float(np.std(log_prob) / np.sqrt(len(log_prob)))
    extra = {"median": float(np.median(log_prob)), "standard_error": error}
    return {"score": float(np.mean(log_prob)), **extra, **record}


def run_anomaly_contaminated(make, data, seed, max_rows):
    X, y = data
    rows = np.random.default_rng(seed).integers(len(X), size=len(X))
    return run_anomaly(make, X[rows], X, y, seed)


def run_anomaly_clean(make, data, seed, max_rows):
    X, y = data
    normals = np.random.default_rng(seed).permutation(np.flatnonzero(y == 0))
    fitted = normals[: len(normals) // 2]
    scored = np.setdiff1d(np.arange(len(X)), fitted)
    return run_anomaly(make, X[fitted], X[scored], y[scored], seed)


def run_anomaly(make, train, test, y, seed):
    train, test = standardise(train, test)
    log_prob, record = fit_and_score(make(seed), train, test)
    record["not_finite"] = int(np.sum(~np.isfinite(log_prob)))
    outlyingness = -np.nan_to_num(log_prob, nan=-1e300, neginf=-1e300, posinf=1e300)
    return {"score": float(roc_auc_score(y, outlyingness)), **record}


def fit_and_score(model, train, test):
    start = time.perf_counter()
    model.fit(train)
    fitted = time.perf_counter()
    log_prob = np.asarray(model.score_samples(test), dtype=np.float64)
    record = {
        "fit_seconds": fitted - start,
        "score_seconds": time.perf_counter() - fitted,
        "shape": list(train.shape),
        "chosen": getattr(model, "chosen", None),
    }
    return log_prob, record


def run_clustering(cluster, data, seed, max_rows):
    X, labelings = data
    (X,) = standardise(X)
    sizes = [len(np.unique(y[y > 0])) for y in labelings]
    start = time.perf_counter()
    found = {k: np.asarray(cluster(X, k, seed)) for k in sorted(set(sizes))}
    seconds = time.perf_counter() - start
    scores = [
        float(adjusted_rand_score(y[y > 0], found[k][y > 0]))
        for y, k in zip(labelings, sizes, strict=True)
    ]
    return {
        "score": max(scores),
        "by_labeling": scores,
        "sizes": sizes,
        "fit_seconds": seconds,
        "shape": list(X.shape),
    }


RUNNERS = {
    "density": run_density,
    "clustering": run_clustering,
    "anomaly_contaminated": run_anomaly_contaminated,
    "anomaly_clean": run_anomaly_clean,
}


def check_label(args, results: Results) -> None:
    """One label in a file means one set of parameters."""
    for key, record in results.records.items():
        ours = key.endswith(f"/{args.label}") and results.has(key)
        if ours and record["overrides"] != args.ours:
            raise SystemExit(
                f"{args.label!r} has results with {record['overrides']}; "
                "choose another --label."
            )


def run_all(args, results: Results) -> None:
    """Run what is asked for and missing, small sets first."""
    check_label(args, results)
    machine = environment()
    for task in args.tasks:
        models = models_of(task, args)
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for name, data in chosen_sets(task, seed, args):
                for model, make in models.items():
                    key = f"{task}/{name}/{seed}/{model}"
                    if results.has(key) and not (args.redo and model == args.label):
                        continue
                    record = attempt(RUNNERS[task], make, data, seed, args.max_rows)
                    if model == args.label:
                        record["overrides"] = args.ours
                    results.add(key, record, machine)
                    print(key, describe(record), flush=True)


def models_of(task: str, args) -> dict[str, Callable]:
    """The models asked for that this task has, ours under its label."""
    known = {**PEERS[task], "ours": our_model(task, args.ours)}
    if PEERS[task] is _peers.ANOMALY:
        known["detector"] = our_detector()
    wanted = args.models or list(known)
    return {
        args.label if name == "ours" else name: known[name]
        for name in known
        if name in wanted
    }


def chosen_sets(task: str, seed: int, args) -> list[tuple[str, tuple]]:
    """The sets asked for as (name, data), small ones first."""
    loaders = SET_SOURCES[task](args.data)
    names = [name for name in loaders if not args.sets or name in args.sets]
    pairs = [(name, loaders[name](seed)) for name in names]
    return sorted(pairs, key=lambda pair: pair[1][0].size)


def attempt(runner, make, data, seed, max_rows) -> dict[str, Any]:
    """A record, or the error in its place: one failure must not end the run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = runner(make, data, seed, max_rows)
        if not np.isfinite(record["score"]):
            return {"error": f"the score is {record['score']}"}
        return record
    except Exception as error:
        return {
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(limit=-4),
        }


def describe(record) -> str:
    if "error" in record:
        return record["error"]
    return f"{record['score']:.4f} in {record['fit_seconds']:.1f} s"


# The tables


def tables(data: dict[str, Any]) -> str:
    """All that is in a file of results, as Markdown."""
    parts = [environments_text(data["environments"])]
    for task in TASKS:
        records = task_records(data, task)
        if records:
            extra = data.get("published", {}) if task == "clustering" else {}
            parts.append(task_text(task, records, extra))
    return "\n\n".join(parts) + "\n"


def task_records(data: dict[str, Any], task: str) -> dict[str, dict[str, dict]]:
    """The records of a task by set, model and seed."""
    tree: dict[str, dict[str, dict]] = {}
    for key, record in data["records"].items():
        key_task, name, seed, model = key.split("/")
        if key_task == task:
            tree.setdefault(name, {}).setdefault(model, {})[seed] = record
    return dict(sorted(tree.items()))


def task_text(task, records, published) -> str:
    models = model_order(task, records)
    lines = [f"## {TITLES[task]}", "", *score_table(records, models, published)]
    for model in models:
        if model not in PEERS[task]:
            lines += ["", *comparison(model, models, records, PEERS[task])]
    lines += ["", fit_times(records, models), *errors(records)]
    return "\n".join(lines)


def model_order(task, records) -> list[str]:
    """Peers in their own order, then versions of ours in order of appearance."""
    seen = list(dict.fromkeys(model for row in records.values() for model in row))
    peers = [model for model in PEERS[task] if model in seen]
    return peers + [model for model in seen if model not in PEERS[task]]


def seed_scores(row, model) -> dict[str, float]:
    """A model's scores on one set, by seed."""
    group = row.get(model, {})
    return {seed: r["score"] for seed, r in group.items() if "score" in r}


def score_table(records, models, published) -> list[str]:
    """Means over seeds, published figures beside them, means over sets below."""
    scores = {}
    for name, row in records.items():
        by_model = {model: list(seed_scores(row, model).values()) for model in models}
        scores[name] = {m: float(np.mean(v)) for m, v in by_model.items() if v}
    others = sorted({method for row in published.values() for method in row})
    titles = [method.replace("_", " ") for method in others]
    lines = header(["set", "rows x columns", *models, *titles])
    for name, row in records.items():
        beside = published.get(name, {})
        figures = [number(v) for v in (*scores[name].values(), *beside.values())]
        best = max(figures, key=float) if len(figures) > 1 else None
        cells = [score_cell(row, model, best) for model in models]
        cells += [in_bold(number(beside.get(method)), best) for method in others]
        lines.append(table_row([name, shape_cell(row), *cells]))
    made = [name for name in scores if name.startswith("made_")]
    read = [name for name in scores if name not in made]
    if others:
        read = [name for name in read if set(others) <= set(published.get(name, {}))]
        merged = {name: scores[name] | published.get(name, {}) for name in scores}
        lines += mean_row("published", read, [*models, *others], merged)
    else:
        lines += mean_row("read from files", read, models, scores)
    return lines + mean_row("made here", made, models, scores)


def mean_row(title, names, models, scores) -> list[str]:
    """The mean over the sets that every model has a score for."""
    names = [name for name in names if set(models) <= set(scores[name])]
    if not names:
        return []
    cells = [number(np.mean([scores[name][m] for name in names])) for m in models]
    return [table_row([f"**mean, {title}**", f"{len(names)} sets", *cells])]


def comparison(model, models, records, peers) -> list[str]:
    """How often `model` is ahead of each peer and of the best, and by how much."""
    gains = {p: peer_gains(model, p, records) for p in models if p in peers}
    names = {name for by_set in gains.values() for name in by_set}
    if not names:
        return []
    gains["the best of them"] = {
        name: min(by_set[name] for by_set in gains.values() if name in by_set)
        for name in sorted(names)
    }
    lines = [f"**{model}** against:", ""]
    lines += header(
        ["", "ahead", "level", "behind", "mean gain", "median", "if behind", "worst"]
    )
    return lines + [gain_row(title, g) for title, g in gains.items() if g]


def peer_gains(model, peer, records) -> dict[str, float]:
    """By set, the mean gain over the seeds that both have."""
    gains = {}
    for name, row in records.items():
        ours, theirs = seed_scores(row, model), seed_scores(row, peer)
        both = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        if both:
            gains[name] = float(np.mean(both))
    return gains


def gain_row(title, gains) -> str:
    values = np.array(list(gains.values()))
    ahead, behind = values[values > LEVEL], values[values < -LEVEL]
    worst = min(gains, key=gains.get)
    cells = [
        title,
        f"{len(ahead)} of {len(values)}",
        str(len(values) - len(ahead) - len(behind)),
        str(len(behind)),
        number(values.mean()),
        number(np.median(values)),
        number(behind.mean()) if len(behind) else "",
        f"{number(gains[worst])} ({worst})" if len(behind) else "",
    ]
    return table_row(cells)


def fit_times(records, models) -> str:
    parts = []
    for model in models:
        groups = [row[model].values() for row in records.values() if model in row]
        seconds = [r["fit_seconds"] for g in groups for r in g if "fit_seconds" in r]
        if seconds:
            parts.append(
                f"{model} {np.median(seconds):.2g} (all: {np.sum(seconds):.3g})"
            )
    return f"Seconds to fit, median over sets: {', '.join(parts)}."


def errors(records) -> list[str]:
    """One line for each result that is missing because of an error."""
    return [
        f"\nError of {model} on {name}: {record['error'].splitlines()[0]}"
        for name, row in records.items()
        for model, group in row.items()
        for record in group.values()
        if "error" in record
    ]


def score_cell(row, model, best) -> str:
    if model not in row:
        return ""
    values = list(seed_scores(row, model).values())
    if not values:
        return "error"
    text = in_bold(number(np.mean(values)), best)
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.2f}"


def in_bold(text, best) -> str:
    return f"**{text}**" if text == best else text


def shape_cell(row) -> str:
    """Rows and columns that models were fitted to."""
    shapes = [r["shape"] for g in row.values() for r in g.values() if "shape" in r]
    return "x".join(map(str, shapes[0])) if shapes else ""


def number(value) -> str:
    return "" if value is None else f"{value:.3f}"


def environments_text(environments) -> str:
    return "\n\n".join(["# Quality", *map(environment_text, environments)])


# The command line


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of data sets")
    add("--tasks", nargs="+", default=["density", "clustering", "anomaly"])
    add("--models", nargs="+", help="ours, gmm, bgmm, kde, ... (default: all)")
    add("--sets", nargs="+", help="names of sets (default: all)")
    add("--seeds", type=int, default=1, metavar="N", help="how many seeds")
    add("--first-seed", type=int, default=0)
    add("--max-rows", type=int, default=12000, help="of a density set, train and test")
    add("--ours", type=json.loads, default={}, help="FlowMixture parameters, JSON")
    add("--label", default="ours", help="our model's name in the results")
    add("--redo", action="store_true", help="run our model again where it has a result")
    add("--output", type=Path, default=Path("results.json"))
    add("--table", type=Path, help="write the Markdown table here")
    add("--dry-run", action="store_true", help="only print the table of --output")
    add("--threads", type=int, default=1)
    args = parser.parse_args()
    args.tasks = check_names(parser, expand(args.tasks), TASKS)
    known = {"ours", "detector"}.union(*PEERS.values())
    check_names(parser, args.models or [], known)
    check_names(parser, args.sets or [], all_sets(args.data))
    if args.label != "ours" and args.label in known:
        parser.error(f"--label {args.label} is the name of a peer")
    return args


def expand(tasks) -> list[str]:
    """`anomaly` stands for both of its protocols."""
    both = ["anomaly_contaminated", "anomaly_clean"]
    nested = [both if task == "anomaly" else [task] for task in tasks]
    return [task for group in nested for task in group]


def all_sets(folder) -> set[str]:
    return {name for source in SET_SOURCES.values() for name in source(folder)}


def check_names(parser, names, known) -> list[str]:
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"unknown: {unknown}; known: {sorted(known)}")
    return names


def drop_ours_if_missing(args) -> None:
    """Peers can run without the package, if nobody asked for ours."""
    try:
        import skflowmix  # noqa: F401
    except ImportError:
        if args.models is None:
            print("skflowmix is not installed: peers only.", flush=True)
            args.models = sorted(set().union(*PEERS.values()))
        elif "ours" in args.models:
            raise


def main() -> None:
    args = parse_arguments()
    results = Results(args.output, {"max_rows": args.max_rows})
    if not args.dry_run:
        drop_ours_if_missing(args)
        torch.set_num_threads(args.threads)
        with threadpool_limits(args.threads):
            run_all(args, results)
    results.set("published", _datasets.published_ari(args.data))
    text = tables(results.data)
    if args.table:
        args.table.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
