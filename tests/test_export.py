"""The command that writes policies and masks: what it leaves, and each error in one sentence."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sparserl import export, load_policy
from sparserl.config.validation import compose
from sparserl.runs.files import read_masks
from sparserl.sweeps.loop import run

SPARSE = "regularizer=random", "regularizer.target_sparsity=0.8"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse run of a few hundred steps, evaluated at rank 1."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparserl.sweeps.loop.draw", lambda folder: folder)
        run(
            [compose("trainer=smoke", *SPARSE, "network.hidden=[12,8]", "lowrank.ranks=[1]", "logger=disk")],
            [folder],
            live=False,
        )
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sparserl-export", *map(str, arguments)])
    export.main()


def test_a_torch_file_and_its_card(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, trained, "--format", "torch", "--rank", "1", "--to", tmp_path / "p.pt2")
    observation = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    written = torch.export.load(tmp_path / "p.pt2").module()
    torch.testing.assert_close(written(observation), load_policy(trained, rank=1)(observation), rtol=1e-5, atol=1e-5)
    card = (tmp_path / "p.pt2.md").read_text()
    assert "| rank | 1 |" in card
    assert "factored at rank 1: 3 layers" in card
    assert "not measured" not in card, "the sweep evaluated rank 1"
    assert f"--rank 1 --to {tmp_path}/p.pt2`" in card, "the command that made it"


def test_onnx_is_what_is_written_unless_asked_otherwise(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    command(monkeypatch, trained, "--shrink")
    written = trained / "export" / "policy-shrunken.onnx"
    assert written.exists()
    assert written.with_name("policy-shrunken.onnx.md").read_text().startswith("---\n")


def test_exports_of_one_run_have_names_of_their_own(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ([], ["--rank", "1"], ["--rank", "1,full,1"], ["--rank", "1", "--shrink"]):
        command(monkeypatch, trained, "--format", "torch", *form)
    command(monkeypatch, trained, "--format", "mask")
    names = "policy.pt2", "policy-rank1.pt2", "policy-rank1-full-1.pt2", "policy-rank1-shrunken.pt2"
    for name in names:
        assert (trained / "export" / name).exists()
        assert f"| file | {name}, " in (trained / "export" / f"{name}.md").read_text()
    assert (trained / "export" / "policy.masks.safetensors").exists()


def test_a_rank_at_which_no_layer_is_smaller_leaves_the_whole_policy_and_the_card_says_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(monkeypatch, trained, "--format", "torch", "--rank", "100", "--to", tmp_path / "p.pt2")
    card = (tmp_path / "p.pt2.md").read_text()
    assert "| rank | whole |" in card
    assert "whole: no layer is smaller as two factors of rank 100" in card
    assert "factored" not in card
    assert "not measured" not in card, "it is the policy whose return is known"


def test_masks_are_those_of_the_policy_and_train_another(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, trained, "--format", "mask", "--to", tmp_path / "m")
    weights = load_file(trained / "policy.safetensors")
    masks = read_masks(tmp_path / "m")
    assert masks.keys() == {"policy/0.weight", "policy/1.weight", "policy/2.weight"}
    for name, mask in masks.items():
        assert torch.equal(mask.bool(), weights[name] != 0)
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train under them: ")]
    overrides = shlex.split(said)[6:]
    named = ["algorithm=dqn", "environment=cartpole", "network=mlp", "regularizer=fixed_mask"]
    assert overrides == [*named, f"regularizer.path={tmp_path}/m"]
    compose("network.hidden=[12,8]", *overrides)  # raises where they do not fit


REFUSED: dict[str, tuple[list[str], str]] = {
    "rank": (["--rank", "0"], "--rank is 0; it must be 1 or more"),
    "masks of a rank": (["--format", "mask", "--rank", "1"], "--rank is for policies"),
    "shrunken masks": (["--format", "mask", "--shrink"], "--shrink is for policies"),
    "no folder": (["--to", "/nowhere/policy.onnx"], "there is no folder /nowhere"),
    "a folder": (["--to", "/tmp"], "which is a folder"),
    "values": (["--stochastic"], "is of DQN, which explores by noise that is not part of its policy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_is_one_sentence(case: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, said = REFUSED[case]
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, trained, *arguments)
    sentence = str(ended.value.code)
    assert sentence.startswith("sparserl: ")
    assert said in sentence
    assert "\n" not in sentence


def test_a_folder_without_a_policy_or_a_result_is_one_sentence(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="the run has not finished"):
        command(monkeypatch, tmp_path)
    (tmp_path / "policy.safetensors").write_bytes((trained / "policy.safetensors").read_bytes())
    with pytest.raises(SystemExit, match="the policy's card needs it"):
        command(monkeypatch, tmp_path, "--format", "torch")
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(SystemExit, match=r"result\.json is not whole"):
        command(monkeypatch, tmp_path, "--format", "torch")
