"""What can go wrong, and what to do about it.

    ModelkitError              message, fix, exit code 1
    |-- BrokenFile             a file that is not what it says: rule id, byte offset
    |-- Unsupported            a file, architecture or pair that modelkit does not handle
    |-- Refused                what was asked would lose or overwrite something
    |-- BadValue               a weight that the target encoding cannot hold
    |-- CannotAccess           the operating system says no: missing, permission, disk full
    |-- Unknowable             what is there does not say what should be there (exit code 2)
    `-- BadRequest             the words of the call make no sense together (exit code 2)

Messages name the thing, where it is, what was expected and what was found; `fix` says what to do.
The library raises these and never prints; text from files is escaped where it is printed.
"""


class ModelkitError(Exception):
    """A problem that the person who called can act on."""

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}. {self.fix}" if self.fix else self.message


class BrokenFile(ModelkitError):
    """A file that breaks its format; `rule` is the id under which `validate` reports it."""

    def __init__(self, message: str, fix: str = "", rule: str = "", offset: int | None = None) -> None:
        super().__init__(message, fix)
        self.args = (message, fix, rule, offset)
        self.rule = rule
        self.offset = offset


class Unsupported(ModelkitError):
    """Something modelkit does not read, write or know, named exactly."""


class Refused(ModelkitError):
    """Possible, but it would lose or overwrite something that was not given up."""


class BadValue(ModelkitError):
    """A value in the weights that the target encoding cannot hold (NaN, infinity, overflow).

    `index` counts values from the start of what was being packed; `tensor` is its place in the plan.
    """

    def __init__(self, message: str, fix: str = "", index: int = 0, tensor: int = 0) -> None:
        super().__init__(message, fix)
        self.args = (message, fix, index, tensor)
        self.index = index
        self.tensor = tensor


class CannotAccess(ModelkitError):
    """The operating system refused: no such file, no permission, no space left."""


class Unknowable(ModelkitError):
    """Nothing can be checked: what would say how things should be is not there."""

    exit_code = 2


class BadRequest(ModelkitError):
    """Arguments that contradict each other or name nothing that exists."""

    exit_code = 2
