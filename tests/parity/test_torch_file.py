"""Pickles that torch itself wrote."""

import numpy as np
import pytest

from bert_jax.tensors import read_tensors
from convert import torch_file
from tests.conftest import ROOT

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
ODD = ROOT / "tests" / "golden" / "odd"


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_state_dict_that_torch_saved_reads_bit_for_bit(as_zip, tmp_path):
    expected = read_tensors(ODD / "many_heads" / "model.safetensors").tensors
    state = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in expected.items()}
    state |= {"half": torch.arange(6).reshape(2, 3).half().T, "bfloat16": torch.arange(5).bfloat16()[2:]}
    state |= {"count": torch.tensor(7), "empty": torch.zeros(0, 3)}
    whole = torch.arange(10.0)
    state |= {"first": whole[:5], "last": whole[5:]}  # views of one storage
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=as_zip)
    found = torch_file.read(tmp_path / "pytorch_model.bin").tensors
    assert sorted(found) == sorted(state)
    for name, tensor in state.items():
        assert np.array_equal(found[name].astype(np.float64), tensor.detach().double().numpy()), name
        assert str(found[name].dtype) == str(tensor.dtype).removeprefix("torch."), name


def test_a_model_that_torch_pickled_whole_is_refused(tmp_path):
    from bert_jax.errors import UserError

    torch.save(torch.nn.Linear(2, 3), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"asks for torch\.nn\.modules\.linear\.Linear, and nothing but arrays"):
        torch_file.read(tmp_path / "pytorch_model.bin")
