"""A clock that tests set."""


class Clock:
    """Seconds: `now`, until it is set to something else."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
