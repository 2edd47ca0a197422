"""The error of a user, which tells a mistake from a bug."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something that was given cannot be used; the message says what was given, what is allowed and what to change.

    The command line prints it on one line and ends with exit code 2. Any other ``ValueError`` is a bug.
    """


@contextmanager
def blaming_settings() -> Iterator[None]:
    """Turn any ``ValueError`` into a :class:`UserError` while classes of other libraries are made from settings."""
    try:
        yield
    except UserError:
        raise  # with its class, which says more
    except ValueError as error:
        raise UserError(str(error)) from error
