"""What is looked at after generation: formats that no grammar enforces."""

import pytest

from basemlx.engine.grammar.validator import violations


@pytest.mark.parametrize(
    ("name", "valid", "invalid"),
    [
        (
            "regex",
            ("(?<year>\\d{4})\\k<year>", "(?<=a)b", "\\bfoo\\b", "(?i:a)", "\\\\a", "[abc]+\\s+$"),
            ("^(abc]", "(?P<a>b)", "\\a", "(?i)abc", "(?#a)", "a\\Z"),
        ),
        ("idn-hostname", ("실례.테스트", "a。b", "example.com"), (".", "a..b", "〮실례.테스트", "-a", "a.", "x" * 64)),
    ],
)  # fmt: skip
def test_formats_that_no_grammar_enforces_are_checked(
    name: str, valid: tuple[str, ...], invalid: tuple[str, ...]
) -> None:
    for text in valid:
        assert violations({"format": name}, text) == [], text
    for text in invalid:
        assert [found.keyword for found in violations({"format": name}, text)] == ["format"], text
    assert violations({"format": name}, 3) == []
