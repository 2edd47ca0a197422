"""The error of a user, which tells a mistake from a bug."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something that was given cannot be used; the message says what was given, what is allowed and what to change.

    The command line prints it on one line and ends with exit code 2. Any other ``ValueError`` is a bug.
    """


@contextmanager
def blaming_settings() -> Iterator[None]:
    """Turn what classes of other libraries raise of settings into a :class:`UserError` while they are made."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # takes seconds, which help need not

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
    unknown = re.fullmatch(r"Group '(.+?)' does not accept option '(.+?)'", message)
    if unknown is not None:
        return f"{unknown[1]} has no setting {unknown[2]!r}; fastvmt fit --help lists them"
    keys = re.findall(r'Parser key "([^"]+)":', message)
    if not keys:
        return message
    name = keys[0] if len(keys) == 1 else f"{keys[0]}: {keys[-1]}"  # the setting of a class, and its own
    problem = message.rsplit("Parser key", 1)[1].split(": ", 1)[1]
    unknown = re.search(r"Option '(.+?)' is not accepted", problem)
    if unknown is not None:
        return f"{name} has no setting {unknown[1]!r}"
    is_list = "'collections.abc.Sequence'>" in problem and "Union subtypes" not in problem
    if is_list or "'utf-8' codec" in problem:  # a clip that was taken for a file of settings
        return f"""{name} is a list; write it as '["first", "second"]', or '["first"]' for a single one"""
    types = re.fullmatch(r".*Subtypes: [\[(](.*?)[\])] Errors: .*? Given value: (.*)", problem) or re.fullmatch(
        r"Expected a (.*?)\. Got value: (.*?)(?:\. Got value: .*| - Expected .*)?", problem
    )
    if types is None:
        return message
    allowed = re.sub(r"<class '(.*?)'>|typing\.Literal\[(.*?)\]", r"\1\2", types[1]).replace(", NoneType", "")
    return f"{name} is {types[2]!r}; use {allowed}"
