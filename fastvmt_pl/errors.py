"""The error of a user, which tells a mistake from a bug."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException


class UserError(ValueError):
    """Something that was given cannot be used; the message says what was given, what is allowed and what to change.

    The command line prints it on one line and ends with exit code 2. Any other ``ValueError`` is a bug.
    """


@contextmanager
def blaming_settings() -> Iterator[None]:
    """Turn what classes of other libraries raise of settings into a :class:`UserError` while they are made."""
    try:
        yield
    except UserError:
        raise  # with its class, which says more
    except (ValueError, MisconfigurationException) as error:
        raise UserError(str(error)) from error


def one_line(message: str) -> str:
    r"""Join the lines of a message, and say in fewer words which types jsonargparse would have taken.

    >>> one_line("a\n  b")
    'a b'
    """
    message = re.sub(r"\s+", " ", message).strip()
    types = (
        r"Does not validate against any of the Union subtypes Subtypes: [\[(](.*?)[\])] Errors: .* Given value: (.*)"
    )
    no_list = re.fullmatch(r"""Parser key "([^"]+)": ('utf-8' codec|Expected a <class '.*Sequence'>).*""", message)
    if no_list is not None:
        return f"""{no_list[1]} is a list; write it as '["first", "second"]', or '["first"]' for a single one"""
    found = re.fullmatch(rf'Parser key "([^"]+)": {types}', message)
    if found is None:
        return message
    name, allowed, given = found.groups()
    allowed = re.sub(r"<class '(.*?)'>|typing\.Literal\[(.*?)\]", r"\1\2", allowed).replace(", NoneType", "")
    return f"{name} is {given!r}; use {allowed}"
