"""Files of safetensors: torch's names, and our options as metadata in JSON."""

import json
import os
from collections.abc import Mapping
from typing import Any

from fusedstep.rnn._formats.common import Found, kind_of, required
from fusedstep.rnn._formats.torch import read_torch, torch_names

PROBABILITIES = ("dropout", "recurrent_dropout", "zoneout")
MARK = "fusedstep."  # begins the names of our metadata


def read_safetensors(family: str, file: Any, prefix: Any, reset_after: Any) -> Found:
    """Read a file of ours, or one that says nothing about options."""
    safetensors = required("safetensors", "from_safetensors")
    if not isinstance(file, str | os.PathLike):
        raise TypeError(f"file: expected a path, got {type(file).__name__}")
    arrays, titles = {}, {}
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            for name, key in torch_names(list(opened.keys()), "file", prefix, family).items():
                dtype = opened.get_slice(key).get_dtype()
                if dtype not in ("F32", "F64"):  # NumPy lacks some of the others
                    raise TypeError(f"file[{key!r}]: expected a float32 or float64 array, got dtype {dtype}")
                arrays[name], titles[name] = opened.get_tensor(key), f"file[{key!r}]"
    except safetensors.SafetensorError as error:
        raise ValueError(f"file: expected a file of safetensors, got {os.fspath(file)!r}: {error}") from error
    coupled = family == "LSTM" and metadata.get(MARK + "coupled") == "true"
    found, weights = read_torch(family, arrays, titles, coupled)
    said = _said(family, {name: text for name, text in metadata.items() if name.startswith(MARK)}, found)
    kind = kind_of(family, said.get("reset_after"), reset_after, "a file without our metadata does not tell the kind")
    return found | said | kind, weights


def _said(family: str, metadata: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options that our metadata says, and check them against those that the arrays imply."""
    options: dict[str, Any] = {}
    for key, text in metadata.items():
        name = key.removeprefix(MARK)
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"file: metadata {key}: expected JSON, got {text!r}") from error
        expected = {"class": family, **found}.get(name, value)
        if value != expected:
            raise ValueError(f"file: metadata {key}: expected {expected!r}, got {value!r}")
        if name not in {
            "class",
            "batch_first",
            *PROBABILITIES,
            *found,
            "reset_after" if family == "GRU" else "coupled",
        }:
            raise ValueError(f"file: metadata {key}: expected an option of {family}, got {value!r}")
        options |= {} if name == "class" else {name: value}
    return options
