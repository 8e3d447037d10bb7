"""What a policy captures is what a reader finds: the tiny policy, a run on disk, and back."""

from __future__ import annotations

import jax
import numpy as np
from vlascope_latents import COMPONENTS, CaptureSpec, plan_capture
from vlascope_latents.store import LatentStore, RunWriter
from vlascope_server.checkpoints import load_checkpoint
from vlascope_server.model import sample_actions

from tests.server.small_models import random_inputs

STEPS = 3
SPEC = CaptureSpec(components=COMPONENTS, layers=(0, 7), spans=("text", "action"))


def test_capture_to_store(tmp_path):
    policy = load_checkpoint("tiny")
    layout = policy.config.layout(STEPS)
    plan = plan_capture(SPEC, layout)
    captured = []
    with RunWriter.create(tmp_path, "tiny", layout) as run:
        episode = run.open_episode("task3-ep0", {"task_id": 3, "task_name": "open the drawer"}, plan)
        for timestep in (0, 5):
            observation, noise = random_inputs(policy.config, seed=timestep)
            actions, latents = sample_actions(
                policy.params, policy.config, observation, noise, num_steps=STEPS, capture=SPEC
            )
            frame = {path: np.asarray(array[0]) for path, array in jax.device_get(latents).items()}
            assert sum(array.nbytes for array in frame.values()) == plan.nbytes
            episode.append(frame, timestep=timestep, values={"actions": np.asarray(actions[0])})
            captured.append(frame)
        assert episode.seal(success=True, total_steps=6) == 2

    store = LatentStore(tmp_path)
    for tensor in plan.tensors:
        expert, component = tensor.path.split("/")
        found = store.select(expert, component).array()
        expected = np.stack([frame[tensor.path] for frame in captured]).astype(np.float32)
        np.testing.assert_array_equal(found, expected, err_msg=tensor.path)
    text = store.select("vlm", "hidden_states", layers=[7], span="text", timesteps=[5])
    assert text.shape == (1, 1, policy.config.max_token_len, policy.config.vlm.width)
