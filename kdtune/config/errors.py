"""Exceptions whose message is one sentence for the user; a traceback is for bugs."""


class UserError(Exception):
    """An error that the user can act on: a command prints its message, not its traceback."""


class InputError(UserError, ValueError):
    """Invalid input of the user. The message names the value and the valid alternatives."""


class LeaseLostError(UserError):
    """Another driver has taken over the study on its object store; this one must not write.

    The input is valid, so commands end with exit code 1, not 2.
    """


class NodeMismatchError(UserError):
    """A machine of the cluster cannot run the study's trials, or differs from the driver's."""


def first_line(error: BaseException, length: int = 200) -> str:
    """Return the first line of an error's message, at most `length` characters of it."""
    text = str(error).strip() or repr(error)
    return text.splitlines()[0][:length]
