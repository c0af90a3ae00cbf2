"""``llms.txt`` and ``llms-full.txt``: the pages for readers that are programs (llmstxt.org)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SUMMARY = (
    "Probabilistic models as Pyro programs, fitted by EM, CAVI, SVI (compiled) or NUTS, each "
    "answering three questions (how probable is x, draw a new x, what is behind x) and handing "
    "its posterior to ArviZ with a verdict on how far to trust it."
)
#: heading, and the pages below it: files of the folder itself, or of one below it
SECTIONS = {
    "Guide": "",
    "Course": "course/",
    "Models": "models/",
    "Examples": "gallery/",
    "API": "api/",
}
MAX_LETTERS = 160


def first_sentence(document: nodes.document) -> str:
    """First sentence of a page's text, on one line."""
    for paragraph in document.findall(nodes.paragraph):
        # a note of the gallery is about the page, not of it
        if paragraph.parent is None or isinstance(paragraph.parent, nodes.section):
            text = " ".join(paragraph.astext().split())
            sentence = re.split(r"(?<=[.!?]) ", text, maxsplit=1)[0]
            return sentence if len(sentence) <= MAX_LETTERS else f"{sentence[:MAX_LETTERS]}..."
    return ""


def write_text(app: Sphinx, error: Exception | None) -> None:
    """Write both files beside the pages."""
    if error is not None or app.builder.name != "html":
        return
    lines = ["# ppl_zoo", "", f"> {SUMMARY}", ""]
    pages = sorted(app.env.found_docs)
    whole = []
    for heading, folder in SECTIONS.items():
        lines += [f"## {heading}", ""]
        for name in pages:
            inside = name.startswith(folder) and "/" not in name[len(folder) :]
            if not inside or name in ("index", "gallery/sg_execution_times"):
                continue
            title = app.env.titles[name].astext()
            sentence = first_sentence(app.env.get_doctree(name))
            lines.append(f"- [{title}]({name}.html)" + (f": {sentence}" if sentence else ""))
            source = Path(app.env.doc2path(name))
            if folder in ("", "course/") and source.suffix == ".md":
                whole.append(source.read_text(encoding="utf-8").strip())
        lines.append("")
    out = Path(app.outdir)
    (out / "llms.txt").write_text("\n".join(lines).strip() + "\n", encoding="utf-8")
    (out / "llms-full.txt").write_text("\n\n".join(whole) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the files when the pages are done."""
    app.connect("build-finished", write_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
