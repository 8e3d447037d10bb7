"""`sample` draws exact strata, equal for equal seeds, takes the frames that were asked for, and refuses with the numbers."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest
from vlascope_datasets import DamagedError, DatasetError
from vlascope_datasets.commands import main
from vlascope_datasets.sampling import PLAN, read_plan
from vlascope_datasets.sampling.choosing import choose
from vlascope_datasets.sampling.places import parse_places
from vlascope_datasets.sampling.words import in_words
from vlascope_datasets.survey import EpisodeFacts, Facts, gather

from tests.datasets.dataset_fixtures import TASKS, length, one_line, write


def facts_of(counts, frames=18):
    """Of episodes of tasks by number, one task after the other; `frames` of all or of each."""
    tasks = [task for task, count in counts.items() for _ in range(count)]
    lengths = [frames] * len(tasks) if isinstance(frames, int) else frames
    episodes = [
        EpisodeFacts(f"{n}.npz", f"{n}.npz", 100, length, task, digest=str(n))
        for n, (task, length) in enumerate(zip(tasks, lengths, strict=True))
    ]
    return Facts("NPZ", "/data/it", 100 * len(tasks), episodes)


def plan_of(facts, episodes, frames="0,25,50,75,100%", seed=0, **options):
    return choose(facts, episodes, parse_places(frames), seed=seed, provenance={}, **options)


def chosen(plan):
    return {stratum.name: stratum.chosen for stratum in plan.strata}


def npz(folder, count, frames=6, **further):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for n in range(count):
        side = "left" if n % 2 else "right"
        np.savez(folder / f"episode_{n:03d}_go_{side}.npz", action=rng.normal(size=(frames, 2)), **further)
    return folder


@pytest.mark.parametrize("percent", [0, 12.5, 25, 33.3, 50, 75, 99.999, 100])
def test_a_percent_is_the_nearest_frame_and_the_earlier_of_two(percent):
    (place,) = parse_places(f"{percent}%")
    for frames in (*range(1, 40), 500):
        # thousandths of a percent times frames are whole numbers, so nothing is rounded
        off = np.abs(np.arange(frames) * 100_000 - round(percent * 1000) * (frames - 1))
        assert place.frame(frames) == int(off.argmin())  # argmin takes the first of equals


def test_the_reference_plan():
    plan = plan_of(facts_of({"left": 250, "right": 250}), 100, width=2048)
    assert chosen(plan) == {"left": 50, "right": 50}
    assert {tuple(episode.frames) for episode in plan.episodes} == {(0, 4, 8, 13, 17)}
    assert (plan.cost.frames, plan.cost.vector_bytes, plan.cost.read_bytes) == (500, 500 * 2048 * 4, 100 * 100)
    assert sum(int(episode.name.removesuffix(".npz")) < 250 for episode in plan.episodes) == 50
    assert (
        plan_of(facts_of({"left": 250, "right": 250}), 100, width=2048, dtype="bfloat16").cost.vector_bytes
        == 500 * 4096
    )


def test_a_draw_follows_from_its_seed_and_grows_with_its_number():
    facts = facts_of({"a": 40, "b": 30})
    names = [
        {episode.name for episode in plan_of(facts, n, seed=s).episodes}
        for n, s in ((20, 0), (20, 0), (20, 1), (30, 0))
    ]
    assert names[0] == names[1] != names[2]
    assert names[0] < names[3]  # shares of 15 hold those of 10
    # what is drawn of one task does not depend on the others
    alone = {episode.name for episode in plan_of(facts_of({"a": 40}), 10).episodes}
    assert alone == {name for name in names[0] if int(name.removesuffix(".npz")) < 40}


def test_every_episode_is_drawn_as_often():
    facts = facts_of({"a": 10})
    drawn = np.zeros(10)
    for seed in range(600):
        for episode in plan_of(facts, 3, "0", seed=seed).episodes:
            drawn[episode.number] += 1
    # binomial: 600 draws of 3 in 10, five standard deviations
    assert np.abs(drawn - 180).max() < 5 * np.sqrt(600 * 0.3 * 0.7)


def test_proportional_shares_are_by_largest_remainder():
    # the textbook example of Hamilton's method: quotas 4.70, 1.60, 1.58, 1.20, 0.60, 0.31 of 10 seats among 100,000 votes
    votes = {"yellow": 47_000, "white": 16_000, "red": 15_900, "green": 12_000, "blue": 6_000, "pink": 3_100}
    facts = facts_of({name: count // 100 for name, count in votes.items()})
    with pytest.raises(DatasetError) as error:  # pink's seat is none
        plan_of(facts, 10, share="proportional")
    one_line(error, "10 episodes", "1 of 6", "'pink'", "31 of 1000", "--share equal")
    for n in (30, 77, 100, 999):
        plan = plan_of(facts, n, share="proportional")
        assert sum(chosen(plan).values()) == n
        assert all(abs(s.chosen - n * s.eligible / 1000) < 1 for s in plan.strata)
    facts = facts_of({name: count // 100 for name, count in votes.items() if name != "pink"} | {"grey": 31})
    assert chosen(plan_of(facts, 20, share="proportional")) == {
        "yellow": 9, "white": 3, "red": 3, "green": 3, "blue": 1, "grey": 1
    }  # fmt: skip


def test_too_few_of_a_stratum_are_refused_with_the_numbers():
    facts = facts_of({"a": 30, "b": 8, "c": 20})
    facts.episodes[35].report("unreadable", "x")
    with pytest.raises(DatasetError) as error:
        plan_of(facts, 30)
    one_line(error, "30 episodes are 10 of each task", "'b' has 7 that can be sampled, of 8", "use 21", "proportional")
    with pytest.raises(DatasetError) as error:
        plan_of(facts, 31)
    one_line(error, "31", "3 tasks", "use 21", "or --share proportional")
    with pytest.raises(DatasetError) as error:
        plan_of(facts, 58, share="proportional")
    one_line(error, "58 episodes", "57 of its 58", "at most 57")
    plan = plan_of(facts, 57, share="proportional")
    assert chosen(plan) == {"a": 30, "b": 7, "c": 20}
    assert [(each.name, each.reason) for each in plan.left_out] == [("35.npz", "cannot be read")]


@pytest.mark.parametrize(
    ("frames", "parts"),
    [
        ("0,101%", ["101", "0 to 100"]),
        ("0,half%", ["'half%'", "0,25,50,75,100%"]),
        ("0,25%,50", ["sign behind"]),
        ("0%,25,50%", ["sign behind"]),
        ("25,25.0%", ["25% is given twice"]),
        ("0-4,3", ["3 is given twice"]),
        ("", ["expected percents"]),
        ("1.5", ["expected percents"]),
        ("-1", ["expected percents"]),
        ("0-20000", ["at most 10000", "20001"]),
    ],
)
def test_places_that_are_none(frames, parts):
    with pytest.raises(DatasetError) as error:
        parse_places(frames)
    one_line(error, repr(frames), *parts)


def test_a_file_that_cannot_be_read_makes_no_task_of_its_own(tmp_path):
    folder = npz(tmp_path / "it", 4)
    (folder / "turn_down_9.npz").write_bytes(b"PK nothing")
    assert main(["sample", str(folder), "--episodes", "2", "--out", str(tmp_path)]) == 0
    plan = read_plan(tmp_path)
    assert len(plan.strata) == 2
    assert [(each.name, each.reason) for each in plan.left_out] == [("turn_down_9.npz", "cannot be read")]


@pytest.mark.parametrize("share", ["equal", "proportional"])
def test_numbers_that_errors_advise_are_possible(share):
    rng = np.random.default_rng(0)
    for _ in range(60):
        facts = facts_of({str(n): int(rng.integers(1, 12)) for n in range(int(rng.integers(1, 6)))})
        try:
            plan_of(facts, int(rng.integers(1, 40)), share=share)
        except DatasetError as error:
            advice = str(error).rpartition("; ")[2]
            assert "no number is possible" not in advice
            for part in advice.split(", or "):
                other = part.startswith("--share equal")
                for number in re.findall(r"\d+", part):
                    plan_of(facts, int(number), share="equal" if other else share)


def test_where_no_number_is_possible_none_is_advised():
    facts = facts_of({"a": 3, "b": 1}, [6, 6, 6, 0])
    facts.episodes[3].report("empty", "x")
    for share in ("equal", "proportional"):
        for number in (1, 2, 3, 9):
            with pytest.raises(DatasetError) as error:
                plan_of(facts, number, share=share)
            one_line(error, "no number is possible")


def test_places_are_taken_in_ascending_order():
    assert [place.text for place in parse_places("100, 0,12.5%")] == ["0%", "12.5%", "100%"]
    assert [place.text for place in parse_places("0%,50%")] == ["0%", "50%"]
    assert [place.text for place in parse_places("7,0-2")] == ["0", "1", "2", "7"]


def test_short_episodes_give_each_frame_once_and_those_that_end_too_early_none():
    facts = facts_of({"a": 4}, [1, 3, 9, 9])
    plan = plan_of(facts, 4)
    assert [episode.frames for episode in plan.episodes[:3]] == [[0], [0, 1, 2], [0, 2, 4, 6, 8]]
    assert plan.episodes[0].places == [["0%", "25%", "50%", "75%", "100%"]]
    assert plan.episodes[1].places == [["0%", "25%"], ["50%", "75%"], ["100%"]]
    assert plan.cost.frames == 14
    assert "2 of the chosen episodes are so short" in in_words(plan)
    plan = plan_of(facts, 2, "0,5")
    assert [(episode.number, episode.frames) for episode in plan.episodes] == [(2, [0, 5]), (3, [0, 5])]
    assert [each.reason for each in plan.left_out] == ["1 frame, none with number 5", "3 frames, none with number 5"]
    with pytest.raises(DatasetError) as error:
        plan_of(facts, 3, "0,5")
    one_line(error, "has 2 that can be sampled, of 4")
    with pytest.raises(DatasetError) as error:
        plan_of(facts, 3, "9")
    one_line(error, "none of its 4 episodes", "9 frames, none with number 9")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_lerobot_dataset(version, tmp_path):
    path = write(tmp_path / "it", version, episodes=8)
    out = tmp_path / "out"
    assert main(["sample", str(path), "--episodes", "4", "--frames", "0,50,100%", "--out", str(out)]) == 0
    plan = read_plan(out)
    assert chosen(plan) == dict.fromkeys(sorted(TASKS), 2)
    for episode in plan.episodes:
        n = length(episode.number)
        assert (episode.name, episode.length) == (f"episode {episode.number}", n)
        assert episode.stratum == TASKS[episode.number % 2]
        assert episode.frames == [0, (n - 1) // 2, n - 1]
    assert plan.dataset.format == f"LeRobot {version}"
    assert (plan.cost.vector_width, plan.cost.vector_bytes) == (None, None)
    assert "nobody said how wide a vector is" in (out / "SAMPLING_PLAN.md").read_text()


def test_folders_of_hdf5_and_npz_by_direction(tmp_path):
    folder = npz(tmp_path / "it", 6)
    np.savez(folder / "stand_still.npz", action=np.zeros((6, 2)))
    (folder / "episode_9_go_left.h5").write_bytes(b"\x89HDF nothing")
    with h5py.File(folder / "turn_left_demo.hdf5", "w") as file:
        for n in range(2):
            file[f"data/demo_{n}/actions"] = np.random.default_rng(n).normal(size=(6, 2))
    assert main(["sample", str(folder), "--episodes", "6", "--by", "direction", "--out", str(tmp_path)]) == 0
    plan = read_plan(tmp_path / PLAN)
    assert [(s.name, s.episodes, s.eligible, s.chosen) for s in plan.strata] == [("left", 6, 5, 3), ("right", 3, 3, 3)]
    assert {each.name: each.reason for each in plan.left_out} == {
        "episode_9_go_left.h5": "cannot be read", "stand_still.npz": "nothing says its direction"
    }  # fmt: skip
    assert main(["sample", str(folder), "--episodes", "8", "--by", "direction", "--share", "proportional",
        "--out", str(tmp_path), "--overwrite"]) == 0  # fmt: skip
    names = {episode.name for episode in read_plan(tmp_path).episodes}
    assert {"turn_left_demo.hdf5:demo_0", "turn_left_demo.hdf5:demo_1"} < names


def test_equal_seeds_write_equal_plans_but_for_provenance(tmp_path):
    folder = npz(tmp_path / "it", 20)
    written = []
    for out, seed in (("one", 7), ("two", 7), ("three", 8)):
        assert main(["sample", str(folder), "--episodes", "6", "--seed", str(seed), "--out", str(tmp_path / out)]) == 0
        text, words = (tmp_path / out / PLAN).read_text(), (tmp_path / out / "SAMPLING_PLAN.md").read_text()
        written.append((text[: text.index('"provenance"')], words[: words.index("## Made with")]))
    assert written[0] == written[1]
    assert json.loads((tmp_path / "one" / PLAN).read_text())["provenance"]["configuration"].items() >= {
        "out": str(tmp_path / "one"), "seed": 7, "width": None, "overwrite": False
    }.items()  # fmt: skip
    assert all(one != other for one, other in zip(written[0], written[2], strict=True))


def test_the_fingerprint_is_of_the_numbers(tmp_path):
    found = []
    for name, frames, image in (("a", 6, 0), ("b", 6, 1), ("c", 7, 0)):
        pixels = np.full((frames, 4, 4, 3), image, np.uint8)
        found.append(plan_of(gather(npz(tmp_path / name, 4, frames, image=pixels)), 2).dataset.fingerprint)
    assert found[0] == found[1] != found[2]


def test_a_plan_is_not_replaced_unless_told(tmp_path, capsys):
    folder, out = npz(tmp_path / "it", 4), tmp_path / "out"
    assert main(["sample", str(folder), "--episodes", "2", "--out", str(out)]) == 0
    before = [(out / name).read_bytes() for name in (PLAN, "SAMPLING_PLAN.md")]
    capsys.readouterr()
    assert main(["sample", str(folder), "--episodes", "4", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert PLAN in line
    assert "--overwrite" in line
    assert [(out / name).read_bytes() for name in (PLAN, "SAMPLING_PLAN.md")] == before
    assert main(["sample", str(folder), "--episodes", "4", "--out", str(out), "--overwrite"]) == 0
    assert len(read_plan(out).episodes) == 4


@pytest.mark.parametrize(
    "args",
    [
        ["none"],
        ["empty"],
        ["it", "--episodes", "3"],
        ["it", "--frames", "6"],
        ["it", "--width", "0"],
        ["it", "--seed", "-1"],
        ["it", "--seed", str(2**53 + 1)],
        ["it", "--width", "9" * 20],
        ["it", "--out", "it/episode_000_go_right.npz"],
        ["it", "--out", "it/episode_000_go_right.npz/further"],
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(args, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    npz(tmp_path / "it", 4)
    path, *further = args
    given = {"--episodes": "2", "--out": str(tmp_path / "out")} | dict(zip(further[::2], further[1::2], strict=True))
    words = [word for pair in given.items() for word in pair]
    assert main(["sample", str(tmp_path / path), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vlascope-datasets: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda plan: plan.update(version=2), ["version 2"]),
        (lambda plan: plan.pop("seed"), ["lacks 'seed'"]),
        (lambda plan: plan.update(share="some"), ["share", "'equal' or 'proportional'", '"some"']),
        (lambda plan: plan.update(episodes=[]), ["episodes", "not empty"]),
        (lambda plan: plan["episodes"].pop(), ["stratum", "says"]),
        (lambda plan: plan["episodes"].append(plan["episodes"][0]), ["stands in it twice"]),
        (lambda plan: plan["episodes"][0]["frames"].__setitem__(-1, 6), ["frame 6 of an episode of 6"]),
        (lambda plan: plan["episodes"][0].update(places=[["0%"]] * 4), ["places"]),
        (lambda plan: plan["episodes"][0].update(stratum="up"), ["'up'"]),
        (lambda plan: plan["cost"].update(frames=3), ["cost.frames is 3"]),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(change, parts, tmp_path):
    main(
        ["sample", str(npz(tmp_path / "it", 4)), "--episodes", "2", "--out", str(tmp_path), "--frames", "0,33,67,100%"]
    )
    plan = json.loads((tmp_path / PLAN).read_text())
    assert read_plan(tmp_path).seed == 42
    change(plan)
    (tmp_path / PLAN).write_text(json.dumps(plan))
    with pytest.raises(DamagedError) as error:
        read_plan(tmp_path)
    one_line(error, tmp_path / PLAN, *parts)


def test_no_plan(tmp_path):
    with pytest.raises(DatasetError) as error:
        read_plan(tmp_path)
    one_line(error, PLAN, "missing")


def test_words_of_a_task_break_no_table(tmp_path):
    words = in_words(plan_of(facts_of({"a | b\nc": 2}), 2))
    assert r"| a \| b\nc | 2 | 2 | 2 | 10 |" in words
