"""Words of a caption as the Penn Treebank counts them: punctuation and clitics by themselves, "don't" as do n't.

What `nltk.word_tokenize(text, preserve_line=True)` says (3.10), and SGRAF's vocabularies were counted with, without
NLTK and the sentence model that it downloads. That model would also cut off a full stop that ends a sentence inside of
a caption, as in "A man's dog. It sits." Rules are written from what NLTK's tokenizer does, and tested against it.
"""

from __future__ import annotations

import re

_SPACED = r" \g<0> "
# One after another: what a rule finds is set off by spaces, and a straight quotation mark becomes `` or ''.
_RULES = [
    # Quotation marks that open. A single one opens before a word, unless that is a clitic.
    (r"[«“‘„]|``?", _SPACED),
    (r'^"', " `` "),
    (r"(?<=[ (\[{<])(\"|'')", " `` "),
    (r"(?i)(?<!\w)'(?=\w)(?!(re|ve|ll|m|t|s|d|n)\b)", "' "),
    # The full stop at the very end, whatever closes behind it. Within numbers, commas and colons stay.
    (r"(?<=[^.])\.(?=[])}>\"'»”’ ]*+\s*$)", _SPACED),
    (r"([:,])(\D|$)", r" \1 \2"),
    (r"\.{2,}|[;@#$%&?!*\u2012-\u2015]", _SPACED),
    (r"(?<=[^'])'(?= )", _SPACED),
    (r"[][(){}<>]|--", _SPACED),
    # Quotation marks that close, and clitics at the end of a word.
    (r"[»”’]", _SPACED),
    (r"''|\"", " '' "),
    (r"(?<=[^'\s])'[sSmMdD]?(?!\S)", _SPACED),
    (r"(?<=[^'\s])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?!\S)", _SPACED),
    # Two words written as one.
    *(
        (rf"(?i)\b({first})({second})\b", r" \1 \2 ")
        for first, second in (
            ("can", "not"), ("d", "'ye"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("more", "'n"),
        )
    ),
    (r"(?i)\b(wan)(na)(?!\S)", r" \1 \2 "),
    *((rf"(?i)(?<!\S)('t)({second})\b", r" \1 \2 ") for second in ("is", "was")),
]  # fmt: skip
_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]


def words(text: str) -> list[str]:
    """The words of a text, in order; case is left as it is."""
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    return text.split()
