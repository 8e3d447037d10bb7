"""Training: a policy on a LeRobot dataset, by flow matching. Knows nothing of serving."""

from vlascope_server.training.errors import TrainingError
from vlascope_server.training.options import TrainOptions
from vlascope_server.training.trainer import Trained, train

__all__ = ["TrainOptions", "Trained", "TrainingError", "train"]
