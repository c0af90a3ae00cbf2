"""Data sets: embedded ones, downloaded ones with a checksum, and a user's own files.

>>> from ppl_zoo import data
>>> faithful = data.load("old-faithful")
>>> faithful.train.shape
torch.Size([272, 2])
>>> faithful.card.units
'minutes'
"""

from ppl_zoo.data.dataset import DataCard, Dataset
from ppl_zoo.data.files import from_path
from ppl_zoo.data.registry import available, load

__all__ = ["DataCard", "Dataset", "available", "from_path", "load"]
