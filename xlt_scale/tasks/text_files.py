"""Text out of published files; what is wrong with a file is said with its name and line."""

from pathlib import Path

from xlt_scale.errors import UserError


def text_of(path: Path) -> str:
    """The whole text of a UTF-8 file, without a byte order mark.

    Raises:
        UserError: the file is missing, empty or not UTF-8.
    """
    try:
        # Some editors begin a file with a byte order mark, which belongs neither to a column name nor to a sentence.
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; convert the file to UTF-8") from None
    if not text or text.isspace():
        raise UserError(f"{path}: the file is empty; fetch it again")
    return text


def lines_of(path: Path) -> list[str]:
    """The lines of a UTF-8 file without their ends; an empty last line is no line.

    Raises:
        UserError: as of `text_of`.
    """
    text = text_of(path)
    # Only line feeds end a line: Unicode's own line separators occur inside sentences.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    return lines
