"""What a wheel and a source distribution of sparserl hold. Installing them is in test_install.py."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from sparserl import __version__

ROOT = Path(__file__).parent.parent


def built_wheel(source: Path, folder: Path) -> set[str]:
    """The files of the wheel that is built from a source tree, without what describes it."""
    (path,) = WheelBuilder(str(source)).build(directory=str(folder), versions=["standard"])
    with ZipFile(path) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def files(folder: str) -> Iterator[Path]:
    for path in (ROOT / folder).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return built_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_holds_the_package_its_configs_and_hydras_plugin_and_nothing_else(wheel: set[str]) -> None:
    package = {path.as_posix() for folder in ("sparserl", "hydra_plugins") for path in files(folder)}
    assert wheel == package | {f"sparserl/{path.as_posix()}" for path in files("conf")}
    assert wheel >= {"sparserl/conf/train.yaml", "hydra_plugins/sparserl_population/__init__.py"}


def test_a_wheel_says_that_its_types_are_to_be_used(wheel: set[str]) -> None:
    """Type checkers ignore the types of an installed package without this file (PEP 561)."""
    assert "sparserl/py.typed" in wheel


def test_the_source_distribution_gives_the_same_wheel(wheel: set[str], tmp_path: Path) -> None:
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    assert built_wheel(tmp_path / f"sparserl-{__version__}", tmp_path / "dist") == wheel
