"""A policy of one's own, in numpy alone: two layers make actions of a picture's brightness and the robot's state."""

import dataclasses
import hashlib

import numpy as np
from vlascope_latents import ModelLayout
from vlascope_latents.layout import Component, ExpertLayout, Span
from vlascope_latents.site_values import site_value
from vlascope_server.policies.contract import Outcome, PolicyFacts, Prepared, Program
from vlascope_server.robots import RobotSpec
from vlascope_server.robots.fields import take_image, take_prompt, take_vector

ROBOT = RobotSpec("arm", {"front": "image"}, state_dim=3, action_dim=2, gripper="1 closes", delta_mask=())
HORIZON, WIDTH = 4, 8


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Seen(Prepared):
    """What the policy sees: brightness and state, [4]."""

    inputs: np.ndarray


class LinearPolicy:
    """Two layers of `WIDTH`; keeps the contract of `vlascope_server.policies.contract.Policy`."""

    def __init__(self, seed: int = 0):
        draw = np.random.default_rng(seed).standard_normal
        self.weights = [draw((4, WIDTH)), draw((WIDTH, WIDTH)), draw((WIDTH, HORIZON * ROBOT.action_dim))]
        self.fingerprint = hashlib.sha256(b"".join(w.tobytes() for w in self.weights)).hexdigest()[:16]
        self.facts = PolicyFacts(
            name="linear", model="linear", description="two layers", source=f"drawn from seed {seed}", robot=ROBOT,
            image_size=64, action_horizon=HORIZON,
        )  # fmt: skip
        hidden = Component("hidden_states", (("layer", 2), ("feature", WIDTH)), "float32")
        moments = Component("moments", (("layer", 2), ("moment", 2)), "float32")
        spans = (Span("image/front", 0, 1), Span("state", 1, 4))
        self.layout = ModelLayout((ExpertLayout("reflex", 2, WIDTH, spans, (hidden, moments), outputs=("all",)),))

    def prepare(self, observation):
        """Checks an observation and takes out what the policy sees; what is wrong is a RobotInputError of one line."""
        brightness = take_image(observation, "image").mean() / 255
        state = take_vector(observation, "state", ROBOT.state_dim)
        return Seen(prompt=take_prompt(observation), robot_state=state, inputs=np.array([brightness, *state]))

    def draw(self, seed):
        """Nothing: the same observation gives the same actions."""
        return None

    def compile(self, shape, size):
        """The program of a shape: there is nothing to compile, only what is kept differs."""

        def run(prepared, drawn):
            first = np.tanh(np.stack([seen.inputs for seen in prepared]) @ self.weights[0])
            second = np.tanh(first @ self.weights[1])
            hidden = np.stack([first, second], axis=1)
            moments = np.stack([hidden.mean(axis=-1), np.square(hidden).mean(axis=-1)], axis=-1)
            values = {"hidden_states": hidden, "moments": moments}
            sites = shape.capture.sites if shape.capture else ()
            kept = {site.path: site_value(site, values[site.component]) for site in sites}
            return Outcome((second @ self.weights[2]).reshape(-1, HORIZON, ROBOT.action_dim), kept)

        return Program(size, run)

    def robot_actions(self, actions, prepared):
        """As they are: the robot moves relative to where it is."""
        return actions.astype(np.float32)
