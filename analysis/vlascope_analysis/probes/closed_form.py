"""One cell of features tested with ridge regression, by a design: every assignment to folds, permutations in the first."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from vlascope_analysis.data.metadata_features import time_features
from vlascope_analysis.data.questions import TEXTS
from vlascope_analysis.probes.ridge import ridge
from vlascope_analysis.statistics.evaluation import Design, Scores, readable, score_row
from vlascope_analysis.statistics.units import frame_weights


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """What ridge regression found in one cell.

    Attributes:
        scores: of each tested episode.
        penalty: geometric mean over folds, as a multiple of the mean eigenvalue.
    """

    scores: Scores
    penalty: float


def closed_form(x: np.ndarray, of_frame: np.ndarray, design: Design, *, refit: bool = True) -> ClosedForm:
    """Fits and tests.

    Args:
        x: float32 [N, D]: features of one layer and denoise step.
        of_frame: int [N] the episode of each frame, as `Design.episodes` numbers them; each episode has a frame.
        design: parts, labels, permutations.
        refit: as in `ridge`.
    """
    U = len(design.episodes)
    weights = frame_weights(of_frame)
    right, beaten, cosine = (np.zeros((len(design.assignments), U), np.float32) for _ in range(3))
    null_right, null_beaten = (np.zeros(design.labellings.shape, np.float32) for _ in range(2))
    penalties = []
    for number, splits in enumerate(design.assignments):
        labels = design.labellings if number == 0 else design.labellings[:1]
        for split in splits:
            found = ridge(x, of_frame, labels, design.embeddings, split, design.weights, refit=refit)
            right[number] += found.right[0]
            beaten[number] += found.beaten[0]
            frames = np.flatnonzero(split.test[of_frame])
            cosine[number] += np.bincount(of_frame[frames], found.cosine * weights[frames], minlength=U)
            penalties.append(np.log(found.penalty))
            if number == 0:
                null_right += found.right
                null_beaten += found.beaten
    tested = design.tested
    scores = Scores(
        right[:, tested], beaten[:, tested], cosine[:, tested], design.null_means(null_right), design.null_means(null_beaten)
    )  # fmt: skip
    return ClosedForm(scores, float(np.exp(np.mean(penalties))))


def time_tells(frames: pd.DataFrame, of_frame: np.ndarray, design: Design, where: str = "") -> list[str]:
    """A warning where the timesteps of an episode's frames alone tell its label, which features that drift with time would
    show.

    Args:
        frames: of the cells that are tested (`Features.frames`).
        of_frame: int [N] the episode of each.
        design: as for the cells.
        where: which frames, in words, where only some are.
    """
    timestep = frames["timestep"].to_numpy()
    if len({tuple(timestep[of_frame == episode]) for episode in np.unique(of_frame)}) == 1:
        return []
    found = score_row(closed_form(time_features(frames), of_frame, design).scores, design)
    if not readable(found | {"chance": design.chance, "permutations": design.config.permutations}, "p_value"):
        return []
    it = design.episodes.question.it
    return [
        f"{where}the timesteps of the frames alone tell {it} (accuracy {found['accuracy']:.3f}, chance "
        f"{design.chance:.3f}): features that know the time would pass for knowing {it}; take common rollout steps "
        "(--frames common), or --rollout-step"
    ]


def crowded(x: np.ndarray, of_frame: np.ndarray, design: Design) -> list[str]:
    """A warning where the label embeddings resemble each other so much that the accuracy is capped: where targets that have
    nothing in common (one-hot) are read better in the same features.
    """
    if design.config.split == "task" or design.episodes.question.label not in TEXTS:
        return []
    bare = dataclasses.replace(design, labellings=design.labellings[:1])
    axes = np.eye(len(design.embeddings), dtype=np.float32)
    embedded = closed_form(x, of_frame, bare).scores.right
    apart = closed_form(x, of_frame, dataclasses.replace(bare, embeddings=axes)).scores.right
    gain = design.means.difference(apart - embedded, design.config.confidence)
    if not gain.low > 0:
        return []
    similarity = design.embeddings @ design.embeddings.T - 2 * axes
    first, second = sorted(np.unravel_index(similarity.argmax(), similarity.shape))
    several = design.episodes.question.several
    reached, capped = (design.means.mean(right).mean() for right in (apart, embedded))
    return [
        f"the embeddings of the {several} resemble each other and cap the accuracy: with --encoder onehot ridge "
        f"regression reaches {reached:.3f} in place of {capped:.3f} (difference {gain.low:.3f} to {gain.high:.3f}); nearest "
        f"are {several} {first} and {second}, cosine {similarity.max():.2f}"
    ]
