"""The paper's experiments: in the paper's configuration and in ours.

G. G. P. Freitas Pires and M. A. T. Figueiredo, Variational Mixture of Normalizing
Flows, ESANN 2020, arXiv:2009.00585.

- ``pinwheel``: five wings, no labels. Adjusted Rand index on fresh rows; the gap is the
  generator's log-density of these rows less the model's, in nats per row.
- ``pinwheel-shared-0`` to ``-3``: the same with none to three of three layers, of the
  default family, shared by the wings; with the number of flow parameters.
- ``circles``: two circles, no labels, where the paper fails. The same index.
- ``circles-labelled``: 1024 rows without a label and 32 with one in each circle.
  Accuracy on fresh rows.
- ``number``: eight separated clusters, none of them Gaussian, in 2, 5 and 15 columns,
  with ``n_components="auto"`` and at most twenty components. Mean index, and share of
  fits that find eight.
- ``mnist-0-4``, ``mnist-ten``: digits without labels. Accuracy on the test images
  after the best matching of clusters and digits; *balanced* weights digits equally, as
  the paper does (75.4 % for 0 to 4).
- ``mnist-ten-labelled``: ten labels per digit, other images without. Test accuracy.

``ours`` is the package's defaults in two dimensions, except on the pinwheel, whose
wings are one wing turned: there RealNVP flows share all but two of their layers. On
images it is a pipeline: upright images, orientations of edges, 50 principal components,
and RealNVP flows from a spectral first partition.

``paper`` is the paper's configuration as far as our parameters express it: its
flows, networks, batches, step sizes, epochs and temperature, and a random start. The
differences: the paper's mixture weights are fixed and its temperature has no floor; our
components start as Gaussians on a base distribution with heavier tails, gradients are
clipped, the best weights on a few held-out rows are kept and q is fitted once more; an
epoch has at most 256 steps; weight decay is decoupled and does not apply to biases.
With labels the paper pre-trains on labelled rows alone and then alternates epochs with
and without labels; ours always trains on all rows together, from labels propagated to
neighbours. The paper has no experiment on ten digits: here its model for five digits is
used.

The paper's model of digits takes hours on a CPU; ``--device cuda`` trains it on a GPU.

Every result is written to a JSON file as soon as it is ready; experiments that the file
holds already are not run again. Figures show the first seed, drawn when it is run.

Examples::

    python benchmarks/paper.py --seeds 5 --experiments pinwheel circles
    python benchmarks/paper.py --data mnist.npz --output paper.json --table paper.md \
        --figures figures
    python benchmarks/paper.py --data mnist.npz --config ours --quick
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _images
import numpy as np
import torch
from _options import make
from _results import Results, environment, environment_text, header, table_row
from foundation import WINGS, pinwheel, pinwheel_log_density
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import make_circles
from sklearn.metrics import accuracy_score, adjusted_rand_score, confusion_matrix
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from skflowmix import FlowMixture, FlowMixtureClassifier, FlowMixtureOptions

CONFIGS = ("ours", "paper")
FRESH = 1000
"""Added to a seed for the rows that a model is tested on."""
N_IMAGES = 10
"""Images of every component in a figure."""
QUICK_ROWS = 2000
QUICK: dict[str, Any] = {"n_iter_init": 2, "max_iter": 3}

PAPER: dict[str, Any] = {
    **FlowMixtureOptions.paper().get_params(),
    "init_params": "random",
    "tol": 0.0,
    "n_iter_no_change": 10**6,
    "learning_rate": 1e-3,
}
PAPER_PINWHEEL = PAPER | {
    "flow": "realnvp",
    "n_transforms": 8,
    "hidden_units": (8,),
    "posterior_units": (3,),
    "batch_size": 512,
    "max_iter": 400,
}
PAPER_CIRCLES = PAPER | {
    "flow": "realnvp",
    "n_transforms": 10,
    "hidden_units": (8,),
    "posterior_units": (16, 16),
    "batch_size": 128,
    "max_iter": 500,
}
PAPER_MNIST = PAPER | {
    "flow": "maf",
    "n_transforms": 5,
    "hidden_units": (200,),
    "posterior_units": (512,),
    "learning_rate": 1e-4,
    "weight_decay": 1e-6,
    "batch_size": 100,
    "max_iter": 100,
}
OUR_PINWHEEL: dict[str, Any] = {
    "flow": "realnvp",
    "n_transforms": 18,
    "n_shared_transforms": 16,
    "n_common_transforms": 0,
    "n_iter_no_change": 16,
    "weight_decay": 0.1,
}
OUR_MNIST: dict[str, Any] = {
    "flow": "realnvp",
    "init_params": "spectral",
    "n_iter_init": 5,
    "max_iter": 30,
}


# Two dimensions


def run_pinwheel(config, seed, args, n_shared=None):
    X, _ = pinwheel(np.random.default_rng(seed))
    X_test, wings = pinwheel(np.random.default_rng(seed + FRESH))
    parameters = {"ours": OUR_PINWHEEL, "paper": PAPER_PINWHEEL}[config]
    if n_shared is not None:
        parameters = {"n_shared_transforms": n_shared, "n_common_transforms": 0}
    model, seconds = timed_fit(mixture(WINGS, parameters, seed, args), X)
    labels = model.predict(X_test)
    record = {
        "score": adjusted_rand_score(wings, labels),
        "gap_nats": pinwheel_log_density(X_test).mean() - model.score(X_test),
        "n_parameters": sum(f.n_parameters for f in model.module_.components.flows()),
        "seconds": seconds,
    }
    return record, plane_figure(model, X_test, labels)


def circles(seed):
    """1024 points on circles of radius 0.8 and 0.4, 0.016 wide."""
    X, y = make_circles(1024, noise=0.02, factor=0.5, random_state=seed)
    return 0.8 * X, y


def run_circles(config, seed, args):
    X, _ = circles(seed)
    X_test, y = circles(seed + FRESH)
    parameters = {"ours": {}, "paper": PAPER_CIRCLES}[config]
    model, seconds = timed_fit(mixture(2, parameters, seed, args), X)
    labels = model.predict(X_test)
    record = {"score": adjusted_rand_score(y, labels), "seconds": seconds}
    return record, plane_figure(model, X_test, labels)


def run_circles_labelled(config, seed, args):
    X, _ = circles(seed)
    X_labelled, y_labelled = circles(seed + 2 * FRESH)
    X_test, y_test = circles(seed + FRESH)
    few = few_labelled(y_labelled, 32, seed)
    X = np.concatenate([X, X_labelled[few]])
    y = np.concatenate([np.full(len(X) - len(few), -1), y_labelled[few]])
    # 300 epochs with labels, here spread ones, come before 500 with and without.
    parameters = {"ours": {}, "paper": PAPER_CIRCLES | {"n_iter_init": 300}}[config]
    model, seconds = timed_fit(classifier(parameters, seed, args), X, y)
    labels = model.predict(X_test)
    record = {"score": accuracy_score(y_test, labels), "seconds": seconds}
    return record, plane_figure(model, X_test, labels, X[-len(few) :])


# The number of components


def crescents(rng, n_features, n_clusters=8, n_per_cluster=200):
    """Bent clusters, half of them skewed, turned at random; centres 8 apart or more."""
    centers = np.zeros((0, n_features))
    while len(centers) < n_clusters:
        center = rng.uniform(-16, 16, n_features)
        if (np.linalg.norm(centers - center, axis=1) > 8).all():
            centers = np.vstack([centers, center])
    clusters = []
    for k, center in enumerate(centers):
        angle = rng.uniform(0, 1.5 * np.pi, n_per_cluster)
        points = 0.4 * rng.normal(size=(n_per_cluster, n_features))
        points[:, 0] = 1.2 * np.cos(angle) + 0.15 * rng.normal(size=n_per_cluster)
        points[:, 1] = 1.2 * np.sin(angle) + 0.15 * rng.normal(size=n_per_cluster)
        if k % 2:
            points[:, 1:] = np.exp(0.5 * points[:, 1:])
        turn = np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]
        clusters.append(points @ turn + center)
    return np.concatenate(clusters), np.repeat(np.arange(n_clusters), n_per_cluster)


def run_number(config, seed, args):
    scores, in_use, start = [], [], time.perf_counter()
    for n_features in (2, 5, 15):
        X, y = crescents(np.random.default_rng(seed), n_features)
        model = mixture("auto", {}, seed, args).fit(X)
        scores.append(adjusted_rand_score(y, model.labels_))
        in_use.append(model.n_components_)
    record = {
        "score": float(np.mean(scores)),
        "by_columns": scores,
        "in_use": in_use,
        "share_right": float(np.mean(np.array(in_use) == 8)),
        "seconds": time.perf_counter() - start,
    }
    return record, None


# Images


def run_digits(config, seed, args, n_digits):
    data = digits(n_digits, seed, args)
    X, X_test, images_of = features(config, data, seed)
    parameters = {"ours": OUR_MNIST, "paper": PAPER_MNIST}[config]
    model, seconds = timed_fit(mixture(n_digits, parameters, seed, args), X)
    labels = model.predict(X_test)
    counts = confusion_matrix(data.y_test, labels, labels=range(n_digits))
    order = linear_sum_assignment(counts, maximize=True)[1]
    record = contingency_record(counts[:, order], order, seconds)
    samples, component = model.sample(40 * n_digits, random_state=seed)
    return record, digits_figure(config, record, samples, component, images_of)


def run_digits_labelled(config, seed, args):
    data = digits(10, seed, args)
    X, X_test, images_of = features(config, data, seed)
    few = few_labelled(data.y, 10, seed)
    y = np.full(len(X), -1)
    y[few] = data.y[few]
    ours = {k: v for k, v in OUR_MNIST.items() if k != "init_params"}
    parameters = {"ours": ours, "paper": PAPER_MNIST}[config]
    model, seconds = timed_fit(classifier(parameters, seed, args), X, y)
    counts = confusion_matrix(data.y_test, model.predict(X_test))
    record = contingency_record(counts, np.arange(10), seconds)
    samples, component = model.sample(400, random_state=seed)
    return record, digits_figure(config, record, samples, component, images_of)


@dataclass
class Digits:
    """Images as rows of 784 grey values, and their digits."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def digits(n_digits, seed, args) -> Digits:
    """The images of the first digits; a few of them for a quick run."""
    arrays = []
    X, y, X_test, y_test = _images.mnist(args.data)
    for images, labels in ((X, y), (X_test, y_test)):
        rows = np.flatnonzero(labels < n_digits)
        if args.quick:
            rng = np.random.default_rng(seed)
            rows = np.sort(rng.choice(rows, QUICK_ROWS, replace=False))
        arrays += [images[rows], labels[rows]]
    return Digits(*arrays)


def features(config, data, seed):
    """Rows to fit, rows to test, and the way back to images from such rows."""
    if config == "ours":
        steps = _images.image_features()
        X, X_test = steps.fit_transform(data.X), steps.transform(data.X_test)
        index = NearestNeighbors(n_neighbors=1).fit(X)

        def nearest_images(samples):
            return data.X[index.kneighbors(samples, return_distance=False)[:, 0]]

        return X, X_test, nearest_images
    # Grey values are whole numbers: noise of that width makes them a density.
    rng = np.random.default_rng(seed)
    X, X_test = (
        ((images + rng.uniform(size=images.shape)) / 256).astype(np.float32)
        for images in (data.X, data.X_test)
    )
    return X, X_test, FunctionTransformer().transform


def contingency_record(counts, order, seconds) -> dict[str, Any]:
    """Accuracies from a table of digits by clusters, the matching on its diagonal."""
    of_digits = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {
        "score": counts.trace() / counts.sum(),
        "balanced": of_digits.diagonal().mean(),
        "seconds": seconds,
        "contingency": counts.tolist(),
        "components": order.tolist(),
    }


# Models


def mixture(n_components, parameters, seed, args) -> FlowMixture:
    return make(FlowMixture, n_components, **parameters | run_parameters(seed, args))


def classifier(parameters, seed, args) -> FlowMixtureClassifier:
    return make(FlowMixtureClassifier, **parameters | run_parameters(seed, args))


def run_parameters(seed, args) -> dict[str, Any]:
    """What does not depend on the experiment."""
    quick = QUICK if args.quick else {}
    return {"random_state": seed, "device": args.device, **quick}


def timed_fit(model, *data):
    start = time.perf_counter()
    model.fit(*data)
    return model, time.perf_counter() - start


def few_labelled(y, n_per_class, seed):
    """The numbers of `n_per_class` rows of every class."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(y == label) for label in np.unique(y)]
    return np.concatenate([rng.choice(r, n_per_class, replace=False) for r in rows])


# Figures: functions that draw one, called if it is wanted

Draw = Callable[[], Any]


def plane_figure(model, X, labels, labelled=None) -> Draw:
    """Rows and the density's contours; samples, by component."""

    def draw():
        plt = pyplot()
        figure, axes = plt.subplots(1, 2, figsize=(8.6, 4.6), layout="constrained")
        limit = 1.15 * np.abs(X).max()
        side = np.linspace(-limit, limit, 250)
        grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        log_density = model.score_samples(grid).reshape(250, 250)
        peak = np.quantile(model.score_samples(X), 0.9)
        colours = {"cmap": "tab10", "vmin": 0, "vmax": 9}
        axes[0].contour(
            side, side, log_density, levels=peak + np.arange(-5, 1), cmap="Greys"
        )
        axes[0].scatter(*X.T, c=labels, s=3, **colours)
        if labelled is not None:
            axes[0].scatter(*labelled.T, s=22, facecolors="none", edgecolors="black")
        axes[0].set_title("Fresh rows, contours one nat apart")
        samples, component = model.sample(len(X), random_state=0)
        axes[1].scatter(*samples.T, c=component, s=3, **colours)
        axes[1].set_title("Samples of the components")
        for ax in axes:
            ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        return figure

    return draw


def digits_figure(config, record, samples, component, images_of) -> Draw:
    """Samples of every component, the contingency table beside them.

    Features cannot be turned back into images: the training image nearest to a sample
    stands for it.
    """

    def draw():
        plt = pyplot()
        counts = np.array(record["contingency"])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        side = _images.SIDE
        canvas = np.zeros((len(counts), N_IMAGES, side, side))
        for row, k in zip(canvas, record["components"], strict=True):
            own = samples[component == k][:N_IMAGES]
            if len(own):
                row[: len(own)] = images_of(own).reshape(-1, side, side)
        figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
        picture = canvas.transpose(0, 2, 1, 3).reshape(len(counts) * side, -1)
        axes[0].imshow(picture, cmap="gray_r", vmin=0, vmax=np.quantile(picture, 0.99))
        axes[0].set_title(SAMPLES_TITLE[config])
        axes[0].axis("off")
        axes[1].imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, j), share in np.ndenumerate(shares):
            if share >= 0.0005:
                colour = "white" if share > 0.5 else "black"
                text = f"{share:.3f}".lstrip("0")
                axes[1].text(j, i, text, ha="center", va="center", color=colour, size=8)
        ticks = range(len(counts))
        axes[1].set(xlabel="component", ylabel="digit", xticks=ticks, yticks=ticks)
        axes[1].set_xticklabels(record["components"])
        axes[1].set_title(f"Test images: accuracy {record['score']:.3f}")
        return figure

    return draw


def pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


# Running


@dataclass(frozen=True)
class Experiment:
    """What the table says of an experiment, and what runs it."""

    title: str
    run: Callable
    configs: tuple[str, ...] = CONFIGS


EXPERIMENTS = {
    "pinwheel": Experiment("pinwheel, ARI", run_pinwheel),
    **{
        f"pinwheel-shared-{n}": Experiment(
            f"pinwheel, {n} of 3 layers shared, ARI",
            partial(run_pinwheel, n_shared=n),
            ("ours",),
        )
        for n in range(4)
    },
    "circles": Experiment("two circles, ARI", run_circles),
    "circles-labelled": Experiment(
        "two circles, 32 labels each, accuracy", run_circles_labelled
    ),
    "number": Experiment(
        "eight clusters of at most twenty, ARI", run_number, ("ours",)
    ),
    "mnist-0-4": Experiment("MNIST 0 to 4, accuracy", partial(run_digits, n_digits=5)),
    "mnist-ten": Experiment("MNIST, accuracy", partial(run_digits, n_digits=10)),
    "mnist-ten-labelled": Experiment(
        "MNIST, ten labels each, accuracy", run_digits_labelled
    ),
}
SAMPLES_TITLE = {
    "ours": "Images nearest to samples, a component in every row",
    "paper": "Samples, a component in every row",
}
EXTRA_TITLES = {
    "gap_nats": "gap, nats",
    "n_parameters": "parameters",
    "share_right": "eight in use",
    "balanced": "balanced",
}
PUBLISHED = {"mnist-0-4": "0.754 (balanced)"}


def run_all(args, results: Results) -> None:
    """Run what is asked for and missing."""
    machine = environment()
    for name in args.experiments:
        for config in (c for c in args.config if c in EXPERIMENTS[name].configs):
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                key = f"{name}/{config}/{seed}"
                if results.has(key):
                    continue
                record, draw = attempt(EXPERIMENTS[name].run, config, seed, args)
                results.add(key, record, machine)
                print(key, describe(record), flush=True)
                if draw and args.figures and seed == args.first_seed:
                    args.figures.mkdir(parents=True, exist_ok=True)
                    draw().savefig(args.figures / f"{name}-{config}.png", dpi=120)


def attempt(run, config, seed, args):
    """A record and its figure, or the error: one failure must not end the run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(config, seed, args)
    except Exception as error:
        return {
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(limit=-4),
        }, None


def describe(record) -> str:
    if "error" in record:
        return record["error"]
    figures = {k: v for k, v in record.items() if isinstance(v, float)}
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


# The tables


def tables(results: Results) -> str:
    """All results as Markdown."""
    lines = ["# The paper's experiments", ""]
    for machine in results.data["environments"]:
        lines += [environment_text(machine), ""]
    if results.data["settings"]["quick"]:
        lines += ["A quick run: few epochs, few images. The figures say nothing.", ""]
    lines += header(
        ["experiment", "configuration", "seeds", "mean", "all", "also", "s", "paper"]
    )
    by_run: dict[tuple[str, str], list[dict]] = {}
    for key, record in sorted(results.records.items()):
        name, config, _ = key.split("/")
        by_run.setdefault((name, config), []).append(record)
    runs = [(name, config) for name in EXPERIMENTS for config in CONFIGS]
    for name, config in runs:
        done = [r for r in by_run.get((name, config), []) if "score" in r]
        if done:
            lines.append(summary_row(name, config, done))
    for name, config in runs:
        done = [r for r in by_run.get((name, config), []) if "contingency" in r]
        if done:
            lines += ["", *contingency_table(name, config, done[0])]
    return "\n".join(lines) + "\n"


def summary_row(name, config, records) -> str:
    scores = [record["score"] for record in records]
    extra = [
        f"{title} {np.mean([record[key] for record in records]):.4g}"
        for key, title in EXTRA_TITLES.items()
        if key in records[0]
    ]
    cells = [
        EXPERIMENTS[name].title,
        config,
        str(len(scores)),
        f"{np.mean(scores):.3f}",
        " ".join(f"{score:.3f}" for score in scores),
        ", ".join(extra),
        f"{np.median([record['seconds'] for record in records]):.0f}",
        PUBLISHED.get(name, ""),
    ]
    return table_row(cells)


def contingency_table(name, config, record) -> list[str]:
    """Shares of every digit's test images in the components."""
    counts = np.array(record["contingency"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lines = [f"{name}, {config}: digit by component, first seed.", ""]
    lines += header(["", *map(str, record["components"])])
    for digit, row in enumerate(shares):
        lines.append(table_row([str(digit), *(f"{share:.3f}" for share in row)]))
    return lines


# The command line


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help="mnist.npz or its folder (default: fetch_openml)")
    add(
        "--experiments", nargs="+", choices=list(EXPERIMENTS), default=list(EXPERIMENTS)
    )
    add("--config", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    add("--seeds", type=int, default=1, metavar="N", help="how many seeds")
    add("--first-seed", type=int, default=0)
    add("--quick", action="store_true", help="few epochs, few images: does it run?")
    add("--output", type=Path, default=Path("paper.json"))
    add("--table", type=Path, help="write the Markdown table here")
    add("--figures", type=Path, help="folder for the figures of the first seed")
    add("--device", default="cpu", help="where to train: cpu, cuda or auto")
    add("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    results = Results(args.output, {"quick": args.quick})
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        run_all(args, results)
    text = tables(results)
    if args.table:
        args.table.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
