"""What is wrong with an audio file."""


class AudioError(ValueError):
    """An audio file or interval that cannot be used. The message is one sentence that names the file and the reason.

    `fault` is the reason in a few words, by which the rows of a corpus are counted.
    """

    def __init__(self, message: str, fault: str = "unreadable audio"):
        super().__init__(message)
        self.fault = fault

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str]]:
        return type(self), (str(self), self.fault)  # workers send it to their parent


class NotNumbers(AudioError):
    """A file whose samples are NaN or infinite."""

    def __init__(self, message: str, fault: str = "NaN or infinity"):
        super().__init__(message, fault)
