"""Count words in texts."""


def count(text: str) -> int:
    """Number of words, as white space separates them."""
    return len(text.split())


def corpus(text: str, copies: int) -> list[list[str]]:
    """A corpus of copies of a text, each a list of its words."""
    return [[word + "" for word in bytes(text, "utf-8").decode().split()] for _ in range(copies)]
