"""Deep image prior: the contract, stopping rules against brute force, tasks, densities."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import ppl_zoo as zoo
from ppl_zoo.cli import main
from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.tracing import trace_program
from ppl_zoo.imaging import Blur, Downsample, Identity, Lanczos, Mask, psnr
from ppl_zoo.models.images.clipped_normal import ClippedNormal
from ppl_zoo.restoration.dip import _choose_rule, _looks_clipped
from ppl_zoo.solvers.early_stopping.rules import Discrepancy, HeldOut, View, WindowedVariance
from ppl_zoo.solvers.early_stopping.solver import EarlyStoppingChain

TINY = {"num_inputs": 4, "down": (8, 8), "up": (8, 8), "skip": (2, 0)}
SMALL = {"num_inputs": 4, "down": (8, 16), "up": (8, 16), "skip": (0, 4)}
SD = 25 / 255


def scene(side=24):
    """Draw an edge, a disc and a gradient, in colour."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    grey = 0.3 + 0.3 * row / side + 0.25 * (column + 0.4 * row > 0.8 * side)
    disc = (row - 0.3 * side) ** 2 + (column - 0.3 * side) ** 2 < (0.2 * side) ** 2
    return torch.stack([grey, grey - 0.2 * disc, 0.8 * grey + 0.2 * disc], -1).float()


def noisy(image, seed=0):
    return image + SD * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


def tiny_model(**options):
    return zoo.DeepImagePrior((1, 14, 17), net=TINY, precision="full", **options)


def tiny_data(n=1):
    return torch.rand(n, 1, 14, 17), torch.full((n,), 0.1)


def fitted(model, data, seed=0, **options):
    return zoo.fit(model, data, zoo.EarlyStopping(**options), seed=seed, progress=False)


def test_contract():
    zoo.testing.check_model(
        lambda: tiny_model(num_images=2),
        lambda: tiny_data(2),
        solver=zoo.EarlyStopping(8, rule="none"),
    )


# --- the story ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.05, 0.3, 0.97, 1.2])
def test_a_clipped_normal_has_all_its_mass_and_the_right_gradient(value):
    loc = torch.tensor(value, dtype=torch.float64)
    d = ClippedNormal(loc, 0.1)
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)[1:-1]
    inside = torch.trapezoid(d.log_prob(grid).exp(), grid)
    ends = d.log_prob(torch.tensor([0.0, 1.0], dtype=torch.float64)).exp()
    assert float(inside + ends.sum()) == pytest.approx(1.0, abs=1e-4)
    drawn = d.sample((20_000,))
    assert float((drawn == 1).double().mean()) == pytest.approx(float(ends[1]), abs=0.015)
    assert float((drawn == 0).double().mean()) == pytest.approx(float(ends[0]), abs=0.015)
    data = torch.tensor([0.0, 0.2, 0.9, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda m: ClippedNormal(m, 0.1).log_prob(data), loc.requires_grad_()
    )


def test_the_log_joint_is_that_of_the_story():
    model, (y, noise) = tiny_model(prior_scale=2.0), tiny_data()
    fit = fitted(model, (y, noise), steps=3, rule="none")
    draw = fit.draws(1)[0]
    theta, image = model.theta.detach(), model.image(model.theta.detach())
    loc, scale = model.net.prior()
    expected = (
        Normal(loc, 2.0 * scale).log_prob(theta).sum() + Normal(image, 0.1).log_prob(y).sum()
    )
    assert float(draw.log_joint[0]) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(model.encode(y, noise), image)
    torch.testing.assert_close(
        model.log_prob(y, noise), Normal(image, 0.1).log_prob(y).sum()[None]
    )
    flat = tiny_model(prior_scale=None)
    flat.load_state_dict(model.state_dict())
    trace = trace_program(flat, (y, noise))
    assert float(trace.log_prob_sum(lambda name, _: name == "theta")) == 0.0


OPERATORS = {
    "nothing": (Identity(), (14, 17)),
    "blur": (Blur(torch.ones(3, 5)), (12, 13)),
    "circular blur": (Blur(torch.ones(3, 5), "circular"), (14, 17)),
    "mask": (Mask(torch.arange(14 * 17).reshape(14, 17) % 3 > 0), (14, 17)),
    "means": (Downsample(2), (7, 9)),
    "lanczos": (Lanczos(2), (7, 9)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_enters_the_likelihood(name, tmp_path):
    operator, shape = OPERATORS[name]
    image = (1, 14, 18) if shape == (7, 9) else (1, 14, 17)
    model = zoo.DeepImagePrior.of(image, operator, net=TINY)
    x = torch.rand(1, *image)
    y, noise = operator(x), torch.full((1,), 0.1)
    assert y.shape[-2:] == shape
    seen = model.num_seen(y, None)
    at_truth = model.likelihood(x, noise).log_prob(y)
    assert float(at_truth) == pytest.approx(-seen * math.log(0.1 * (2 * math.pi) ** 0.5), rel=1e-4)
    fit = fitted(model, (y, noise), steps=3)
    assert fit.solution.state_tensors["image"].shape == (1, *image)
    again = zoo.load(fit.save(tmp_path / "run"))
    torch.testing.assert_close(again.model.encode(y, noise), model.encode(y, noise))


def test_lanczos_has_an_adjoint_and_keeps_what_is_slow():
    for factor, side in ((2, 24), (3, 24), (4, 32)):
        operator = Lanczos(factor)
        x = torch.randn(2, side, side + factor, dtype=torch.float64)
        y = torch.randn(operator(x).shape, dtype=torch.float64)
        torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())
        assert operator.image_shape(tuple(y.shape[-2:])) == tuple(x.shape[-2:])
        fine = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        coarse = fine.reshape(-1, factor).mean(1)
        wave = operator((2 * fine).cos().expand(side, side))
        inner = slice(2, -2)  # the border repeats outwards and bends the wave
        torch.testing.assert_close(wave[0, inner], (2 * coarse).cos()[inner], atol=0.01, rtol=0)


# --- one seed, one image -----------------------------------------------------------------------


def test_one_seed_gives_one_image_and_runs_are_averaged():
    data = tiny_data()
    alone = [fitted(tiny_model(), data, seed=3, steps=12, rule="none") for _ in range(2)]
    images = [fit.solution.state_tensors["image"] for fit in alone]
    assert torch.equal(*images)
    other = fitted(tiny_model(), data, seed=4, steps=12, rule="none")
    assert not torch.allclose(other.solution.state_tensors["image"], images[0], atol=1e-4)
    several = fitted(tiny_model(), data, seed=3, steps=12, rule="none", num_chains=3).solution
    each = several.state_tensors["images"]
    assert torch.equal(each[0], images[0])  # a run does not depend on the others
    assert not torch.allclose(each[1], each[0], atol=1e-4)
    torch.testing.assert_close(several.state_tensors["image"], each.mean(0))


def test_re_init_starts_anew():
    model, data = tiny_model(), tiny_data()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fitted(model, data, steps=10)
    torch.manual_seed(1)
    model.re_init()
    first = {k: v.clone() for k, v in model.state_dict().items()}
    assert all(not torch.equal(first[k], before[k]) for k in ("z", "theta"))
    assert 0 <= float(model.z.min()) and 0.09 < float(model.z.max()) <= 0.1
    torch.manual_seed(1)
    model.re_init()
    assert all(torch.equal(v, first[k]) for k, v in model.state_dict().items())


# --- stopping ----------------------------------------------------------------------------------


def test_the_windowed_variance_is_that_of_the_last_outputs():
    rule, outputs = WindowedVariance(5, window=7), torch.randn(30, 1, 1, 4, 5).cumsum(0)
    view = View(tiny_model(), tiny_data(), None)  # which this rule does not use
    scores = [rule.score(x, x, view) for x in outputs]
    assert all(math.isnan(s) for s in scores[:6])
    expected = [outputs[t - 6 : t + 1].var(0, unbiased=False).mean() for t in range(6, 30)]
    np.testing.assert_allclose(scores[6:], expected, rtol=1e-4)


def test_rules_keep_the_lowest_and_wait():
    rule = WindowedVariance(patience=3, window=1)
    scores = [math.nan, 5.0, 3.0, 4.0, 2.0, 2.5, 2.5, 2.5, 4.0]
    kept = [step for step, score in enumerate(scores) if rule.keeps(step, score)]
    assert kept == [0, 1, 2, 4] and rule.best_step == 4
    assert not rule.stops(6) and rule.stops(7)


def test_the_discrepancy_of_the_truth_is_none_and_that_of_the_noise_is_one():
    x = scene(64).movedim(-1, 0)[None]
    for clipped in (False, True):
        model = zoo.DeepImagePrior((3, 64, 64), net=TINY, clipped=clipped)
        y = noisy(1.3 * x)
        y = y.clamp(0, 1) if clipped else y
        view = View(model, (y, torch.full((1,), SD)), None)
        assert view.excess(1.3 * x) == pytest.approx(0.0, abs=0.04)
        assert view.excess(1.3 * x + 0.5 * SD) == pytest.approx(0.25, abs=0.08)
        assert view.excess(y) < -0.8
    margins = [zoo.EarlyStopping().make_rule(n).margin for n in (64**2, 3 * 64**2, 3 * 128**2)]
    assert margins == pytest.approx([0.109, 0.063, 0.032], abs=1e-3)
    assert zoo.EarlyStopping(margin=0.2).make_rule(9).margin == 0.2
    rule = Discrepancy(1, margin=0.1)
    assert rule.keeps(3, 0.05) and not rule.stops(3)
    assert not rule.keeps(4, 0.2) and rule.best_step == 3  # it has jumped away
    assert rule.keeps(5, -0.01) and rule.stops(5)


def test_data_held_out_are_not_seen():
    model, (y, noise) = tiny_model(), tiny_data()
    rule = HeldOut(5, 0.2)
    shown = torch.rand(y.shape) >= rule.held_out
    program = model.training_on(shown)
    trace = trace_program(program, (y, noise))
    changed = torch.where(shown, y, 9.0)
    other = trace_program(program, (changed, noise))
    whole = trace_program(model, (y, noise))  # the model itself is as before
    every = Normal(whole.nodes["image"]["value"], 0.1).log_prob(y).sum()
    assert float(whole.log_prob_sum(lambda name, _: name == "y")) == pytest.approx(
        float(every), rel=1e-4
    )
    image = trace.nodes["image"]["value"]
    ours = Normal(image, 0.1).log_prob(y)[shown].sum()
    assert float(trace.log_prob_sum(lambda name, _: name == "y")) == pytest.approx(
        float(ours), rel=1e-4
    )
    ours = Normal(other.nodes["image"]["value"], 0.1).log_prob(y)[shown].sum()
    assert float(other.log_prob_sum(lambda name, _: name == "y")) == pytest.approx(
        float(ours), rel=1e-4
    )
    view = View(model, (y, noise), shown)
    hidden = -Normal(image, 0.1).log_prob(y)[~shown].mean()
    assert view.held_out_loss(image) == pytest.approx(float(hidden), rel=1e-4)


class Fake(View):
    """What a view says of plain numbers; the last tenth is held out."""

    def __init__(self, y, sd):
        self.y, self.sd, self.first = y, sd, len(y) * 9 // 10

    def excess(self, output):
        residual = (self.y - output)[: self.first]
        return float(residual.square().mean()) / self.sd**2 - 1.0

    def held_out_loss(self, output):
        return float((self.y - output)[self.first :].square().mean())


def soon(step):
    """Noise that begins to be fitted at once."""
    return 60, 1 - math.exp(-((step / 900) ** 2))


def later(step):
    """Noise that comes as fast as the signal, but later: outputs are stillest in between."""
    return 100, 1 / (1 + math.exp((1200 - step) / 100))


def sudden(step):
    """Noise that comes at once when most of the signal is there, as on photographs."""
    return 100, 1 / (1 + math.exp((323 - step) / 25))


@pytest.mark.parametrize(
    ("rule", "course", "worse"),
    [
        (WindowedVariance(150, 40), later, 1.3),
        (HeldOut(150, 0.1), soon, 1.2),
        (Discrepancy(1, 0.02), sudden, 1.2),
    ],
    ids=["variance", "held-out", "discrepancy"],
)
def test_every_rule_stops_near_the_best_point(rule, course, worse):
    """Outputs that fit the signal soon, the noise that they see later, and jitter throughout."""
    random = torch.Generator().manual_seed(0)
    x, noise, unseen = (torch.randn(20_000, generator=random) for _ in range(3))
    view = Fake(x + 0.3 * noise, 0.3)
    unseen[: view.first] = noise[: view.first]  # what is fitted in place of noise not seen
    average, errors = torch.zeros_like(x), []
    stopped = None
    for step in range(1500):
        time, noisy_part = course(step)
        jitter = 0.005 * torch.randn(20_000, generator=random)
        output = (1 - math.exp(-step / time)) * x + 0.3 * noisy_part * unseen + jitter
        average = average.lerp(output, 0.05)
        errors.append(float((average - x).square().mean()))
        if stopped is None and step % rule.every == 0:
            rule.keeps(step, rule.score(output, average, view))
        if stopped is None and rule.stops(step):
            stopped = step
    assert stopped < 1000
    assert errors[rule.best_step] < worse * min(errors)


def test_a_fit_that_jumps_away_goes_back(monkeypatch):
    y = noisy(scene()).movedim(-1, 0)[None]
    step = EarlyStoppingChain.step

    def thrown(self, data, seed):
        if self.count == 130:
            with torch.no_grad():
                self.parameters[0].add_(5.0 * torch.randn_like(self.parameters[0]))
        step(self, data, seed)

    monkeypatch.setattr(EarlyStoppingChain, "step", thrown)
    model = zoo.DeepImagePrior((3, 24, 24), net=SMALL)
    data = (y, torch.full((1,), SD))
    fit = fitted(model, data, steps=151, rule="none")
    assert fit.solution.state_values["falls"] == [1]
    trace = fit.history["objective"][0]
    assert trace[131:150].min() < trace[125] - 1000 < trace[150]


def test_a_likelihood_that_overflows_is_an_error():
    with pytest.raises(ConvergenceError, match="take a lower learning_rate"):
        fitted(tiny_model(), tiny_data(), steps=5, learning_rate=1e30)


def test_the_net_fits_a_picture_before_its_pixels_in_another_order():
    clean, left = scene(), []
    shuffled = clean.flatten(0, 1)[torch.randperm(24 * 24)].reshape(clean.shape)
    for image in (clean, shuffled):
        y = image.movedim(-1, 0)[None]
        model = zoo.DeepImagePrior((3, 24, 24), net=SMALL, prior_scale=None)
        fitted(model, (y, torch.full((1,), 0.1)), steps=80, rule="none", learning_rate=0.02)
        left.append(float((model.encode(y, torch.ones(1)) - y).var() / y.var()))
    assert left[0] < 0.15 and left[1] > 0.5


# --- restore -----------------------------------------------------------------------------------


def restore(image, *arguments, method="dip", **options):
    return zoo.restore(image, *arguments, method=method, net=SMALL, progress=False, **options)


def test_denoising():
    clean = scene()
    y = noisy(clean).clamp(0, 1)
    solver = zoo.EarlyStopping(400, learning_rate=0.02)
    done = restore(y, None, SD, method=solver)
    assert done.image.shape == clean.shape and done.sd is None
    assert done.fit.model.clipped and done.fit.stopped == "converged"
    assert psnr(done.image, clean) > psnr(y, clean) + 4.0
    two = restore(noisy(clean), None, SD, steps=8)
    assert two.fit.solver.rule == "discrepancy" and not two.fit.model.clipped
    assert restore(noisy(clean), None, steps=3).fit.solver.rule == "held-out"


def test_a_truth_is_shown_and_changes_nothing(capsys):
    y = noisy(scene())
    truth = scene().movedim(-1, 0)[None]
    seen = restore(y, None, SD, method=zoo.EarlyStopping(10, truth=truth))
    assert torch.equal(seen.image, restore(y, None, SD, method=zoo.EarlyStopping(10)).image)
    assert seen.fit.history["psnr"][0, -1] == pytest.approx(psnr(seen.image, scene()), abs=1e-3)
    assert seen.fit.solver.to_save().truth is None


def test_rules_are_chosen_by_what_is_known():
    assert _choose_rule(Identity(), SD, True) == "discrepancy"
    assert _choose_rule(Identity(), SD, False) == "held-out"
    assert _choose_rule(Downsample(2), 0.0, True) == "held-out"
    seen = torch.ones(4, 4, dtype=torch.bool)
    seen[0] = False
    assert _choose_rule(Mask(seen), SD, True) == "held-out"
    y = torch.full((1, 4, 4), 0.5)
    y[:, 0] = 0.0  # not seen, and no sign of clipping
    assert not _looks_clipped(y, Mask(seen), SD) and _looks_clipped(y, Identity(), SD)
    assert not _looks_clipped(y - 0.1, Identity(), SD) and not _looks_clipped(y, Identity(), 0.0)


def test_inpainting_and_up_scaling():
    clean = scene()
    seen = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) > 0.5
    y = torch.where(seen[..., None], clean, torch.nan)
    solver = zoo.EarlyStopping(150, rule="held-out", learning_rate=0.02)
    done = restore(y, Mask(seen), 0.0, method=solver)
    hidden = ~seen
    left = (done.image - clean)[hidden].square().mean() / clean[hidden].var()
    assert float(left) < 0.2  # of the variance of pixels that nobody saw
    assert restore(y, Mask(seen), 0.0, steps=3).fit.solver.rule == "held-out"
    small = Lanczos(2)(clean[..., 0])
    assert restore(small, Lanczos(2), 0.0, steps=3).image.shape == (24, 24)
    grey = torch.cat([clean[..., :1], torch.ones(24, 24, 1)], -1)
    assert restore(grey, None, SD, steps=3).image.shape == (24, 24, 2)
    with pytest.raises(DataError, match="transparency"):
        restore(grey, Downsample(2), SD, steps=3)


@pytest.mark.parametrize("method", ["dip-langevin", "dip-normal"])
def test_a_density_of_weights_has_a_mean_and_an_sd(method):
    clean = scene()
    done = restore(noisy(clean), None, SD, method=method, steps=60, num_draws=10)
    assert done.image.shape == done.sd.shape == clean.shape
    assert bool((done.sd > 0).all()) and float(done.sd.mean()) < 0.2
    draws = done.fit.posterior(4)["image"]
    assert draws.shape == (1, 4, 1, 3, 24, 24)
    assert psnr(done.image, clean) > psnr(draws[0, 0, 0].movedim(0, -1), clean)  # a mean gains


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.DeepImagePrior((8, 8)), r"shape: got \(8, 8\)"),
        (lambda: zoo.DeepImagePrior((1, 8, 8), net="big"), "net: got 'big'"),
        (
            lambda: zoo.DeepImagePrior((1, 8, 8), net=TINY, precision="half"),
            "precision: got 'half'",
        ),
        (lambda: tiny_model(factor=2, lanczos=2), "expected one at most"),
        (lambda: zoo.DeepImagePrior.of((1, 8, 8), "blur"), "operator: got a str"),
        (lambda: Lanczos(0), "factor: got 0"),
        (lambda: Lanczos(3)(torch.rand(8, 9)), "expected multiples of 3"),
        (lambda: fitted(tiny_model(), (torch.rand(1, 1, 9, 9), torch.ones(1))), "14 x 17"),
        (lambda: fitted(tiny_model(), (torch.rand(1, 3, 14, 17), torch.ones(1))), "expected"),
        (lambda: fitted(tiny_model(), tiny_data(2)), "num_images=1"),
        (lambda: fitted(tiny_model(), (torch.rand(1, 1, 14, 17), torch.zeros(1))), "noise: got 0"),
        (lambda: zoo.EarlyStopping(rule="guess"), "rule: got 'guess'"),
        (lambda: zoo.EarlyStopping(num_chains=0), "num_chains: got 0"),
        (lambda: zoo.EarlyStopping(average=1.0), "average: got 1.0"),
        (lambda: zoo.EarlyStopping(learning_rate=0.0), "learning_rate: got 0.0"),
        (
            lambda: zoo.fit(zoo.NaiveBayes(2, 2), torch.zeros(2, 2), zoo.EarlyStopping()),
            "expected a zoo.DeepImagePrior",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()


COMPILED = """
import torch, ppl_zoo as zoo
net, images = {"num_inputs": 2, "down": (4,), "up": (4,), "skip": (0,)}, []
data = torch.rand(1, 1, 14, 17, generator=torch.Generator().manual_seed(0)), torch.full((1,), 0.1)
for compiled in (False, True):
    model = zoo.DeepImagePrior((1, 14, 17), net=net, precision="full")
    solver = zoo.EarlyStopping(5, rule="none", compile=compiled)
    fit = zoo.fit(model, data, solver, progress=False)
    images.append(fit.solution.state_tensors["image"])
torch.testing.assert_close(*images, atol=1e-4, rtol=0)
"""


@pytest.mark.slow
def test_a_compiled_net_goes_the_same_way():
    # in a process of its own: Inductor cannot look into functions whose types are checked
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_restores_by_a_net(tmp_path, capsys):
    path = zoo.imaging.write_image(tmp_path / "photo.png", noisy(scene()).clamp(0, 1))
    arguments = ["--method", "dip", "--sigma", "25", "--steps", "2", "--json"]
    assert main(["restore", str(path), *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["method"] == "dip" and record["sigma"] == 25.0 and record["mean_sd"] is None
    assert zoo.imaging.read_image(tmp_path / "photo-restored.png").shape == (24, 24, 3)
