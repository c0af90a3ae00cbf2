"""Citations: valid BibTeX with keys of their own, of what a fit used and of nothing else."""

import re
from pathlib import Path

import own_model  # noqa: F401  the class of some saved runs
import pytest

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.solver import Solver
from ppl_zoo.fitting.citation import ARVIZ, CALIBRATION, CHECKS, FITS, JAX, NUMPYRO, SOLVERS
from ppl_zoo.models import references
from ppl_zoo.models.card import Reference

ALL = {name: v for name, v in vars(references).items() if isinstance(v, Reference)}
#: fields that BibTeX asks of an entry
REQUIRED = {
    "article": {"author", "title", "journal", "year"},
    "inproceedings": {"author", "title", "booktitle", "year"},
    "book": {"author", "title", "publisher", "year"},
    "misc": {"author", "title", "year"},
}


def parse(text):
    """Entries of a BibTeX file, ``{key: (type, fields)}``; anything else is an error."""
    found, rest = {}, re.sub(r"(?m)^%.*$", "", text).strip()
    while rest:
        head = re.match(r"@(\w+)\{([a-z0-9]+),", rest)
        assert head, rest[:80]
        fields, at = {}, head.end()
        while field := re.compile(r"\s*(\w+) = \{").match(rest, at):
            at, depth = field.end(), 1
            start = at
            while depth:
                depth += {"{": 1, "}": -1}.get(rest[at], 0)
                at += 1
            assert field[1] not in fields
            fields[field[1]] = rest[start : at - 1]
            at += rest[at] == ","
        end = re.compile(r"\s*\}").match(rest, at)
        assert end, rest[at : at + 80]
        assert head[2] not in found, head[2]
        found[head[2]] = head[1], fields
        rest = rest[end.end() :].strip()
    return found


@pytest.mark.parametrize("name", ALL)
def test_references_are_valid_bibtex(name):
    reference = ALL[name]
    ((key, (kind, fields)),) = parse(reference.bibtex()).items()
    assert key == reference.key and fields["year"] == str(reference.year)
    assert fields.keys() >= REQUIRED[kind] and all(fields.values())
    for field in ("author", "title"):
        assert not re.search(r"(?<!\\)[&%$#_]", fields[field]), fields[field]
    assert "et al" not in fields["author"] and "&" not in fields["author"]


def test_keys_and_names_are_unique():
    assert len({r.key for r in ALL.values()}) == len(ALL)
    assert list(ALL) == sorted(ALL)
    together = "\n\n".join(r.bibtex() for r in ALL.values())
    assert len(parse(together)) == len(ALL)


def test_authors_titles_and_places():
    book = Reference("van den Oord et al.", 2016, "50% of $x_1$ & more", "https://arxiv.org/abs/1")
    assert book.key == "vandenoord201650"
    ((kind, fields),) = parse(book.bibtex()).values()
    assert kind == "misc" and fields["author"] == "{van den Oord} and others"
    assert fields["title"] == r"{50\% of \$x\_1\$ \& more}" and fields["eprint"] == "1"
    part = references.BISHOP_2006.part("chapter 10")
    assert part.key == references.BISHOP_2006.key and "chapter 10" in part.bibtex()
    assert "@book" in part.bibtex()


def keys(what):
    citation = zoo.cite(what)
    assert parse(str(citation)).keys() == {r.key for r in citation.references}
    assert repr(citation) == str(citation) == citation.bibtex
    return {name for name, r in ALL.items() if r.key in {c.key for c in citation.references}}


LIBRARIES = {"PPL_ZOO", "BINGHAM_2019", "PASZKE_2019"}


def test_models_and_solvers():
    assert keys(zoo.NADE) == keys(zoo.NADE(4, 3)) >= {"LAROCHELLE_2011", *LIBRARIES}
    assert keys(zoo.EM()) == {"DEMPSTER_1977", *LIBRARIES}
    assert keys(zoo.CAVI()) == {"BISHOP_2006", *LIBRARIES}
    assert keys(zoo.CAVI(stochastic=True)) - keys(zoo.CAVI()) == {"HOFFMAN_2013"}
    svi = keys(zoo.SVI())
    assert svi == {"HOFFMAN_2013", "RANGANATH_2014", *LIBRARIES}
    assert keys(zoo.SVI(elbo="iwae")) - svi == {"BURDA_2016", "TUCKER_2019"}
    assert keys(zoo.SVI(elbo="stl")) - svi == {"ROEDER_2017"}
    assert keys(zoo.SVI(elbo=zoo.LocalELBO(num_particles=2, bound="iwae"))) - svi >= {"BURDA_2016"}
    assert keys(zoo.SVI(guide="flow")) - svi == {"REZENDE_2015"}
    assert "LI_2016" in keys(zoo.SGLD()) and "LI_2016" not in keys(zoo.SGLD(memory=None))
    assert "VONO_2019" in keys(zoo.SplitGibbs())


def test_every_public_solver_and_reference_has_its_place():
    public = {
        name
        for name in zoo.__all__
        if isinstance(getattr(zoo, name), type) and issubclass(getattr(zoo, name), Solver)
    }
    assert public - {"Auto"} == SOLVERS.keys()  # Auto cites the rungs that it climbed
    tables = [*FITS, *CHECKS, *CALIBRATION, *JAX, *NUMPYRO, *ARVIZ]
    tables += [use for uses in SOLVERS.values() for use in uses]
    assert all(reference in ALL.values() for use in tables for reference in use.references)


RUNS = Path(__file__).parent / "old_runs"


def test_a_fit_cites_what_it_used():
    khat = {"VEHTARI_2024", "YAO_2018", "KUMAR_2019"}
    svi = {"HOFFMAN_2013", "RANGANATH_2014"}
    fit = zoo.load(RUNS / "svi-stochastic")
    noisy = keys(fit)
    assert noisy >= {*svi, "KINGMA_2015", *khat, *LIBRARIES} and "BRADBURY_2018" not in noisy
    fit.solution.state_values["objective"] = "fixed-draws"  # as a fit by fixed draws records it
    fixed = {"GIORDANO_2024", "NOCEDAL_1980", "BRADBURY_2018"}
    assert keys(fit) - noisy == fixed and noisy - keys(fit) == {"KINGMA_2015"}
    assert "BRADBURY_2018" in keys(zoo.load(RUNS / "svi-xla"))


def test_samplers_cite_their_engine():
    numpyro, pyro = (keys(zoo.load(RUNS / name)) for name in ("nuts-numpyro", "nuts-pyro"))
    engine = {"PHAN_2019", "BRADBURY_2018"}
    assert numpyro >= {"HOFFMAN_2014", "VEHTARI_2021", *engine} and "YAO_2018" not in numpyro
    assert pyro >= {"HOFFMAN_2014", "VEHTARI_2021"} and not engine & pyro


def test_own_models_restorations_and_saved_runs(tmp_path):
    import torch

    image = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    restored = zoo.Restoration(image, None, None, 0.1)  # as restore(method="map") returns it
    assert keys(restored) >= {"ZORAN_2011", *LIBRARIES}
    faithful = zoo.data.load("old-faithful")
    fit = zoo.fit(zoo.GaussianMixture(2, 2), faithful, zoo.EM(steps=2), progress=False)
    check = keys(fit.check(num_samples=20))
    assert check >= {"KUMAR_2019", *LIBRARIES} and "DEMPSTER_1977" not in check
    assert keys(zoo.load(fit.save(tmp_path / "run"))) == keys(fit) >= {"DEMPSTER_1977"}
    with pytest.raises(DataError, match="cite: got a int, expected a fit"):
        zoo.cite(3)


def test_citation_file_of_the_project():
    root = Path(__file__).resolve().parents[2]
    text = (root / "CITATION.cff").read_text(encoding="utf-8")
    record = dict(re.findall(r'(?m)^([a-z-]+): "?([^"\n]*)"?$', text))
    assert record.keys() >= {"cff-version", "message", "title", "type"}
    assert record["cff-version"] == "1.2.0" and record["type"] == "software"
    assert 'authors:\n  - name: "the ppl_zoo authors"\n' in text
    assert record["version"] == zoo.__version__ and record["license"] == "Apache-2.0"
