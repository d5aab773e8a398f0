"""What each part of the recipe is worth: fits that leave it out.

Every variant is fitted to the same rows: generated groups whose number is known (K of
them; the adjusted Rand index is that of the rows it was fitted to) and generated tables
without groups (K = 5). Log-likelihoods are those of other rows of the same law, in nats
per row of standardised columns; differences are those to the defaults, means over the
sets and seeds. Times are seconds of the processor.

Example::

    python benchmarks/ablations.py --seeds 2 --output ablations.json
"""

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import _datasets
import numpy as np
import torch
from _options import make
from _results import Results, environment, table
from sklearn.metrics import adjusted_rand_score

from skflowmix import FlowMixture, fitting
from skflowmix.model import in_ball, tails
from skflowmix.model.components import FlowComponents
from skflowmix.training import settings
from skflowmix.training.phases import ModelFit
from skflowmix.training.trainer import TrainingConfig

GROUPS = (
    "moons",
    "circles",
    "pinwheel",
    "anisotropic",
    "linked_rings_5d",
    "varied_densities",
    "long_spirals600",
    "rings_with_gaps",
    "combs",
)
TABLES = (
    _datasets.student_t,
    _datasets.bounded,
    _datasets.zero_inflated,
    _datasets.mixed_scales,
    _datasets.manifold,
)
N_COMPONENTS = 5
NEGLIGIBLE = 1e-30
# A difference of means that may be chance is this many standard errors.
ERRORS = 2.0


def without_base_share() -> AbstractContextManager:
    """All draws go through the flows."""
    stack = ExitStack()
    for module in (tails, in_ball):
        stack.enter_context(patch.object(module, "BASE_SHARE", NEGLIGIBLE))
        log_share = float(np.log(NEGLIGIBLE))
        stack.enter_context(patch.object(module, "LOG_BASE_SHARE", log_share))
    return stack


def without_pooling() -> AbstractContextManager:
    """The weights of each component are trained on their own."""
    original = FlowComponents.parameter_groups

    def parameter_groups(self):
        groups = original(self)
        return groups | {"pooled": [], "decayed": groups["pooled"] + groups["decayed"]}

    return patch.object(FlowComponents, "parameter_groups", parameter_groups)


def without_last_phase() -> AbstractContextManager:
    """Held-out rows are never learnt from."""
    stack = ExitStack()
    for name in ("train_on_all_rows", "set_gaussians_of_all_rows"):
        stack.enter_context(patch.object(ModelFit, name, lambda self: None))
    return stack


def always_keeping_flows() -> AbstractContextManager:
    """Flows are kept, whatever they gain on held-out rows."""

    def keep(self):
        self.keeps_flows = True

    return patch.object(ModelFit, "drop_flows_without_gain", keep)


def without_averages() -> AbstractContextManager:
    """The result of training is the last parameters, not their running mean."""
    config = partial(TrainingConfig, averaged_epochs=0)
    return patch.object(settings, "TrainingConfig", config)


def from_one_start() -> AbstractContextManager:
    """Training starts from Gaussians that are shrunk as they fit best."""
    return patch.object(fitting, "least_strengths", lambda *args: [])


Variant = tuple[dict, Callable[[], AbstractContextManager]]
VARIANTS: dict[str, Variant] = {
    "defaults": ({}, nullcontext),
    "first partition of k-means": ({"init_params": "kmeans"}, nullcontext),
    "no M-step": ({"n_iter_init": 0}, nullcontext),
    "one flow per component": ({"n_flows_per_component": 1}, nullcontext),
    "first responsibilities are no labels": ({"label_noise": 1.0}, nullcontext),
    "no noise on rows": ({"input_noise": 0.0}, nullcontext),
    "no weight decay": ({"weight_decay": 0.0}, nullcontext),
    "no common layer": ({"n_common_transforms": 0}, nullcontext),
    "no partial pooling of weights": ({}, without_pooling),
    "no averaging of parameters": ({}, without_averages),
    "no share of the base": ({}, without_base_share),
    "flows always kept": ({}, always_keeping_flows),
    "one start": ({}, from_one_start),
    "no last phase on all rows": ({}, without_last_phase),
}


def drawings() -> dict[str, tuple[Callable, bool]]:
    """Laws by name, and whether their groups are known."""
    found: dict[str, tuple[Callable, bool]] = {
        name: (_datasets.SHAPES[name], True) for name in GROUPS
    }
    found |= {law.__name__: (law, False) for law in TABLES}
    return found


def rows_of(law, has_groups, seed):
    """Rows to fit, their groups or None, and other rows of the law."""
    rng = np.random.default_rng(seed)
    X, y = law(rng) if has_groups else (law(rng), None)
    # A law may draw what it is from the generator, so that both halves are one draw.
    order = np.random.default_rng(seed).permutation(len(X))
    seen, new = order[len(X) // 4 :], order[: len(X) // 4]
    mean, scale = X[seen].mean(0), X[seen].std(0)
    X = (X - mean) / scale
    return X[seen], None if y is None else y[seen], X[new]


def measure(name, law, has_groups, seed):
    """Score, index and time of a variant."""
    parameters, left_out = VARIANTS[name]
    X, y, new = rows_of(law, has_groups, seed)
    k = N_COMPONENTS if y is None else len(np.unique(y))
    start = time.process_time()
    with left_out():
        model = make(FlowMixture, k, random_state=seed, **parameters).fit(X)
        record = {"score": model.score(new)}
    record["cpu_seconds"] = time.process_time() - start
    if y is not None:
        record["ari"] = adjusted_rand_score(y, model.labels_)
    return record


def differences(records, variant, figure):
    """Differences to the defaults, over the sets and seeds that both have."""
    return np.array(
        [
            record[figure] - records[f"{key.rsplit('/', 1)[0]}/defaults"][figure]
            for key, record in records.items()
            if key.endswith(f"/{variant}") and figure in record
        ]
    )


def report(records):
    """Means of differences, with two standard errors."""
    rows = []
    for variant in VARIANTS:
        keys = [key for key in records if key.endswith(f"/{variant}")]
        if not keys or variant == "defaults":
            continue
        cells = [variant]
        for figure, digits in (("score", 3), ("ari", 3)):
            found = differences(records, variant, figure)
            error = ERRORS * found.std() / np.sqrt(max(len(found) - 1, 1))
            cells.append(f"{found.mean():+.{digits}f} ± {error:.{digits}f}")
        seconds = (
            sum(records[key]["cpu_seconds"] for key in own)
            for own in (keys, [f"{key.rsplit('/', 1)[0]}/defaults" for key in keys])
        )
        cells.append(f"{next(seconds) / next(seconds):.2f}")
        rows.append(cells)
    heads = ["left out", "log-likelihood", "adjusted Rand index", "time"]
    return table(heads, rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--output", type=Path, default=Path("ablations.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results, machine = Results(args.output, {}), environment()
    for seed in range(args.seeds):
        for name, (law, has_groups) in drawings().items():
            for variant in args.variants:
                key = f"{name}/{seed}/{variant}"
                if not results.has(key):
                    record = measure(variant, law, has_groups, seed)
                    results.add(key, record, machine)
                    print(key, {n: round(v, 3) for n, v in record.items()}, flush=True)
    print(report(results.records))


if __name__ == "__main__":
    main()
