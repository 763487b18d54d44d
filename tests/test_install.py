"""sparserl works however it comes to a machine: as a wheel, as an editable install, and as a bare checkout.

Each is tried in an environment of its own, from a folder that is not the checkout's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from sparserl import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end; what it printed. Nothing of this process's own path leads to a sparserl."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python: Path, *arguments: str | Path, cwd: Path) -> None:
    call(sys.executable, "-m", "pip", "--quiet", "--python", python, *arguments, cwd=cwd)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that matter, so that what is tried cannot be the checkout that the tests run in."""
    folder = tmp_path / "checkout"
    for name in ("conf", "sparserl"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of a new environment that sees the packages installed here, sparserl not among them."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    packages = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")  # .pth files in there are not followed
    return python


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def result(folder: Path) -> dict[str, Any]:
    """The result of a run of ``trainer=smoke`` with defaults, after a look at whether it can be one."""
    row: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert (row["algorithm"], row["regularizer"], row["seed"], row["status"]) == ("dqn", "l0", 0, "done")
    assert 1 <= row["return_mean"] <= 500  # CartPole pays 1 for each of at most 500 steps
    assert 1 <= row["return_random"] <= 500
    assert 0 <= row["sparsity"] < 1
    assert row["nonzero_weights"] == round((1 - row["sparsity"]) * row["policy_weights"])
    assert row["policy_weights"] == 4 * 120 + 120 * 84 + 84 * 2
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert (folder / "metrics.jsonl").read_text().count("\n") >= row["env_steps"] // 100
    return row


def test_a_wheel(checkout: Path, python: Path, empty: Path, tmp_path: Path) -> None:
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", cwd=checkout)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    shutil.rmtree(checkout)
    pip(python, "install", "--no-deps", "--no-index", wheel, cwd=empty)
    where = call(python, "-c", "import sparserl; print(sparserl.__file__)", cwd=empty).strip()
    assert Path(where).is_relative_to(tmp_path / "venv")

    call(python.with_name("sparserl-train"), "trainer=smoke", "hydra.run.dir=script", cwd=empty)
    script = result(empty / "script")
    assert script["env_steps"] == 400
    assert f"sparserl {__version__}" in script["versions"]
    assert script["commit"] is None
    assert script["command"] == "sparserl-train trainer=smoke hydra.run.dir=script"

    call(python, "-m", "sparserl.train", "trainer=smoke", "hydra.run.dir=module", cwd=empty)
    module = result(empty / "module")
    assert module["command"] == "python -m sparserl.train trainer=smoke hydra.run.dir=module"
    assert (empty / "module" / "metrics.jsonl").read_bytes() == (empty / "script" / "metrics.jsonl").read_bytes()

    code = "import sparserl, torch; print(*sparserl.load_policy('script')(torch.zeros(5, 4)).shape)"
    assert call(python, "-c", code, cwd=empty).split() == ["5", "2"]

    # a user's own options, beside sparserl's
    for group, lines in {
        "environment": ["defaults: [cartpole]", "max_episode_steps: 7"],
        "trainer": ["defaults: [smoke]", "total_steps: 300"],
    }.items():
        (empty / "mine" / group).mkdir(parents=True)
        (empty / "mine" / group / "short.yaml").write_text("\n".join(lines))
    own = ("--config-dir", "mine", "environment=short", "trainer=short", "hydra.run.dir=own")
    call(python.with_name("sparserl-train"), *own, cwd=empty)
    row = result(empty / "own")
    assert (row["environment"], row["env_steps"]) == ("short", 300)
    assert row["return_mean"] <= 7


def test_an_editable_install(checkout: Path, python: Path, empty: Path) -> None:
    pip(python, "install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", checkout, cwd=empty)
    # what is edited after the install counts, in code and in conf/
    smoke = checkout / "conf" / "trainer" / "smoke.yaml"
    smoke.write_text(smoke.read_text().replace("total_steps: 400", "total_steps: 300"))
    init = checkout / "sparserl" / "__init__.py"
    init.write_text(init.read_text() + "EDITED = True\n")
    call(python, "-c", "import sparserl; sparserl.EDITED", cwd=empty)
    call(python.with_name("sparserl-train"), "trainer=smoke", "hydra.run.dir=script", cwd=empty)
    assert result(empty / "script")["env_steps"] == 300


def test_a_bare_checkout(checkout: Path, python: Path, empty: Path) -> None:
    run = ("-m", "sparserl.train", "trainer=smoke")
    call(python, *run, f"hydra.run.dir={empty / 'inside'}", cwd=checkout)
    call(python, *run, "hydra.run.dir=outside", cwd=empty, PYTHONPATH=str(checkout))
    assert result(empty / "outside")["env_steps"] == 400
