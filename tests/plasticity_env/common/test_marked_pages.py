"""Pages of which a program renews a part."""

from pathlib import Path

import pytest

from plasticity_env import InputError
from plasticity_env.common.marked_pages import MarkedPage

MARKS = "<!-- begin -->", "<!-- end -->"


def test_a_page_keeps_what_stands_around_its_part(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# Title\n\ntext\n")
    page = MarkedPage(path, *MARKS)
    page.renew("one")
    assert path.read_text() == "# Title\n\ntext\n\n<!-- begin -->\none\n<!-- end -->\n"
    path.write_text(path.read_text() + "after\n")
    page.renew("two")
    assert path.read_text() == "# Title\n\ntext\n\n<!-- begin -->\ntwo\n<!-- end -->\nafter\n"


def test_a_page_that_is_not_there_is_made(tmp_path: Path) -> None:
    MarkedPage(tmp_path / "page.md", *MARKS).renew("one")
    assert (tmp_path / "page.md").read_text() == "<!-- begin -->\none\n<!-- end -->\n"


@pytest.mark.parametrize("text", ["text <!-- end -->", "<!-- begin -->", "<!-- end --> <!-- begin -->"])
def test_a_page_that_cannot_be_renewed_is_an_error_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(InputError, match="only one of the marks"):
        MarkedPage(tmp_path / "page.md", *MARKS)
