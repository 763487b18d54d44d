"""Answers to the paper's claims, from tables whose answers are known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import answer_claims
import claims_headlines as headlines
from claims_by_setting import CLAIMS, Claim
from claims_open import ranges
from claims_settings import Setting, difference, once, read, tables_of_today, verdict

from sparserl.report.statistics import Estimate

LOSS, RANK, BEATS, BETA = CLAIMS
MARIO, SURGICAL = headlines.HEADLINES


def setting(form: str, returns: Sequence[float], sparsity: float = 0.0, compression: float | None = 0.5, **other: Any) -> Any:
    """The rows of a setting, a seed for each return; equal settings have the same folders, as runs do that tables share."""
    name = "-".join([form, *(f"{key}{value}" for key, value in other.items())])
    return [
        {
            "folder": f"outputs/tables/{name}-seed{seed}",
            "status": "done",
            "counted": True,
            "learned": True,
            "seed": seed,
            "algorithm": "dqn",
            "environment": "cartpole",
            "regularizer": form,
            "env_steps": 100,
            "return_mean": value,
            "return_random": 20.0,
            "sparsity": sparsity,
            "policy_weights": 1000,
            "rank": 3,
            "compression": compression,
        }
        | other
        for seed, value in enumerate(returns)
    ]


def table(folder: Path, *settings: list[dict[str, Any]]) -> Path:
    """A table of settings."""
    folder.mkdir(parents=True)
    pd.DataFrame([row for rows in settings for row in rows]).to_csv(folder / "rows.csv", index=False)
    return folder


def answers(claim: Claim, *folders: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The cells of each row of a part of the page, by table and form."""
    return {(setting.folder.name, setting.named()["form"]): cells for setting, cells in claim.answers(read(folders))}


DENSE, L0 = setting("none", [100.0] * 8), setting("l0", [100.0] * 8, 0.9, 0.4)
L1, L2 = setting("l1", [60.0] * 8, 0.5, 0.7), setting("l2", [20.0, 100.0] * 4, 0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Dense policies gain 80 of 100; l0 keeps all of it, l1 a half, and l2 is now above and now below."""
    return table(tmp_path / "known", DENSE, L0, L1, L2)


# ---------------------------------------------------------------- claim by claim


def test_what_is_kept_of_the_gain_decides_whether_return_was_lost(folder: Path) -> None:
    told = answers(LOSS, folder)
    assert told["known", "l0"] == {"sparsity": "90.0%", "gain / dense gain": "1.000 [1.000, 1.000]", "no loss": "held"}
    assert told["known", "l1"] == {"sparsity": "50.0%", "gain / dense gain": "0.500 [0.500, 0.500]", "no loss": "did not hold"}
    assert told["known", "l2"]["no loss"] == "not decided"


def test_the_rank_is_lower_where_more_is_saved_than_of_dense_policies(folder: Path) -> None:
    told = answers(RANK, folder)
    assert told["known", "l0"]["learned"] == "8 of 8"
    assert told["known", "l0"]["SVD alone: beyond dense"] == "-10.0% [-10.0%, -10.0%]"
    assert told["known", "l0"]["SVD alone: lower rank"] == "did not hold"
    assert told["known", "l1"]["SVD alone: beyond dense"] == "20.0% [20.0%, 20.0%]"
    assert told["known", "l1"]["SVD alone: lower rank"] == "held"
    assert told["known", "l1"]["shrunken: lower rank"] == "not decided: nothing to compare"


def test_the_same_rank_is_not_a_lower_one(folder: Path) -> None:
    told = answers(RANK, folder)["known", "l2"]
    assert told["SVD alone: beyond dense"] == "0.0% [0.0%, 0.0%]"
    assert told["SVD alone: lower rank"] == "did not hold"


def test_equal_compression_of_unequally_many_runs_is_equal(tmp_path: Path) -> None:
    """The mean of three 0.1 is the next number above 0.1."""
    dense, sparse = (setting(form, [100.0] * n, compression=0.1) for form, n in (("none", 8), ("l0", 3)))
    _, ours = read([table(tmp_path / "equal", dense, sparse)])
    found = difference(ours.group.scores("compression"), ours.groups[0].scores("compression"))
    assert found is not None
    assert found.value > 0
    assert verdict(found, 0.0, strict=True) == "did not hold"


def test_gates_have_to_be_better_in_both_than_every_penalty(folder: Path) -> None:
    assert answers(BEATS, folder) == {
        ("known", "l0"): {
            "sparsity": "90.0%",
            "against": "l1, l2",
            "pairs": "2",
            "better in both": "2",
            "the other better in both": "0",
            "beats": "held",
        }
    }


def test_every_form_of_gates_is_beside_the_penalties(tmp_path: Path) -> None:
    """L1 has 60 and half of the weights: a form with fewer zeros and less return loses, one with more of one is undecided."""
    forms = {"l0_units": (70.0, 0.6), "l0_combined": (50.0, 0.4), "l0_rank": (50.0, 0.6), "magnitude": (70.0, 0.6)}
    told = answers(BEATS, table(tmp_path / "forms", L1, *(setting(form, [r] * 8, zeros) for form, (r, zeros) in forms.items())))
    said = {form: cells["beats"] for (_, form), cells in told.items()}
    assert said == {"l0_units": "held", "l0_combined": "did not hold", "l0_rank": "not decided"}


def test_beta_is_told_where_gates_differ_in_it(folder: Path, tmp_path: Path) -> None:
    several = table(
        tmp_path / "beta", DENSE, *(setting("l0", [100.0] * 8, zeros, beta=b) for b, zeros in ((0.3, 0.8), (1.0, 0.6)))
    )
    assert [cells["sparsity"] for cells in answers(BETA, several).values()] == ["80.0%", "60.0%"]
    assert not answers(BETA, folder)


def test_a_table_without_dense_policies_has_no_answers(tmp_path: Path) -> None:
    alone = table(tmp_path / "alone", L0)
    assert answers(LOSS, alone) == {}
    assert "Nothing in results/" in "\n".join(LOSS.part(read([alone])))


@pytest.mark.parametrize(
    ("low", "high", "said", "strictly"),
    [
        (0.96, 1.2, "held", "held"),
        (0.95, 1.2, "held", "not decided"),
        (0.95, 0.95, "held", "did not hold"),
        (0.5, 0.95, "not decided", "did not hold"),
        (0.5, 0.94, "did not hold", "did not hold"),
        (0.5, 1.2, "not decided", "not decided"),
        (None, None, "not decided: too few runs", "not decided: too few runs"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(
    low: float | None, high: float | None, said: str, strictly: str
) -> None:
    assert verdict(Estimate(1.0, low, high, 8), 0.95) == said
    assert verdict(Estimate(1.0, low, high, 8), 0.95, strict=True) == strictly


# ---------------------------------------------------------------- several tables


def test_runs_that_tables_share_are_one_setting_of_the_first(folder: Path, tmp_path: Path) -> None:
    """Also where a later table has fewer of its seeds; a setting that only the later one has keeps its dense policies there."""
    units = setting("l0_units", [100.0] * 8, 0.8)
    later = table(tmp_path / "later", setting("none", [100.0] * 4), L0[:4], L1, units)
    assert list(answers(LOSS, folder, later)) == [("known", "l0"), ("known", "l1"), ("known", "l2"), ("later", "l0_units")]
    assert list(answers(LOSS, later, folder)) == [("later", "l0"), ("later", "l0_units"), ("later", "l1"), ("known", "l2")]


def test_a_setting_of_other_seeds_or_strengths_is_another_one(folder: Path, tmp_path: Path) -> None:
    stronger = table(tmp_path / "stronger", DENSE, setting("l0", [100.0] * 8, 0.9, lambda_c=3.0))
    assert [setting.folder.name for setting in once(read([folder, stronger]))] == ["known"] * 4 + ["stronger"]


def test_the_first_table_that_says_anything_of_a_setting_answers(folder: Path, tmp_path: Path) -> None:
    without_dense = table(tmp_path / "without_dense", L0)
    assert ("known", "l0") in answers(LOSS, without_dense, folder)


def test_gates_meet_the_penalties_of_every_table_that_they_stand_in_once(folder: Path, tmp_path: Path) -> None:
    """The second L1 has as many zeros as L0 but for one in a hundred, and a higher return than any."""
    later = table(tmp_path / "later", L0, L1, setting("l1", [200.0] * 8, 0.91, lambda_c=1.0))
    told = answers(BEATS, folder, later)
    assert list(told) == [("known", "l0")]
    assert (told["known", "l0"]["pairs"], told["known", "l0"]["beats"]) == ("3", "did not hold")


def test_a_pair_that_two_tables_have_is_judged_on_the_runs_of_the_first(folder: Path, tmp_path: Path) -> None:
    """The later one has fewer of these runs, on which L1 happens to be better than L0."""
    lucky = setting("l1", [200.0] * 3, 0.95)
    few = table(tmp_path / "few", L0[:3], lucky)
    assert answers(BEATS, few)["few", "l0"]["beats"] == "did not hold", "the control: by itself it says the opposite"
    assert answers(BEATS, folder, few) == answers(BEATS, folder)


def test_tables_of_today_lack_earlier_settings_and_the_main_one_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("earlier/freeze", "ablation", "sparsity", "table_main"):
        table(tmp_path / "results" / name, DENSE)
    monkeypatch.chdir(tmp_path)
    assert [folder.name for folder in tables_of_today()] == ["table_main", "sparsity", "ablation"]


# ---------------------------------------------------------------- headlines


def mario(folder: Path, ours: float, compression: float | None, seeds: int = 8) -> list[Setting]:
    """Dense policies with 250, and sparse ones with 93 % zeros, of which those under l0_units are the better ones."""
    where = {"environment": "super_mario_bros_tiles", "algorithm": "ppo"}
    dense, worse = setting("none", [250.0] * seeds, **where), setting("l0", [30.0] * seeds, 0.95, **where)
    best, loose = (
        setting(form, [ours] * seeds, zeros, compression, **where) for form, zeros in (("l0_units", 0.93), ("l1", 0.5))
    )
    return read([table(folder, dense, worse, best, loose)])


@pytest.mark.parametrize(
    ("ours", "compression", "seeds", "said"),
    [
        (260.0, 0.7, 8, ("reached", "one: reached", "shrunken: reached")),
        (250.0, 0.7, 8, ("not reached", "one: not reached", "shrunken: reached")),
        (260.0, 0.6, 8, ("not reached", "one: reached", "shrunken: not reached")),
        (260.0, None, 8, ("not decided", "one: reached", "compression (not measured)")),
        (260.0, 0.7, 1, ("not decided", "one: not decided", "shrunken: reached")),
        (240.0, 0.7, 1, ("not reached", "one: not reached", "shrunken: reached")),
    ],
)
def test_a_headline_says_where_the_best_setting_with_its_zeros_stands(
    tmp_path: Path, ours: float, compression: float | None, seeds: int, said: tuple[str, ...]
) -> None:
    told = MARIO.stands(mario(tmp_path / "mario", ours, compression, seeds))
    overall, returned, stored = said
    assert told.startswith(
        f"**ppo on super_mario_bros_tiles: {overall}.** Of settings with 93% zeros or more the best is l0_units"
    )
    assert f"return {ours:.1f} beside 250.0" in told
    assert returned in told
    assert stored in told


def test_a_headline_is_not_reached_without_its_zeros(folder: Path, tmp_path: Path) -> None:
    without = [setting for setting in mario(tmp_path / "mario", 300.0, 0.9) if setting.form in ("none", "l1")]
    assert MARIO.stands(without).endswith("not reached.** No sparse setting has 93% zeros.")
    assert "* **Not reached.** No setting was trained." in list(SURGICAL.part(read([folder])))


def test_points_of_mario_are_those_of_greedy_whole_policies(tmp_path: Path) -> None:
    settings = mario(tmp_path / "mario", 260.0, 0.7, 2)
    keys = "algorithm,environment,regularizer,lambda_c,seed,sparsity,rank,game,actions,return_mean"
    dense, ours = ("ppo,super_mario_bros_tiles,none,,{},0.0", "ppo,super_mario_bros_tiles,l0_units,,{},0.93")
    lines = [keys, f"{dense.format(0)},full,as trained,greedy,2000", f"{dense.format(0)},full,as trained,sampled,1"]
    lines += [f"{ours.format(seed)},full,as trained,greedy,{points}" for seed, points in enumerate((2100, 2300))]
    lines += [f"{ours.format(0)},8,as trained,greedy,2", f"{ours.format(0)},full,stock,greedy,1900"]
    (tmp_path / "mario" / "play.csv").write_text("\n".join(lines) + "\n")
    page = "\n".join(MARIO.part(settings))
    assert "points 2200 beside 2000" in page
    assert "| l0_units | 2: 0-1 | 260.0 | 2200 | 1900 | 93.0% |" in page
    assert "Returns of ppo on super_mario_bros_tiles are 0.1 times the package's points, plus 5 for the flag." in page


# ---------------------------------------------------------------- the page


def page(monkeypatch: pytest.MonkeyPatch, where: Path, *words: str) -> str:
    """What the command writes where results/ is."""
    monkeypatch.chdir(where)
    monkeypatch.setattr(sys, "argv", ["answer_claims.py", *words])
    answer_claims.main()
    return (where / "results" / "claims.md").read_text()


def test_the_summary_counts_the_settings_of_each_form(folder: Path) -> None:
    units = table(folder.parent / "units", DENSE, *(setting("l0_units", [r] * 8, 0.8, lambda_c=r) for r in (100.0, 60.0, 99.0)))
    text = "\n".join(answer_claims.summary(read([folder, units])))
    assert "| cartpole | dqn | l0_units | 8 | 2 / 1 / 0 | 0 / 3 / 0 | 0 / 0 / 3 | - |" in text
    assert "| cartpole | dqn | l2 | 8 | 0 / 0 / 1 | 0 / 1 / 0 | 0 / 0 / 1 | - |" in text
    assert (
        "* **1: no loss**: of 4 settings of gates (l0, l0_units) it held in 3, did not hold in 1, and is not decided in 0; "
        "of 2 settings of other forms (l1, l2) it held in 0, did not hold in 1, and is not decided in 1." in text
    )


def test_the_range_of_lambda_c_is_that_which_keeps_the_return(folder: Path) -> None:
    """Of 60, 99 and 100 of dense 100, above a random 20: (60 - 20) / 80 is a half, (99 - 20) / 80 is 0.988."""
    units = table(folder.parent / "units", DENSE, *(setting("l0_units", [r] * 8, 0.8, lambda_c=r) for r in (100.0, 60.0, 99.0)))
    (row,) = (row for row in ranges(read([folder, units])) if row["regularizer"] == "l0_units")
    assert [row[name] for name in ("table", "lambda_c tried", "recommended lambda_c")] == ["units", "60, 99, 100", "99"]
    assert row["lambda_c with 95% of the dense gain"] == "99, 100"


def test_the_page_is_made_of_the_tables_of_runs_of_today(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table(tmp_path / "results" / "known", DENSE, L0)
    table(tmp_path / "results" / "earlier" / "old", DENSE, setting("l0", [100.0] * 8, 0.8, lambda_c=9.0))
    (tmp_path / "results" / "speed").mkdir()
    (tmp_path / "results" / "speed" / "rows.csv").write_text("algorithm,environment,steps_per_second\ndqn,cartpole,4000\n")
    text = page(monkeypatch, tmp_path)
    assert "| known | cartpole | dqn | l0 | 8: 0-7 | 90.0% |" in text
    assert "| old |" not in text
    assert "that table: known." in text


def test_folders_that_are_named_are_read_wherever_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table(tmp_path / "results" / "earlier" / "old", DENSE, L0)
    assert "| old | cartpole | dqn | l0 |" in page(monkeypatch, tmp_path, "results/earlier/old")
    with pytest.raises(SystemExit):
        page(monkeypatch, tmp_path, "results/absent")
