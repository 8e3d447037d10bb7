"""A capture knows the contract of policies alone: policies in numpy, of another robot, are captured by the same code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from vlascope_base.progress import silent
from vlascope_latents import CaptureSpec
from vlascope_latents.store import LatentStore, verify
from vlascope_server.capturing.capture import capture, opened_run, prepare_capture
from vlascope_server.capturing.options import CaptureOptions
from vlascope_server.policies.checked import PolicyFaultError
from vlascope_server.policies.contract import RequestShape, plan_request

from tests.server.capturing.saved import INSTRUCTION, readings, save
from tests.server.policies.decoding_policy import STEPS, DecodingPolicy
from tests.server.policies.linear_policy import LinearPolicy


@pytest.fixture
def seen(tmp_path) -> Path:
    """Saved observations of the arm that these policies are for: one camera, three numbers."""
    for episode in range(2):
        path = save(tmp_path / "seen", episode, robot="arm", width=3, capture_spec=None)
        with np.load(path) as found:
            arrays = dict(found)
        about = json.loads(str(arrays["about"]))
        about["observation"] = {"image": "image", "state": "state"}
        np.savez_compressed(path, **{**arrays, "about": np.array(json.dumps(about))})
    return tmp_path / "seen"


def test_what_breaks_the_contract_is_not_stored(seen, tmp_path):
    policy, options = LinearPolicy(), CaptureOptions(checkpoint="mine", observations=seen, store=tmp_path, min_free=1)
    policy.robot_actions = lambda actions, prepared: np.full(actions.shape, np.nan, np.float32)
    prepared = prepare_capture(lambda: policy, options, silent)
    with (
        pytest.raises(PolicyFaultError, match=r"^policy, robot_actions: expected finite numbers, found 8 of 8 not$"),
        opened_run(prepared) as run,
    ):
        capture(prepared, run, lambda *report: None)
    assert sum(episode.frames for episode in LatentStore(tmp_path).episodes(attempts="all")) == 0


@pytest.mark.parametrize("policy", [LinearPolicy(), DecodingPolicy()], ids=["linear", "decoding"])
def test_what_the_policy_computes_is_stored(seen, tmp_path, policy):
    options = CaptureOptions(checkpoint="mine", observations=seen, store=tmp_path / "runs", batch_size=4, min_free=1)
    prepared = prepare_capture(lambda: policy, options, silent)
    reports = []
    with opened_run(prepared) as run:
        captured = capture(prepared, run, lambda *report: reports.append(report[:2]))
    assert (captured.frames, captured.episodes) == (6, 2)
    assert reports == [(4, 6), (6, 6)]
    store = LatentStore(tmp_path / "runs")
    episodes = store.episodes()
    assert [str(problem) for problem in verify(episodes)] == []
    # `usual_spec`: hidden states where there are any, everything where there are none
    spec = CaptureSpec(components="all") if isinstance(policy, DecodingPolicy) else CaptureSpec()
    plan = plan_request(spec, policy.layout)
    assert set(episodes[0].tensors()) == {tensor.path for tensor in plan.tensors}
    program = policy.compile(RequestShape(plan), 1)
    for episode in (0, 1):
        name = f"libero_object-task03-episode{episode:03d}"
        for frame, inference in enumerate((0, 2, 4)):
            saw = readings(episode, inference, width=3)
            one = policy.prepare({"image": saw.image, "state": saw.state, "prompt": INSTRUCTION})
            outcome = program.run([one], [policy.draw(1000 * episode + inference)])
            for tensor in plan.tensors:
                selection = store.select(*tensor.path.split("/"), episodes=[name])
                np.testing.assert_allclose(
                    selection.array()[frame], np.asarray(outcome.latents[tensor.path])[0], rtol=1e-6
                )
                np.testing.assert_allclose(
                    selection.values("actions")[frame], np.asarray(outcome.actions)[0], rtol=1e-6
                )
            if isinstance(policy, DecodingPolicy):
                steps = selection.values("decode_steps/decoder")
                assert 1 <= steps[frame] == np.asarray(outcome.decode_steps["decoder"])[0] <= STEPS
                assert selection.values("noise_seed")[frame] == 1000 * episode + inference
            else:  # it draws nothing
                assert selection.values("noise_seed")[frame] == -1
