"""A dataset as one policy sees it: statistics, the transforms with them, batches; for training and for validation data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from vlascope_server.checkpoints import Checkpoint
from vlascope_server.model import Pi0Config
from vlascope_server.policies.pi0.assembly import find_conventions, find_tokenizer
from vlascope_server.prompts import Tokenizer
from vlascope_server.robots import Conventions, NormStats, NormStatsError, RobotInputError, RobotIO, RobotPipeline
from vlascope_server.training.frames import Frames
from vlascope_server.training.image_cache import ImageCache
from vlascope_server.training.loader import Batches
from vlascope_server.training.options import DataOptions, TrainingError
from vlascope_server.training.statistics import carrying, measure


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Batches, and what they are made with.

    Attributes:
        parts: batches of each part of the frames.
        trimmed: the architecture as batches come, with no more room for text than the longest instruction takes.
        conventions: how state and actions are presented.
        norm_stats, norm_stats_count: the statistics, and how many states they are of; None where nobody has said.
        carrying: action dimensions that move in the first part.
        tokenizer: makes the prompts.
        state_in_prompt: the prompt holds the state as text.
    """

    parts: tuple[Batches, ...]
    trimmed: Pi0Config
    conventions: Conventions
    norm_stats: dict[str, NormStats]
    norm_stats_count: int | None
    carrying: Bool[np.ndarray, " a"]
    tokenizer: Tokenizer
    state_in_prompt: bool


def prepare_data(
    name: str,
    checkpoint: Checkpoint,
    config: Pi0Config,
    robot: RobotIO,
    parts: Sequence[Frames],
    images: ImageCache,
    options: DataOptions,
    *,
    keep_stats: bool = False,
) -> Data:
    """Decides on statistics and prompts; decodes no image.

    Args:
        name: of the checkpoint, for messages.
        checkpoint: whose tokenizer, conventions and, where they are kept, statistics; its parameters are not looked at.
        config: its architecture with the robot's cameras.
        robot: whose frames these are.
        parts: of the frames; statistics are measured on the first.
        images: of all of them.
        options: of the data.
        keep_stats: the checkpoint's statistics are kept, whatever the options say.

    Raises:
        TrainingError: statistics, instructions and options do not fit each other; names what does not.
        CheckpointError: there is no tokenizer that fits.
    """
    frames, horizon, pad = parts[0], config.action_horizon, options.pad
    conventions = find_conventions(checkpoint, robot, options.delta_actions)
    drawn = checkpoint.kind == "seeded"
    # statistics that were drawn with the weights say nothing
    measured = not keep_stats and (drawn or options.norm_stats == "dataset" or checkpoint.norm_stats is None)
    if options.norm_stats == "checkpoint" and measured:
        several = not drawn and checkpoint.asset_ids
        kept = f"those of {', '.join(several)}; choose with --asset-id, or" if several else "none that could be kept;"
        raise TrainingError(f"norm_stats: {name} has {kept} measure them: --norm-stats dataset")
    stats, count = checkpoint.norm_stats, checkpoint.record.norm_stats_count
    if measured or stats is None:
        stats, count = measure(frames, robot, conventions, horizon, pad)
    try:
        pipeline = RobotPipeline(robot, stats, conventions, config.action_dim, config.vision.image_size)
    except (NormStatsError, RobotInputError) as error:
        raise TrainingError(f"{name}: {error}") from None
    moving = carrying(frames, pipeline, horizon, pad)
    tokenizer = find_tokenizer(name, checkpoint)
    state_in_prompt = config.pi05 and checkpoint.record.state_in_prompt is not False
    longest = _longest(config, tokenizer, parts, state_in_prompt)
    trimmed = config if state_in_prompt else dataclasses.replace(config, max_token_len=longest)
    batches = tuple(
        Batches(part, images, pipeline, tokenizer, trimmed, state_in_prompt=state_in_prompt, pad=pad) for part in parts
    )
    return Data(batches, trimmed, conventions, stats, count, moving, tokenizer, state_in_prompt)


def _longest(config: Pi0Config, tokenizer: Tokenizer, parts: Sequence[Frames], state_in_prompt: bool) -> int:
    """Tokens of the longest instruction, in eights: padding changes nothing that a model computes, and costs as much as text.

    Raises:
        TrainingError: one does not fit; a policy that reads its state has to have room for three digits a number.
    """
    state = np.ones(parts[0].state.shape[1]) if state_in_prompt else None
    texts = {part.prompts[number] for part in parts for number in np.unique(part.prompt)}
    encoded = {text: tokenizer.encode(text, config.max_token_len, state) for text in sorted(texts)}
    for text, tokens in encoded.items():
        if tokens.truncated:
            raise TrainingError(
                f"max_token_len: {config.max_token_len} tokens; {text!r}{' and the state' if state_in_prompt else ''} takes"
                f" {tokens.truncated} more: give more with --max-token-len, or leave the instruction out with --tasks"
            )
    longest = max(tokens.mask.sum() for tokens in encoded.values())
    return min(config.max_token_len, -int(-longest // 8) * 8)
