"""One teacher for all runs that need it: the first trains it, and those that come meanwhile wait for its weights."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from disback_ray.errors import RunFolderError
from disback_ray.interruption import Stop
from disback_ray.production import Stopped
from disback_ray.progress import Watcher
from disback_ray.run_lock import locked
from disback_ray.storage import Folder
from disback_ray.teachers.saved import is_saved

LOOK_SECONDS = 0.5


def train_once(train: Callable[[], None], folder: Folder, *, watch: Watcher, stop: Stop) -> None:
    """Calls train(), which leaves the teacher in the folder, unless another run does; should that one end without it, it is ours to train.

    Two that trained it at once would each go on with weights of its own. Raises Stopped while it waits, CheckpointError where the
    storage fails, and what train() raises.
    """
    told = False
    while not is_saved(folder):
        with ExitStack() as held:
            try:
                held.enter_context(locked(folder))
            except RunFolderError:
                if stop.is_set():
                    raise Stopped from None
                if not told:
                    watch.say("another run trains this very teacher: waiting for it")
                    told = True
                time.sleep(LOOK_SECONDS)
                continue
            if not is_saved(folder):
                train()
