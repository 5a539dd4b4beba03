"""What becomes of a call: its value or its error, whoever has to make it in the end."""

from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError

from disback_ray.actors.calls import Call
from disback_ray.actors.losses import is_loss, plain
from disback_ray.actors.mending import Mender
from disback_ray.actors.waiting import LOOK_SECONDS, Waiting
from disback_ray.actors.wire import unpack


class Outcomes:
    """Waits for calls, and has mended what stands in their way."""

    def __init__(self, waiting: Waiting, mender: Mender) -> None:
        self.waiting, self.mender = waiting, mender

    def fetch(self, calls: list[Call]) -> None:
        """All values at once, which is one question to Ray; one after the other where something is lost."""
        while True:
            try:
                got = ray.get([call.ref for call in calls], timeout=LOOK_SECONDS)
                break
            except GetTimeoutError:
                if self.waiting.look_up():
                    got = [self._wait_for(call, result=True) for call in calls]
                    break
            except RayError:
                got = [self._wait_for(call, result=True) for call in calls]
                break
        for call, value in zip(calls, got, strict=True):
            call.value, call.good = unpack(value), True

    def all_made(self, calls: Iterable[Call]) -> None:
        """Until all have been made: at once where nothing was lost, which is almost always."""
        out = [call for call in calls if not call.good]
        whole = self.waiting.until_there([call.note for call in out], unless_failed=True)
        if whole:
            try:
                ray.get([call.note for call in out])
            except RayError:
                whole = False
        for call in out:
            if not whole:
                self._wait_for(call)
            call.good = True

    def _wait_for(self, call: Call, *, result: bool = False) -> Any:
        """Until it has been made, whoever has to make it in the end; its result is fetched only where it is asked for."""
        while True:
            try:
                got = ray.get([call.note, call.ref] if result else [call.note], timeout=LOOK_SECONDS)
                call.good = True
                return got[-1]
            except GetTimeoutError:
                if self.waiting.look_up():
                    self.mender.mend([call])
            except RayError as error:
                if not is_loss(error):
                    raise plain(error) from None
                call.missing = isinstance(error, ObjectLostError) and not isinstance(error, RayTaskError)
                self.mender.mend([call])
