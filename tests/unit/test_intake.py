"""What a session takes in while more and more is to be placed."""

import asyncio
import time
from typing import cast

from agentcgroup.session.intake import Intake
from agentcgroup.session.live import Placement
from tests.unit.folders import Watched


class Storm:
    """Processes to place, each of which takes a while."""

    def __init__(self, left: int) -> None:
        self.left, self.settled = left, 0

    def fetch(self) -> bool:
        time.sleep(0.001)
        self.left -= 1
        return self.left >= 0

    def settle(self) -> None:
        self.settled += 1


class Quiet(Watched):
    """A source that says nothing."""

    def drain(self, deliver: object) -> None:
        pass


def test_whoever_waits_has_a_turn_before_all_late_ones_are_placed_and_all_are() -> None:
    storm = Storm(300)
    left_at_turn = []

    async def run() -> None:
        intake = Intake(Quiet(), lambda event: None, cast(Placement, storm), storm.settle)
        asyncio.get_running_loop().call_soon(lambda: left_at_turn.append(storm.left))
        intake.drain()
        while storm.left > 0:
            await asyncio.sleep(0)
        intake.close()

    asyncio.run(run())
    assert left_at_turn[0] > 0
    assert storm.settled > 1


def test_after_its_end_nobody_is_placed() -> None:
    storm = Storm(300)

    async def run() -> None:
        intake = Intake(Quiet(), lambda event: None, cast(Placement, storm), storm.settle)
        intake.drain()
        intake.close()
        left = storm.left
        await asyncio.sleep(0)
        assert storm.left == left

    asyncio.run(run())
