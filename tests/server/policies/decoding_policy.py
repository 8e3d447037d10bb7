"""A policy that writes its actions token by token: it draws, but no noise that a client may send, and stops by itself."""

import numpy as np
from vlascope_latents import ModelLayout
from vlascope_latents.layout import Component, ExpertLayout, Span
from vlascope_latents.site_values import site_value
from vlascope_server.policies.contract import Outcome, Program

from tests.server.policies.linear_policy import HORIZON, ROBOT, WIDTH, LinearPolicy

TOKENS, STEPS, END = 6, 5, 0


class DecodingPolicy(LinearPolicy):
    """One layer, whose state decodes up to `STEPS` of `TOKENS` tokens; the token `END` is the last one."""

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        draw = np.random.default_rng(seed + 100).standard_normal
        self.vocabulary, self.moves = draw((TOKENS, WIDTH)), draw((TOKENS, HORIZON, ROBOT.action_dim))
        components = (
            Component("logits", (("vocabulary", TOKENS),), "float32"),
            Component("tokens", (("chosen", 1),), "int32"),
        )
        spans = (Span("action", 0, 1),)
        decoder = ExpertLayout("decoder", 1, WIDTH, spans, components, "decode", STEPS, outputs=("all",))
        self.layout = ModelLayout((decoder,))

    def draw(self, seed):
        """The key of the choice of tokens."""
        return np.random.default_rng(seed).integers(2**32, size=2, dtype=np.uint32)

    def compile(self, shape, size):
        """The program of a shape, which decodes row by row."""

        def run(prepared, drawn):
            actions = np.zeros((len(prepared), HORIZON, ROBOT.action_dim))
            values = {
                "logits": np.zeros((len(prepared), STEPS, TOKENS), np.float32),
                "tokens": np.full((len(prepared), STEPS, 1), -1, np.int32),
            }
            counts = np.zeros(len(prepared), int)
            for row, (seen, key) in enumerate(zip(prepared, drawn, strict=True)):
                rng, state = np.random.default_rng(key), np.tanh(seen.inputs @ self.weights[0])
                token = None
                while token != END and counts[row] < STEPS:
                    logits = self.vocabulary @ state
                    token = int(np.argmax(logits + rng.gumbel(size=TOKENS)))
                    values["logits"][row, counts[row]], values["tokens"][row, counts[row]] = logits, token
                    actions[row] += self.moves[token]
                    state = np.tanh(state + self.vocabulary[token])
                    counts[row] += 1
            sites = shape.capture.sites if shape.capture else ()
            kept = {site.path: site_value(site, values[site.component]) for site in sites}
            return Outcome(actions, kept, {"decoder": counts} if sites else {})

        return Program(size, run)
