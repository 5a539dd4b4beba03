"""`disback-ray`, but for its pictures, which take longer than all else; and it may be told to kill itself at a moment.

`python -m benchmarks.chaos.command MOMENT run ring8 …`; MOMENT: STAGE:STEP:SECONDS, so long after so many steps of a stage; or `-`.
It says on stderr where each stage begins: `chaos: STAGE from STEP`.
"""

import os
import signal
import sys
import threading
import time

from disback_ray import pictures, running
from disback_ray.cli import main
from disback_ray.progress import OnConsole


class Mortal(OnConsole):
    """Kills its own process, which the run can't keep it from."""

    def __init__(self) -> None:
        super().__init__()
        self.killer: threading.Thread | None = None

    def stage(self, name: str, *, steps: int | None = None, start: int = 0) -> None:
        super().stage(name, steps=steps, start=start)
        print(f"chaos: {name} from {start}", file=sys.stderr, flush=True)

    def step(self, done: int, *, node: int | None, numbers: dict[str, float]) -> None:
        super().step(done, node=node, numbers=numbers)
        if MOMENT == "-" or self.killer:
            return
        stage, step, after = MOMENT.split(":")
        if self.name == stage and done >= int(step):
            self.killer = threading.Thread(target=die, args=(float(after),), daemon=True)
            self.killer.start()


def die(after: float) -> None:
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    MOMENT = sys.argv.pop(1)
    vars(pictures)["_png"] = lambda figure: b"\x89PNG"
    vars(running)["OnConsole"] = Mortal
    main(sys.argv[1:])
