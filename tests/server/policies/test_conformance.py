"""The tests that every policy inherits fail for policies that are wrong, each in one way."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import ml_dtypes
import numpy as np
import pytest
from vlascope_latents import CaptureSpec
from vlascope_latents.site_values import site_value
from vlascope_server.policies.contract import Outcome, Program

from tests.server.policies import conformance
from tests.server.policies.conformance import SIZE, PolicyConformance
from tests.server.policies.reading_policy import ReadingPolicy
from tests.server.policies.test_own_policy import seen


class TestReadingPolicy(PolicyConformance):
    specs = (
        CaptureSpec(components="all"),
        CaptureSpec(experts=("reader",), layers=(1,), spans=("text",), reduction="mean"),
    )
    row_tolerance = 1e-12

    make = ReadingPolicy

    @staticmethod
    def observations():
        prompts = "reach for cups", "go", "open the big red drawer now please"
        return [seen(number, prompt=prompt) for number, prompt in enumerate(prompts)]


def failing(made: type[ReadingPolicy]) -> set[str]:
    """The inherited tests that a policy does not pass."""

    class Wrong(TestReadingPolicy):
        make = made

    tests, policy = Wrong(), made(0)
    given = {
        "policy": policy,
        "program": functools.partial(conformance._compiled, policy),
        "prepared": [policy.prepare(observation) for observation in tests.observations()],
        "drawn": [policy.draw(seed) for seed in range(SIZE)],
    }
    failed = set()
    for name, test in inspect.getmembers(tests, inspect.ismethod):
        if name.startswith("test_"):
            try:
                test(**{argument: given[argument] for argument in inspect.signature(test).parameters})
            except (AssertionError, ValueError):
                failed.add(name)
    return failed


class DoublesOneLayer(ReadingPolicy):
    """Where a single layer is selected, the numbers are twice what they are: one more in the exponent of their bits."""

    def keep(self, site, whole, valid):
        kept = super().keep(site, whole, valid)
        return kept * kept.dtype.type(2) if len(site.layers) == 1 else kept


class RepeatsTheFirstStep(ReadingPolicy):
    def keep(self, site, whole, valid):
        return super().keep(site, np.repeat(whole[:, :1], whole.shape[1], 1) if site.steps else whole, valid)


class KeepsNothing(ReadingPolicy):
    """Bits of bfloat16 that are all zero."""

    def keep(self, site, whole, valid):
        kept = super().keep(site, whole, valid)
        return np.zeros(kept.shape, np.uint16) if kept.dtype == ml_dtypes.bfloat16 else kept


class CountsPadding(ReadingPolicy):
    def keep(self, site, whole, valid):
        return site_value(site, whole, None if site.reduction == "mean" else valid)


class TakesTheFirstLayer(ReadingPolicy):
    """Where two layers are selected, both are the first one."""

    def keep(self, site, whole, valid):
        return super().keep(site, np.repeat(whole[:, :1], 3, 1) if len(site.layers) == 2 else whole, valid)


class LosesLargeBatches(ReadingPolicy):
    def compile(self, shape, size):
        run = super().compile(shape, size).run

        def lossy(prepared, drawn):
            outcome = run(prepared, drawn)
            return outcome if len(prepared) == 1 else Outcome(np.asarray(outcome.actions) * np.nan, outcome.latents)

        return Program(size, lossy)


class MasksOtherTokens(ReadingPolicy):
    def prepare(self, observation):
        return dataclasses.replace(super().prepare(observation), values={"prompt_mask": np.ones(3, bool)})


class CountsBackFromPadding(ReadingPolicy):
    """Takes the text's last token, real or not, for the prompt's."""

    def keep(self, site, whole, valid):
        ends = any(group.ends for group in site.groups) and site.reduction == "none"
        return site_value(site, whole, None if ends else valid)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (DoublesOneLayer, "test_what_is_selected_is_that_part_of_the_whole"),
        (RepeatsTheFirstStep, "test_steps_and_layers_differ"),
        (KeepsNothing, "test_capture_gives_what_its_plan_says_and_moves_no_action"),
        (CountsPadding, "test_what_is_selected_is_that_part_of_the_whole"),
        (TakesTheFirstLayer, "test_what_is_selected_is_that_part_of_the_whole"),
        (LosesLargeBatches, "test_rows_of_a_batch_do_not_affect_each_other"),
        (MasksOtherTokens, "test_its_prompt_mask_has_an_entry_for_each_token_of_the_text"),
        (CountsBackFromPadding, "test_what_is_selected_is_that_part_of_the_whole"),
    ],
)
def test_a_wrong_policy_fails(wrong, told):
    assert told in failing(wrong)


def test_the_right_one_fails_nothing():
    assert failing(ReadingPolicy) == set()
