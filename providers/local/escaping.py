"""Text from outside: what looks like a control token in it is taken apart, and stays text."""

from collections.abc import Collection


def harmless(text: str, controls: Collection[str]) -> str:
    """A tokenizer knows its control tokens in any text, whoever wrote it."""
    while found := [control for control in controls if control in text]:
        for control in found:
            text = text.replace(control, f"{control[0]} {control[1:]}")
    return text
