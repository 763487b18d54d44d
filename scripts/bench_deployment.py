"""Bytes and time of the forms of a trained policy: dense, hardened, shrunken, low rank and CSR, in torch and onnxruntime.

    python scripts/bench_deployment.py RUN [RUN ...] --to results/deployment

Needs the extra ``export``. One observation on one thread. The time is CPU time of that thread, so that of other programs does
not count; forms take turns, and a cell is a median over rounds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sparserl.deployment.formats import largest_difference, nonzero_weights
from sparserl.deployment.speed import forms, measure, to_csr
from sparserl.loading import load_policy
from sparserl.play import load_dense
from sparserl.report.markup import code, markdown
from sparserl.runs import provenance
from sparserl.runs.files import read_json, read_policy, write_text
from sparserl.training import interrupts
from sparserl.types import Spec

HARDENED = "hardened"

NOTES = """\
One observation on one thread, in microseconds of CPU time: the median, and the 10th and 90th percentile. Files are
safetensors under torch and ONNX under onnxruntime. Zeros that are stored as numbers save neither bytes nor time; CSR, which
onnxruntime does not have, saves bytes, and "times hardened" says whether it saves time."""


def rows_of(run: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each form and library. Raises ValueError or FileNotFoundError where the run is not finished."""
    policies = {"dense": load_dense(run), HARDENED: load_policy(run), "shrunken": load_policy(run, shrink=True)}
    result = read_json(run / "result.json")
    spec = Spec.from_json(read_policy(run)[1]["spec"])
    returns = {HARDENED: result["return_mean"], f"{HARDENED}, CSR": result["return_mean"], "shrunken": result["return_mean"]}
    for key, shrink in (("rank", False), ("shrunken_rank", True)):
        if isinstance(rank := result[key], int):
            name = f"{'shrunken, ' * shrink}rank {rank}"
            policies[name] = load_policy(run, rank=rank, shrink=shrink)
            returns[name] = result["shrunken_return_mean" if shrink else "return_lowrank"]
    difference = largest_difference(policies[HARDENED], spec, to_csr(policies[HARDENED]))
    if not difference <= 1e-5:
        raise ValueError(f"CSR differs from the hardened policy by {difference:.2g}")
    measured = forms(policies, spec, HARDENED)
    timings = measure(measured, rounds)
    at = {(form.form, form.backend): timing.median for form, timing in zip(measured, timings, strict=True)}
    return [
        {
            "run": run.name,
            "form": form.form,
            "library": form.backend,
            "return": returns.get(form.form),
            "stored_numbers": form.stored_numbers,
            "nonzero_weights": nonzero_weights(policies[form.form.removesuffix(", CSR")]),
            "file_bytes": form.bytes,
            "microseconds": timing.median,
            "microseconds_p10": timing.low,
            "microseconds_p90": timing.high,
            "times_hardened": timing.median / at[HARDENED, form.backend],
        }
        for form, timing in zip(measured, timings, strict=True)
    ]


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A row as it is read."""
    spread = f"{row['microseconds_p10']:.1f} to {row['microseconds_p90']:.1f}"
    return {
        "form": row["form"],
        "library": row["library"],
        "return": "-" if row["return"] is None else f"{row['return']:.1f}",
        "stored numbers": f"{row['stored_numbers']:,}",
        "file, bytes": f"{row['file_bytes']:,}",
        "microseconds (10 % to 90 %)": f"{row['microseconds']:.1f} ({spread})",
        "times hardened": f"{row['times_hardened']:.2f}",
    }


def main() -> None:
    """Measure, print and write ``deployment.csv`` and ``deployment.md``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a finished run with its last checkpoint")
    parser.add_argument("--rounds", type=int, default=200, help="how often each form is timed, 50 calls at once (200)")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the table goes")
    arguments = parser.parse_args()
    interrupts.prepare()
    try:
        tables = {run: rows_of(run, arguments.rounds) for run in arguments.runs}
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(f"sparserl: {' '.join(str(error).split())}")
    arguments.to.mkdir(parents=True, exist_ok=True)
    origin = {
        "command": provenance.command(),
        "commit": provenance.commit(),
        "versions": provenance.versions("onnx", "onnxruntime"),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    text = [(__doc__ or "").split("\n")[0], "", NOTES, ""]
    for run, rows in tables.items():
        text += [f"## {run.name}", "", markdown([cells(row) for row in rows])]
    text += [f"* {key}: {code(str(value))}" for key, value in origin.items()]
    write_text(arguments.to / "deployment.md", "\n".join(text) + "\n")
    every = pd.DataFrame([row for rows in tables.values() for row in rows]).assign(**origin)
    write_text(arguments.to / "deployment.csv", every.to_csv(index=False))
    sys.stdout.write("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
