"""``scripts/bench_purejaxrl.py``: what is compared, without JAX."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import bench_purejaxrl

from sparserl.config.build import build
from sparserl.config.validation import compose


def test_ours_is_a_multiple_of_the_mean_of_theirs_before_and_after() -> None:
    theirs = iter([{"steps_per_second": 100.0, "jax": "0.10"}, {"steps_per_second": 300.0, "jax": "0.10"}])
    row = bench_purejaxrl.compare("ppo", 8, lambda: next(theirs), lambda: {"steps_per_second": 50.0})
    assert (row["purejaxrl_before"], row["purejaxrl_after"]) == (100, 300)
    assert (row["purejaxrl"], row["sparserl"], row["times"]) == (200, 50, 0.25)


@pytest.mark.parametrize(
    ("given", "sentence"), [((), "--clone"), (("--clone", "{clone}"), "--python"), (("--clone", "nowhere"), "git clone")]
)
def test_what_is_missing_is_named_with_its_remedy(
    given: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "purejaxrl").mkdir()
    (tmp_path / "purejaxrl" / "ppo.py").touch()
    for name in ("PUREJAXRL", "JAX_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["bench_purejaxrl.py", *(text.format(clone=tmp_path) for text in given)])
    with pytest.raises(SystemExit, match=sentence):
        bench_purejaxrl.main()


@pytest.mark.parametrize("algorithm", bench_purejaxrl.PUREJAXRL)
def test_both_sides_take_as_many_gradient_steps_of_as_many_rows(algorithm: str) -> None:
    theirs = bench_purejaxrl.PUREJAXRL[algorithm]
    trainer, parts = build([compose(f"algorithm={algorithm}", *bench_purejaxrl.OURS[algorithm])])
    ours = parts.experience.gradient_steps(1_024_000, trainer.num_envs) / 1_024_000
    assert trainer.num_envs == theirs["NUM_ENVS"]
    if algorithm == "ppo":
        assert ours == theirs["UPDATE_EPOCHS"] * theirs["NUM_MINIBATCHES"] / (theirs["NUM_STEPS"] * theirs["NUM_ENVS"])
    else:
        assert ours == pytest.approx(1 / theirs["TRAINING_INTERVAL"], rel=2e-3)  # but for the steps before it learns
        assert parts.experience.batch_size == theirs["BUFFER_BATCH_SIZE"]
