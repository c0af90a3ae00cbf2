"""A binary image under noise, restored by the Ising model.

Holds mean field against exact sums on a small grid, then denoises a picture. Run:

    python examples/ising.py
"""

import argparse

import torch

import ppl_zoo as zoo


def picture(size):
    """Draw a ring and a bar."""
    side = torch.linspace(-1.0, 1.0, size)
    radius = (side[:, None] ** 2 + side**2).sqrt()
    ring = (radius > 0.45) & (radius < 0.8)
    bar = (side[:, None].abs() < 0.12) & (side.abs() < 0.3)
    return torch.where(ring | bar, 1.0, -1.0)


def show(image, every=1):
    for row in image[:: 2 * every]:
        print("".join("#" if spin > 0 else "." for spin in row[::every]))


def main(size=64, noise=1.0, sweeps=1000):
    torch.manual_seed(0)
    small = torch.sign(torch.randn(1, 4, 4)) + noise * torch.randn(1, 4, 4)
    print("4 x 4   coupling   log p(x)   mean-field bound   worst error of a mean   of Gibbs")
    for coupling in (0.1, 0.2, 0.4, 0.8):
        model = zoo.Ising(4, 4, coupling, noise).double()
        exact = model.marginals(small, "exact")
        errors = [
            (model.marginals(small, how, num_sweeps=sweeps) - exact).abs().max().item()
            for how in ("mean-field", "gibbs")
        ]
        print(
            f"{coupling:18.1f} {model.log_prob(small).item():10.3f} "
            f"{model.elbo(small).item():18.3f} {errors[0]:23.3f} {errors[1]:10.3f}"
        )

    image = picture(size)
    noisy = image + noise * torch.randn(1, size, size)
    model = zoo.Ising(size, size, coupling=0.5, noise=2.0, learn_noise=True)
    fit = zoo.fit(model, noisy, progress=False)
    clean = model.denoise(noisy)[0]
    print(f"\n{fit}\nnoise {noise}, learned {model.noise.item():.3f}; wrong pixels:")
    print(f"  by sign   {(noisy[0].sign() != image).float().mean():.4f}")
    print(f"  by mean field {(clean != image).float().mean():.4f}")
    gibbs = model.marginals(noisy, "gibbs", num_sweeps=sweeps)[0]
    print(f"  by sampling {(gibbs.sign() != image).float().mean():.4f}\n")
    show(clean)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--sweeps", type=int, default=1000)
    main(**vars(parser.parse_args()))
