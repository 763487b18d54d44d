"""Replay that keeps each plane of stacked images once, beside the replay of whole stacks: the same minibatches, bit for bit."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparserl.config.schema import ConfigError
from sparserl.config.validation import compose
from sparserl.environments.cartpole import CartPole
from sparserl.experience.frames import Frames
from sparserl.experience.replay import Replay
from sparserl.population.members import Population
from sparserl.population.state import Log, split, stack
from sparserl.runs import checkpoint
from sparserl.runs.files import DiskError, read_json
from sparserl.types import Batch, Rollout, Spec, Transition

SIDES = 3, 2
FIRST = "copies", "zeros", "others"
"""What a stack begins with, before its newest plane: copies of that one, zeros, or images of their own."""


def begun(
    kind: type[Replay], members: Population, stack_size: int, buffer_size: int, batch_size: int = 9, n_step: int = 1
) -> Replay:
    experience = kind(buffer_size, batch_size, learning_starts=0, train_freq=2, n_step=n_step, gamma=0.9)
    experience.begin(members, Spec((stack_size, *SIDES), 2, observation_dtype=torch.uint8), CartPole(500).relabel)
    return experience


def never(_: Rollout) -> Batch:
    raise AssertionError("what is sampled one by one is no rollout to prepare")


def due(experience: Replay) -> list[Batch]:
    return [selection.batch() for selection in experience.selections(never)]


def rows(log: Log) -> Tensor:
    return log.read(log.first, log.end)


@dataclass
class World:
    """Sub-environments that stack images of noise; episodes end by chance, and sometimes a checkpoint ends all of them."""

    members: int
    envs: int
    planes: int
    first: str
    ends: float
    checkpoints: float = 0.1

    def steps(self, number: int, seed: int = 0) -> Iterator[Transition]:
        draw = torch.Generator().manual_seed(seed)

        def images(*shape: int) -> Tensor:
            # few values, so that planes are also equal by chance
            return torch.randint(2, (self.members, self.envs, *shape, *SIDES), dtype=torch.uint8, generator=draw)

        def reset() -> Tensor:
            stacks = images(self.planes)
            if self.first == "copies":
                stacks = stacks[:, :, -1:].expand_as(stacks).clone()
            elif self.first == "zeros":
                stacks[:, :, :-1] = 0
            return stacks

        seen = reset()
        for step in range(number):
            following = torch.cat([seen[:, :, 1:], images(1)], dim=2)
            terminated, truncated = (torch.rand(2, self.members, self.envs, generator=draw) < self.ends / 2).float()
            checkpoint = float(torch.rand((), generator=draw)) < self.checkpoints
            truncated = torch.ones_like(truncated) if checkpoint else truncated
            name = torch.arange(self.members * self.envs).view(self.members, self.envs) + 1000 * step
            yield {
                "observation": seen,
                "next_observation": following,
                "action": name,
                "reward": name.float(),
                "terminated": terminated,
                "truncated": truncated,
            }
            ended = (terminated + truncated > 0).view(self.members, self.envs, 1, 1, 1)
            seen = torch.where(ended, reset(), following)


worlds = st.builds(
    World,
    members=st.integers(1, 3),
    envs=st.integers(1, 4),
    planes=st.integers(1, 4),
    first=st.sampled_from(FIRST),
    ends=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in other.items():
            assert one[name].dtype == values.dtype
            assert torch.equal(one[name], values), name


@given(world=worlds, more=st.integers(0, 20), steps=st.integers(1, 30), n_step=st.integers(1, 3), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_minibatches_are_those_of_whole_stacks(world: World, more: int, steps: int, n_step: int, seed: int) -> None:
    """Also where the ring goes round, episodes are one step long, and several sub-environments take turns in it."""
    members, size = Population(tuple(range(world.members))), world.envs + more
    frames, whole = (begun(kind, members, world.planes, size, n_step=n_step) for kind in (Frames, Replay))
    for transition in world.steps(steps, seed):
        for experience in (frames, whole):
            experience.extend(transition)
        assert_equal(due(frames), due(whole))


@given(world=worlds, more=st.integers(0, 20), before=st.integers(0, 25), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_it_goes_on_from_its_state_in_any_order_of_members(world: World, more: int, before: int, seed: int) -> None:
    """With the same minibatches and, in the same company, the same states."""
    seeds, size = tuple(range(5, 5 + world.members)), world.envs + more
    frames = begun(Frames, Population(seeds), world.planes, size)
    steps = list(world.steps(before + 12, seed))
    for transition in steps[:before]:
        frames.extend(transition)
        due(frames)
    kept = [split(frames.state_dict(), member) for member in range(world.members)]
    resumed = begun(Frames, Population(seeds), world.planes, size)
    resumed.load_state_dict(stack(kept))
    swapped = begun(Frames, Population(seeds[::-1]), world.planes, size)
    swapped.load_state_dict(stack(kept[::-1]))
    for transition in steps[before:]:
        frames.extend(transition)
        resumed.extend(transition)
        swapped.extend({name: values.flip(0) for name, values in transition.items()})
        batches = due(frames)
        assert_equal(due(resumed), batches)
        assert_equal(due(swapped), [{name: values.flip(0) for name, values in batch.items()} for batch in batches])
    one, other = frames.state_dict(), resumed.state_dict()
    assert one["lengths"].tolist() == other["lengths"].tolist()
    assert all(torch.equal(rows(left), rows(right)) for left, right in zip(one["planes"], other["planes"], strict=True))


def test_what_a_member_keeps_does_not_depend_on_the_others() -> None:
    world = World(members=2, envs=2, planes=3, first="copies", ends=0.3)
    together = begun(Frames, Population((7, 8)), 3, 20)
    alone = begun(Frames, Population((8,)), 3, 20)
    for transition in world.steps(40):
        together.extend(transition)
        alone.extend({name: values[1:] for name, values in transition.items()})
        assert_equal([{name: values[1:] for name, values in batch.items()} for batch in due(together)], due(alone))
    one, other = split(together.state_dict(), 1), split(alone.state_dict(), 0)
    assert torch.equal(one["lengths"], other["lengths"])
    assert torch.equal(rows(one["planes"][0]), rows(other["planes"][0]))


# ---------------------------------------------------------------- how much it keeps


@pytest.mark.parametrize(
    ("first", "each"),
    [
        # an episode of ten steps shows eleven planes
        ("copies", 11),
        # and one of zeros before them
        ("zeros", 12),
        # or three of their own
        ("others", 14),
    ],
)
def test_each_plane_is_kept_once(first: str, each: int) -> None:
    experience, episodes = begun(Frames, Population((0,)), 4, 1000), 30
    draw = torch.Generator().manual_seed(0)

    def images(number: int) -> Tensor:
        return torch.randint(1, 256, (1, 1, number, *SIDES), dtype=torch.uint8, generator=draw)

    for _ in range(episodes):
        seen = images(4)
        if first != "others":
            seen[:, :, :-1] = seen[:, :, -1:] if first == "copies" else 0
        for _ in range(10):
            following = torch.cat([seen[:, :, 1:], images(1)], dim=2)
            zero = torch.zeros(1, 1)
            names = dict.fromkeys(("action", "reward", "terminated", "truncated"), zero)
            experience.extend({"observation": seen, "next_observation": following, **names})
            seen = following
    state = experience.state_dict()
    assert state["planes_seen"].tolist() == [episodes * each]
    assert len(rows(state["planes"][0])) == episodes * each
    assert not {"observation", "next_observation"} & state["fields"].keys()


def test_long_episodes_need_little_more_than_a_plane_for_each_transition() -> None:
    """One more in 16, which is 0.75 GB of 84 x 84 pixels for 100,000 transitions; the ring stays as long as it was made."""
    experience = begun(Frames, Population((0,)), 4, 1600)
    for transition in World(members=1, envs=4, planes=4, first="copies", ends=0.02, checkpoints=0.0).steps(500):
        experience.extend(transition)
    assert experience.state_dict()["lengths"].tolist() == [1700]


def test_100_000_transitions_of_pixels_are_less_than_a_gigabyte() -> None:
    """By what is laid out for a member: planes 0.75 GB, all other fields a few bytes each. Whole stacks would be 5.6 GB."""
    experience = Frames(100_000, 32, learning_starts=0, train_freq=4, n_step=1, gamma=0.9)
    experience.begin(Population((0,)), Spec((4, 84, 84), 7, observation_dtype=torch.uint8), CartPole(500).relabel)
    seen, zero = torch.zeros(1, 1, 4, 84, 84, dtype=torch.uint8), torch.zeros(1, 1)
    names = dict.fromkeys(("reward", "terminated", "truncated"), zero)
    experience.extend({"observation": seen, "next_observation": seen, "action": zero.long(), **names})
    due(experience)
    experience.state_dict()  # which puts the step into the ring
    assert 100_000 * 84 * 84 <= sum(ring.nbytes for ring in experience._rings) <= 0.76e9
    assert {rows.shape[:2] for rows in experience._rows.values()} == {(1, 100_000)}
    assert sum(rows.nbytes for rows in experience._rows.values()) <= 0.02e9


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_writes_the_planes_since_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the ring goes round many times; what goes on from each gives the same minibatches, and old segments go."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(checkpoint, "SEGMENT_BYTES", 7 * 6)  # so there are several, of seven planes of six bytes
    frames, sizes = begun(Frames, Population((0,)), 3, 40), []
    resumed: Frames | None = None
    for step, transition in enumerate(World(members=1, envs=2, planes=3, first="copies", ends=0.2).steps(200), 1):
        frames.extend(transition)
        batches = due(frames)
        if resumed is not None:
            resumed.extend(transition)
            assert_equal(due(resumed), batches)
        if step % 10 == 0:
            before = {path.name for path in tmp_path.glob("segment-*")}
            planes = int(frames.state_dict()["planes_seen"])
            checkpoint.save([tmp_path], step, [split(frames.state_dict(), 0)])
            named = read_json(tmp_path / checkpoint.MANIFEST)["segments"][-1]
            new = [segment for segment in named if segment[0] not in before]
            assert [(first, end) for _, first, end in new] == pieces(sizes[-1] if sizes else 0, planes, 7)
            sizes.append(planes)
            (state,) = checkpoint.load([tmp_path]) or ()
            resumed = begun(Frames, Population((0,)), 3, 40)
            resumed.load_state_dict(stack([state]))
    kept = [segment for segments in read_json(tmp_path / checkpoint.MANIFEST)["segments"] for segment in segments]
    assert {path.name for path in tmp_path.glob("segment-*")} == {name for name, _, _ in kept}
    assert min(first for _, first, _ in kept) > 0, "the first planes are needed no more"


def pieces(first: int, end: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, end)) for start in range(first, end, size)]


def test_a_truncated_segment_is_a_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older generation has to do where it does not need it; where it does, none can be read."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    frames = begun(Frames, Population((0,)), 3, 200)
    for step, transition in enumerate(World(members=1, envs=1, planes=3, first="copies", ends=0.1).steps(20), 1):
        frames.extend(transition)
        if step % 10 == 0:
            checkpoint.save([tmp_path], step, [{"step": step} | split(frames.state_dict(), 0)])
    older, newer = sorted(tmp_path.glob("segment-*"))
    assert checkpoint.newest(tmp_path) == 20
    newer.write_bytes(newer.read_bytes()[:-9])
    (state,) = checkpoint.load([tmp_path]) or ()
    assert (state["step"], checkpoint.newest(tmp_path)) == (10, 10)
    older.unlink()
    with pytest.raises(ValueError, match=r"no checkpoint that all of .* can be read"):
        checkpoint.load([tmp_path])


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    frames = begun(Frames, Population((0,)), 3, 200)
    first, second = World(members=1, envs=1, planes=3, first="copies", ends=0.1).steps(2)
    frames.extend(first)
    checkpoint.save([tmp_path], 1, [{"step": 1} | split(frames.state_dict(), 0)])
    frames.extend(second)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(DiskError, match=r"segment-0{11}2-.*\.pt cannot be written: No space left on device; make room"):
            checkpoint.save([tmp_path], 2, [{"step": 2} | split(frames.state_dict(), 0)])
    (state,) = checkpoint.load([tmp_path]) or ()
    assert state["step"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_short_episodes_make_the_ring_longer() -> None:
    """One-step episodes show two planes each."""
    experience = begun(Frames, Population((0,)), 4, 320)
    for transition in World(members=1, envs=4, planes=4, first="copies", ends=2.0).steps(400):
        experience.extend(transition)
    (length,) = experience.state_dict()["lengths"].tolist()
    assert 640 <= length <= 640 * 17 / 16


# ---------------------------------------------------------------- what it refuses


def stepped(seen: Tensor, following: Tensor, reward: float = 0.0) -> None:
    experience = begun(Frames, Population((0,)), 4, 10)
    number = torch.full((1, 1), reward)
    rest = dict.fromkeys(("action", "reward", "terminated", "truncated"), number)
    experience.extend({"observation": seen, "next_observation": following, **rest})


def test_a_step_that_does_not_add_one_plane_at_the_end_is_refused() -> None:
    planes = torch.arange(1, 7, dtype=torch.uint8).view(1, 1, 6, 1, 1).expand(1, 1, 6, *SIDES)
    stepped(planes[:, :, :4], planes[:, :, 1:5])
    for following in (planes[:, :, 2:6], planes[:, :, :4], planes[:, :, 1:5].flip(2)):  # two planes, none, the newest first
        with pytest.raises(ValueError, match=r"add one plane at the end; choose experience=replay"):
            stepped(planes[:, :, :4], following)
    # an environment that failed gives zeros and a reward of nan: its member is stopped, and the others go on
    stepped(planes[:, :, :4], torch.zeros_like(planes[:, :, :4]), reward=float("nan"))


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [(["environment=cartpole"], "float32 [4]"), (["environment=gymnasium", "environment.id=goals:Line-v0"], "float32 [5]")],
)
def test_what_is_no_stack_of_images_is_refused_before_training(overrides: list[str], shown: str) -> None:
    with pytest.raises(ConfigError, match=rf"^experience: .*observations are {re.escape(shown)}; choose experience=replay"):
        compose("experience=frames", *overrides)
