"""Measure memory, time and log-likelihood of fits to tables larger than memory.

Rows of five curved clusters are written to a memory map. Every fit runs in a separate
process, which samples RssAnon, the memory that is not backed by a file, and counts
processor seconds in each part of the fit. Log-likelihoods are those of 100 000 other
rows, in nats per row.

- ``map``: the memory map, read piece by piece.
- ``memory``: the first ``--in-memory`` rows as an array in memory; many rows are
  streamed as well, few are fitted as usual.
- ``usual``: the same array, never streamed.

Examples::

    python benchmarks/large.py --rows 20000000 --columns 10
    python benchmarks/large.py --fits memory --in-memory 1000000
    python benchmarks/large.py --rows 2000000 --fits map usual --in-memory 2000000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _options import make
from _results import environment, table
from sklearn.exceptions import ConvergenceWarning

from skflowmix import FlowMixture, estimator, fitting, row_stream
from skflowmix.starts.gaussians import Gaussians
from skflowmix.training import phases
from skflowmix.training import table as training_table
from skflowmix.training.phases import ModelFit
from skflowmix.training.trainer import Trainer

KINDS = {"map": "from disk", "memory": "in memory", "usual": "in memory, usual fit"}

N_CLUSTERS, N_JUDGED, ROWS_AT_A_TIME = 5, 100_000, 100_000
SECONDS_BETWEEN_SAMPLES = 0.02

# (owner, name, part): in which part of a fit the function's own time counts.
PARTS = [
    (estimator, "check_rows", "validation"),
    (estimator, "warn_of_codes", "validation"),
    (row_stream.RowStream, "sample", "sample"),
    (fitting, "merge_identical_rows", "merging of identical rows"),
    (fitting.Standardizer, "fit", "scales"),
    (estimator.ProposedStart, "responsibilities", "first partition"),
    (Gaussians, "fit_each", "Gaussians"),
    (training_table, "nearest_others", "nearest rows"),
    (phases, "nearest_others", "nearest rows"),
    (ModelFit, "run", "training"),
    (ModelFit, "fit_posterior", "last fit of q"),
    (fitting.FittedMixture, "__post_init__", "summary"),
]


def cluster_rows(n_rows, n_columns, random_state):
    """Rows of curved clusters, in random order, float32."""
    places = 4 * np.random.default_rng(0).standard_normal((N_CLUSTERS, n_columns))
    labels = random_state.integers(N_CLUSTERS, size=n_rows)
    rows = random_state.standard_normal((n_rows, n_columns))
    rows[:, 1::2] += 0.5 * rows[:, : 2 * (n_columns // 2) : 2] ** 2
    return (rows + places[labels]).astype(np.float32)


def write_map(path, n_rows, n_columns):
    """Write a memory map, unless it is there."""
    shape = (n_rows, n_columns)
    if path.exists() and np.load(path, mmap_mode="r").shape == shape:
        return
    rows = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    random_state = np.random.default_rng(1)
    for start in range(0, n_rows, ROWS_AT_A_TIME):
        part = rows[start : start + ROWS_AT_A_TIME]
        part[:] = cluster_rows(len(part), n_columns, random_state)
    rows.flush()


def anonymous_memory():
    """RssAnon of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000


class Peak(threading.Thread):
    """The largest memory until it is stopped, and the part of a fit it was in."""

    def __init__(self, clock):
        super().__init__(daemon=True)
        self.clock, self.where = clock, ""
        self.before = self.largest = anonymous_memory()
        self.is_done = threading.Event()

    def run(self):
        while not self.is_done.wait(SECONDS_BETWEEN_SAMPLES):
            if (present := anonymous_memory()) > self.largest:
                self.largest, self.where = present, self.clock.present

    def growth(self):
        self.is_done.set()
        self.join()
        return self.largest - self.before


class Clock:
    """Processor seconds of the parts of a fit, and of the steps of every phase."""

    def __init__(self):
        self.parts, self.inner, self.epochs = {}, [0.0], []
        self.present = "other"
        for owner, name, part in PARTS:
            self._time(owner, name, part)
        epoch = Trainer.epoch

        def timed_epoch(trainer, *args):
            began = time.process_time()
            epoch(trainer, *args)
            source = trainer.source
            n_rows = trainer.n_steps * source.n_rows / source.n_batches
            self.epochs.append((time.process_time() - began, n_rows))

        Trainer.epoch = timed_epoch

    def _time(self, owner, name, part):
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            began = time.process_time()
            self.inner.append(0.0)
            outer, self.present = self.present, part
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.process_time() - began
                own = seconds - self.inner.pop()
                self.inner[-1] += seconds
                self.present = outer
                self.parts[part] = self.parts.get(part, 0.0) + own

        if isinstance(vars(owner).get(name), classmethod):
            timed = staticmethod(timed)
        setattr(owner, name, timed)


def fit(kind, path, n_rows, n_columns, n_threads, parameters):
    """Fit once; returns what it took."""
    torch.set_num_threads(n_threads)
    X = np.load(path, mmap_mode="r")
    if kind != "map":
        X = np.array(X[:n_rows])
    if kind == "usual":
        row_stream.LARGEST_ROWS = row_stream.LARGEST_VALUES = 10**12
    test = cluster_rows(N_JUDGED, n_columns, np.random.default_rng(2))
    warnings.simplefilter("ignore", ConvergenceWarning)
    # What a first fit loads and allocates stays.
    FlowMixture(2, max_iter=1).fit(test[:2000])
    clock = Clock()
    peak = Peak(clock)
    peak.start()
    began, seconds = time.perf_counter(), time.process_time()
    model = make(FlowMixture, N_CLUSTERS, random_state=0, **parameters).fit(X)
    seconds = time.process_time() - seconds
    result = {
        "rows": len(X),
        "table_mb": X.nbytes / 1e6,
        "growth_mb": peak.growth(),
        "largest_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "cpu_s": seconds,
        "wall_s": time.perf_counter() - began,
        "largest_in": peak.where,
        "parts_s": {**clock.parts, "other": seconds - clock.inner[0]},
        "log_likelihood": float(model.score(test)),
    }
    phases = [record["phase"] for record in model.history_]
    # The first epochs are those of the history where one start was trained.
    for phase in dict.fromkeys(phases):
        own = [
            epoch
            for epoch, name in zip(clock.epochs, phases, strict=False)
            if name == phase
        ]
        used, visited = np.sum(own, axis=0)
        result[phase] = {
            "epochs": len(own),
            "rows": visited,
            "us_per_row": 1e6 * used / visited,
        }
    return result


def report(fits):
    """A row for each fit."""
    return table(
        ["rows", "read", "growth, MB", "CPU s", "us a row", "not training", "score"],
        [
            [
                f"{fit['rows']:_}".replace("_", " "),
                KINDS[name.split("-")[0]],
                f"{fit['growth_mb']:.0f} (table {fit['table_mb']:.0f})",
                f"{fit['cpu_s']:.0f}",
                f"{fit['all rows']['us_per_row']:.0f}" if "all rows" in fit else "",
                f"{1 - fit['parts_s']['training'] / fit['cpu_s']:.2f}",
                f"{fit['log_likelihood']:.3f}",
            ]
            for name, fit in fits.items()
        ],
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--in-memory", type=int, default=200_000)
    kinds = list(KINDS)
    parser.add_argument("--fits", nargs="+", choices=kinds, default=kinds[:2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", help="where to keep the memory map")
    parser.add_argument("--parameters", type=json.loads, default={})
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    results = {"environments": [], "fits": {}}
    if args.output and args.output.exists():
        results = json.loads(args.output.read_text())
    machine = environment()
    if machine not in results["environments"]:
        results["environments"].append(machine)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(args.folder or temporary) / "rows.npy"
        write_map(path, args.rows, args.columns)
        for kind in args.fits:
            n_rows = args.rows if kind == "map" else args.in_memory
            task = (kind, path, n_rows, args.columns, args.threads, args.parameters)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                result = results["fits"][f"{kind}-{n_rows}"] = pool.apply(fit, task)
            print(kind, json.dumps(result, indent=1), flush=True)
            if args.output:
                args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
