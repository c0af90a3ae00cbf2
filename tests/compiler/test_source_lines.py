"""Errors of the capture name the user's line, also in code that jaxtyping checks."""

import sys
import textwrap
import warnings

import pytest
import torch
from jaxtyping import install_import_hook

import ppl_zoo as zoo

HOOKED = """
    import pyro
    import pyro.distributions as dist
    from jaxtyping import Float
    from torch import Tensor
    import ppl_zoo as zoo


    def scale_of(mu: Float[Tensor, ""]) -> float:
        return 1.0 if mu.item() < 10.0 else 2.0  # the line that is named


    class Branching(zoo.Model):
        def model(self, x: Float[Tensor, "rows"]) -> None:
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            with self.observations("observations", x):
                pyro.sample("x", dist.Normal(mu, scale_of(mu)), obs=x)
"""


@pytest.mark.parametrize("checker", ["beartype.beartype", None])
def test_the_line_is_named_under_the_import_hook(checker, tmp_path, monkeypatch):
    name = f"hooked_{'checked' if checker else 'shapes'}"
    source = textwrap.dedent(HOOKED).lstrip()
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(), install_import_hook(name, checker):
        warnings.simplefilter("ignore")
        module = __import__(name)
    try:
        line = next(i for i, text in enumerate(source.splitlines(), 1) if "is named" in text)
        with pytest.warns(UserWarning, match=rf"{name}.py:{line}: `return 1.0 if mu.item"):
            zoo.fit(
                module.Branching(),
                torch.zeros(4),
                zoo.SVI(steps=3, compile="xla"),
                progress=False,
            )
    finally:
        del sys.modules[name]
