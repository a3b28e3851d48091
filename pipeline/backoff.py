"""How long to wait before the next try: exponential, capped, with jitter, so that fifty cameras don't return
at once.
"""

import random
from collections.abc import Callable


class Backoff:
    """Waits drawn evenly between `floor_share` of a ceiling and the ceiling, which doubles from `first_s` up
    to `cap_s`.

    A `floor_share` of 0 is full jitter. Above 0 no wait is ever short: for doors that lock after too many
    tries.
    """

    def __init__(
        self,
        first_s: float,
        cap_s: float,
        floor_share: float = 0.0,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_s, self._cap_s, self._floor_share, self._draw = first_s, cap_s, floor_share, draw
        self._ceiling_s = first_s

    def next_s(self) -> float:
        """The next wait."""
        ceiling_s = min(self._ceiling_s, self._cap_s)
        self._ceiling_s = min(2 * ceiling_s, self._cap_s)
        return self._draw(self._floor_share * ceiling_s, ceiling_s)

    def reset(self) -> None:
        """It worked: the next failure waits as the first one did."""
        self._ceiling_s = self._first_s
