"""A policy in numpy that reads an instruction word by word and moves by a flow: two experts, padded tokens, a mask, noise."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib

import numpy as np
from vlascope_latents import ModelLayout
from vlascope_latents.layout import Component, ExpertLayout, Span
from vlascope_latents.site_values import site_value
from vlascope_server.policies.contract import Outcome, PolicyFacts, Prepared, Program, draw_noise
from vlascope_server.robots.fields import take_image, take_prompt, take_vector

from tests.server.policies.linear_policy import HORIZON, ROBOT, WIDTH

LAYERS, WORDS, STEPS = 3, 5, 2
TOKENS = 1 + WORDS


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Read(Prepared):
    """What the policy sees: a picture's token and those of the words, [TOKENS], and which of these are real."""

    inputs: np.ndarray
    valid: np.ndarray


class ReadingPolicy:
    """Three layers over words, and two steps of a flow; keeps the contract of `vlascope_server.policies.contract.Policy`."""

    def __init__(self, seed: int = 0):
        draw = np.random.default_rng(seed).standard_normal
        self.embed, self.mix, self.move = (
            draw(WIDTH),
            draw((LAYERS, WIDTH, WIDTH)),
            draw((WIDTH, HORIZON * ROBOT.action_dim)),
        )
        weights = (self.embed, self.mix, self.move)
        self.fingerprint = hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest()[:16]
        self.facts = PolicyFacts(
            name="reading", model="reading", description="three layers over words", source=f"drawn from seed {seed}",
            robot=ROBOT, image_size=32, action_horizon=HORIZON, noise_shape=(HORIZON, ROBOT.action_dim),
        )  # fmt: skip
        token, feature = ("token", TOKENS), ("feature", WIDTH)
        reader = ExpertLayout(
            "reader", LAYERS, WIDTH, (Span("image/front", 0, 1), Span("text", 1, TOKENS)),
            (
                Component("hidden_states", (("layer", LAYERS), token, feature), reach="stream"),
                Component("final_hidden", (token, feature), reach="output"),
            ),
            outputs=("all",),
        )  # fmt: skip
        flow = Component("x_t", (("horizon", HORIZON), ("action", ROBOT.action_dim)), "float32")
        mover = ExpertLayout(
            "mover",
            1,
            2,
            (Span("action", 0, HORIZON),),
            (flow,),
            "denoise",
            STEPS,
            sees=("reader",),
            outputs=("action",),
        )
        self.layout = ModelLayout((reader, mover))

    def prepare(self, observation):
        """Checks an observation and makes numbers of its words, of which those beyond `WORDS` are not seen."""
        prompt, image = take_prompt(observation), take_image(observation, "image")
        state = take_vector(observation, "state", ROBOT.state_dim)
        words = [zlib.crc32(word.encode()) / 2**32 for word in prompt.split()[:WORDS]]
        mask = np.arange(WORDS) < len(words)
        inputs = np.array([image.mean() / 255 + state.sum(), *words, *[0.0] * (WORDS - len(words))])
        return Read(
            prompt=prompt, robot_state=state, values={"prompt_mask": mask}, inputs=inputs, valid=np.array([True, *mask])
        )

    def draw(self, seed):
        """The flow's noise."""
        return draw_noise(seed, self.facts.noise_shape)

    def compile(self, shape, size):
        """The program of a shape: there is nothing to compile, only what is kept differs."""

        def run(prepared, drawn):
            stream = np.stack([seen.inputs for seen in prepared])[..., None] * self.embed
            valid = np.stack([seen.valid for seen in prepared])
            states = []
            for weights in self.mix:
                read = (stream * valid[..., None]).sum(axis=1, keepdims=True) / valid.sum(axis=1)[:, None, None]
                stream = np.tanh(stream @ weights + read)
                states.append(stream)
            velocity = (read[:, 0] @ self.move).reshape(-1, HORIZON, ROBOT.action_dim)
            noise = np.stack(drawn).astype(np.float64)
            flow = [noise + k / STEPS * velocity for k in range(STEPS)]
            whole = {
                "hidden_states": np.stack(states, axis=1), "final_hidden": stream, "x_t": np.stack(flow, axis=1),
            }  # fmt: skip
            sites = shape.capture.sites if shape.capture else ()
            return Outcome(
                noise + velocity, {site.path: self.keep(site, whole[site.component], valid) for site in sites}
            )

        return Program(size, run)

    def keep(self, site, whole, valid):
        """What a site keeps of a component's whole value."""
        return site_value(site, whole, valid if site.expert == "reader" else None)

    def robot_actions(self, actions, prepared):
        """As they are."""
        return actions.astype(np.float32)
