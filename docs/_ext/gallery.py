"""Settings of the gallery: which examples are run, their order, their thumbnails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent.parent

#: in the order of the gallery, and whether an example is run when the pages are built: those that
#: take longer than 20 seconds are only shown, with a picture that `docs/make_pictures.py` made
ORDER: dict[str, bool] = {
    "eight_schools": True,
    "own_model": True,
    "gaussian_mixture": True,
    "sklearn_shell": True,
    "restore_photo": True,
    "diagnosis": True,
    "spam_filter": True,
    "markov_text": True,
    "ising": True,
    "factor_analysis": True,
    "bayesian_mixture": True,
    "mean_field": True,
    "fixed_draws": True,
    "gradient_estimators": True,
    "model_comparison": False,
    "mnist_nets": False,
    "autoregressive_samples": False,
    "inpainting": False,
    "vae": False,
    "patch_priors": False,
    "deep_image_prior": False,
    "blackjax_referee": False,
}


class Order:
    """Key that sorts the examples as ``ORDER`` does."""

    def __init__(self, folder: str) -> None:
        self.places = {f"{name}.py": place for place, name in enumerate(ORDER)}

    def __call__(self, name: str) -> int:
        """Place of a file; one that is not listed comes last."""
        return self.places.get(name, len(self.places))

    def __repr__(self) -> str:
        return "Order"  # not an address: the gallery's settings decide what is built anew


def own_figures(block: Any, variables: dict[str, Any], settings: dict[str, Any]) -> str:
    """Show the figure of a cell that ends with ``figure``, as a notebook would.

    Figures that the package plots are not pyplot's, so that the gallery does not find them.
    """
    figure = variables["example_globals"].get("figure")
    if not isinstance(figure, Figure) or not block.content.rstrip().endswith("\nfigure"):
        return ""
    from sphinx_gallery.scrapers import figure_rst

    path = next(variables["image_path_iterator"])
    figure.savefig(path, dpi=100, bbox_inches="tight")
    return figure_rst([path], settings["src_dir"])


GALLERY: dict[str, Any] = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": "/(" + "|".join(name for name, run in ORDER.items() if run) + r")\.py$",
    "within_subsection_order": Order,
    "image_scrapers": ("matplotlib", own_figures),
    "capture_repr": (),
    "abort_on_example_error": False,
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "plot_gallery": True,
    "image_srcset": ["2x"],
    "first_notebook_cell": "# pip install ppl_zoo\n%matplotlib inline",
    "nested_sections": False,
}
