"""With which command, commit and versions a result was made."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path


def command() -> str:
    """What was typed to start this process."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py" or program.suffix == ".py":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        head = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else ["python", str(program)]
    else:
        head = [program.name]
    return shlex.join([*head, *sys.argv[1:]])


@cache
def commit() -> str | None:
    """The commit of the checkout that this code runs from, with ``+`` where files have changed since; None elsewhere."""
    here = Path(__file__).parent
    try:
        # a wheel installed inside somebody else's repository must not claim that repository's commit
        if _git(here, "ls-files", "--error-unmatch", __file__) is None:
            return None
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", ":/")
        head = _git(here, "rev-parse", "--short=12", "HEAD")
    except OSError:  # there is no git that can be started
        return None
    return f"{head}{'+' if changed else ''}" if head else None


def _git(folder: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


@cache
def versions(*more: str) -> str:
    """Of Python, of the packages that decide a result, and of whichever ``more``."""
    packages = ("sparserl", "torch", "gymnasium", "numpy", "hydra-core", *more)
    found = []
    for package in packages:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found.append(f"{package} not installed")
    return ", ".join([f"python {platform.python_version()}", *found])
