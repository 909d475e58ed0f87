"""The toolkit for model weight files: open them, look inside, convert and prove them, in flat memory.

>>> import modelkit
>>> model = modelkit.open("fixtures/stories/model")
>>> model
<Hugging Face folder 'fixtures/stories/model': 29 tensors, 1,902,336 parameters>
>>> model["model.norm.weight"].shape
(256,)

`open` reads headers; a tensor's values are read when they are asked for. `convert`, `importance`, `run`, `verify`,
`validate`, `shard` and `merge` do what the commands of these names do, `logits` gives a model's raw predictions as
an array, `model_digest` what `checksum --model` prints. All of them raise ModelkitError, whose `fix` says what to
do about it.
docs/tutorial.md shows them at work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from modelkit.errors import ModelkitError as ModelkitError
    from modelkit.operations.calls import convert as convert
    from modelkit.operations.calls import importance as importance
    from modelkit.operations.calls import logits as logits
    from modelkit.operations.calls import merge as merge
    from modelkit.operations.calls import run as run
    from modelkit.operations.calls import shard as shard
    from modelkit.operations.calls import validate as validate
    from modelkit.operations.calls import verify as verify
    from modelkit.operations.checksum_model import model_digest as model_digest
    from modelkit.operations.reading import LazyTensor as LazyTensor
    from modelkit.operations.reading import OpenModel as OpenModel
    from modelkit.operations.reading import open as open

_PLACES = {
    "LazyTensor": "operations.reading:LazyTensor",
    "ModelkitError": "errors:ModelkitError",
    "OpenModel": "operations.reading:OpenModel",
    "convert": "operations.calls:convert",
    "importance": "operations.calls:importance",
    "logits": "operations.calls:logits",
    "merge": "operations.calls:merge",
    "model_digest": "operations.checksum_model:model_digest",
    "open": "operations.reading:open",
    "run": "operations.calls:run",
    "shard": "operations.calls:shard",
    "validate": "operations.calls:validate",
    "verify": "operations.calls:verify",
}

__all__ = [
    "LazyTensor",
    "ModelkitError",
    "OpenModel",
    "__version__",
    "convert",
    "importance",
    "logits",
    "merge",
    "model_digest",
    "open",
    "run",
    "shard",
    "validate",
    "verify",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: `import modelkit` costs nothing."""
    if name not in _PLACES:
        raise AttributeError(f"module 'modelkit' has no attribute '{name}'")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(f"modelkit.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
