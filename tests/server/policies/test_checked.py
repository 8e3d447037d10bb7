"""What a policy gives is compared with what it said: nothing else reaches a robot or a store, and the server lives on."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from vlascope_latents import CaptureSpec, ModelLayout
from vlascope_latents.layout import Component
from vlascope_latents.store import LatentStore, verify
from vlascope_server.policies.checked import CheckedPolicy, PolicyFaultError
from vlascope_server.policies.contract import Outcome, PolicyFacts, Program, RequestShape, plan_request

from tests.server.policies.decoding_policy import DecodingPolicy
from tests.server.policies.faulty_policy import CAPTURES, FAULTS, HIDDEN, LATE, FaultyPolicy
from tests.server.policies.linear_policy import LinearPolicy
from tests.server.policies.test_own_policy import seen, served
from tests.server.serving.wire import connect


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(FaultyPolicy, tmp_path_factory.mktemp("runs"), faulty=True) as live:
        yield live


@pytest.fixture
def wire(server):
    with connect(server.url) as connection:
        yield connection
        assert wire_works(connection)
    assert server.get("/readyz")[0] == 200


def wire_works(connection) -> bool:
    """Whether the device still computes, with and without capture."""
    good = connection.ask(seen(0))
    kept = connection.ask(seen(0, collect_latents=True, return_latents=True))
    return np.array_equal(good["actions"], kept["actions"]) and set(kept["latents"]["tensors"]) == {HIDDEN}


def said_in_log(server, text: str) -> None:
    """Waits for what the server has written already, and a thread here still reads."""
    deadline = time.monotonic() + 10
    while text not in server.output:
        assert time.monotonic() < deadline, server.output
        time.sleep(0.01)


def stored(server, episode: str) -> int:
    """Frames of an episode, of all its attempts."""
    return sum(e.frames for e in LatentStore(server.run).episodes(attempts="all") if e.id == episode)


@pytest.mark.parametrize("fault", [*FAULTS, "an exit while preparing", "nothing prepared"])
def test_what_breaks_the_contract_reaches_neither_robot_nor_store(server, wire, fault):
    for fields in ({}, {"collect_latents": True, "episode": {"id": "broken"}}):
        refused = wire.ask(seen(0, prompt=fault, **fields))
        assert (refused.get("code"), refused["field"]) == ("internal", None)
        assert "\n" not in refused["message"]
        number = refused["message"].rsplit(" ", 1)[1]
        said_in_log(server, f"fault {number}")
    assert stored(server, "broken") == 0


@pytest.mark.parametrize("fault", ["a captured array too few", *CAPTURES])
def test_a_captured_array_that_is_not_the_plans_is_the_policys_fault(server, wire, fault):
    name = fault.replace(" ", "-")
    message = seen(0, prompt=fault, collect_latents=True, episode={"id": name})
    reply = wire.ask(message)
    if fault not in LATE:
        assert reply["code"] == "internal"
        assert wire.ask({"request": "end_episode", "episode": name})["code"] == "unknown_episode"
    else:  # the actions are right, and were on their way
        assert reply["latents"]["frame"] == 0
        ended = wire.ask({"request": "end_episode", "episode": name})
        assert (ended["status"], ended["frames"]) == ("interrupted", 0)
        assert f"run, {HIDDEN}: " in ended["error"]
        assert "make room" not in ended["error"]
        assert "\n" not in ended["error"]
        returned = wire.ask({**message, "episode": {"id": f"{name}-returned"}, "return_latents": True})
        assert returned["code"] == "internal"
    assert stored(server, name) == 0


@pytest.mark.parametrize("layers", [[0], [1]])
def test_what_is_no_program_is_refused_at_once(wire, layers):
    assert wire.ask(seen(0, collect_latents={"layers": layers}))["code"] == "internal"


def test_an_exit_while_compiling_or_drawing_ends_no_server(wire):
    assert wire.ask(seen(0, collect_latents={"components": "all"}))["code"] == "internal"
    assert wire.ask(seen(0, seed=667))["code"] == "internal"


def test_warnings_are_lines(wire):
    assert wire.ask(seen(0, prompt="a warning of two lines"))["warnings"] == ["one\\ntwo"]


def test_every_fault_of_the_server_is_in_its_log(server, wire):
    wire.ask(seen(0, prompt="a shorter horizon"))
    said_in_log(server, "policy, run, actions: expected [at least 1, 4, the policy's width], found [1, 2, 2]")


class Half(LinearPolicy):
    """Keeps bfloat16, in whichever form a test says."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        (expert,) = self.layout.experts
        hidden = Component("hidden_states", (("layer", 2), ("feature", 8)))
        self.layout = ModelLayout((dataclasses.replace(expert, components=(hidden,)),))

    def compile(self, shape, size):
        run = super().compile(shape, size).run

        def kept(prepared, drawn):
            outcome = run(prepared, drawn)
            return Outcome(outcome.actions, {path: self.form(a) for path, a in outcome.latents.items()})

        return Program(size, kept)


@pytest.mark.parametrize(
    "form",
    [
        lambda a: a,
        lambda a: a.astype(">f4"),
        lambda a: a.astype(ml_dtypes.bfloat16),
        lambda a: a.astype(ml_dtypes.bfloat16).view(np.uint16),
        lambda a: a.astype(ml_dtypes.bfloat16).view(np.uint16).astype(">u2"),
    ],
    ids=["float32", "float32 of the other order", "bfloat16", "bits", "bits of the other order"],
)
def test_bfloat16_is_taken_in_every_form(form):
    policy = CheckedPolicy(Half(form))
    plan = plan_request(CaptureSpec(), policy.layout)
    prepared = policy.prepare(seen(0))
    outcome = policy.compile(RequestShape(plan), 1).run([prepared], [None])
    plain = LinearPolicy().compile(RequestShape(plan), 1).run([prepared], [None])
    expected = np.asarray(plain.latents[HIDDEN]).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.asarray(outcome.latents[HIDDEN]).view(np.uint16), expected.view(np.uint16))
    assert np.asarray(outcome.latents[HIDDEN]) is np.asarray(outcome.latents[HIDDEN])


@pytest.mark.parametrize("counts", [{"decoder": [1.5]}, {"decoder": [9]}, {"decoder": []}, {"nobody": [1]}, {}])
def test_counts_of_steps_that_are_none_are_refused(counts):
    class Counting(DecodingPolicy):
        def compile(self, shape, size):
            run = super().compile(shape, size).run
            return Program(size, lambda p, d: dataclasses.replace(run(p, d), decode_steps=counts))

    policy = CheckedPolicy(Counting())
    shape = RequestShape(plan_request(CaptureSpec(components="all"), policy.layout))
    program, prepared = policy.compile(shape, 1), policy.prepare(seen(0))
    with pytest.raises(PolicyFaultError, match=r"^policy, run, decode_steps") as refused:
        list(map(np.asarray, program.run([prepared], [policy.draw(0)]).decode_steps.values()))
    assert "\n" not in str(refused.value)


def test_values_of_one_observation_spoil_no_other(server, wire):
    wire.ask(seen(0, prompt="values of its own"))
    assert "actions" in wire.ask(seen(0))
    begun = wire.ask(seen(0, collect_latents=True, episode={"id": "values"}, prompt="values of its own"))
    changed = wire.ask(seen(0, collect_latents=True, episode={"id": "values"}, prompt="values of its own", seed=1))
    assert (begun["latents"]["frame"], changed["code"]) == (0, "store_failed")
    assert re.search(r"value own: expected .* as in the first frame, found ", changed["message"])
    assert wire.ask({"request": "end_episode", "episode": "values"})["frames"] == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "my/policy"}, "facts, name: 'my/policy'"),
        ({"description": "a\nb"}, "facts, description: expected one line"),
        ({"record": {"x": {1, 2}}}, "facts, record: expected JSON"),
        ({"record": {"x": float("nan")}}, "facts, record: expected JSON"),
        ({"action_horizon": 0}, "facts, action_horizon: expected a whole number of at least 1, found 0"),
        ({"noise_shape": (4, 3)}, "draw: expected an array [4, 3]"),
        ({"robot": None}, "facts, robot: expected a RobotSpec, found None"),
    ],
)
def test_a_policy_that_says_nonsense_of_itself_is_refused_at_start(fields, said):
    policy = LinearPolicy()
    policy.facts = PolicyFacts(**{**vars(policy.facts), **fields})
    with pytest.raises(PolicyFaultError) as refused:
        CheckedPolicy(policy)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("fingerprint", [None, "", "no hex digits", "ABCDEF0123", 12345678])
def test_a_fingerprint_is_hex_digits(fingerprint):
    policy = LinearPolicy()
    policy.fingerprint = fingerprint
    with pytest.raises(PolicyFaultError, match="fingerprint: expected 8 to 128 hex digits"):
        CheckedPolicy(policy)


def test_record_takes_paths_and_tuples():
    policy = LinearPolicy()
    policy.facts = dataclasses.replace(policy.facts, record={"from": Path("weights"), "sizes": (1, 2)})
    assert CheckedPolicy(policy).facts.record["sizes"] == (1, 2)


def test_what_was_stored_around_the_faults_is_whole(server, wire):
    wire.ask(seen(0, collect_latents=True, episode={"id": "good"}))
    assert wire.ask({"request": "end_episode", "episode": "good"})["frames"] == 1
    assert [str(problem) for problem in verify(LatentStore(server.run).episodes(attempts="all"))] == []
