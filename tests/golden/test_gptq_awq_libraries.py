"""Our weights in the hands of GPTQModel and AutoAWQ, where they are installed: the same values, bit for bit.

Only their unpacking is loaded, which is plain torch and runs anywhere; the packages themselves want a GPU.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file

from modelkit.encodings import find
from modelkit.encodings._refitting import refit
from modelkit.encodings.awq import Awq
from modelkit.encodings.gptq import Gptq
from modelkit.operations.convert import Request, convert

pytestmark = pytest.mark.reference
SHAPE = (96, 256)


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def gptqmodel(torch):
    """`gptqmodel.utils.model_dequant` without what the package loads before it."""
    root = folder_of("gptqmodel")
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "gptqmodel"}
    for name in ("gptqmodel", "gptqmodel.quantization"):
        bare = ModuleType(name)
        bare.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = bare
    try:
        from gptqmodel.utils import model_dequant
    except ImportError as error:
        pytest.skip(f"gptqmodel lacks a package: {error}")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "gptqmodel"]:
            del sys.modules[name]
        sys.modules.update(before)
    return model_dequant


@pytest.fixture(scope="module")
def autoawq(torch):
    """`awq.utils.packing_utils` alone."""
    path = folder_of("awq") / "utils" / "packing_utils.py"
    spec = spec_from_file_location("packing_utils", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def arrays(encoding) -> dict[str, np.ndarray]:
    """The stored arrays of a weight `m`, in numpy's dtypes."""
    kinds = {"I32": np.int32, "F16": np.float16, "BF16": np.uint16}
    parts = encoding.parts("m.weight", SHAPE)
    made = encoding.pack(weights())
    return {part.name: data.view(kinds[part.dtype]).reshape(part.shape) for part, data in zip(parts, made, strict=True)}


def flat(stored: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8) for array in stored.values()]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "words",
    ["group=32", "group=128,symmetric=no", "group=row", "group=64,symmetric=no,method=rtn", "zeros=v2",
     "group=32,symmetric=no,zeros=v2"],
)  # fmt: skip
def test_gptqmodel_reads_our_weights_as_we_do(torch, gptqmodel, tmp_path, bits, words) -> None:
    encoding = find(f"gptq:bits={bits},{words}")
    assert isinstance(encoding, Gptq)
    stored = arrays(encoding)
    path = tmp_path / "model.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in stored.items()}, path)
    form = {"v1": "gptq", "v2": "gptq_v2"}[encoding.zeros]
    config = {"bits": bits, "group_size": encoding.group or -1, "checkpoint_format": form, "pack_dtype": "int32"}
    found = gptqmodel.convert_gptq_file(path, torch.float32, config, "cpu")["m.weight"].numpy()
    assert np.array_equal(found, encoding.unpack(flat(stored), SHAPE))


@pytest.mark.parametrize("words", ["gptq", "gptq:symmetric=no,zeros=v2", "gptq:bits=8,group=32"])
def test_gptqmodel_makes_of_a_folder_of_ours_what_we_make_of_it(torch, gptqmodel, tmp_path, stories, words) -> None:
    """Config and all, by the way it offers to users: the embedded model, dequantised."""
    for target, source, to in (("ours", stories, words), ("plain", tmp_path / "ours", "f32")):
        convert(Request(str(source), f"{tmp_path}/{target}/", to))
    from safetensors.torch import load_file

    gptqmodel.dequantize_model(tmp_path / "ours", tmp_path / "theirs", target_dtype=torch.float32)
    ours, theirs = (
        {name: array for file in (tmp_path / one).glob("*.safetensors") for name, array in load_file(file).items()}
        for one in ("plain", "theirs")
    )
    assert len(ours) == 29
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("words", ["group=32", "group=128,symmetric=no", "group=64,symmetric=no,method=rtn"])
def test_autoawq_reads_our_weights_as_we_do(torch, autoawq, words) -> None:
    encoding = find(f"awq:{words}")
    assert isinstance(encoding, Awq)
    stored = arrays(encoding)
    given = [torch.from_numpy(stored[f"m.{name}"].copy()) for name in ("qweight", "qzeros", "scales")]
    found = autoawq.dequantize_gemm(*given, 4, encoding.group).T.float().numpy()
    ours = encoding.unpack(flat(stored), SHAPE)
    assert np.array_equal(found, ours.astype(np.float16).astype(np.float32))  # it computes in f16


def test_autoawq_makes_the_same_gptq_of_an_awq_weight(torch, autoawq) -> None:
    """Its way into exllama's kernels is what `--to gptq` does."""
    encoding = find("awq:group=64,symmetric=no,method=rtn")
    stored = arrays(encoding)
    codes = encoding.codes(flat(stored), SHAPE, slice(0, SHAPE[0]))
    target = Gptq(4, 64, offset="integer")
    places = [np.zeros(part.size, np.uint8) for part in target.parts("m.weight", SHAPE)]
    target.place(refit(codes, target.grid, SHAPE), places, SHAPE, slice(0, SHAPE[0]))
    given = [torch.from_numpy(stored[f"m.{name}"].copy()) for name in ("qweight", "qzeros")]
    theirs = [one.numpy().tobytes() for one in autoawq.unpack_reorder_pack(*given, 4)]
    assert codes.zeros.min() > 0  # of 0 it would make -1, all bits of the word
    assert [place.tobytes() for place in places[:2]] == theirs
