"""Bytes and time of the forms of a trained policy: dense, hardened, shrunken, low rank and CSR, in torch and onnxruntime.

    python scripts/bench_deployment.py RUN [RUN ...]

Needs the extra ``export``. One observation on one thread. The time is CPU time of that thread, so that of other programs does
not count; forms take turns, and a cell is a median over rounds, with the 10th and 90th percentile. Files are safetensors under
torch and ONNX under onnxruntime. Zeros that are stored as numbers save neither bytes nor time; CSR, which onnxruntime does not
have, saves bytes, and "times hardened" says whether it saves time. Rows and a table for docs/benchmarks.md go to
results/deployment/.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from measurements import Measurements, Row, folder_of

from sparserl.deployment.formats import largest_difference, nonzero_weights
from sparserl.deployment.speed import forms, measure, to_csr
from sparserl.loading import load_policy
from sparserl.play import load_dense
from sparserl.runs import provenance
from sparserl.runs.files import read_json, read_policy
from sparserl.training import interrupts
from sparserl.types import Spec

HARDENED = "hardened"


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
            "regularizer": read_json(run / "config.json")["names"]["regularizer"],
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
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "versions": provenance.versions("onnx", "onnxruntime"),
        }
        for form, timing in zip(measured, timings, strict=True)
    ]


def readable(row: Row) -> dict[str, str]:
    """The numbers of a row as the table has them."""
    median, low, high = (float(row[name]) for name in ("microseconds", "microseconds_p10", "microseconds_p90"))
    return {
        "return": f"{float(row['return']):.1f}" if row["return"] not in (None, "") else "-",
        **{name: f"{int(row[name]):,}" for name in ("stored_numbers", "file_bytes")},
        "microseconds": f"{median:.1f} ({low:.1f} to {high:.1f})",
        "times_hardened": f"{float(row['times_hardened']):.2f}",
    }


MEASUREMENTS = Measurements(
    {
        "regularizer": "regularizer",
        "form": "form",
        "library": "library",
        "return": "return",
        "stored_numbers": "stored numbers",
        "file_bytes": "file, bytes",
        "microseconds": "microseconds (10 % to 90 %)",
        "times_hardened": "times hardened",
    },
    key=("regularizer", "form", "library"),
    readable=readable,
)


def main() -> None:
    """Measure, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a finished run with its last checkpoint")
    parser.add_argument("--rounds", type=int, default=200, help="how often each form is timed, 50 calls at once (200)")
    arguments = parser.parse_args()
    interrupts.prepare()
    try:
        rows = [row for run in arguments.runs for row in rows_of(run, arguments.rounds)]
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(f"sparserl: {' '.join(str(error).split())}")
    print(MEASUREMENTS.add(folder_of("deployment"), rows))


if __name__ == "__main__":
    main()
