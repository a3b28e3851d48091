"""What can go wrong in the model server."""


class ModelError(Exception):
    """A model can't be used: its files are missing, damaged or another model's, or it can no longer answer."""


class BadRequestError(Exception):
    """The caller's fault, and what it is."""


class OverloadedError(Exception):
    """The queue is full."""


class TooLargeError(BadRequestError):
    """The caller sends more than is taken."""


class UnsupportedError(BadRequestError):
    """This engine has no such skill."""
