"""Small autoregressive models of every class, and what the tests of all of them share."""

import itertools

import torch

import ppl_zoo as zoo

ORDER = [3, 1, 5, 0, 2, 4]
THREE = {"output": "categorical", "num_values": 3}
LEVELS = {"output": "logistic", "num_values": 4, "num_components": 2}

#: models of few discrete states: all of them can be listed
DISCRETE = {
    "FVSBN": lambda: zoo.FVSBN(6),
    "FVSBN, order": lambda: zoo.FVSBN((2, 3), ORDER),
    "NADE": lambda: zoo.NADE(6, 7),
    "NADE, order": lambda: zoo.NADE(6, 7, ORDER),
    "NADE, categories": lambda: zoo.NADE(4, 7, "random", **THREE),
    "MADE": lambda: zoo.MADE(6, (9,)),
    "MADE, deep": lambda: zoo.MADE((2, 3), (9, 8), ORDER, direct=False),
    "MADE, masks": lambda: zoo.MADE(6, (9, 8), num_masks=3),
    "MADE, orders": lambda: zoo.MADE(4, (7,), "random", num_masks=2, **THREE),
    "MADE, levels": lambda: zoo.MADE(3, (7,), **LEVELS),
    "MADE, linear": lambda: zoo.MADE(6, ()),
    "MADE of one": lambda: zoo.MADE(1, (3,)),
    "DeepNADE": lambda: zoo.DeepNADE(6, (7, 6)),
    "DeepNADE, orders": lambda: zoo.DeepNADE(4, (7,), "random", num_orders=2, **THREE),
    "RecurrentAR": lambda: zoo.RecurrentAR(6, 5),
    "RecurrentAR, rows": lambda: zoo.RecurrentAR((2, 3), 5, "gru", block=3, order=ORDER),
    "RecurrentAR, deep": lambda: zoo.RecurrentAR(4, 5, num_layers=2, block=2, **THREE),
    "TransformerAR": lambda: zoo.TransformerAR(6, 8, num_heads=2, num_layers=2),
    "TransformerAR, order": lambda: zoo.TransformerAR(
        (2, 2), 8, num_heads=2, order="random", **THREE
    ),
    "OrderEnsemble": lambda: zoo.OrderEnsemble(
        "NADE", [{"num_features": 6, "num_hidden": 4, "order": order} for order in (None, ORDER)]
    ),
    "PixelCNN": lambda: zoo.PixelCNN((3, 3), 4, 3),
    "PixelCNN, narrow": lambda: zoo.PixelCNN((2, 4), 3, 2, kernel_size=3),
    "PixelCNN, levels": lambda: zoo.PixelCNN((2, 2), 4, 2, **LEVELS),
    "PixelCNN, categories": lambda: zoo.PixelCNN((2, 2), 4, 2, **THREE),
    "PixelCNN, colours": lambda: zoo.PixelCNN((3, 2, 2), 4, 2, kernel_size=3),
    "PixelCNN, coloured levels": lambda: zoo.PixelCNN((2, 1, 2), 4, 2, **LEVELS),
}

#: models of real rows
REAL = {
    "RNADE": lambda: zoo.RNADE(4, 3, 7),
    "RNADE, Laplace": lambda: zoo.RNADE(4, 2, 7, [2, 0, 3, 1], output="laplace"),
    "RNADE, orders": lambda: zoo.RNADE(4, 2, 7, "random", num_orders=2),
    "MADE, normal": lambda: zoo.MADE(4, (9, 8), output="normal"),
    "MADE, logistics": lambda: zoo.MADE(
        4, (9,), "random", output="logistic", num_components=3, num_masks=2
    ),
    "DeepNADE, normal": lambda: zoo.DeepNADE(4, (7,), output="normal", num_components=2),
    "RecurrentAR, normal": lambda: zoo.RecurrentAR(4, 5, output="normal", num_components=2),
    "TransformerAR, normal": lambda: zoo.TransformerAR(4, 8, num_heads=2, output="laplace"),
    "PixelCNN, normal": lambda: zoo.PixelCNN((2, 2), 4, 2, output="normal"),
    "PixelCNN, coloured normal": lambda: zoo.PixelCNN((2, 2, 2), 4, 2, output="normal"),
}


def shaken(make, scale=0.5):
    """Make the model in float64, all its parameters drawn at random: none is at its start."""
    torch.manual_seed(1)
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return model


def states(model):
    """List all rows of a discrete model."""
    values = range(model.output.num_values)
    rows = list(itertools.product(values, repeat=model.num_features))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, *model.event_shape)


def state_index(model, x):
    """Index of each row in the list of `states`."""
    digits = torch.arange(model.num_features - 1, -1, -1)
    return (x.flatten(1).long() * model.output.num_values**digits).sum(-1)


def some_rows(model, count=5):
    """Rows that the model can take."""
    shape = (count, *model.event_shape)
    if model.output.num_values is None:
        return torch.randn(shape, dtype=torch.float64)
    return torch.randint(model.output.num_values, shape).double()
