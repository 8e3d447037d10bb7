"""Room for a frame that is still to come: taken, numbered, filled or given back, and never lost."""

from __future__ import annotations

import threading

import pytest
from vlascope_latents.store import LatentStore, RunWriter, StoreError

from tests.latents.store_fixtures import LAYOUT, frame, plan, values


@pytest.fixture
def run(tmp_path):
    with RunWriter.create(tmp_path, "tiny", LAYOUT) as writer:
        yield writer


def test_a_slot_that_is_filled_later_is_the_frame_that_its_number_says(run, tmp_path):
    episode = run.open_episode("e", {}, plan())
    slots = [episode.reserve() for _ in range(3)]
    assert [slot.number(10 * n, values(n)) for n, slot in enumerate(slots)] == [0, 1, 2]
    for n in (2, 0, 1):  # the order in which the device happens to be done
        slots[n].fill(frame(plan(), n))
    assert episode.seal() == 3
    found = LatentStore(tmp_path).select("vlm", episodes="e")
    assert found.labels["timestep"].tolist() == [0, 10, 20]
    for n in range(3):
        assert (found.array()[n] == frame(plan(), n)["vlm/hidden_states"]).all()


def test_sealing_waits_for_what_has_a_number(run):
    episode = run.open_episode("e", {}, plan())
    slot = episode.reserve()
    slot.number(0, values(0))
    sealed: list[int] = []
    sealing = threading.Thread(target=lambda: sealed.append(episode.seal()))
    sealing.start()
    sealing.join(0.2)
    assert not sealed
    slot.fill(frame(plan(), 0))
    sealing.join(30)
    assert sealed == [1]


def test_room_that_is_given_back_can_be_taken_again(tmp_path):
    size = sum(tensor.nbytes for tensor in plan().tensors)
    with RunWriter.create(tmp_path, "tiny", LAYOUT, memory_bytes=int(1.5 * size), on_full="drop") as run:
        episode = run.open_episode("e", {}, plan())
        first = episode.reserve()
        assert first is not None
        assert episode.reserve() is None
        first.release()
        first.release()  # twice is once
        second = episode.reserve()
        assert second is not None
        second.release()
        assert run.status()["queue_bytes"] == 0
        assert episode.seal() == 0


def test_a_number_that_is_never_filled_fails_the_episode(run):
    episode = run.open_episode("e", {}, plan())
    assert episode.append(frame(plan(), 0), 0, values(0)) == 0
    slot = episode.reserve()
    slot.number(5, values(1))
    slot.release(RuntimeError("the device is gone"))
    with pytest.raises(StoreError, match="the device is gone"):
        episode.append(frame(plan(), 2), 10, values(2))
    with pytest.raises(StoreError, match="1 frame is committed"):
        episode.seal()
    assert episode.state == "interrupted"


def test_a_frame_of_another_shape_fails_the_episode_and_frees_its_room(run):
    episode = run.open_episode("e", {}, plan())
    slot = episode.reserve()
    slot.number(0, values(0))
    with pytest.raises(StoreError, match="expected the tensors"):
        slot.fill({})
    assert run.status()["queue_bytes"] == 0
    with pytest.raises(StoreError):
        episode.seal()


def test_a_value_that_does_not_fit_leaves_the_episode_as_it_was(run):
    episode = run.open_episode("e", {}, plan())
    episode.append(frame(plan(), 0), 0, values(0))
    slot = episode.reserve()
    with pytest.raises(StoreError, match="value extra"):
        slot.number(5, {**values(1), "extra": 1.0})
    slot.release()
    assert episode.append(frame(plan(), 1), 5, values(1)) == 1
    assert episode.seal() == 2
