"""Validation of rows: values that are not finite, masked, or look like codes."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import config_context, get_config
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skflowmix.array_api import to_numpy
from skflowmix.starts.preprocessing import merge_identical_rows
from skflowmix.user_warnings import warn_user

__all__ = [
    "UNLABELLED",
    "check_rows",
    "column_of_labels",
    "find_codes",
    "is_unlabelled",
    "known_labels",
    "rows_not_finite",
    "warn_of_codes",
]

# Marks a row without a label in `y`.
UNLABELLED = -1

# Most columns that a message lists.
MAX_NAMED = 10

IMPUTE = "sklearn.impute.SimpleImputer in a Pipeline"

# A code is in more than MIN_SHARE of the rows, and all codes at one end of a column are
# in no more than MAX_SHARE: otherwise the other values are the rare ones.
MIN_SHARE, MAX_SHARE = 0.002, 0.5

# Least total weight, in units of the lightest row, to tell which values are outlying.
MIN_TABLE = 50

# Most codes at one end of a column of many distinct values.
MAX_CODES = 5

# The gap between codes and the other values is wider than FAR times the range of the
# nearer half of the other distinct values, and than APART times any gap in that half.
# A heavy tail on the other side does not count.
FAR, APART = 0.5, 2.0

# In a column of fewer than FEW_VALUES + MAX_CODES distinct values, the gap is wider
# than FAR_OF_FEW times the range of the others: doses of 1, 10 and 100 are no codes.
FEW_VALUES, FAR_OF_FEW = 10, 10.0

# Numbers that often serve as codes.
USUAL_CODE = re.compile(r"-?0|-1|-?99+(\.9+)?")

# Other numbers need a gap wider by the factor UNUSUAL. Without a usual code at the same
# end they must also be in MIN_DISTINCT distinct rows, or have the weight of MIN_ROWS
# rows: less may be a single outlier whose row is repeated or has a large weight.
UNUSUAL = 2.0
MIN_DISTINCT, MIN_ROWS = 3, 8


def check_rows(
    estimator: Any, X: Any, y: Any = "no_validation", *, dtype: Any, fitted: bool
) -> Any:
    """Validate rows as scikit-learn does, and name invalid columns in errors.

    Parameters
    ----------
    estimator : estimator
        The estimator that received the rows.
    X : array-like of shape (n_samples, n_features)
        The rows.
    y : array-like of shape (n_samples,), optional
        Labels.
    dtype : dtype or list of dtype
        See `sklearn.utils.check_array`.
    fitted : bool
        Whether the rows are for a fitted estimator. Rows for `fit` have to be at least
        two, and finite whatever scikit-learn's `assume_finite` says.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Checked rows; with `y` a pair of rows and labels.

    Raises
    ------
    ValueError
        If the rows hold masked entries, NaN or infinity, or are not a numeric table.
    TypeError
        If the table is lazy.
    """
    if type(X).__name__ == "LazyFrame":
        raise TypeError("X is a LazyFrame, which holds no rows. Call X.collect().")
    X = to_numpy(X)
    _refuse_masked(estimator, X)
    _refuse_dates(X)
    try:
        with config_context(assume_finite=fitted and get_config()["assume_finite"]):
            return validate_data(
                estimator,
                X,
                y,
                dtype=dtype,
                order="C",
                reset=not fitted,
                ensure_min_samples=1 if fitted else 2,
            )
    except (TypeError, ValueError) as error:
        if not str(error).startswith("Input X contains"):
            columns = _columns_without_numbers(X)
            if not columns:
                raise
            raise type(error)(f"{error}\n{_no_numbers_in(columns)}") from error
        rows = check_array(X, dtype=dtype, ensure_all_finite=False)
        lines = [str(error)]
        for kind, entries in (("NaN", np.isnan(rows)), ("Infinity", np.isinf(rows))):
            if entries.any():
                lines.append(f"{kind} is in {_in_columns(estimator, entries)}.")
        lines.append(
            f"Mark what is missing as NaN and impute it ({IMPUTE}), or leave out these "
            "rows or columns."
        )
        raise ValueError("\n".join(lines)) from error


def _refuse_dates(X: Any) -> None:
    """Refuse dates and durations, which NumPy would convert to numbers."""
    if _holds_dates(X):
        columns = _columns_without_numbers(X)
        if columns:
            raise ValueError(_no_numbers_in(columns))


def _holds_dates(X: Any) -> bool:
    if isinstance(X, list | tuple):
        try:
            X = np.asarray(X)
        except (TypeError, ValueError):  # scikit-learn says what is wrong
            return False
    if hasattr(X, "shape") and hasattr(X, "columns"):
        return any(_is_of_dates(dtype) for dtype in getattr(X, "dtypes", ()))
    dtype = getattr(X, "dtype", None)
    if getattr(dtype, "kind", "") == "O":
        return _has_dates_of_numpy(np.asarray(X))
    return _is_of_dates(dtype)


def _is_of_dates(dtype: Any) -> bool:
    """Tell whether a dtype, of NumPy, pandas or polars, is one of dates or times."""
    if hasattr(dtype, "is_temporal"):
        return bool(dtype.is_temporal())
    of_categories = getattr(getattr(dtype, "categories", None), "dtype", None)
    return "M" in (getattr(d, "kind", "").upper() for d in (dtype, of_categories))


def _has_dates_of_numpy(values: np.ndarray) -> bool:
    return any(isinstance(v, (np.datetime64, np.timedelta64)) for v in values.flat)


def _no_numbers_in(columns: list[str]) -> str:
    which = f"Column {columns[0]} of X holds"
    if len(columns) > 1:
        which = f"Columns {_listed(columns, ', ')} of X hold"
    return (
        f"{which} values that are not numbers. Encode "
        "text and categories (sklearn.preprocessing.OneHotEncoder, in a "
        "ColumnTransformer), turn dates into numbers, or leave these columns out."
    )


def _columns_without_numbers(X: Any) -> list[str]:
    """Return the names or numbers of the columns of a table that are not numeric."""
    if hasattr(X, "columns"):
        names = [repr(str(name)) for name in X.columns]
        columns = [X[name] for name in X.columns]
    else:
        table = np.asarray(X)
        if table.dtype.kind not in "mM":
            table = np.asarray(X, dtype=object)
        if table.ndim != 2:
            return []
        names = [str(j) for j in range(table.shape[1])]
        columns = list(table.T)
    return [
        name
        for name, column in zip(names, columns, strict=True)
        if not _are_numbers(column)
    ]


def _are_numbers(column: Any) -> bool:
    values = np.asarray(column)
    is_of_objects = values.dtype == object
    if _is_of_dates(values.dtype) or (is_of_objects and _has_dates_of_numpy(values)):
        return False
    try:
        values.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def column_of_labels(y: Any) -> Any:
    """Return labels as an array in which missing ones (NaN, None, NA, NaT) are -1.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels.

    Returns
    -------
    y : array-like of shape (n_samples,)
        As given where none is missing. Missing dates stay NaT.
    """
    y = to_numpy(y)
    if y is None:
        return y
    if isinstance(y, np.ma.MaskedArray):
        if y.dtype.kind in "mM":
            return np.where(np.ma.getmaskarray(y), np.array("NaT", y.dtype), y.data)
        missing, values = np.ma.getmaskarray(y), np.asarray(y.data, dtype=object)
    else:
        values = np.asarray(y)
        if values.dtype.kind == "b":
            return values  # scikit-learn would convert pandas' "boolean" to float
        if values.dtype.kind not in "Of":
            return y
        values = values.astype(object)
        missing = np.array([_is_missing(v) for v in values.ravel()], dtype=bool)
        missing = missing.reshape(values.shape)
    if not missing.any():
        return y
    values = values.copy()
    values[missing] = UNLABELLED
    as_numbers = np.array(values.tolist())
    has_booleans = any(_is_boolean(v) for v in values.ravel())
    is_numeric = as_numbers.dtype.kind in "iuf" and not has_booleans
    return as_numbers if is_numeric else values


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and value != value


def _is_boolean(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def known_labels(y: np.ndarray, unlabelled: np.ndarray) -> np.ndarray:
    """Return the labels of labelled rows; booleans stored as objects become booleans.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels, from `column_of_labels`.
    unlabelled : ndarray of shape (n_samples,), bool
        From `is_unlabelled`.

    Returns
    -------
    known : ndarray
        In the order of the rows.
    """
    known = y[~unlabelled]
    if known.dtype == object and all(_is_boolean(v) for v in known):
        return known.astype(bool)
    return known


def is_unlabelled(y: Any) -> np.ndarray:
    """Tell which rows have no label.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels, from `column_of_labels`.

    Returns
    -------
    unlabelled : ndarray of shape (n_samples,), bool
        True for -1, and among dates for NaT.

    Raises
    ------
    ValueError
        If a label is the string "-1".
    """
    y = np.asarray(y)
    strings = y.astype(str) if y.dtype.kind in "US" else y
    if y.dtype.kind in "USO" and (strings == str(UNLABELLED)).any():
        raise ValueError(
            "y holds the string '-1'. To mark unlabelled rows among string labels, "
            "give y as an array with dtype=object and the number -1 in it."
        )
    if y.dtype.kind in "mM":
        return np.isnat(y)
    # A comparison with -1 is not defined for arrays of strings.
    if y.dtype.kind not in "iufO":
        return np.zeros(len(y), dtype=bool)
    return np.asarray(y == UNLABELLED, dtype=bool)


def rows_not_finite(X: np.ndarray) -> np.ndarray:
    """Find rows that hold NaN or infinity.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows, which are not copied.

    Returns
    -------
    index : ndarray of int
        Their numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(X.sum(axis=1)))
    return suspects[~np.isfinite(X[suspects]).all(axis=1)]


def find_codes(
    X: np.ndarray, sample_weight: np.ndarray
) -> dict[int, list[tuple[float, float]]]:
    """Find values that may stand for missing ones: frequent, and far from all others.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Finite rows.
    sample_weight : ndarray of shape (n_samples,)
        Positive weights. An integer weight equals repeating the row.

    Returns
    -------
    codes : dict of int to list of (float, float)
        Values of the codes and their shares of the weight, by column that holds any.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.c_[np.linspace(20, 80, 100), np.linspace(0, 1, 100)]
    >>> X[:3, 0] = -999
    >>> find_codes(X, np.ones(100))
    {0: [(-999.0, 0.03)]}
    """
    total = sample_weight.sum()
    merged: Any = None
    codes: dict[int, list[tuple[float, float]]] = {}
    if total < MIN_TABLE * sample_weight.min():
        return codes
    for j, column in enumerate(X.T):
        values = np.unique(column)
        found = []
        for end in _far_ends(values, 1.0):
            shares = [float(sample_weight[column == v].sum() / total) for v in end]
            usual = [USUAL_CODE.fullmatch(f"{v:.7g}") is not None for v in end]
            if not len(end) or sum(shares) > MAX_SHARE:
                continue
            further = np.concatenate(_far_ends(values, UNUSUAL))
            for value, share, is_usual in zip(end, shares, usual, strict=True):
                is_code = is_usual or value in further
                if is_code and not any(usual):
                    # In a column of few distinct values, these are levels.
                    is_code = len(values) >= FEW_VALUES + MAX_CODES
                    if is_code and merged is None:
                        merged = merge_identical_rows(X, sample_weight)
                    is_code = is_code and _repeats(merged, j, value, share)
                if is_code and share > MIN_SHARE * (1 + 1e-9):
                    found.append((float(value), share))
        if found:
            codes[j] = found
    return codes


def _repeats(
    merged: tuple[np.ndarray, np.ndarray, np.ndarray],
    j: int,
    value: float,
    share: float,
) -> bool:
    rows, weights, _ = merged
    n_distinct: Any = np.count_nonzero(rows[:, j] == value)
    n_rows = share * weights.sum() / np.median(weights)
    return n_distinct >= MIN_DISTINCT or n_rows >= MIN_ROWS * (1 - 1e-9)


def _far_ends(values: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return those of ascending distinct values far below and far above the others."""
    # Halved, the difference of two finite numbers cannot overflow.
    halved = values * np.float64(0.5)
    n_low = n_high = 0
    if len(values) >= FEW_VALUES + MAX_CODES:
        n_low = _n_far_below(halved, factor)
        n_high = _n_far_below(-halved[::-1], factor)
    else:
        n_low, n_high = _few_far(halved, factor)
    return values[:n_low], values[len(values) - n_high :]


def _n_far_below(values: np.ndarray, factor: float) -> int:
    with np.errstate(over="ignore"):
        for n_codes in range(MAX_CODES, 0, -1):
            others = values[n_codes:]
            tail = others[: len(others) // 2 + 1]
            gap = (others[0] - values[n_codes - 1]) / factor
            # The cheaper test first.
            if gap > FAR * (tail[-1] - tail[0]) and gap > APART * np.diff(tail).max():
                return n_codes
    return 0


def _few_far(values: np.ndarray, factor: float) -> tuple[int, int]:
    """Count those of a few values far below, and above, at least as many others."""
    with np.errstate(over="ignore"):
        for n_codes in range(len(values) // 2, 0, -1):
            for n_low in range(n_codes + 1):
                n_high = n_codes - n_low
                others = values[n_low : len(values) - n_high]
                margin = factor * FAR_OF_FEW * (others[-1] - others[0])
                below = n_low == 0 or others[0] - values[n_low - 1] > margin
                above = n_high == 0 or values[-n_high] - others[-1] > margin
                if below and above and len(others) > 1:
                    return n_low, n_high
    return 0, 0


def warn_of_codes(estimator: Any, X: np.ndarray, sample_weight: np.ndarray) -> None:
    """Warn of what `find_codes` finds, from the line that called `fit`.

    Parameters
    ----------
    estimator : estimator
        The estimator that is being fitted.
    X : ndarray of shape (n_samples, n_features)
        Checked rows.
    sample_weight : ndarray of shape (n_samples,)
        Positive weights.
    """
    codes = find_codes(X, sample_weight)
    if not codes:
        return
    names = _column_names(estimator, X.shape[1])
    columns = [
        f"column {names[j]}: "
        + ", ".join(f"{v + 0.0:.7g} in {100 * s:.2g} % of the rows" for v, s in found)
        for j, found in codes.items()
    ]
    warn_user(
        "Some values look like codes for missing ones, frequent and far from all "
        f"others ({_listed(columns, '; ')}). They are modelled as they are. If they "
        f"mean that a value is missing, mark them as NaN and impute them ({IMPUTE}), "
        "or drop these rows or columns.",
    )


def _refuse_masked(estimator: Any, X: Any) -> None:
    if isinstance(X, list | tuple) and any(
        isinstance(row, np.ma.MaskedArray) for row in X
    ):
        X = np.ma.array(X)
    if isinstance(X, np.ma.MaskedArray) and np.ma.is_masked(X):
        where = ""
        if X.ndim == 2:
            where = f" in {_in_columns(estimator, np.ma.getmaskarray(X))}"
        raise ValueError(
            f"X is a masked array with masked entries{where}, and "
            f"{type(estimator).__name__} would take what lies under the mask. Fill "
            f"them with NaN (X.filled(numpy.nan)) and impute them ({IMPUTE}), or leave "
            "out these rows or columns."
        )


def _in_columns(estimator: Any, entries: np.ndarray) -> str:
    """Describe the columns with any of the entries (N, D), and their counts."""
    names, counts = _column_names(estimator, entries.shape[1]), entries.sum(axis=0)
    columns = [
        f"{names[j]} ({counts[j]} row{'s' if counts[j] > 1 else ''})"
        for j in np.flatnonzero(counts)
    ]
    return f"column{'s' if len(columns) > 1 else ''} {_listed(columns, ', ')}"


def _column_names(estimator: Any, n_columns: int) -> list[str]:
    """Return the quoted names of a table's columns, or else their numbers."""
    names = getattr(estimator, "feature_names_in_", ())
    if len(names) == n_columns:
        return [repr(str(name)) for name in names]
    return [str(j) for j in range(n_columns)]


def _listed(parts: Sequence[str], separator: str) -> str:
    more = len(parts) - MAX_NAMED
    if more > 0:
        parts = [*parts[:MAX_NAMED], f"and {more} more"]
    return separator.join(parts)
