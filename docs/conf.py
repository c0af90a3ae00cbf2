"""Sphinx configuration: pages in Markdown, API from the docstrings, examples as a gallery.

Everything is made without a network: mathematics is MathML, which browsers draw themselves.
"""

import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"  # progress bars have no place on a page

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]
warnings.filterwarnings("ignore", message="(?s).*ArviZ is undergoing a major refactor")

from gallery import GALLERY

import ppl_zoo

project = "ppl_zoo"
author = "the authors of ppl_zoo"
project_copyright = author
version = release = ppl_zoo.__version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "api_pages",
    "llms",
    "mathml",
    "model_pages",
]
exclude_patterns = ["_build", "pictures", "**/*.ipynb", "gallery/**/*.md5"]
templates_path = ["_templates"]

# ---- Markdown ---------------------------------------------------------------------------------

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
highlight_language = "none"  # indented blocks are stories, not programs

# ---- API --------------------------------------------------------------------------------------

autosummary_generate = True
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "description"  # beside the words on an argument, not in the signature
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
napoleon_google_docstring = False
napoleon_use_rtype = True  # else the type is told twice
napoleon_use_ivar = True
toc_object_entries = False

# Links into the package must lead somewhere; other packages' pages would need a network.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!ppl_zoo\.).*")]

# ---- gallery ----------------------------------------------------------------------------------

sphinx_gallery_conf = GALLERY
suppress_warnings = [
    "config.cache",  # the gallery's settings hold functions
]

# ---- HTML -------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "ppl_zoo"
html_static_path = ["_static"]
html_css_files = ["zoo.css"]
html_js_files = ["zoo.js"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "ppl_zoo"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
