"""The run that a capture goes to: what it says of the capture, whether there is one already, and what is to be done in it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlascope_base import OptionError
from vlascope_base.options import read_fields, record_of
from vlascope_base.text import listed
from vlascope_latents.store import StoreError
from vlascope_latents.store.run_folder import RUN_FILE, ReadableBy, find_runs, make_missing_folder, read_run

from vlascope_server.capturing.options import MAY_DIFFER, CaptureError, CaptureOptions
from vlascope_server.policies.options import PolicyOptions

CAPTURE = "offline_capture"
"""Under this name a run's `model` says what was captured: its campaign, its digest, its recording."""
_PATHS = ("dataset", "observations", "store")


def options_of(run: Path) -> dict[str, Any]:
    """The options of the capture that a run is of, by field; those of the policy in its dataclass.

    Raises:
        CaptureError: there is no run, or it is of something else.
    """
    model = _model(run)
    if CAPTURE not in model:
        raise CaptureError(
            f"{run}: is a run of served rollouts, and no capture that can be gone on with; give its folder"
        )
    try:
        fields = read_fields(CaptureOptions, model["options"])
        policy = PolicyOptions(
            **{f.name: fields.pop(f.name) for f in dataclasses.fields(PolicyOptions) if f.name in fields}
        )
    except (OptionError, KeyError, TypeError) as error:
        raise CaptureError(f"{run / RUN_FILE}: its options are of another vlascope ({error}); capture anew") from error
    return {**fields, "policy": policy}


def saved_options(options: CaptureOptions) -> dict[str, Any]:
    """Options as a run keeps them: paths that hold wherever a capture goes on."""
    absolute = {name: value.absolute() for name in _PATHS if isinstance(value := getattr(options, name, None), Path)}
    policy, like = options.policy, options.policy.like
    policy = dataclasses.replace(
        policy,
        tokenizer=None if policy.tokenizer is None else policy.tokenizer.absolute(),
        like=None if like is None else _located(like),
    )
    checkpoint = _located(options.checkpoint)
    return record_of(
        dataclasses.replace(
            options, **absolute, policy=policy, checkpoint=checkpoint, noise_seed=options.origin_of_seeds,
            resume=None, dry_run=False,
        )
    )  # fmt: skip


def check_same_options(options: CaptureOptions, run: Path) -> None:
    """Refuses to go on with a run that was begun with other options.

    Raises:
        CaptureError: an option that decides about what is stored is another; names it, and both values.
    """
    saved = _flat(CaptureOptions(**options_of(run)))
    asked = _flat(options)
    differing = [
        f"--{name.replace('_', '-')} {_shown(asked[name])} (the run has {_shown(saved[name])})"
        for name in asked
        if name not in MAY_DIFFER and asked[name] != saved[name]
    ]
    if differing:
        them = "them" if differing[1:] else "it"
        raise CaptureError(
            f"{'; '.join(differing)}: that contradicts the capture in {run}; leave {them} out to go on with it, or begin"
            " another without --resume"
        )


def check_same_capture(said: Mapping[str, Any], run: Path) -> None:
    """Refuses to go on with a run whose policy, frames or spec are others by now, whatever their options say.

    Args:
        said: what the capture says of itself.
        run: that was begun.

    Raises:
        CaptureError: names what is another, and both values.
    """
    saved = _model(run)[CAPTURE]
    for name, what in (
        ("fingerprint", "--checkpoint"),
        ("episodes", "the recording"),
        ("frame_count", "the recording"),
        ("frames", "the frames of the recording"),
        ("capture_spec", "--capture"),
        ("batch_size", "--batch-size"),
    ):
        if said[name] != saved.get(name):
            raise CaptureError(
                f"{what}: {name.replace('_', ' ')} {_shown(said[name])}, the run has {_shown(saved.get(name))}: that"
                f" contradicts the capture in {run}; restore what it was begun with, or begin another without --resume"
            )


def refuse_begun(store: Path, campaign: str) -> None:
    """Refuses a place where a new run cannot be made, or where the same capture is already.

    Raises:
        CaptureError: `store` is a run itself, or holds a run of this campaign.
    """
    if (store / RUN_FILE).is_file():
        raise CaptureError(
            f"store: {store} is a run, expected a folder of runs: go on with an unfinished capture with --resume {store},"
            " or give another folder"
        )
    if not store.is_dir():
        return
    for run in _runs_in(store):
        try:
            found = _model(run).get(CAPTURE, {}).get("campaign")
        except CaptureError:
            continue  # of another vlascope, or damaged: none that could be gone on with
        if found == campaign:
            raise CaptureError(
                f"store: {run} holds this capture already: go on with --resume {run} where it was not finished,"
                " remove it, or give another folder"
            )


@contextlib.contextmanager
def claimed(store: Path, campaign: str, readable_by: ReadableBy) -> Iterator[None]:
    """While a run of this campaign is made, no other capture makes one in the same folder of runs.

    Raises:
        CaptureError: as `refuse_begun`; of two captures that begin at once the later one gets it.
    """
    try:
        make_missing_folder(store, readable_by)
        folder = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CaptureError(f"store: {store}: {error.strerror}; give a folder elsewhere") from error
    try:
        # a file system without locks of folders keeps the check, and loses only what happens in the same moment
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        refuse_begun(store, campaign)
        yield
    finally:
        os.close(folder)


def _located(checkpoint: str) -> str:
    """The same checkpoint, wherever a capture goes on."""
    return str(Path(checkpoint).absolute()) if Path(checkpoint).exists() else checkpoint


def _runs_in(store: Path) -> Iterator[Path]:
    try:
        yield from find_runs(store)
    except StoreError:
        return  # a folder without runs


def _model(run: Path) -> Mapping[str, Any]:
    try:
        return read_run(run).model
    except StoreError as error:
        raise CaptureError(f"resume: {error}") from None


def _flat(options: CaptureOptions) -> dict[str, Any]:
    kept, spec = saved_options(options), options.capture
    nested = kept.pop("policy")
    return {**kept, **nested, "capture": None if spec is None else spec.to_map()}


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return listed(value).replace(", ", ",")
    return repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)
