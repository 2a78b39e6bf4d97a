"""The errors a user can meet.

Every message is a sentence: what is wrong, with which file or value, and what to do about it. The command line prints
it as it is and exits with 1; anything else that escapes is a defect of the program, not of its input.
"""


class FlashMoeError(Exception):
    """Anything a user can cause or mend: bad input, a damaged file, too little memory or disk."""


class FormatError(FlashMoeError):
    """A file or a configuration does not say what it must."""


class CapacityError(FlashMoeError):
    """Memory, disk or context is too small for what was asked; the message holds both figures."""
