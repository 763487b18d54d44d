"""docs/outputs.md lists what a run leaves: each file of its folder, and each field of metrics.jsonl and timing.jsonl."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from sparserl.config.validation import compose
from sparserl.runs.schema import MEASURES
from sparserl.sweeps.loop import run

PAGE = (Path(__file__).parents[1] / "docs" / "outputs.md").read_text()

STANDS_FOR = {
    "OBJECTIVE": r"(?:policy|critic|temperature)",
    "COMPONENT": r"(?:policy|temperature|critic(?:_\d)?)",
    "LAYER": r"[a-z_0-9]+\.\d(?:\.weight)?",
    "TERM": r"[a-z0-9]+",
    "MEASURE": f"(?:{'|'.join(MEASURES)})",
}

RUNS = {
    "sum of penalties": ("algorithm=dqn", "regularizer=l0_l1", "regularizer.terms.l0.delay_steps=0"),
    "early stopping": ("algorithm=ppo", "algorithm.target_kl=0.01"),
    "several critics": (
        *("algorithm=sac", "environment=pendulum", "regularizer.scope=all"),
        *("regularizer.delay_steps=0", "experience.learning_starts=100"),
    ),
}
"""Between them they have every field but the measures of environments with goals and of games."""


def first_columns(text: str, pattern: str) -> str:
    return "\n".join(re.findall(pattern, text, re.MULTILINE))


FIELDS = re.findall(r"`([^`]+)`", first_columns(PAGE.partition("## metrics.jsonl")[2], r"^\| (`.*?) \|"))

FILES = re.findall(r"[\w.*-]+/?", first_columns(PAGE.split("```")[1], r"^  (\S.*?)  "))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = [tmp_path_factory.mktemp("run") / name.replace(" ", "-") for name in RUNS]
    for folder, overrides in zip(found, RUNS.values(), strict=True):
        run([compose(*overrides, "trainer=smoke", "logger=disk")], [folder], live=False)
    return found


def keys(folders: list[Path], name: str) -> set[str]:
    return {key for folder in folders for line in (folder / name).read_text().splitlines() for key in json.loads(line)}


def matches(field: str, key: str) -> bool:
    words = re.split(rf"({'|'.join(STANDS_FOR)})", field.removesuffix("..."))
    pattern = "".join(STANDS_FOR.get(word, re.escape(word)) for word in words)
    return re.fullmatch(pattern + ".*" * field.endswith("..."), key) is not None


def test_every_field_of_metrics_is_listed_and_every_listed_field_is_there(folders: list[Path]) -> None:
    there = keys(folders, "metrics.jsonl")
    assert [key for key in sorted(there) if not any(matches(field, key) for field in FIELDS)] == []
    unseen = [field for field in FIELDS if not any(matches(field, key) for key in there)]
    assert unseen == ["train/MEASURE", "eval/MEASURE"] + ["warnings"] * ("warnings" not in there)


def test_a_field_that_is_not_listed_is_seen() -> None:
    assert matches("gates/open/LAYER", "gates/open/policy.0.weight")
    assert matches("eval/MEASURE", "eval/success_rate")
    for field, key in [("gates/open/LAYER", "gates/open"), ("eval/MEASURE", "eval/new"), ("loss/OBJECTIVE", "loss/policy/new")]:
        assert not matches(field, key)
    assert not any(matches(field, "sparsity/new/policy.0.weight") for field in FIELDS)


def test_every_phase_of_timing_is_listed(folders: list[Path]) -> None:
    (paragraph,) = re.findall(r"^`timing\.jsonl` has.*?\n(?=\n|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert keys(folders, "timing.jsonl") == {*re.findall(r"`(\w+)`", paragraph)}


def test_every_file_of_a_run_is_listed(folders: list[Path]) -> None:
    there = {path.name + "/" * path.is_dir() for folder in folders for path in folder.iterdir()}
    assert {"metrics.jsonl", "figure.png", "policy.safetensors"} <= there
    assert [name for name in sorted(there) if not any(fnmatch(name, listed) for listed in FILES)] == []
