"""The one exception that users meet: a line that says what is wrong and what to do about it."""


class MetersError(Exception):
    """Something that a user can correct.

    Args:
        message: what is wrong, in one line.
        fix: what to do about it, in one line; shown after the message.
    """

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(f"{message}. {fix}" if fix else message)
        self.message = message
        self.fix = fix


class ServiceAwayError(MetersError):
    """A service does not answer: the same work may well succeed later."""
