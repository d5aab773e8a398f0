"""Measure time, memory and held-out log-likelihood of whole fits.

``python benchmarks/fits.py --output fits.json`` fits bent groups of several sizes with
FlowMixture's defaults and prints, for each size, seconds, growth of resident memory and
held-out log-likelihood, with the growth exponents in n, D and K; ``--peers`` adds other
models in the same run. ``--parts phases`` shows how the time of a default fit is
divided, ``--parts race --data DIR`` how long FlowMixture takes to reach the held-out
log-likelihood at which zuko's NSF stops, ``--parts serving`` the time of scores and
samples, ``--parts grid`` a grid search over K, ``--parts loop`` whole fits of a fixed
number of epochs beside a loop over zuko's RealNVPs. One thread, except for the grid;
ratios are meaningful on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import speed
import torch
from _datasets import density_sets
from _options import make
from _peers import DENSITY, subsample
from _results import environment, table
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV

from skflowmix import FlowMixture, fitting, monitor
from skflowmix.evaluation import evaluate
from skflowmix.model.mixture import MixtureModule
from skflowmix.starts.preprocessing import Standardizer
from skflowmix.training import phases, trainer

SIZES = (
    (1000, 2, 3),
    (10_000, 10, 5),
    (5000, 64, 5),
    (16_000, 10, 50),
    (100_000, 10, 5),
)
# Sizes that differ from the first one of a group in one number only.
GROWTH = {
    "n": ((2000, 5, 4), (8000, 5, 4), (32_000, 5, 4)),
    "D": ((4000, 4, 4), (4000, 16, 4), (4000, 64, 4)),
    "K": ((8000, 5, 2), (8000, 5, 8), (8000, 5, 32)),
}
# Preset of `speed.py`, K, rows and epochs of the fits beside the loop.
LOOP_FITS = (
    ("small", 5, 2560, 100),
    ("middle", 5, 16_384, 10),
    ("middle", 10, 16_384, 10),
    ("middle", 50, 16_384, 10),
)
N_HELD_OUT = 4000


def bent_groups(n, n_columns, n_groups, seed=0):
    """Rows of groups that a parabola and a random matrix have bent and turned."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_groups, n_columns)) * 4
    turns = rng.normal(size=(n_groups, n_columns, n_columns)) * 0.7
    turns /= np.sqrt(n_columns)
    of_row = rng.integers(0, n_groups, n)
    z = rng.normal(size=(n, n_columns))
    z[:, 1] += 0.5 * (z[:, 0] ** 2 - 1)
    return centres[of_row] + np.einsum("nij,nj->ni", turns[of_row], z)


def peak_memory(before: int) -> float:
    """Growth of the largest resident size so far, in MiB."""
    return (_largest_resident() - before) / 2**20


def _largest_resident() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text().splitlines()
    size = next(line for line in lines if line.startswith("VmHWM"))
    return int(size.split()[1]) * 1024


class FlowLoop:
    """K of zuko's NSF, one for each group that k-means finds, with its share."""

    def __init__(self, n_components, seed):
        self.n_components, self.seed = n_components, seed

    def fit(self, X):
        from _peers import kmeans_labels

        labels = kmeans_labels(X, self.n_components, self.seed)
        groups = [X[labels == k] for k in range(self.n_components)]
        self.log_shares = np.log([len(group) / len(X) for group in groups])
        self.flows = [DENSITY["zuko_nsf"](self.seed).fit(group) for group in groups]
        return self

    def score_samples(self, X):
        log_prob = np.stack([flow.score_samples(X) for flow in self.flows], 1)
        return np.logaddexp.reduce(log_prob + self.log_shares, axis=1)


def models(n_components):
    """Name and maker of every model, ours first."""
    return {
        "ours": lambda: FlowMixture(n_components, random_state=0),
        "gmm": lambda: GaussianMixture(n_components, random_state=0),
        "bgmm": lambda: BayesianGaussianMixture(
            n_components=n_components, random_state=0
        ),
        "zuko_nsf": lambda: DENSITY["zuko_nsf"](0),
        "zuko_loop": lambda: FlowLoop(n_components, 0),
        "vine": lambda: DENSITY["vine"](0),
    }


def fit_sizes(sizes, names, seed):
    """One record for each size and model."""
    for n, n_columns, n_groups in sizes:
        X = bent_groups(n + N_HELD_OUT, n_columns, n_groups, seed)
        train, held_out = X[:n], X[n:]
        for name, new in models(n_groups).items():
            if name not in names:
                continue
            memory = _largest_resident()
            start = time.perf_counter(), time.process_time()
            model = new().fit(train)
            record = {
                "n": n,
                "D": n_columns,
                "K": n_groups,
                "model": name,
                "seconds": time.perf_counter() - start[0],
                "cpu_seconds": time.process_time() - start[1],
                "mebibytes": peak_memory(memory),
                "log_likelihood": float(model.score_samples(held_out).mean()),
            }
            if name == "ours":
                record["epochs"] = Counter(r["phase"] for r in model.history_)
            yield record


def growth_exponents(records) -> dict[str, float]:
    """Slope of log seconds over log size, for each of n, D and K."""
    ours = {(r["n"], r["D"], r["K"]): r for r in records if r["model"] == "ours"}
    exponents = {}
    for name, sizes in GROWTH.items():
        known = [size for size in sizes if size in ours]
        if len(known) > 1:
            x = np.log([size["nDK".index(name)] for size in known])
            y = np.log([ours[size]["seconds"] for size in known])
            exponents[name] = float(np.polyfit(x, y, 1)[0])
    return exponents


PARTS = (
    (trainer.Trainer, "step", "steps"),
    (trainer.Trainer, "_evaluate", "evaluations"),
    (phases, "truncated_responsibilities", "targets of q"),
    (fitting.FittedMixture, "__post_init__", "summary"),
    (fitting.Problem, "__init__", "merging rows"),
    (fitting._Restart, "_partition", "Gaussians"),
)


class Shares:
    """CPU seconds of parts of a fit, each without the parts within it."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self._inner = [0.0]
        self._former = []

    def __enter__(self):
        for owner, name, part in PARTS:
            function = getattr(owner, name)
            self._former.append((owner, name, function))
            setattr(owner, name, self._timed(function, part))
        return self

    def __exit__(self, *exception):
        for owner, name, function in self._former:
            setattr(owner, name, function)

    def _timed(self, function, part):
        def timed(*arguments, **keywords):
            start = time.process_time()
            self._inner.append(0.0)
            try:
                return function(*arguments, **keywords)
            finally:
                spent = time.process_time() - start
                self.seconds[part] += spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


def shares_of_parts(sizes, seed):
    """Where the CPU time of a default fit goes."""
    for n, n_columns, n_groups in sizes:
        X = bent_groups(n, n_columns, n_groups, seed)
        with Shares() as shares:
            start = time.process_time()
            FlowMixture(n_groups, random_state=0).fit(X)
            total = time.process_time() - start
        parts = shares.seconds
        parts["the rest"] = total - sum(parts.values())
        yield {"n": n, "D": n_columns, "K": n_groups, "cpu_seconds": total, **parts}


class Reached(Exception):
    """Ends a fit that is good enough."""


class UntilReached:
    """Ends a fit once held-out rows are as likely as wanted; looking takes no time."""

    def __init__(self, train, held_out, wanted):
        self.held_out, self.wanted = held_out, wanted
        problem = fitting.Problem(train, np.ones(len(train)))
        self.standardizer = Standardizer.fit(problem.rows, problem.weights)
        self.looking = 0.0

    def __enter__(self):
        self.former = monitor.CallbackMonitor.epoch

        def epoch(own, record, make_candidate):
            start = time.process_time()
            log_prob = evaluate(
                make_candidate().model,
                self.standardizer,
                self.held_out,
                MixtureModule.log_prob,
                torch.device("cpu"),
            )
            self.looking += time.process_time() - start
            if log_prob.mean() - self.standardizer.log_scale >= self.wanted:
                raise Reached
            return self.former(own, record, make_candidate)

        monitor.CallbackMonitor.epoch = epoch
        return self

    def __exit__(self, *exception):
        monitor.CallbackMonitor.epoch = self.former


def race(folder, names, seed, n_components=5, max_rows=7500):
    """CPU seconds of zuko's NSF, and of ours until it is as good on held-out rows."""
    for name, load in density_sets(Path(folder)).items():
        if names and name not in names:
            continue
        X = subsample(np.asarray(load(seed)[0], dtype=float), seed, max_rows)
        rng = np.random.default_rng(seed)
        X = X[rng.permutation(len(X))]
        scale = X.std(axis=0)
        X = (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
        cut = int(0.8 * len(X))
        train, held_out = X[:cut], X[cut:]
        start = time.process_time()
        peer = DENSITY["zuko_nsf"](seed).fit(train)
        theirs = time.process_time() - start
        wanted = float(peer.score_samples(held_out).mean())
        with UntilReached(train, held_out, wanted) as watch:
            start = time.process_time()
            try:
                model = FlowMixture(n_components, random_state=seed).fit(train)
            except Reached:
                reached = True
            else:
                reached = bool(model.score(held_out) >= wanted)
        ours = time.process_time() - start - watch.looking
        yield {
            "set": name,
            "zuko_seconds": theirs,
            "zuko_log_likelihood": wanted,
            "seconds": ours,
            "reached": reached,
        }


def serving(seed, n_columns=10, n_components=5):
    """Milliseconds of single rows, and seconds of many rows and samples."""
    X = bent_groups(10_000, n_columns, n_components, seed)
    model = FlowMixture(n_components, max_iter=3, random_state=0).fit(X)
    mixture = GaussianMixture(n_components, random_state=0).fit(X)

    def median(call, times):
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        return float(np.median(taken))

    record = {}
    for dtype in ("float64", "float32"):
        row, many = X[:1].astype(dtype), np.tile(X.astype(dtype), (10, 1))
        record[f"one row, {dtype}, ms"] = 1e3 * median(
            lambda row=row: model.score_samples(row), 300
        )
        record[f"100 000 rows, {dtype}, s"] = median(
            lambda many=many: model.score_samples(many), 3
        )
        record[f"q of 100 000 rows, {dtype}, s"] = median(
            lambda many=many: model.posterior_proba(many), 3
        )
    record["one row, GaussianMixture, ms"] = 1e3 * median(
        lambda: mixture.score_samples(X[:1]), 300
    )
    record["100 000 samples, s"] = median(
        lambda: model.sample(100_000, random_state=0), 3
    )
    yield record


def grid(seed):
    """Seconds of a search over K = 1 to 8, three folds, 2000 x 5, on all cores."""
    X = bent_groups(2000, 5, 4, seed)
    search = GridSearchCV(
        FlowMixture(random_state=0),
        {"n_components": range(1, 9)},
        cv=3,
        n_jobs=-1,
    )
    start = time.perf_counter()
    search.fit(X)
    yield {"seconds": time.perf_counter() - start, "best": search.best_params_}


def beside_loop(seed):
    """CPU seconds of whole fits and of a loop's steps, for the same epochs.

    The fits have neither common layers, noise nor divided components, and run all
    epochs of the ELBO. They include first partition, M-step of one epoch, evaluations,
    epochs on all rows, and the last fit of q. The time of an epoch is the difference
    between a fit and one of twice as many epochs on the ELBO, over that of the numbers
    of their epochs. The loop's time is that of its steps alone, three of which are
    taken, for the rows that ours do not hold out; in whole fits it has as many epochs
    as ours have on the ELBO.
    """
    for name, n_components, n, n_epochs in LOOP_FITS:
        preset = speed.PRESETS[name]._replace(n_components=n_components)
        size = preset.n_features, n_components
        X = speed.pinwheel(n, seed) if name == "small" else bent_groups(n, *size, seed)
        seconds, epochs = [], []
        for max_iter in (n_epochs, 2 * n_epochs):
            model = make(
                FlowMixture,
                n_components,
                flow=preset.flow,
                n_transforms=preset.n_layers,
                hidden_units=preset.hidden_units,
                batch_size=preset.batch_size,
                n_common_transforms=0,
                n_flows_per_component=1,
                input_noise=0.0,
                n_iter_init=1,
                max_iter=max_iter,
                n_iter_no_change=max_iter,
                random_state=seed,
            )
            start = time.process_time()
            model.fit(X)
            seconds.append(time.process_time() - start)
            epochs.append(len(model.history_))
        rows = torch.from_numpy(X[: preset.batch_size]).float()
        labels = torch.arange(len(rows)) % n_components
        loop = speed.Loop(speed.Zuko, preset, rows, labels)
        loop.step()
        start = time.process_time()
        for _ in range(3):
            loop.step()
        n_train = (1 - model.get_params()["options"].validation_fraction) * n
        of_loop = (time.process_time() - start) / 3 * n_train / preset.batch_size
        per_epoch = (seconds[1] - seconds[0]) / (epochs[1] - epochs[0])
        yield {
            "K": n_components,
            "D": preset.n_features,
            "n": n,
            "epochs": n_epochs,
            "seconds": seconds[0],
            "per_epoch": per_epoch,
            "loop_per_epoch": of_loop,
            "fit_times_faster": of_loop * n_epochs / seconds[0],
            "epoch_times_faster": of_loop / per_epoch,
        }


def plot(records, path):
    """Held-out log-likelihood against seconds, a panel for each size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sizes = list(dict.fromkeys((r["n"], r["D"], r["K"]) for r in records))
    figure, axes = plt.subplots(
        1,
        len(sizes),
        figsize=(3.2 * len(sizes), 3),
        squeeze=False,
        layout="constrained",
    )
    for ax, size in zip(axes[0], sizes, strict=True):
        for record in records:
            if (record["n"], record["D"], record["K"]) != size:
                continue
            ours = record["model"] == "ours"
            point = record["seconds"], record["log_likelihood"]
            ax.scatter(*point, marker="*" if ours else "o", s=90 if ours else 30)
            ax.annotate(
                record["model"], point, xytext=(4, 4), textcoords="offset points"
            )
        ax.set(xscale="log", xlabel="seconds")
        ax.set_title("n = {}, D = {}, K = {}".format(*size), fontsize=9)
        ax.margins(0.25)
    axes[0, 0].set_ylabel("held-out log-likelihood, nats")
    figure.savefig(path, dpi=120)


def records_table(records) -> str:
    """Records as a Markdown table."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    titles = [name.replace("_", " ") for name in columns]
    rows = [[shown(record.get(name, "")) for name in columns] for record in records]
    if len(rows) == 1:
        return table(["measured", "value"], list(zip(titles, rows[0], strict=True)))
    return table(titles, rows)


def shown(value) -> str:
    """A number in four digits, counts of epochs in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    names = ["sizes", "growth", "phases", "race", "serving", "grid", "loop"]
    add("--parts", nargs="+", choices=names, default=["sizes"])
    add("--sizes", nargs="+", help="n,D,K of the sizes (default: five)")
    add("--peers", nargs="*", default=[], help="gmm, bgmm, zuko_nsf, zuko_loop, vine")
    add("--data", help="folder of the race's data sets")
    add("--sets", nargs="*", default=[], help="sets of the race (default: all)")
    add("--seed", type=int, default=0)
    add("--output", type=Path, help="JSON file")
    add("--plot", type=Path, help="PNG of likelihood against time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    sizes = SIZES
    if args.sizes:
        sizes = [tuple(int(x) for x in size.split(",")) for size in args.sizes]
    models_asked = ["ours", *args.peers]
    growth = dict.fromkeys(size for group in GROWTH.values() for size in group)
    makers = {
        "sizes": lambda: fit_sizes(sizes, models_asked, args.seed),
        "growth": lambda: fit_sizes(growth, ["ours"], args.seed),
        "phases": lambda: shares_of_parts(sizes, args.seed),
        "race": lambda: race(args.data, args.sets, args.seed),
        "serving": lambda: serving(args.seed),
        "grid": lambda: grid(args.seed),
        "loop": lambda: beside_loop(args.seed),
    }
    results: dict[str, Any] = {"environment": environment()}
    for part in args.parts:
        records = []
        for record in makers[part]():
            print(json.dumps(record), flush=True)
            records.append(record)
        results[part] = records
        print(records_table(records))
        if part == "growth":
            results["exponents"] = growth_exponents(records)
            print(json.dumps(results["exponents"]))
        if part == "race":
            ratios = [r["zuko_seconds"] / r["seconds"] for r in records if r["reached"]]
            if ratios:
                print(f"geometric mean {np.exp(np.mean(np.log(ratios))):.2f}")
    if args.output:
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    if args.plot:
        plot(results["sizes"], args.plot)


if __name__ == "__main__":
    main()
