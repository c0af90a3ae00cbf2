"""The data sets: what is embedded, what is read below PPL_ZOO_DATA, a user's own files."""

import dataclasses
import gzip
import os
import zlib

import numpy as np
import pytest
import torch

from ppl_zoo import data
from ppl_zoo.data import mnist, registry, remote, uci
from ppl_zoo.data.dataset import SPLITS

CARDS = {card.name: card for card in data.available()}
EMBEDDED = [name for name, card in CARDS.items() if card.embedded]
DOWNLOADED = [name for name, card in CARDS.items() if not card.embedded]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No local folder, an empty cache, and a net that fails without being tried."""
    import pooch

    def no_net(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.delenv("PPL_ZOO_DATA", raising=False)
    monkeypatch.setenv("PPL_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pooch, "retrieve", no_net)


@pytest.fixture
def local():
    """Skip where the data sets that are not embedded are not at hand."""
    if not os.environ.get("PPL_ZOO_DATA"):
        pytest.skip("PPL_ZOO_DATA is not set: data sets that are not embedded are not tested")


def load_local(name, **options):
    try:
        return data.load(name, **options)
    except (ConnectionError, FileNotFoundError) as error:
        pytest.skip(f"PPL_ZOO_DATA holds no {name}: {error}")


def sizes(dataset):
    found = {}
    for split in SPLITS:
        value = getattr(dataset, split)
        if value is not None:
            found[split] = len(value[0] if isinstance(value, tuple) else value)
    return found


# --- cards -------------------------------------------------------------------------------------


def test_every_card_has_a_reader_and_every_reader_a_card():
    assert list(CARDS) == list(registry.READERS)


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_cards_are_complete(card):
    for field in ("title", "shape", "units", "licence", "citation", "url"):
        assert getattr(card, field), field
    assert card.url.startswith("http")
    assert card.num_observations["train"] > 0
    assert hash(card) == hash(dataclasses.replace(card))


# --- embedded ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sets_need_no_network(name, offline):
    dataset = data.load(name)
    assert sizes(dataset) == CARDS[name].num_observations
    assert repr(dataset).startswith(f"Dataset({name!r}: train=")
    assert len(repr(dataset)) < 100


def test_old_faithful_is_the_published_table():
    train = data.load("old-faithful").train
    torch.testing.assert_close(train.mean(0), torch.tensor([3.487783, 70.897059]))
    x, y = data.load("old-faithful", supervised=True).train
    assert x.shape == (272, 1) and y.shape == (272,)
    assert torch.equal(torch.column_stack([x, y]), train)


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    dataset = data.load("digits")
    rows = torch.cat([dataset.train, dataset.valid, dataset.test])
    labels = torch.cat([dataset.labels[split] for split in SPLITS])
    pairs = {(row.tobytes(), int(y)) for row, y in zip(rows.numpy(), labels, strict=True)}
    original = load_digits()
    pixels = (original.data / 16).astype(np.float32)
    assert pairs == {
        (row.tobytes(), int(y)) for row, y in zip(pixels, original.target, strict=True)
    }
    assert torch.equal(
        data.load("digits", binarize=True).train, (dataset.train >= 0.5).to(torch.float32)
    )


def test_photo_patches():
    dataset = data.load("photo-patches")
    grey = data.load("photo-patches", dequantize=False)
    for split in SPLITS:
        noisy, exact = getattr(dataset, split), getattr(grey, split)
        assert noisy.min() >= 0 and noisy.max() < 1
        assert torch.equal((noisy * 256).floor(), (exact * 255).round())
    assert torch.equal(dataset.train, data.load("photo-patches").train), "fixed seed"
    assert not torch.equal(dataset.train, data.load("photo-patches", seed=1).train)
    centred = data.load("photo-patches", remove_mean=True).train
    torch.testing.assert_close(centred.mean(-1), torch.zeros(20_000), atol=1e-6, rtol=0)


def test_photo_patches_of_test_are_not_in_train():
    def textured(patches):  # flat sky repeats everywhere
        return {row.tobytes() for row in patches.numpy() if row.std() > 0.05}

    grey = data.load("photo-patches", dequantize=False)
    train = textured(grey.train)
    assert not train & textured(grey.test) and not train & textured(grey.valid)


def test_eight_schools():
    y, sigma = data.load("eight-schools").train
    assert y.tolist() == [28, 8, -3, 7, -1, 1, 18, 12]
    assert sigma.tolist() == [15, 10, 16, 11, 9, 11, 10, 18]


# --- errors of load ----------------------------------------------------------------------------


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'old-faithful'") as caught:
        data.load("oldfaithful")
    assert all(name in str(caught.value) for name in CARDS)


def test_unknown_option_lists_the_known_ones():
    with pytest.raises(
        TypeError, match=r"'binarise' \(did you mean 'binarize'\?\); its options: binarize"
    ):
        data.load("digits", binarise=True)
    with pytest.raises(TypeError, match="its options: none"):
        data.load("eight-schools", seed=1)


@pytest.mark.parametrize("name", DOWNLOADED)
def test_offline_names_the_variable(name, offline):
    with pytest.raises(OSError, match="PPL_ZOO_DATA"):
        data.load(name)


def test_wrong_option_values():
    with pytest.raises(ValueError, match="'fixed' or 'dynamic'"):
        data.load("mnist-binarized", binarization="random")
    with pytest.raises(ValueError, match="0 to 9"):
        data.load("red-wine", fold=10)
    with pytest.raises(ValueError, match="'seeded' or 'nade'"):
        data.load("red-wine", folds="own")


def test_folder_that_is_not_there(monkeypatch):
    monkeypatch.setenv("PPL_ZOO_DATA", "no-such-folder")
    with pytest.raises(FileNotFoundError, match="PPL_ZOO_DATA is 'no-such-folder'"):
        data.load("adult")


def test_damaged_local_file(monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    with gzip.open(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", "wb") as stream:
        stream.write(b"no digits")
    monkeypatch.setenv("PPL_ZOO_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="sha256 .* expected 440fcabf"):
        data.load("mnist")


# --- downloads ---------------------------------------------------------------------------------


def test_fetch_prefers_the_local_folder_then_the_cache(monkeypatch, tmp_path):
    import pooch

    calls = []

    def retrieve(url, known_hash, fname, path):
        calls.append((url, known_hash, path))
        return f"{path}/{fname}"

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.delenv("PPL_ZOO_DATA", raising=False)
    monkeypatch.setenv("PPL_ZOO_CACHE", str(tmp_path / "cache"))
    arguments = {"local": "a/b.txt", "known_hash": "sha256:0"}
    assert remote.fetch("http://x/b", **arguments) == tmp_path / "cache" / "a" / "b.txt"
    assert remote.fetch("http://x/b", cache=tmp_path, **arguments) == tmp_path / "a" / "b.txt"
    assert [call[1] for call in calls] == ["sha256:0"] * 2

    (tmp_path / "here" / "a").mkdir(parents=True)
    (tmp_path / "here" / "a" / "b.txt").write_text("local")
    monkeypatch.setenv("PPL_ZOO_DATA", str(tmp_path / "here"))
    assert remote.fetch("http://x/b", local="a/b.txt").read_text() == "local"
    with pytest.raises(ValueError, match="expected 0"):
        remote.fetch("http://x/b", **arguments)
    assert len(calls) == 2


def test_row_digest_ignores_order_only():
    rows = np.arange(12, dtype=np.uint8).reshape(4, 3)
    digest = remote.row_digest(rows)
    assert remote.row_digest(rows[::-1]) == digest
    assert remote.row_digest(rows[:, ::-1]) != digest
    with pytest.raises(ValueError, match="test rows of 'toy'"):
        remote.check_row_digests("toy", {"test": rows + 1}, {"test": digest})


def test_text_formats_of_the_public_files():
    lines = [" ".join("01"[(i + j) % 3 == 0] for j in range(784)) for i in range(2)]
    expected = [[int((i + j) % 3 == 0) for j in range(784)] for i in range(2)]
    assert mnist._amat("\n".join(lines).encode()).tolist() == expected
    assert uci._libsvm("1 1:1 3:1\n-1 2:1 3:0 \n", 4).tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]


def test_public_files_give_the_same_as_packed_ones(local, monkeypatch, tmp_path):
    """Write the packed sets in the public format and read them as downloads."""
    packed = {name: load_local(name) for name in ("dna", "red-wine")}
    for split in SPLITS:
        rows = getattr(packed["dna"], split).numpy()
        text = "".join(
            "1 " + " ".join(f"{j + 1}:1" for j in np.flatnonzero(row)) + "\n" for row in rows
        )
        path = tmp_path / "uci" / f"dna_{split}.libsvm"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    table = uci._wine_table("red", None)
    header = ";".join(f'"{name}"' for name in (*CARDS["red-wine"].feature_names, "quality"))
    body = [";".join(repr(float(value)) for value in row) for row in table[::-1]]
    (tmp_path / "uci" / "winequality-red.csv").write_text("\n".join([header, *body]))
    monkeypatch.setenv("PPL_ZOO_DATA", str(tmp_path))
    for name, dataset in packed.items():
        again = data.load(name)
        assert all(torch.equal(getattr(again, s), getattr(dataset, s)) for s in SPLITS)


# --- below PPL_ZOO_DATA ------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOWNLOADED)
def test_local_sets_are_as_their_cards_say(name, local):
    dataset = load_local(name)
    assert sizes(dataset) == CARDS[name].num_observations
    assert all(getattr(dataset, split).isfinite().all() for split in sizes(dataset))


@pytest.mark.slow
def test_mnist(local):
    dataset = load_local("mnist")
    assert dataset.train.min() == 0 and dataset.train.max() == 1
    assert dataset.labels["test"].bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    grey = dataset.train.mean()
    del dataset  # 220 MB each: one at a time
    fixed = load_local("mnist-binarized")
    assert fixed.labels is None and fixed.train.min() == 0 and fixed.train.max() == 1
    assert fixed.train.count_nonzero() == fixed.train.sum()  # nothing between
    del fixed
    drawn = data.load("mnist-binarized", binarization="dynamic", seed=3)
    torch.testing.assert_close(drawn.train.mean(), grey, atol=1e-3, rtol=0)
    test = drawn.test.clone()
    del drawn
    assert torch.equal(test, data.load("mnist-binarized", binarization="dynamic", seed=3).test)
    other = data.load("mnist-binarized", binarization="dynamic", seed=4).test
    assert not torch.equal(test, other)


def gaussian_log_likelihood(train, test):
    """Mean log likelihood of test under a Gaussian fitted to train."""
    covariance = torch.cov(train.T, correction=0)
    normal = torch.distributions.MultivariateNormal(train.mean(0), covariance)
    return normal.log_prob(test).mean().item()


def test_bsds_patches_give_the_known_gaussian(local):
    # Fitted to train alone: the twenty images of valid are smoother, with them it is 96.19.
    dataset = load_local("bsds300-patches")
    found = gaussian_log_likelihood(dataset.train.double(), dataset.test.double())
    assert found == pytest.approx(96.34, abs=0.02)


def test_wine_folds_of_the_papers_give_the_published_gaussian(local):
    # As published: nine folds to fit and to scale, the tenth to score.
    scores = []
    for fold in range(10):
        dataset = load_local("red-wine", folds="nade", fold=fold)
        train = torch.cat([dataset.train, dataset.valid]).double()
        mean, sd = train.mean(0), train.std(0, correction=0)
        test = (dataset.test.double() - mean) / sd
        scores.append(gaussian_log_likelihood((train - mean) / sd, test))
    assert np.mean(scores) == pytest.approx(-13.18, abs=0.02)
    with pytest.raises(ValueError, match="red wine"):
        data.load("white-wine", folds="nade")


def test_wine_folds_cover_everything_once(local):
    tests = torch.cat([load_local("white-wine", fold=fold).test for fold in range(10)])
    dataset = data.load("white-wine")
    everything = torch.cat([dataset.train, dataset.valid, dataset.test])
    assert remote.row_digest(tests.numpy()) == remote.row_digest(everything.numpy())
    scaled = data.load("white-wine", standardize=True).train
    torch.testing.assert_close(scaled.mean(0), torch.zeros(11), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(11), atol=1e-4, rtol=0)


def test_sms_spam_counts_the_words_that_scikit_learn_counts(local):
    from sklearn.feature_extraction.text import CountVectorizer

    dataset = load_local("sms-spam")
    assert len(dataset.card.feature_names) == 4514
    assert int(sum(labels.sum() for labels in dataset.labels.values())) == 747
    path = remote.local_file("spam/SMSSpamCollection.tsv")
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    messages = [line.split("\t", 1)[1] for line in lines]
    vectorizer = CountVectorizer().fit(messages[:1674])
    assert tuple(vectorizer.get_feature_names_out()) == dataset.card.feature_names
    expected = torch.from_numpy(vectorizer.transform(messages[1674:]).toarray()).float()
    assert torch.equal(dataset.test, expected)


# --- a user's own data -------------------------------------------------------------------------


def write(path, text):
    path.write_text(text)
    return path


def test_csv_with_and_without_header(tmp_path):
    named = data.from_path(write(tmp_path / "a.csv", "a, b\n1,2\n\n3,\n"))
    assert named.card.feature_names == ("a", "b")
    assert named.name == "a" and named.card.num_observations == {"train": 2}
    assert named.train[0].tolist() == [1, 2] and named.train[1, 1].isnan()
    bare = data.from_path(write(tmp_path / "b.csv", "1,2e1\n-3,nan\n"))
    assert bare.card.feature_names is None and bare.train.shape == (2, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,x\n", "line 3, column 'b': 'x'"),
        ("1,2\n3,x\n", "line 2, column 2: 'x'"),
        ("1,2\n3\n", "line 2: 1 cells; expected 2"),
        ("a,b\n", "header and no numbers"),
        ("", "is empty"),
    ],
)
def test_bad_csv_is_explained(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        data.from_path(write(tmp_path / "bad.csv", text))


def test_npy_is_mapped_and_never_written(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "a.npy", array)
    train = data.from_path(tmp_path / "a.npy").train
    assert torch.equal(train, torch.from_numpy(array))
    train += 1
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)
    np.save(tmp_path / "b.npy", np.arange(3))
    assert data.from_path(tmp_path / "b.npy").train.tolist() == [[0.0], [1.0], [2.0]]


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.ones((4, 2)), test=np.zeros((2, 2)))
    dataset = data.from_path(tmp_path / "a.npz")
    assert repr(dataset) == "Dataset('a': train=(4, 2), test=(2, 2))"
    assert dataset.train.dtype == torch.float64
    np.savez(tmp_path / "b.npz", x=np.ones((4, 2)))
    assert data.from_path(tmp_path / "b.npz").train.shape == (4, 2)
    np.savez(tmp_path / "c.npz", x=np.ones(4), y=np.ones(4))
    with pytest.raises(ValueError, match="expected 'train'"):
        data.from_path(tmp_path / "c.npz")


def test_bad_arrays_are_explained(tmp_path):
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(ValueError, match="expected real numbers"):
        data.from_path(tmp_path / "words.npy")
    np.save(tmp_path / "none.npy", np.empty((0, 3)))
    with pytest.raises(ValueError, match="at least one observation"):
        data.from_path(tmp_path / "none.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        data.from_path(tmp_path / "objects.npy")
    (tmp_path / "broken.npz").write_bytes(zlib.compress(b"nothing"))
    with pytest.raises(ValueError, match="cannot be read"):
        data.from_path(tmp_path / "broken.npz")
    np.savez_compressed(tmp_path / "whole.npz", train=np.arange(1000.0))
    content = (tmp_path / "whole.npz").read_bytes()
    for at in range(0, len(content), 7):  # any byte may be wrong
        damaged = content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]
        (tmp_path / "damaged.npz").write_bytes(damaged)
        try:
            read = data.from_path(tmp_path / "damaged.npz").train
            assert torch.equal(read, torch.arange(1000.0, dtype=torch.float64)[:, None])
        except ValueError as error:
            assert "damaged.npz" in str(error)


def test_image_folder(tmp_path):
    from PIL import Image

    grey = np.array([[0, 255, 51], [102, 153, 204]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "b.png")
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "a.PNG")
    dataset = data.from_path(tmp_path)
    assert dataset.card.image_shape == (2, 3)
    expected = torch.tensor([0, 1, 0.2, 0.4, 0.6, 0.8]).expand(2, 6)
    torch.testing.assert_close(dataset.train, expected)
    Image.fromarray(grey.T.copy()).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match="'c.png' has .*expected images of one size"):
        data.from_path(tmp_path)


def test_paths_that_are_no_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.from_path(tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match="no images"):
        data.from_path(tmp_path)
    with pytest.raises(ValueError, match=r"suffix '\.doc'"):
        data.from_path(write(tmp_path / "a.doc", "1"))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="a.png: got no image that can be read"):
        data.from_path(tmp_path)


# --- Dataset -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "has no split"),
        ({"train": torch.zeros(0, 3)}, "at least one observation"),
        ({"train": torch.zeros(3, dtype=torch.float16)}, "expected a torch.float32"),
        ({"train": (torch.zeros(3), torch.zeros(2))}, "expected one length"),
        ({"train": torch.zeros(3), "labels": {"train": torch.zeros(3)}}, "expected torch.int64"),
        ({"train": torch.zeros(3), "labels": {"test": torch.zeros(3).long()}}, "labels of 'test'"),
    ],
)
def test_a_dataset_is_never_empty_or_crooked(parts, message):
    with pytest.raises(ValueError, match=message):
        data.Dataset(name="toy", card=CARDS["digits"], **parts)


def test_a_dataset_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.load("digits").name = "other"
