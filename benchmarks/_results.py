"""Shared by the benchmarks: a JSON file of results, and Markdown tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("skflowmix", "numpy", "scipy", "scikit-learn", "torch", "zuko")
PACKAGES += ("nflows", "normflows")


class Results:
    """Records in a JSON file, read again and rewritten atomically for each new one.

    `data` holds ``settings`` (a file has one), ``environments`` (one for each machine
    and set of versions) and ``records``, by ``task/set/seed/model``.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.data: dict[str, Any] = {
            "settings": settings,
            "environments": [],
            "records": {},
        }
        self._read()
        if self.data["settings"] != settings:
            raise SystemExit(
                f"{path} was made with {self.data['settings']}, not {settings}; "
                "choose another --output."
            )

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        return self.data["records"]

    def has(self, key: str) -> bool:
        """Whether there is a result; an error is none."""
        return "score" in self.records.get(key, {})

    def add(self, key: str, record: dict[str, Any], machine: dict[str, Any]) -> None:
        self._read()
        environments = self.data["environments"]
        if machine not in environments:
            environments.append(machine)
        self.records[key] = record | {"environment": environments.index(machine)}
        self._write()

    def set(self, name: str, value: Any) -> None:
        """Keep something that tables show beside the records."""
        self._read()
        self.data[name] = value
        self._write()

    def _read(self):
        if self.path.exists():
            self.data = json.loads(self.path.read_text())

    def _write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        partial.replace(self.path)


def environment() -> dict[str, Any]:
    """The machine and the versions that a result was made with."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def commit() -> str:
    """The commit that is measured, if git tells it; with a plus where code differs."""
    folder = Path(__file__).parent

    def git(*words):
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False
        ).stdout.strip()

    differs = git("status", "--porcelain", str(folder.parent / "skflowmix"))
    return git("rev-parse", "--short=7", "HEAD") + ("+" if differs else "")


def processor() -> str:
    """The processor's name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()


def header(cells) -> list[str]:
    return [table_row(cells), table_row(["---"] * len(cells))]


def table(heads, rows) -> str:
    """Rows of cells as a Markdown table."""
    return "\n".join([*header(heads), *(table_row(map(str, row)) for row in rows)])


def table_row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def environment_text(machine: dict[str, Any]) -> str:
    """The machine and the versions, as one sentence."""
    versions = machine["versions"].items()
    named = ", ".join(f"{name} {version}" for name, version in versions if version)
    measured = f"Commit {machine['commit']}, " if machine.get("commit") else ""
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return (
        f"{measured}Python {machine['python']} on {machine['system']} "
        f"({machine['processor']}, {threads}); {named}."
    )
