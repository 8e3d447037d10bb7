"""Drives unmodified openpi-client against a live server; runs in that package's own environment and prints JSON.

    python openpi_script.py URL KEY

Knows nothing of vlascope's packages: they are not installed there.
"""

import base64
import json
import sys

import numpy as np
import openpi_client.msgpack_numpy  # pyright: ignore[reportMissingImports]
from openpi_client.action_chunk_broker import ActionChunkBroker  # pyright: ignore[reportMissingImports]
from openpi_client.websocket_client_policy import WebsocketClientPolicy  # pyright: ignore[reportMissingImports]


def observation(**more):
    rng = np.random.default_rng(0)
    return {
        "observation/image": rng.integers(0, 256, (96, 128, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (96, 128, 3), dtype=np.uint8),
        "observation/state": rng.standard_normal(8).astype(np.float32),
        "prompt": "put the bowl on the plate",
        **more,
    }


def main(url, key):
    found = {"numpy": np.__version__}
    policy = WebsocketClientPolicy(url, api_key=key)
    metadata = policy.get_server_metadata()
    found["metadata"] = {name: metadata[name] for name in ("protocol", "robot", "action_horizon")}

    first = policy.infer(observation(seed=3))
    found["shape"], found["dtype"] = list(first["actions"].shape), str(first["actions"].dtype)
    found["same"] = bool(np.array_equal(first["actions"], policy.infer(observation(seed=3))["actions"]))
    found["finite"] = bool(np.isfinite(first["actions"]).all())

    try:
        policy.infer({"prompt": "an observation without images"})
    except RuntimeError as error:
        found["error"] = str(error)
    found["after_error"] = list(policy.infer(observation())["actions"].shape)

    tickets = [
        policy.infer(observation(collect_latents=True, episode={"id": "from-openpi"}, timestep=t))["latents"]["frame"]
        for t in (0, 5)
    ]
    found["tickets"] = tickets
    end = {"request": "end_episode", "episode": {"id": "from-openpi"}, "success": True, "total_steps": 6}
    found["end"] = policy.infer(end)

    broker = ActionChunkBroker(policy, action_horizon=5)
    found["broker"] = [list(broker.infer(observation())["actions"].shape) for _ in range(7)]

    message = {
        **observation(count=np.int64(3), scale=np.float32(0.5), names=["a", "b"]),
        "nested": {"x": np.zeros((2, 0))},
    }
    found["packed"] = base64.b64encode(openpi_client.msgpack_numpy.packb(message)).decode()
    print(json.dumps(found))


main(*sys.argv[1:])
