"""Mathematics as MathML: LaTeX read by docutils, drawn by the browser, without a network."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

log = logging.getLogger(__name__)

#: commands that docutils does not know, and what they are written as instead
SYNONYMS = {r"\dots": r"\ldots", r"\lVert": r"\Vert ", r"\rVert": r"\Vert "}


def mathml(tex: str, block: bool, where: nodes.Node) -> str:
    """Convert LaTeX to MathML; what cannot be read is a warning, and shown as it was written."""
    for command, synonym in SYNONYMS.items():
        tex = tex.replace(command, synonym)
    try:
        return tex2mathml(tex, as_block=block)
    except MathError as error:
        log.warning("mathematics: %s in %r", error, tex, location=where)
        return f"<code>{tex}</code>"


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(mathml(node.astext(), False, node))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own, which scrolls where it is wider than the page."""
    # tabindex: what scrolls has to be reached from the keyboard
    opening = '<div class="zoo-formula" tabindex="0">'
    translator.body.append(f"{opening}{mathml(node.astext(), True, node)}</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
