import pytest
from wordcount import corpus, count


@pytest.mark.parametrize(("text", "words"), [("", 0), ("one", 1), (" two  words\n", 2), ("a\tb\nc", 3)])
def test_words_are_separated_by_white_space(text: str, words: int) -> None:
    assert count(text) == words


def test_a_corpus_has_every_word_of_every_copy() -> None:
    assert sum(map(len, corpus("a b c", 4))) == 12
