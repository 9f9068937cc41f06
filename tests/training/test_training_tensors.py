import pickle

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sightline.training.tensors import ForeignFileError, load_tensors

FOREIGN = {
    "sklearn": (
        LogisticRegression(),
        " (it holds sklearn.linear_model._logistic.LogisticRegression)",
    ),
    "network": (torch.nn.Linear(2, 2), " (it holds torch.nn.modules.linear.Linear)"),
    "function": ({"a": exec}, " (it holds exec)"),
}


def write_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("write", [torch.save, write_pickle])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_a_file_holds_is_named_without_advice_to_load_it(foreign, write, tmp_path):
    content, told = FOREIGN[foreign]
    write(content, tmp_path / "x.pt")
    with pytest.raises(ForeignFileError) as caught:
        load_tensors(tmp_path / "x.pt")
    assert str(caught.value) == told


@pytest.mark.parametrize("content", [b"", b"junk", b"\x89PNG\r\n", b"PK\x03\x04", b"\x80\x02}"])
def test_of_foreign_bytes_nothing_is_repeated(content, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ForeignFileError, match=r"^$"):
        load_tensors(tmp_path / "x.pt")


def test_a_machine_without_memory_is_no_foreign_file(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RuntimeError, match="allocate memory"):
        load_tensors(tmp_path / "x.pt")
