"""The end of a connection to a camera, as its process tells it."""

from pipeline.camera_link import LossCause


class SourceLostError(Exception):
    """There is no picture, because of `cause`."""

    def __init__(self, cause: LossCause, reason: str) -> None:
        super().__init__(reason)
        self.cause, self.reason = cause, reason
