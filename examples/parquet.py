"""Fit a Parquet data set, whose files are larger than memory, without copying it.

Needs pyarrow. Run ``python examples/parquet.py``: it writes a data set of four files to
a temporary folder, fits it, and labels it one row group after another.
"""

import bisect
import functools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from skflowmix import FlowMixture, FlowMixtureOptions

N_FILES, ROWS_PER_FILE, ROWS_PER_GROUP = 4, 30_000, 5000


class ParquetRows:
    """Rows of a Parquet data set, sliced as ``fit`` reads them.

    Parameters
    ----------
    paths : sequence of Path
        Files with the same columns of numbers.
    n_cached : int, default=8
        Row groups that are kept in memory.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, paths, n_cached=8):
        files = [pq.ParquetFile(path) for path in paths]
        self._groups = [(f, i) for f in files for i in range(f.num_row_groups)]
        sizes = [f.metadata.row_group(i).num_rows for f, i in self._groups]
        self.first_rows = [0, *np.cumsum(sizes).tolist()]
        self.shape = self.first_rows[-1], files[0].metadata.num_columns
        # Reads of neighbouring rows decode their row group once.
        self.group = functools.lru_cache(n_cached)(self._read)

    def __len__(self):
        return self.shape[0]

    def _read(self, number):
        file, i = self._groups[number]
        columns = file.read_row_group(i).columns
        return np.column_stack([c.to_numpy() for c in columns]).astype(self.dtype)

    def __getitem__(self, rows):
        start, stop, step = rows.indices(len(self))
        first = max(bisect.bisect_right(self.first_rows, start) - 1, 0)
        last = bisect.bisect_left(self.first_rows, stop)
        parts = [self.group(number) for number in range(first, last)]
        offset = self.first_rows[first]
        found = np.concatenate(parts or [np.empty((0, self.shape[1]), self.dtype)])
        return found[start - offset : stop - offset : step]


def main(folder):
    X, group = make_blobs(
        N_FILES * ROWS_PER_FILE, n_features=4, centers=3, random_state=0
    )
    paths = []
    for i in range(N_FILES):
        part = X[i * ROWS_PER_FILE : (i + 1) * ROWS_PER_FILE]
        paths.append(folder / f"part-{i}.parquet")
        table = pa.table({f"x{j}": column for j, column in enumerate(part.T)})
        pq.write_table(table, paths[-1], row_group_size=ROWS_PER_GROUP)

    rows = ParquetRows(paths)
    # Small networks and early stopping, for a quick example.
    model = FlowMixture(
        3,
        n_transforms=1,
        hidden_units=(8,),
        tol=0.05,
        n_iter_no_change=1,
        n_flows_per_component=1,
        options=FlowMixtureOptions(n_iter_init=2),
        random_state=0,
    ).fit(rows)

    labels = [
        model.predict(rows[start : start + ROWS_PER_GROUP])
        for start in range(0, len(rows), ROWS_PER_GROUP)
    ]
    agreement = adjusted_rand_score(group, np.concatenate(labels))
    print(f"{len(rows)} rows in {N_FILES} files, weights {model.weights_.round(2)}")
    print(f"adjusted Rand index with the true groups: {agreement:.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
