"""Every statement that the database is asked, one file each: numbered ones build the schema."""

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """The text of `name`.sql."""
    return files(__name__).joinpath(f"{name}.sql").read_text("utf-8")
