"""What holds of every policy, whatever it computes with: a class of tests that each kind inherits and gives its fixtures."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from vlascope_latents import CapturePlan, CaptureSpec, ExpertLayout, ModelLayout, Site
from vlascope_latents.site_values import site_value
from vlascope_latents.store.index import encode_values
from vlascope_latents.store.run_folder import check_name
from vlascope_latents.tokens import prompt_of
from vlascope_server.policies.checked import CheckedPolicy
from vlascope_server.policies.contract import (
    PLAIN,
    Outcome,
    Policy,
    Program,
    RequestShape,
    frame_values,
    plan_request,
)
from vlascope_server.robots import RobotInputError

SIZE = 3
"""Of the larger batches."""


class Asked(Mapping[str, Any]):
    """An observation that remembers which of its keys were asked for."""

    def __init__(self, content: Mapping[str, Any]):
        self._content = content
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


class PolicyConformance:
    """Inherit it, as `Test…`, and say how policies and observations are made.

    Attributes:
        specs: what is captured; the first two select different things.
        row_tolerance: how far an action may be from what it is in a batch of one.
        capture_tolerance: how far an action may be from what it is where nothing is captured; 0 is what is promised of programs
            that are compiled as users compile them.
    """

    specs: Sequence[CaptureSpec]
    row_tolerance = 0.0
    capture_tolerance = 0.0

    @staticmethod
    def make(seed: int) -> Policy[Any]:
        """A policy whose weights follow from a seed."""
        raise NotImplementedError

    @staticmethod
    def observations() -> list[dict[str, Any]]:
        """Three that differ, each with a prompt."""
        raise NotImplementedError

    @pytest.fixture
    def policy(self) -> Policy[Any]:
        return _made(self.make, 0)

    @pytest.fixture
    def program(self, policy) -> Callable[[CaptureSpec | None, int], Program]:
        """By spec and size, compiled once."""
        return functools.partial(_compiled, policy)

    @pytest.fixture
    def prepared(self, policy) -> list[Any]:
        return [policy.prepare(observation) for observation in self.observations()]

    @pytest.fixture
    def drawn(self, policy) -> list[np.ndarray | None]:
        return [policy.draw(seed) for seed in range(SIZE)]

    def test_what_it_says_of_itself_can_be_kept_and_sent(self, policy):
        facts = policy.facts
        assert check_name("name", facts.name) == facts.name
        json.dumps([facts.record, facts.trained_on], default=str, allow_nan=False)
        assert all(text and "\n" not in text for text in (facts.model, facts.description, facts.source))
        assert facts.action_horizon >= 1
        assert facts.robot.action_dim >= 1

    def test_its_layout_survives_a_file(self, policy):
        assert ModelLayout.from_map(json.loads(json.dumps(policy.layout.to_map()))) == policy.layout

    def test_its_fingerprint_is_that_of_its_weights(self, policy):
        assert re.fullmatch(r"[0-9a-f]{8,}", policy.fingerprint)
        assert policy.fingerprint == self.make(0).fingerprint != self.make(1).fingerprint

    def test_it_takes_its_own_observations_and_leaves_them_alone(self, policy):
        for observation in self.observations():
            before = copy.deepcopy(observation)
            asked = Asked(observation)
            prepared = policy.prepare(asked)
            assert prepared.prompt == observation["prompt"]
            assert prepared.robot_state.shape == (policy.facts.robot.state_dim,)
            assert prepared.warnings == ()
            assert asked.asked >= set(observation)
            for key, value in before.items():
                np.testing.assert_array_equal(observation[key], value)
        extra = Asked({**self.observations()[0], "no key of a robot": 1})
        policy.prepare(extra)
        assert "no key of a robot" not in extra.asked

    def test_it_refuses_others_in_one_line_that_names_the_key(self, policy):
        observation = self.observations()[0]
        for key in observation:
            for wrong in (None, "text" if key != "prompt" else 1, np.full((2, 2), np.nan)):
                with pytest.raises(RobotInputError) as refused:
                    policy.prepare({**observation, key: wrong})
                assert refused.value.field == key
                assert "\n" not in str(refused.value)
            with pytest.raises(RobotInputError, match=re.escape(key)):
                policy.prepare({name: value for name, value in observation.items() if name != key})

    def test_what_it_draws_is_a_function_of_the_seed(self, policy):
        shape, (first, same, second) = policy.facts.noise_shape, map(policy.draw, (1, 1, 2))
        if first is None:
            assert (same, second, shape) == (None, None, None)
            return
        np.testing.assert_array_equal(first, same)
        assert (first != second).any()
        assert shape in (None, first.shape)

    def test_actions_are_the_robots(self, policy, program, prepared, drawn):
        outcome = program(None, 1).run(prepared[:1], drawn[:1])
        assert (outcome.latents, outcome.decode_steps) == ({}, {})
        actions = policy.robot_actions(np.asarray(outcome.actions)[0], prepared[0])
        assert actions.shape == (policy.facts.action_horizon, policy.facts.robot.action_dim)
        assert actions.dtype == np.float32
        assert np.isfinite(actions).all()

    def test_the_same_is_computed_of_the_same(self, policy, program, prepared, drawn):
        first, same = (np.asarray(program(None, 1).run(prepared[:1], drawn[:1]).actions) for _ in range(2))
        np.testing.assert_array_equal(first, same)
        observed = [_actions(program(None, 1), [seen], drawn[:1]) for seen in prepared]
        assert any((actions != observed[0]).any() for actions in observed)
        if drawn[0] is not None:
            random = [_actions(program(None, 1), prepared[:1], [policy.draw(seed)]) for seed in range(8)]
            assert any((actions != random[0]).any() for actions in random)

    def test_rows_of_a_batch_do_not_affect_each_other(self, program, prepared, drawn):
        alone = [_actions(program(None, 1), [prepared[k]], [drawn[k]])[0] for k in range(SIZE)]
        for count in range(1, SIZE + 1):
            together = _actions(program(None, SIZE), prepared[:count], drawn[:count])
            assert len(together) >= count
            np.testing.assert_allclose(together[:count], alone[:count], rtol=0, atol=self.row_tolerance)
        turned = _actions(program(None, SIZE), prepared[::-1], drawn[::-1])
        np.testing.assert_allclose(turned[::-1], alone, rtol=0, atol=self.row_tolerance)

    def test_capture_gives_what_its_plan_says_and_moves_no_action(self, policy, program, prepared, drawn):
        for spec, size in itertools.product(self.specs[:2], (1, SIZE)):
            plan = plan_request(spec, policy.layout)
            outcome = program(spec, size).run(prepared[:size], drawn[:size])
            plain = program(None, size).run(prepared[:size], drawn[:size])
            _assert_as_planned(outcome, plan, size)
            np.testing.assert_allclose(
                np.asarray(outcome.actions), np.asarray(plain.actions), rtol=0, atol=self.capture_tolerance
            )
            assert set(outcome.decode_steps) >= {
                expert.name for expert in policy.layout.experts if expert.loop == "decode" and plan.of(expert.name)
            }
        assert _shape(policy, self.specs[0]) != _shape(policy, self.specs[1])

    def test_what_is_captured_is_of_its_own_observation(self, program, prepared, drawn):
        spec = self.specs[0]
        outcome = program(spec, SIZE).run(prepared, drawn)
        with ThreadPoolExecutor(2) as pool:  # as the server copies: on other threads, several times
            for _ in range(2):
                arrays = dict(zip(outcome.latents, pool.map(np.asarray, outcome.latents.values()), strict=True))
        for row in range(SIZE):
            alone = program(spec, 1).run(prepared[row : row + 1], drawn[row : row + 1])
            for path, array in alone.latents.items():
                assert_close(_numbers(arrays[path][row]), _numbers(np.asarray(array)[0]))

    def test_what_is_selected_is_that_part_of_the_whole(self, policy, program, prepared, drawn):
        """Layers, steps, heads, positions from both ends, exclusions, spans, keys, reductions: as `site_value` has them."""
        spec = _selections(policy.layout)
        whole = _captured(program(_everything(policy.layout), SIZE), prepared, drawn)
        found = _captured(program(spec, SIZE), prepared, drawn)
        for site in plan_request(spec, policy.layout).sites:
            valid = _valid(policy.layout.expert(site.expert), prepared)
            expected = site_value(site, whole[f"{site.expert}/{site.component}"], valid)
            assert_close(found[site.path], _numbers(expected), site.path)

    def test_steps_and_layers_differ(self, policy, program, prepared, drawn):
        """A loop that kept its first step, or a stack that kept its first layer, in place of all would pass as a selection."""
        everything = _everything(policy.layout)
        whole = _captured(program(everything, SIZE), prepared, drawn)
        for tensor in plan_request(everything, policy.layout).tensors:
            for dim in {"denoise_step", "decode_step", "layer"} & set(tensor.dims):
                entries = np.moveaxis(whole[tensor.path], 1 + tensor.dims.index(dim), 0)
                assert len(entries) == 1 or (entries != entries[:1]).any(), f"{tensor.path}: every {dim} is the same"

    def test_its_prompt_mask_has_an_entry_for_each_token_of_the_text(self, policy, prepared):
        prompts = [prompt for prompt in map(prompt_of, policy.layout.experts) if prompt is not None]
        for seen in prepared:
            mask = seen.values.get("prompt_mask")
            if mask is not None:
                assert mask.dtype == bool
                assert all(mask.shape == (stop - start,) for start, stop in prompts)

    def test_it_keeps_the_contract_that_the_server_holds_it_to(self, policy, prepared, drawn):
        checked = CheckedPolicy(policy)
        seen = [checked.prepare(observation) for observation in self.observations()]
        outcome = checked.compile(_shape(policy, self.specs[0]), SIZE).run(seen, drawn)
        for array in (*outcome.latents.values(), *outcome.decode_steps.values()):
            assert len(np.asarray(array)) >= SIZE
        for row, actions in enumerate(np.asarray(outcome.actions)[:SIZE]):
            np.testing.assert_array_equal(
                checked.robot_actions(actions, seen[row]), policy.robot_actions(actions, prepared[row])
            )

    def test_a_store_takes_what_it_keeps_beside_a_frame(self, policy, program, prepared, drawn):
        kept = []
        for k in range(2):
            outcome = program(self.specs[0], 1).run(prepared[k : k + 1], drawn[k : k + 1])
            counts = {expert: int(np.asarray(steps)[0]) for expert, steps in outcome.decode_steps.items()}
            for expert, count in counts.items():
                assert 0 < count <= policy.layout.expert(expert).steps
            actions = policy.robot_actions(np.asarray(outcome.actions)[0], prepared[k])
            encoded = encode_values(frame_values(prepared[k], actions, k, counts), policy.layout.names)
            kept.append({name: (value["dtype"], value["shape"]) for name, value in encoded.items()})
        assert kept[0] == kept[1]


_made = functools.cache(lambda make, seed: make(seed))


@functools.cache
def _compiled(policy: Policy[Any], spec: CaptureSpec | None, size: int) -> Program:
    return policy.compile(_shape(policy, spec), size)


def _shape(policy: Policy[Any], spec: CaptureSpec | None) -> RequestShape:
    return PLAIN if spec is None else RequestShape(plan_request(spec, policy.layout))


def _actions(program: Program, prepared: Sequence[Any], drawn: Sequence[np.ndarray | None]) -> np.ndarray:
    return np.asarray(program.run(prepared, drawn).actions)


def assert_close(found: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """As close as bfloat16 is, of what was computed by another program; NaN where NaN is expected, and nowhere else."""
    largest = np.max(np.abs(expected), initial=0, where=~np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=2**-6, atol=2**-6 * largest, err_msg=what)


def _numbers(array: np.ndarray) -> np.ndarray:
    """What an array holds, in float32: uint16 is the bits of bfloat16."""
    return (array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array).astype(np.float32)


def _captured(program: Program, prepared: Sequence[Any], drawn: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """By path, the numbers of the rows that are no padding."""
    latents = program.run(prepared, drawn).latents
    return {path: _numbers(np.asarray(array))[: len(prepared)] for path, array in latents.items()}


def _everything(layout: ModelLayout) -> CaptureSpec:
    """Every component of every expert, whole."""
    sites = [
        Site(
            expert.name,
            component.name,
            reduction="none" if component.size("token") else None,
            dtype="float32" if component.dtype == "spec" else "bfloat16",
        )
        for expert in layout.experts
        for component in expert.components
    ]
    return CaptureSpec(sites=tuple(sites))


def _selections(layout: ModelLayout) -> CaptureSpec:
    """Of every component, two selections of rows; of tokens, positions, spans and their reductions in turns."""
    sites, turns = [], itertools.cycle(("mean", "last"))
    for expert in layout.experts:
        for component in expert.components:
            rows = {
                "layers": component.size("layer"),
                "heads": component.size("head"),
                "steps": expert.step_axis and expert.steps,
            }
            last = {name: (size - 1,) for name, size in rows.items() if size}
            pair = {name: tuple(sorted({max(0, size - 2), size - 1})) for name, size in rows.items() if size}
            forms: dict[str, dict[str, Any]] = {"last": last, "pair": {**pair, "dtype": "float32"}}
            if component.size("token"):
                text = prompt_of(expert)
                ends = (-1, text[0] - text[1]) if text else ()
                forms["last"] |= {"tokens": (expert.spans[-1].name,), "reduction": "none"}
                forms["pair"] |= {
                    "tokens": ("all", *ends),
                    "exclude": (0,) if expert.tokens > 1 else (),
                    "reduction": "none",
                }
                forms["reduced"] = {
                    **last,
                    "tokens": (*(s.name for s in expert.spans), "all", *ends),
                    "reduction": next(turns),
                }
            if component.size("key"):
                forms["last"] |= {"keys": (layout.keys(expert)[0][1].name,)}
            sites += [
                Site(expert.name, component.name, name=f"{form}_{component.name}", **fields) for form, fields in forms.items()
            ]  # fmt: skip
    return CaptureSpec(sites=tuple(sites))


def _valid(expert: ExpertLayout, prepared: Sequence[Any]) -> np.ndarray:
    """Which tokens of the expert are real: all of them, but for the prompt's padding."""
    valid, text = np.ones((len(prepared), expert.tokens), bool), prompt_of(expert)
    for row, seen in enumerate(prepared):
        if text is not None and "prompt_mask" in seen.values:
            valid[row, slice(*text)] = seen.values["prompt_mask"]
    return valid


def _assert_as_planned(outcome: Outcome, plan: CapturePlan, size: int) -> None:
    assert sorted(outcome.latents) == sorted(tensor.path for tensor in plan.tensors)
    for tensor in plan.tensors:
        array = np.asarray(outcome.latents[tensor.path])
        assert array.shape[1:] == tensor.shape, tensor.path
        assert len(array) >= size
        allowed = ("bfloat16", "uint16") if tensor.dtype == "bfloat16" else (tensor.dtype,)
        assert array.dtype.name in allowed, tensor.path
        assert (np.nan_to_num(_numbers(array)) != 0).any(), tensor.path
