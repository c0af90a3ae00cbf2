"""Mutated files of each reader: read, or refused with a DataError that names the file.

`python tests/faults/mutate_files.py NUM [READER]` changes NUM files of each reader at random
(bytes changed, cut, repeated, pieces of the format inserted), reads them, and prints a table. A
raw error is any other than DataError.
"""

import collections
import gzip
import io
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

import ppl_zoo as zoo

NETS = Path(__file__).parent.parent / "data" / "nets"
TABLE = np.arange(24.0).reshape(8, 3)
FRAME = pd.DataFrame(
    {
        "waiting": [79.0, 54.5, np.nan, 62.25, 85.0, 55.0],
        "place": ["Wyoming", 'the "old" one', "a, b", "", "Reykjavík", "x"],
        "day": pd.date_range("2024-02-27", periods=6),
        "seen": [True, False, True, True, False, True],
    }
)


def written(write, *arguments, **options):
    stream = io.BytesIO()
    write(stream, *arguments, **options)
    return stream.getvalue()


def arrays():
    return {
        "table.npy": written(np.save, TABLE),
        "columns.npy": written(np.save, np.asfortranarray(TABLE)),
        "codes.npy": written(np.save, TABLE.astype("i4")),
        "packed.npz": written(np.savez_compressed, train=TABLE, test=TABLE[:2]),
        "plain.npz": written(np.savez, train=TABLE, valid=TABLE[:2]),
    }


def tables():
    text = FRAME.to_csv(index=False).encode()
    lines = FRAME.to_json(orient="records", lines=True, date_format="iso").encode()
    return {
        "comma.csv": text,
        "semicolon.csv": FRAME.to_csv(index=False, sep=";", decimal=",").encode("utf-16"),
        "tab.tsv": FRAME.to_csv(sep="\t").encode("latin-1"),
        "numbers.txt": "\n".join(" ".join(map(str, row)) for row in TABLE).encode(),
        "packed.csv.gz": gzip.compress(text),
        "lines.jsonl": lines,
        "records.json": json.dumps([json.loads(line) for line in lines.splitlines()]).encode(),
    }


def workbooks():
    return {
        "table.parquet": written(FRAME.to_parquet),
        "table.xlsx": written(FRAME.to_excel, index=False),
    }


def nets():
    names = ("javabayes.bif", "tables_first.bif", "garden.net", "garden.xmlbif", "garden.uai")
    return {name: (NETS / name).read_bytes() for name in (*names, "garden.bif.gz")}


def images():
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8))
    colour = Image.merge("RGB", (grey, grey.transpose(0), grey))
    return {
        "grey.png": written(grey.save, format="PNG"),
        "colour.jpg": written(colour.save, format="JPEG"),
        "palette.gif": written(colour.convert("P").save, format="GIF"),
        "plain.bmp": written(colour.save, format="BMP"),
        "packed.tif": written(colour.save, format="TIFF", compression="tiff_lzw"),
        "loss.webp": written(colour.save, format="WEBP"),
    }


#: of each reader: its files, what reads one, and pieces of its formats
READERS = {
    "arrays": (arrays, zoo.data.from_path, "0 ( ) { } ' , : < > | f4 i8 O V -1 descr shape"),
    "tables": (
        tables,
        zoo.data.from_path,
        '" , ; . 1,234 1.234,5 NA -inf 1e400 NaT true { } [ ] \\',
    ),
    "workbooks": (workbooks, zoo.data.from_path, "PK PAR1 < > <c r= </v> xml sheet1 schema"),
    "nets": (
        nets,
        zoo.BayesNet.from_file,
        '{ } ( ) [ ] | , ; " // /* # % = &#0; nan inf -1 1e400 999999999999 node potential table '
        "default class variable </FOR> <TABLE> <BIF> BAYES",
    ),
    "images": (images, zoo.imaging.read_image, "IHDR IDAT PLTE GIF89a BM II* MM RIFF Exif"),
}


def mutate(content, pieces, rng):
    content = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        place = rng.integers(len(content) + 1)
        match rng.integers(6):
            case 0:
                content[place : place + rng.integers(40)] = rng.choice(pieces).encode()
            case 1 if content:
                content[place % len(content)] = rng.integers(256)
            case 2 if rng.random() < 0.3:
                del content[place:]
            case 3 if content:
                start = rng.integers(len(content))
                content[place:place] = content[start : start + 60]
            case 4:
                content[place:place] = rng.choice(pieces).encode()
            case 5:
                content[place:place] = rng.bytes(rng.integers(1, 20))
    return bytes(content)


def try_reader(reader, num, folder, seed=0):
    """Counts of what happened to `num` files, the slowest in CPU seconds, and the raw errors."""
    make, read, pieces = READERS[reader]
    files, rng = make(), np.random.default_rng(seed)
    counts, slowest, raw = collections.Counter(), 0.0, []
    for index in range(num):
        name = list(files)[index % len(files)]
        content = mutate(files[name], [*pieces.split(), "\0", "\ufeff", "\n", " ", "é"], rng)
        (folder / name).write_bytes(content)
        started = time.process_time()
        try:
            read(folder / name)
            counts["read"] += 1
        except zoo.DataError as error:
            counts["refused"] += 1
            if name not in str(error):
                raw.append((index, name, f"does not name the file: {error}"))
        except Exception as error:
            raw.append((index, name, f"{type(error).__name__}: {error}"))
        slowest = max(slowest, time.process_time() - started)
    return counts, slowest, raw


if __name__ == "__main__":
    warnings.simplefilter("error")  # of other libraries, about what they found in a file
    num, only = int(sys.argv[1]), sys.argv[2:] or list(READERS)
    print("| reader | tried | read | refused | raw errors | slowest, CPU s |")
    print("|---|--:|--:|--:|--:|--:|")
    failed = []
    for reader in only:
        with tempfile.TemporaryDirectory() as folder:
            counts, slowest, raw = try_reader(reader, num, Path(folder))
        cells = (num, counts["read"], counts["refused"], len(raw), f"{slowest:.2f}")
        print(f"| {reader} | {' | '.join(map(str, cells))} |", flush=True)
        failed += raw
    for index, name, error in failed[:20]:
        print(index, name, error[:300], file=sys.stderr)
    sys.exit(bool(failed))
