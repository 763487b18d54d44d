"""What a workspace and a report of Weights & Biases have in common: an extra package, a key, and errors of one sentence."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparserl.runs.files import DiskError, replace
from sparserl.terminal import leave
from sparserl.tracking.wandb import has_key


def check_package(what: str) -> None:
    """Exits with the remedy where the package is missing that ``what`` needs: a word with its article."""
    if importlib.util.find_spec("wandb_workspaces") is None:
        leave(f"{what} needs a package that is not installed: pip install 'sparserl[dashboard]'")


def check_key() -> None:
    """Exits with the remedy where W&B finds no key."""
    if not has_key("online"):
        leave("W&B has no key: run `wandb login`, set WANDB_API_KEY, or look at it with --dry-run")


def write(view: Any, path: Path) -> None:
    """What would be sent of a workspace or a report, as JSON. Raises DiskError."""
    text = view._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2)  # noqa: SLF001
    replace(path, lambda file: file.write(f"{text}\n".encode()))


@contextmanager
def told_in_a_sentence(what: str) -> Iterator[None]:
    """Exits with one sentence on whatever a disk, a network, a server or W&B's packages raise while ``what`` is made."""
    try:
        yield
    except DiskError as error:
        leave(str(error))
    except OSError as error:
        leave(f"there is no {what}: {error.filename or 'W&B'} cannot be used: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 (whatever they raise)
        leave(f"there is no {what}: {type(error).__name__}: {' '.join(str(error).split())}")
