"""One repair of an answer that is nearly JSON, by a closed list of shapes that models are known to give.

Code fences, prose around the JSON, comments, single quotes, Python's True, False and None, trailing commas.
Nothing is guessed: what is cut off stays cut off, and two answers stay two.
"""

import re

MAX_CHARS = 16 * 1024
"""Longer than any answer to a few questions; what is longer is not worth the search for flaws in it."""

_FENCE = re.compile(r"```(?:json)?(.*?)```", re.DOTALL)
_PIECE = re.compile(
    r"""(?P<double>"(?:[^"\\]|\\.)*")|(?P<single>'(?:[^'\\]|\\.)*')|(?P<comment>//[^\n]*|\#[^\n]*|/\*.*?\*/)"""
    r"""|(?P<word>\b(?:True|False|None)\b)|(?P<comma>,(?=\s*[\]}]))""",
    re.DOTALL,
)
_WORDS = {"True": "true", "False": "false", "None": "null"}


def repaired(text: str) -> str:
    """The same text with every known flaw mended once; whether it is JSON now is for the parser to say."""
    if len(text) > MAX_CHARS:
        return text
    return _PIECE.sub(_mended, _without_prose(text))


def _without_prose(text: str) -> str:
    fences = _FENCE.findall(text)
    if len(fences) == 1:
        text = fences[0]
    starts = [at for mark in "{[" if (at := text.find(mark)) >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    return text[min(starts) : end + 1] if starts and end > min(starts) else text


def _mended(match: re.Match[str]) -> str:
    piece = match.group()
    match match.lastgroup:
        case "single":
            return '"' + piece[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
        case "word":
            return _WORDS[piece]
        case "comment" | "comma":
            return ""
        case _:
            return piece
