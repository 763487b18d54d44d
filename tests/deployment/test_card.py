"""A policy's card: what it says, and that text from outside stays text in YAML and in Markdown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from folders import NASTY, result

from sparserl.deployment.card import Deployed, card, evaluated_return
from sparserl.runs.reader import Run
from sparserl.terminal import plain

DEPLOYED = Deployed(
    file="policy.onnx",
    format="onnx",
    rank=None,
    factored=0,
    shrunken=False,
    stochastic=False,
    stored_numbers=12,
    nonzero_weights=3,
    bytes=1000,
    difference=2e-7,
    interface={"observation": "float32 [batch, 4], as given", "score": "float32 [batch, 2]"},
)
LOWRANK: list[dict[str, Any]] = [
    {"rank": 2.0, "return_mean": 96.0, "shrunken_return_mean": 95.0},
    {"rank": 4.0, "return_mean": 99.0, "shrunken_return_mean": float("nan")},
    {"rank": float("inf"), "return_mean": 100.0, "shrunken_return_mean": 100.0},
]
LAYER_RANKS: list[dict[str, Any]] = [
    {"form": "plain", "ranks": "4 full", "return_mean": 98.0},
    {"form": "shrunken", "ranks": "4 full", "return_mean": 97.0},
]
MEASURED = 100.0


def front_matter(text: str) -> dict[str, Any]:
    before, matter, _ = text.split("---\n", 2)
    assert before == ""
    loaded: dict[str, Any] = yaml.safe_load(matter)
    return loaded


def of(deployed: Deployed = DEPLOYED, **given: Any) -> str:
    return card(result(**given), MEASURED, deployed, "python -m sparserl.export RUN", "def")


def test_the_front_matter_has_what_hubs_read() -> None:
    matter = front_matter(of())
    assert matter["library_name"] == "sparserl"
    assert matter["tags"] == ["reinforcement-learning", "sparse", "cartpole", "dqn", "l0", "onnx"]
    (model,) = matter["model-index"]
    (results,) = model["results"]
    assert results["dataset"] == {"name": "cartpole", "type": "cartpole"}
    assert {its["type"]: its["value"] for its in results["metrics"]} == {
        "sparsity": "0.7500",
        "mean_reward": "100.00 +/- 10.00",
    }


def test_the_body_says_environment_returns_sparsity_rank_stored_numbers_commands_and_commits() -> None:
    text = card(result(), 96.0, dataclasses.replace(DEPLOYED, rank=2, factored=1), "python -m sparserl.export RUN", "def")
    for said in (
        "| environment | cartpole |",
        "| return of this form | 96.00 |",
        "| return of the whole policy | 100.00 (deviation 10.00, 4 episodes) |",
        "| return of a random policy | 20.00 |",
        "| sparsity of the whole policy | 75.00% of 12 weights are zero |",
        "| rank | 2 |",
        "| stored numbers | 12, 3 of them not zero; biases are not counted |",
        "* trained: `typed`, commit `abc`",
        "* exported: `python -m sparserl.export RUN`, commit `def`",
        "ONNX opset 18",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("lambda_c", "row"), [(6000.0, "| regulariser | l0, lambda\\_c 6000 |"), (None, "| regulariser | l0 |")]
)
def test_a_regulariser_without_a_strength_of_its_own_is_named_only(lambda_c: float | None, row: str) -> None:
    """As a sum, whose terms have theirs."""
    assert row in of(lambda_c=lambda_c)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 100.0),
        ({"shrunken": True}, 100.0),  # the same function, but for rounding
        ({"rank": 2, "factored": 2}, 96.0),
        ({"rank": 2, "factored": 2, "shrunken": True}, 95.0),
        ({"rank": 4, "factored": 1, "shrunken": True}, None),
        ({"rank": 3, "factored": 1}, None),
        ({"rank": 64}, 100.0),  # no layer is smaller as two factors, so that it is the whole policy
        ({"rank": (4, None), "factored": 1}, 98.0),
        ({"rank": (4, None), "factored": 1, "shrunken": True}, 97.0),
        ({"rank": (2, None), "factored": 1}, None),
        ({"stochastic": True}, None),
    ],
)
def test_a_return_is_of_just_this_form_or_not_known(changes: dict[str, Any], expected: float | None) -> None:
    deployed = dataclasses.replace(DEPLOYED, **changes)
    row = dataclasses.asdict(result())
    run = Run(Path("somewhere"), {}, {}, row, [], lowrank=LOWRANK, spectrum=[], layer_ranks=LAYER_RANKS, problems=[])
    measured = evaluated_return(run, deployed)
    assert measured == expected
    text = card(result(), measured, deployed, "python -m sparserl.export RUN", "def")
    assert ("not measured of this form" in text) == (expected is None)


HOSTILE = NASTY | {
    "script": "<script>alert(1)</script>",
    "image": "![x](https://example.invalid/x.png)",
    "link": "[x](javascript:alert(1))",
    "entity": "&lt;script&gt;",
    "front matter": "x\n---\nlicense: mine\n---\n",
    "yaml": "{a: [b, *c, !!python/object/apply:os.system [ls]]}: &d",
    "no": "no",
}
"""Also of YAML, where ``no`` is a boolean, and of Markdown."""


@pytest.mark.parametrize("name", HOSTILE)
def test_text_from_outside_stays_text(name: str) -> None:
    text = HOSTILE[name]
    fields = "algorithm", "environment", "regularizer", "network", "command", "commit", "versions"
    written = of(dataclasses.replace(DEPLOYED, file=text), **dict.fromkeys(fields, text), warnings=[text])
    matter = front_matter(written)
    assert matter["tags"][2] == plain(text)
    assert matter["model-index"][0]["results"][0]["dataset"]["name"] == plain(text)
    assert matter.keys() == front_matter(of()).keys()
    body = written.split("---\n", 2)[2]
    shown = [line for line in body.splitlines() if not line.startswith(("* trained", "* exported"))]  # these are code
    assert not any(mark in line for line in shown for mark in ("<script", "![x", "[x](") if f"\\{mark[0]}" not in line)
    rows = [line for line in shown if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows), "a cell of its own ends a cell"
    assert len(rows) == len([line for line in of().splitlines() if line.startswith("| ")])
