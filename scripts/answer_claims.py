"""The paper's claims, answered from the tables in results/: what held, what did not, and what nothing here decides.

Writes results/claims.md.

    python scripts/answer_claims.py                    # from the tables of today's settings below results/
    python scripts/answer_claims.py results/sparsity   # from some: of a setting that several have, the first that is named
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from claims_by_setting import CLAIMS, table
from claims_headlines import HEADLINES
from claims_open import open_questions
from claims_settings import RESULTS, VERDICTS, Setting, read, tables_of_today

from sparserl.report.sources import ROWS
from sparserl.report.statistics import CONFIDENCE
from sparserl.runs.files import write_text


def main() -> None:
    """Write results/claims.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    told = "folders with a rows.csv; by default all in results/, not those in results/earlier and results/searches"
    parser.add_argument("folders", nargs="*", type=Path, help=told)
    named = parser.parse_args().folders
    if absent := [str(folder) for folder in named if not (folder / ROWS).is_file()]:
        parser.error(f"there is no {ROWS} in {', '.join(absent)}")
    settings = read(named or tables_of_today())
    parts = introduction, summary, *(each.part for each in (*CLAIMS, *HEADLINES)), open_questions
    write_text(RESULTS / "claims.md", "\n".join(line for part in parts for line in (*part(settings), "")))


def introduction(settings: Sequence[Setting]) -> Iterator[str]:
    """What the page is made of."""
    yield INTRODUCTION
    yield "Tables share runs. A setting is counted once, in the first of these tables that has it, beside the dense policies of"
    yield f"that table: {', '.join(dict.fromkeys(setting.folder.name for setting in settings)) or 'there is none yet'}."


# ---------------------------------------------------------------- the summary

Answers = dict[str, list[tuple[Setting, str]]]
"""By what the summary calls a claim: the settings that it was asked for, with the verdict in one of ``VERDICTS``."""


def summary(settings: Sequence[Setting]) -> Iterator[str]:
    """A sentence for each claim, then how many settings of each form it held for."""
    found: Answers = {
        name: [(setting, cells[column].partition(":")[0]) for setting, cells in claim.answers(settings)]
        for claim in CLAIMS
        for column, name in claim.asked.items()
    }
    yield from ("## Summary", "")
    yield from (f"* {sentence(name, answers)}" for name, answers in found.items())
    yield from ("", f"Numbers of settings, each of a form at one strength: {' / '.join(VERDICTS)}.", "")
    rows = sorted({(*setting.group.task, setting.form) for answers in found.values() for setting, _ in answers})
    yield table([_row(*row, found) for row in rows])


def _row(environment: str, algorithm: str, form: str, found: Answers) -> dict[str, str]:
    cells = {"environment": environment, "algorithm": algorithm, "form": form}
    its = {
        name: [(setting, said) for setting, said in answers if (*setting.group.task, setting.form) == (*cells.values(),)]
        for name, answers in found.items()
    }
    seeds = sorted({len(setting.group.done) for answers in its.values() for setting, _ in answers})
    counts = {name: " / ".join(map(str, counted(answers))) if answers else "-" for name, answers in its.items()}
    return cells | {"seeds": "-".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} | counts


def sentence(name: str, answers: Sequence[tuple[Setting, str]]) -> str:
    """How many settings a claim held for: of those with gates, which it is of, and of the others."""
    told = []
    for kind, gates in (("gates", True), ("other forms", False)):
        if here := [(setting, said) for setting, said in answers if setting.has_gates == gates]:
            held, did_not_hold, open_ = counted(here)
            forms = ", ".join(sorted({setting.form for setting, _ in here}))
            of = f"of {len(here)} setting{'s' * (len(here) > 1)} of {kind} ({forms})"
            told.append(f"{of} it held in {held}, did not hold in {did_not_hold}, and is not decided in {open_}")
    return f"**{name}**: {'; '.join(told) or 'no setting says anything of it yet'}."


def counted(answers: Sequence[tuple[Setting, str]]) -> list[int]:
    """How many answers are each of ``VERDICTS``."""
    counts = Counter(said for _, said in answers)
    return [counts[said] for said in VERDICTS]


INTRODUCTION = f"""# The paper's claims, answered by the tables in results/

Made by `python scripts/answer_claims.py` from `results/*/rows.csv`; no number is typed by hand. Only tables of today's
settings answer: those in `results/earlier/` (settings of earlier versions) and `results/searches/` (what shipped settings were
chosen from) are left out unless the command names them. The claims are those of arXiv 2403.06313 as its abstract and
summaries state them. The paper gives neither its settings nor how it counts: a claim that does not hold here does not hold
for the settings and definitions of this repository. Each row has the seeds that it is of. In brackets are {CONFIDENCE:.0%}
bootstrap intervals over seeds; of fewer than eight seeds they are too narrow.
"""


if __name__ == "__main__":
    main()
