"""Which names a checkpoint's pickle may hold, and what each of them means here.

A pickle names classes and functions (`torch._utils._rebuild_tensor_v2`) and asks its reader to call them. Nothing is imported
and nothing is called here; a name is only looked up in these tables:

1. a *known* name stands for a tensor, a storage or a plain container, which `values.py` and `tensors.py` build themselves;
2. a *harmless* name is one of Python's classes that hold values (a path, a date): it becomes a placeholder, silently;
3. a *refused* name belongs to Python itself, or is a function of torch or numpy, and is in neither of these tables. Attacks are
   made of such names (`os.system`, `builtins.exec`, `io.open`), and no checkpoint needs them;
4. any other name is *unknown*: a class of somebody's training code. It becomes a placeholder that is reported by name.
"""

from __future__ import annotations

import _compat_pickle
import sys
from typing import Literal

Verdict = Literal["known", "harmless", "refused", "unknown"]

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
"""torch's classes of storages -> the dtype of their elements, as numpy and ml_dtypes spell it."""

DTYPES = {
    **{name: name for name in STORAGES.values()},
    **{name: name for name in ("uint16", "uint32", "uint64")},
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "cfloat": "complex64",
    "cdouble": "complex128",
    **{name: name for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")},
}
"""torch's names of dtypes -> numpy's and ml_dtypes'."""

CONTAINERS = {
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "collections.deque",
    "builtins.set", "builtins.frozenset", "builtins.list", "builtins.dict", "builtins.tuple", "builtins.bytearray",
    "builtins.bytes", "builtins.complex", "builtins.int", "builtins.float", "builtins.str", "builtins.bool",
    "_codecs.encode", "torch.Size", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
}  # fmt: skip
"""What `values.py` builds as plain Python values, spelt as in Python 3."""

REBUILDS = {
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
}  # fmt: skip
"""What `tensors.py` builds as tensors."""

_HARMLESS = {
    "argparse": ("Namespace",),
    "builtins": ("object", "slice", "range", "type", "NoneType", "Ellipsis", "NotImplemented"),
    "copyreg": ("_reconstructor",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "functools": ("partial",),
    "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    "re": ("_compile",),
    "types": ("SimpleNamespace",),
    "typing": ("Any", "Dict", "List", "Optional", "Tuple", "Union"),
    "uuid": ("UUID",),
    "torch": ("device", "dtype", "Tensor", "Generator"),
    "torch.nn.parameter": ("Parameter", "Buffer", "UninitializedParameter"),
    "torch.serialization": ("_get_layout",),
    "numpy": ("dtype", "ndarray", "bool_", "generic"),
    "numpy.random": ("__RandomState_ctor",),
    "numpy.random._pickle": ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
    "numpy.random.bit_generator": ("__pyx_unpickle_SeedSequence",),
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct",)),
    **dict.fromkeys(("numpy.core.numeric", "numpy._core.numeric"), ("_frombuffer",)),
    "torch._utils": (
        "_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_nested_tensor", "_rebuild_wrapper_subclass",
        "_rebuild_meta_tensor_no_storage", "_rebuild_device_tensor_from_numpy",
        "_rebuild_device_tensor_from_cpu_tensor",
    ),
}  # fmt: skip
"""Python's, torch's and numpy's names that hold values and do nothing; tensors of a kind that is not read are among them."""

_TAKEN_BY_TORCH = {
    "collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.set", "builtins.bytearray",
    "builtins.complex", "torch.Size", "torch.Tensor", "torch.device", "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
}  # fmt: skip
"""What `torch.load(weights_only=True)` takes beside tensors, storages and dtypes; see `torch/_weights_only_unpickler.py`."""

_LIBRARY = sys.stdlib_module_names | {"nt", "distutils", "imp", "commands", "popen2", "asyncore", "pip", "setuptools"}
"""Python's own modules, those of other systems and versions too, and what is installed with it."""
_FUNCTIONS_OF = {"torch", "numpy", "torchvision", "lightning", "pytorch_lightning", "transformers", "pandas", "joblib"}
"""Packages whose names in small letters are functions; their classes are not harmful by themselves."""
_CODE = {"cloudpickle", "dill", "jsonpickle"}
"""Packages whose pickles are made of program code."""


def spelt(module: str, name: str) -> str:
    """A full name as Python 3 spells it, by the table with which Python itself reads pickles of Python 2."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def dtype_of_storage(name: str) -> str | None:
    """The dtype of the elements of torch's storage class of this full name; None where it is no storage class."""
    package, _, last = name.rpartition(".")
    return STORAGES.get(last) if package in ("torch", "torch.storage", "torch.cuda") else None


def dtype_of_name(name: str) -> str | None:
    """The dtype that a full name such as `torch.float32` stands for; None where it stands for none."""
    package, _, last = name.rpartition(".")
    return DTYPES.get(last) if package == "torch" else None


def taken_by_torch(name: str) -> bool:
    """Whether `torch.load(weights_only=True)` takes a pickle that holds this full name."""
    if name in _TAKEN_BY_TORCH or name in REBUILDS or dtype_of_storage(name) or dtype_of_name(name):
        return True
    return name.startswith("torch._utils._rebuild_") and judge(name) == "harmless"


def judge(name: str) -> Verdict:
    """What becomes of a full name that a pickle holds; see the top of this file."""
    if name in CONTAINERS or name in REBUILDS or dtype_of_storage(name) or dtype_of_name(name):
        return "known"
    module, _, last = name.rpartition(".")
    if last in _HARMLESS.get(module, ()) or (module == "builtins" and last.endswith(("Error", "Exception", "Warning"))):
        return "harmless"
    package = name.partition(".")[0]
    if package in _LIBRARY or package in _CODE:
        return "refused"
    if package in _FUNCTIONS_OF and not last[:1].isupper():
        return "refused"
    return "unknown"
