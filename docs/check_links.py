"""Links between the built pages: each leads to a file that is there, and to an anchor in it.

python docs/check_links.py docs/_build/html
"""

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses and the names of a tag."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name == "srcset" and value:
                self.links |= {part.split()[0] for part in value.split(",")}
            elif name in ("id", "name") and value:
                self.anchors.add(value)


@cache
def read(path: Path) -> Page:
    """Read a page once."""
    return Page(path.read_text(encoding="utf-8"))


def broken_links(root: Path) -> list[str]:
    """Return ``page: link`` of each link to a file or an anchor that is not there."""
    found = []
    paths = [p for p in sorted(root.rglob("*.html")) if p.relative_to(root).parts[0] != "_static"]
    pages = {path: read(path).links for path in paths}
    text = root / "llms.txt"
    pages[text] = set(re.findall(r"\]\(([^)]+)\)", text.read_text(encoding="utf-8")))
    for path, links in pages.items():
        for link in sorted(links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            whole = target.is_file()
            if whole and anchor and target.suffix == ".html":
                whole = anchor in read(target).anchors
            if not whole:
                found.append(f"{path.relative_to(root)}: {link}")
    return found


if __name__ == "__main__":
    wrong = broken_links(Path(sys.argv[1]).resolve())
    print("\n".join(wrong) if wrong else "every link between the pages leads somewhere")
    sys.exit(bool(wrong))
