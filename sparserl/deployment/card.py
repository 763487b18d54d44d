"""A policy's card: Markdown with YAML front matter, as model hubs read it, in which text from outside stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparserl.deployment.formats import OPSET, TOLERANCE
from sparserl.lowrank.truncation import Ranks, text_of
from sparserl.report.markup import code, escaped
from sparserl.runs.reader import Run
from sparserl.runs.schema import Result
from sparserl.terminal import number, plain


@dataclass(frozen=True)
class Deployed:
    """What a file holds."""

    file: str
    format: str
    rank: Ranks | None
    """What it is asked to be cut at, or None for whole."""
    factored: int
    """How many layers are two factors: at a high rank none is, and the policy is whole."""
    shrunken: bool
    stochastic: bool
    stored_numbers: int
    nonzero_weights: int
    bytes: int
    difference: float
    interface: Mapping[str, str]


def card(result: Result, measured: float | None, deployed: Deployed, command: str, commit: str | None) -> str:
    """The card of a file made of a finished run.

    ``measured`` is the mean return of just this policy, None where it is not known.
    ``command`` and ``commit`` are those that made the file; those that trained the run are in its result.
    """
    return f"{front_matter(result, measured, deployed)}\n{_body(result, measured, deployed, command, commit)}"


def evaluated_return(run: Run, deployed: Deployed) -> float | None:
    """The mean return that a run's files have of just this policy; None where it was not measured.

    A policy that samples was not evaluated.
    """
    rank = deployed.rank
    if deployed.stochastic:
        return None
    if rank is None or not deployed.factored:  # shrinking keeps the function, but for rounding
        found = [run.result["return_mean"]]
    elif isinstance(rank, Sequence):
        wanted = "shrunken" if deployed.shrunken else "plain", text_of(rank)
        found = [row["return_mean"] for row in run.layer_ranks if (row["form"], row["ranks"]) == wanted]
    else:
        key = "shrunken_return_mean" if deployed.shrunken else "return_mean"
        found = [row[key] for row in run.lowrank if row["rank"] == rank]
    return None if not found or found[0] is None or found[0] != found[0] else float(found[0])


def front_matter(result: Result, measured: float | None, deployed: Deployed) -> str:
    """YAML between lines of dashes, with the keys of the Hugging Face Hub's model cards. Every text is between quotes."""
    tags = ["reinforcement-learning", "sparse", result.environment, result.algorithm, result.regularizer, deployed.format]
    lines = [
        "---",
        "library_name: sparserl",
        "pipeline_tag: reinforcement-learning",
        "tags:",
        *(f"- {_quoted(tag)}" for tag in dict.fromkeys(tags)),
        "model-index:",
        f"- name: {_quoted(_title(result))}",
        "  results:",
        "  - task:",
        "      type: reinforcement-learning",
        "      name: reinforcement-learning",
        "    dataset:",
        f"      name: {_quoted(result.environment)}",
        f"      type: {_quoted(result.environment)}",
        "    metrics:",
        *_metric("sparsity", number(1 - deployed.nonzero_weights / max(1, deployed.stored_numbers), ".4f", "unknown")),
    ]
    if measured is not None:
        deviation = "" if deployed.factored else f" +/- {number(result.return_std, '.2f', 'unknown')}"
        lines += _metric("mean_reward", f"{number(measured, '.2f', 'unknown')}{deviation}")
    return "\n".join([*lines, "---", ""])


def _metric(name: str, value: str) -> list[str]:
    return [f"    - type: {name}", f"      name: {name}", f"      value: {_quoted(value)}", "      verified: false"]


def _quoted(text: str) -> str:
    """A scalar of YAML: a string of JSON without escapes that the two read differently."""
    return json.dumps(plain(text), ensure_ascii=False)


def _text(text: str) -> str:
    """Text that Markdown shows as it is, also what would be a link, an image, emphasis or an entity."""
    return re.sub(r"([\[\]_~&#!])", r"\\\1", escaped(text))


def _title(result: Result) -> str:
    return f"{result.algorithm}-{result.environment}-{result.regularizer}"


def _cut(deployed: Deployed) -> str:
    """What became of the layers at the rank that was asked for; empty where none was."""
    if deployed.rank is None:
        return ""
    if not deployed.factored:
        return f"whole: no layer is smaller as two factors of rank {text_of(deployed.rank)}"
    return f"factored at rank {text_of(deployed.rank)}: {deployed.factored} layer{'s' * (deployed.factored > 1)}"


def _body(result: Result, measured: float | None, deployed: Deployed, command: str, commit: str | None) -> str:
    form = [
        "hardened: without gate noise",
        "shrunken: without the hidden units that nothing enters or leaves" if deployed.shrunken else "",
        _cut(deployed),
        "actions are sampled" if deployed.stochastic else "actions are deterministic",
    ]
    unmeasured = "not measured of this form"
    facts = {
        "environment": result.environment,
        "algorithm": result.algorithm,
        "regulariser": result.regularizer if result.lambda_c is None else f"{result.regularizer}, lambda_c {result.lambda_c:g}",
        "network": result.network,
        "seed": str(result.seed),
        "environment steps": str(result.env_steps),
        "form": ", ".join(filter(None, form)),
        "return of this form": number(measured, ".2f", unmeasured) if measured is not None else unmeasured,
        "return of the whole policy": f"{number(result.return_mean, '.2f')} (deviation {number(result.return_std, '.2f')}, "
        f"{result.episodes} episodes)",
        "return of a random policy": number(result.return_random, ".2f"),
        "sparsity of the whole policy": f"{result.sparsity:.2%} of {result.policy_weights} weights are zero",
        "rank": text_of(deployed.rank) if deployed.rank is not None and deployed.factored else "whole",
        "stored numbers": f"{deployed.stored_numbers}, {deployed.nonzero_weights} of them not zero; biases are not counted",
        "file": f"{deployed.file}, {deployed.bytes} bytes",
    }
    table = "| what | value |\n| --- | --- |\n" + "".join(
        f"| {_text(key)} | {_text(value)} |\n" for key, value in facts.items()
    )
    inputs = "".join(f"* {code(name)}: {_text(meaning)}\n" for name, meaning in deployed.interface.items())
    checked = (
        f"On random observations the file's outputs differ from torch's by at most {deployed.difference:.1e} of the largest "
        f"output, or of 1 where that is smaller; more than {TOLERANCE:g} is refused."
    )
    opset = f" Operators: ONNX opset {OPSET}." if deployed.format == "onnx" else ""
    warnings = "".join(f"* {_text(warning)}\n" for warning in result.warnings)
    return "\n".join(
        [
            f"# {_text(_title(result))}\n",
            "A policy trained with sparserl.\n",
            table,
            "## Inputs and output\n",
            f"{inputs}\n{checked}{opset}\n",
            *(["## Warnings of its training\n", warnings] if warnings else []),
            "## How it was made\n",
            f"* trained: {code(result.command)}, commit {code(result.commit or 'unknown')}",
            f"* exported: {code(command)}, commit {code(commit or 'unknown')}",
            f"* versions: {_text(result.versions)}\n",
        ]
    )
