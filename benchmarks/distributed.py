"""Measure the speed, and the effect on the model, of training by several processes.

`torchrun` starts every fit on this machine, with gloo on the loopback interface and one
thread per process:

- ``curves``: 15 epochs in float64, five on the first responsibilities and ten on the
  ELBO, with the same rows and batches for one process and for several. Reports the
  largest relative differences of the loss and of held-out log-likelihoods.
- ``quality``: float32, each process with a shard of a table that has more rows than the
  sample for the first partition; ``--sample`` makes that sample smaller, for smaller
  tables. Held-out log-likelihood, mean over seeds.
- ``throughput``: equally many rows, and an equally large batch, for each process. Rows
  per second of the last steps on the ELBO, over all processes, after equally many
  steps, as the first ones have more components per row. Meaningful only on a machine
  with a free core for each process.

Examples::

    python benchmarks/distributed.py curves quality --processes 1 2 4
    python benchmarks/distributed.py quality --rows 6000 --sample 1500
    python benchmarks/distributed.py throughput --processes 1 2 --output throughput.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _options import make
from _results import environment, environment_text, header, table_row
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning

from skflowmix import FlowMixture, data_parallel, distributed

NETWORKS = {"n_transforms": 2, "hidden_units": (32,), "posterior_units": (32,)}
FIGURES = ("train_loss", "validation_log_likelihood")
N_EPOCHS = 15
# Epochs whose speed is measured, of one process; the last half counts.
N_ELBO_EPOCHS = 12


def rows(n, seed):
    """Two moons beside two others: four columns."""
    first, _ = make_moons(n, noise=0.08, random_state=seed)
    second, _ = make_moons(n, noise=0.08, random_state=seed + 1000)
    return np.column_stack([first, second])


class Clock:
    """The time at which each epoch on the ELBO ended."""

    def __init__(self):
        self.times = []

    def setup(self, estimator, context):
        """Nothing to set up."""

    def teardown(self, estimator, context):
        """Nothing to tear down."""

    def on_fit_task_begin(self, estimator, context):
        """Nothing to do."""

    def on_fit_task_end(self, estimator, context):
        """Keep the time."""
        if context.task_name == "elbo epoch":
            self.times.append(time.perf_counter())


def fit(job, seed, n_rows, batch_size, sample):
    """Fit in one of the processes, and return what is measured."""
    torch.set_num_threads(1)
    rank, n_ranks = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    settings = {"random_state": seed}
    if job != "throughput":
        settings |= NETWORKS
    clock, sharded = Clock(), job != "curves"
    if job == "curves":
        settings |= {"dtype": "float64", "n_iter_init": 5, "max_iter": 10}
        settings |= {"n_iter_no_change": 10}
        X = rows(n_rows, seed)
    elif job == "quality":
        if sample:
            distributed.SAMPLE_ROWS = sample
        X = rows(n_rows, seed)[rank::n_ranks]
    else:
        n_epochs = N_ELBO_EPOCHS * n_ranks
        settings |= {"n_iter_init": 0, "max_iter": n_epochs}
        settings |= {"n_iter_no_change": n_epochs}
        settings |= {"init_params": "kmeans", "batch_size": batch_size * n_ranks}
        X = rows(n_rows, seed + rank)
    model = make(FlowMixture, 4, **settings).set_callbacks(clock)
    with warnings.catch_warnings(), data_parallel(sharded=sharded):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    elbo = [record for record in model.history_ if record["phase"] == "elbo"]
    seconds = np.diff(clock.times)
    record = {
        "curves": [
            [record[name] for name in FIGURES] for record in model.history_[:N_EPOCHS]
        ],
        "log_likelihood": model.score(rows(20_000, 12345)),
        "n_epochs": len(elbo),
        "seconds_per_epoch": (
            float(np.median(seconds[len(seconds) // 2 :])) if len(seconds) else None
        ),
        # An epoch visits 65 536 rows at most.
        "rows_per_epoch": min(65_536, int(0.85 * n_rows * n_ranks)),
    }
    return record if rank == 0 else None


def measure(job, n_processes, seed, n_rows, batch_size, sample):
    """Fit in that many processes."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "record.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(n_processes), __file__, job]
        command += ["--fit", str(seed), str(output), "--rows", str(n_rows)]
        command += ["--batch-size", str(batch_size)]
        command += ["--sample", str(sample)] if sample else []
        settings = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(command, check=True, env=os.environ | settings)
        return json.loads(output.read_text())


def report(job, records, processes):
    """Print a table of a job."""
    base = records[str(processes[0])]
    lines = {
        "curves": ["processes", "loss", "held-out log-likelihood"],
        "quality": ["processes", "held-out log-likelihood", "less the first"],
        "throughput": ["processes", "s per epoch", "rows per s", "efficiency"],
    }
    table = header(lines[job])
    for n in processes:
        own = records[str(n)]
        if job == "curves":
            ours, first = (
                np.array([record["curves"] for record in some]) for some in (own, base)
            )
            worst = np.abs(ours / first - 1).max(axis=(0, 1))
            cells = [f"{figure:.1e}" for figure in worst]
        elif job == "quality":
            ours, first = (
                np.mean([record["log_likelihood"] for record in some])
                for some in (own, base)
            )
            cells = [f"{ours:.3f}", f"{ours - first:+.3f}"]
        else:
            seconds, first = (
                np.median([record["seconds_per_epoch"] for record in some])
                for some in (own, base)
            )
            rate, alone = (
                some[0]["rows_per_epoch"] / time
                for some, time in ((own, seconds), (base, first))
            )
            share = rate / alone * processes[0] / n
            cells = [f"{seconds:.2f}", f"{rate:.0f}", f"{share:.2f}"]
        table.append(table_row([str(n), *cells]))
    print("\n".join(table), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="+", choices=["curves", "quality", "throughput"])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="in all, for throughput a process")
    parser.add_argument(
        "--batch-size", type=int, default=1024, help="of a process, for throughput"
    )
    parser.add_argument(
        "--sample", type=int, help="rows that all processes see, for quality"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--fit", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit:
        seed, output = arguments.fit
        record = fit(
            arguments.jobs[0],
            int(seed),
            arguments.rows,
            arguments.batch_size,
            arguments.sample,
        )
        if record is not None:
            Path(output).write_text(json.dumps(record))
        return
    n_rows = {"curves": 1000, "quality": 100_000, "throughput": 80_000}
    results = {"environment": environment()}
    print(environment_text(results["environment"]))
    for job in arguments.jobs:
        results[job] = records = {str(n): [] for n in arguments.processes}
        # In turn, as a shared machine is faster at some hours than at others.
        for seed in arguments.seeds:
            for n in arguments.processes:
                record = measure(
                    job,
                    n,
                    seed,
                    arguments.rows or n_rows[job],
                    arguments.batch_size,
                    arguments.sample,
                )
                records[str(n)].append(record)
        report(job, records, arguments.processes)
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
