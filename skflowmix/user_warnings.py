"""Warnings that point to the line of the user which led to them."""

import sys
import sysconfig
import warnings
from pathlib import Path

import joblib
import sklearn

__all__ = ["warn_user"]

PACKAGES = tuple(
    f"{Path(file).parent.as_posix()}/"
    for file in (__file__, sklearn.__file__, joblib.__file__)
)
STANDARD_LIBRARY = f"{Path(sysconfig.get_path('stdlib')).as_posix()}/"
INSTALLED = ("/site-packages/", "/dist-packages/")


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, in the name of the nearest caller outside this library and its hosts.

    scikit-learn and joblib stand between a search and its fits.

    Parameters
    ----------
    message : str
        What the warning says.
    category : type, default=UserWarning
        Its class.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and _is_inside(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_inside(file: str) -> bool:
    """Tell whether a file is of these packages or of the standard library."""
    path = Path(file).as_posix()
    if path.startswith(PACKAGES):
        return True
    is_installed = any(part in path for part in INSTALLED)
    return path.startswith(STANDARD_LIBRARY) and not is_installed
