"""`vlascope-sim demonstrate`: a scripted expert's demonstrations as a LeRobot dataset."""

from __future__ import annotations

import dataclasses

from vlascope_base.options import CommandOptions

from vlascope_sim.demonstrations.options import DemonstrationOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstrate(CommandOptions, DemonstrationOptions):
    """Makes demonstrations of tasks that pick something up and place it, with a scripted expert.

    The result is a LeRobot dataset (`image`, `wrist_image`, `state`, `actions`, `action_mask`) with the list of everything that
    was tried (`demonstrations.jsonl`) and success rates (`summary.json`) beside it. Labels are the expert's, whatever noise is
    put on what is done; `action_mask` is false where something else was done. `image_target` and `wrist_image_target` say
    where in the picture the told object is, `image_place` and `wrist_image_place` where it is to be brought (`vlascope-server
    train --grounding`).
    """

    def run(self) -> int:
        """Prints the cost, makes demonstrations, prints success rates; 1 where none succeeded and none was to be kept."""
        from vlascope_sim.commands.demonstrate_run import run_demonstrate

        return run_demonstrate(self)
