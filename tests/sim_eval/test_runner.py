"""What becomes of episodes that are lost; over an engine of our own, as a cluster's would be."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import re
import time

import pytest
from rich.console import Console
from vlascope_client import Backoff, PolicyClient, PolicyConnectionError
from vlascope_sim.errors import RolloutError
from vlascope_sim.rollout.campaign import EpisodeKey
from vlascope_sim.rollout.progress import CampaignProgress
from vlascope_sim.rollout.runner import CampaignFolder, run_campaign
from vlascope_sim.rollout.workers import Beat, Event, Finished, Job, Lost, Refused

from tests.sim_eval.campaigns import ASSETS, campaign, row

POLICY = {"checkpoint": "x", "fingerprint": "f"}
OTHER = dataclasses.replace(ASSETS, hash="other")


class ScriptedWorkers:
    """Runs two jobs at a time; `fate` says what becomes of each."""

    def __init__(self, ours, fate):
        self.ours, self.fate = ours, fate
        self.running: collections.deque[Job] = collections.deque()
        self.ran: list[Job] = []
        self.closed = False

    def idle(self) -> int:
        return 2 - len(self.running)

    def submit(self, job: Job) -> None:
        assert self.idle() > 0
        self.running.append(job)
        self.ran.append(job)

    def poll(self, seconds: float) -> list[Event]:
        job = self.running.popleft()
        fate = self.fate(job)
        if fate == "done":
            return [Beat(job, 4), Finished(job, row(self.ours, job.key, job.attempt, fingerprint="f"))]
        return [Refused(job, "bad spec")] if fate == "refused" else [Lost(job, fate)]

    def close(self) -> None:
        self.closed = True


def run(ours, output, fate, **folder):
    workers = ScriptedWorkers(ours, fate)
    said = io.StringIO()
    with CampaignFolder(ours, output, **folder) as prepared, CampaignProgress(4, [], Console(file=said)) as progress:
        summary = run_campaign(prepared, ASSETS, lambda: workers, progress, POLICY)
    return summary, workers, said.getvalue()


def test_a_lost_episode_is_tried_again_and_then_an_error(tmp_path):
    ours = campaign(episodes=(0, 1, 2, 3))
    fate = {EpisodeKey(0, 1): ["worker died", "done"], EpisodeKey(0, 2): ["a", "b", "c", "done"]}
    summary, workers, said = run(ours, tmp_path, lambda job: fate.get(job.key, ["done"] * 4).pop(0))
    assert (summary["suite"]["episodes"], summary["suite"]["errors"], summary["suite"]["missing"]) == (3, 1, 0)
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    tried = [(r["episode_index"], r["attempt"], r["status"], r["reason"]) for r in rows if r["episode_index"] in (1, 2)]
    assert sorted(tried) == [
        (1, 1, "lost", "worker died"), (1, 2, "done", None),
        (2, 1, "lost", "a"), (2, 2, "lost", "b"), (2, 3, "error", "c"),
    ]  # fmt: skip
    assert workers.closed
    assert "attempt 1: worker died; again" in said


def on_a_terminal(act) -> str:
    """All that a terminal of 80 columns is sent by the progress of a campaign of four episodes, without colours."""
    screen = io.StringIO()
    with CampaignProgress(4, [], Console(file=screen, width=80, force_terminal=True, color_system=None)) as progress:
        act(progress)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


def test_while_scenes_are_built_the_bar_says_so():
    job = Job(EpisodeKey(0, 0), 1)
    shown = on_a_terminal(lambda progress: progress.beat(Beat(job, 0)))
    assert "workers start and build their scenes" in shown
    assert "steps/s" not in shown

    def steps(progress):
        progress.beat(Beat(job, 5))
        time.sleep(1.1)
        progress.beat(Beat(job, 27))

    last = on_a_terminal(steps).rpartition("episodes")[2]
    assert "workers start" not in last
    assert re.search(r"\b(1[0-9]|20) steps/s", last), "22 steps in 1.1 s: those before the first sign count for nothing"


def test_a_server_that_is_gone_is_one_line_that_changes(caplog):
    def waits(progress):
        with pytest.raises(PolicyConnectionError):
            PolicyClient("ws://127.0.0.1:1", retries=2, backoff=Backoff(first=0.1, cap=0.1)).connect()

    with caplog.at_level("INFO"):
        shown = on_a_terminal(waits)
    assert "no server answers, 0 s so far; trying again" in " ".join(shown.split())
    assert "127.0.0.1" not in shown
    with caplog.at_level("INFO"):
        waits(None)
    assert [record.getMessage()[:18] for record in caplog.records] == ["no server answered", "still no server af"]


def test_on_a_terminal_the_words_of_a_lost_attempt_are_whole():
    text = "libero_object-task00-episode000, attempt 1: EpisodeInterruptedError: the server seals it with the frames it has"
    lines = on_a_terminal(lambda progress: progress.note(text)).replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= 80
    assert set(text.split()) <= {word for line in lines for word in line.split()}


def test_resume_runs_what_is_missing_and_errors_only_when_asked(tmp_path):
    ours = campaign(episodes=(0, 1, 2, 3))
    fate = {EpisodeKey(0, 0): "hung"}
    run(campaign(episodes=(0, 1)), tmp_path, lambda job: fate.get(job.key, "done"))
    _, workers, _ = run(ours, tmp_path, lambda job: "done")
    assert [job.key.episode for job in workers.ran] == [2, 3]
    _, workers, _ = run(ours, tmp_path, lambda job: "done", retry_errors=True)
    assert workers.ran == [Job(EpisodeKey(0, 0), 4)]
    # what ran is described as it was then, though today's versions may be others
    (tmp_path / "provenance.json").write_text("then")
    summary, workers, _ = run(ours, tmp_path, lambda job: "done")
    assert workers.ran == []
    assert (tmp_path / "provenance.json").read_text() == "then"
    assert (summary["suite"]["episodes"], summary["suite"]["errors"]) == (4, 0)


def test_what_cannot_run_stops_the_campaign_and_keeps_its_results(tmp_path):
    ours = campaign(episodes=(0, 1, 2))
    with pytest.raises(RolloutError, match="bad spec"):
        run(ours, tmp_path, lambda job: "refused" if job.key.episode == 1 else "done")
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "summary.json").read_text())["suite"]["missing"] == 2


def test_losing_everything_stops_too(tmp_path):
    with pytest.raises(RolloutError, match="24 attempts in a row were lost, the last because: dead"):
        run(campaign(episodes=tuple(range(50))), tmp_path, lambda job: "dead")


def test_two_rollouts_do_not_share_a_folder(tmp_path):
    with (
        CampaignFolder(campaign(), tmp_path),
        pytest.raises(RolloutError, match="another rollout"),
        CampaignFolder(campaign(), tmp_path),
    ):
        pass


def test_a_folder_has_the_results_of_one_campaign(tmp_path):
    run(campaign(), tmp_path, lambda job: "done")
    with (
        pytest.raises(
            RolloutError, match=f"{tmp_path}: holds results of campaign ours, this is another; choose another folder"
        ),
        CampaignFolder(campaign(id="another"), tmp_path),
    ):
        pass
    run(campaign(), tmp_path, lambda job: "done")  # the lock is free, and its own campaign goes on


@pytest.mark.parametrize(
    ("assets", "policy", "message"),
    [(ASSETS, {"fingerprint": "g"}, "of policy f, this would be g"), (OTHER, POLICY, "of assets 0123456789abcdef")],
)
def test_another_policy_or_other_assets_do_not_continue_a_campaign(tmp_path, assets, policy, message):
    run(campaign(), tmp_path, lambda job: "done")
    with CampaignFolder(campaign(), tmp_path) as prepared, pytest.raises(RolloutError, match=message):
        run_campaign(prepared, assets, lambda: pytest.fail("started"), CampaignProgress(2, []), policy)
