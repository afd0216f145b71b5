"""Parts of pipelines of diffusers, read from a folder without more memory than its files justify."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError
from matchlib.io import at_most, read_json, tensor_shapes

__all__ = ["digest_of", "read_component"]

SPARE = 1 << 20  # weights that a configuration may describe without a file


def read_component(folder: Path, classes: Sequence[str]) -> Any:
    """Returns the module of ``config.json`` and ``*.safetensors`` in a folder, in evaluation mode.

    Args:
        classes: names in diffusers, of which ``config.json`` must have one; the first where it has none.

    Raises:
        ArtifactError: the folder holds no such module, or not as safetensors.
        IncompatibleError: the class is another, or the weights are not those of the configuration.
        MatchlibError: diffusers is not installed.
    """
    name = read_json(folder / "config.json").get("_class_name", classes[0])
    if name not in classes:
        raise IncompatibleError(
            f"it holds a {str(name)[:100]}; there are {', '.join(classes)}, others are wrapped for Teacher.from_callable"
        )
    try:
        import diffusers as package
    except ImportError as error:
        raise MatchlibError("this needs the package diffusers: pip install diffusers") from error
    kind, shapes = getattr(package, name), [shape for file in folder.glob("*.safetensors") for shape in tensor_shapes(file).values()]
    if not shapes:
        raise ArtifactError(f"{folder} holds no {name} as safetensors: no file *.safetensors")
    try:
        with torch.device("meta"), at_most(len(shapes)):
            described = kind.from_config(kind.load_config(folder, local_files_only=True))
        there, wanted = sum(map(math.prod, shapes)), sum(x.numel() for x in (*described.parameters(), *described.buffers()))
        if wanted > 2 * there + SPARE:  # less is taken, so that what does not fit is named
            raise IncompatibleError(f"config.json describes many more numbers than the {there:,} that the files hold")
        module, loaded = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except MatchlibError as error:
        raise IncompatibleError(f"the weights in {folder} are not those of its config.json: {error}") from error
    except Exception as error:  # whatever a configuration of somebody else's leads to
        raise ArtifactError(f"{folder} holds no {name} as safetensors: {' '.join(str(error).split())[:300]}") from error
    for what, names in (("no place for", loaded["unexpected_keys"]), ("no weights for", loaded["missing_keys"])):
        if names:
            raise IncompatibleError(
                f"the weights in {folder} are not those of its config.json: {what} {', '.join(sorted(names)[:3])}"
                + (" (num_class_embeds is missing there: the network was trained with classes)" if "class_emb" in str(names) else "")
            )
    return module.eval()


def digest_of(files: Iterable[Path]) -> str:
    """Returns the SHA-256 of the SHA-256 of plain files.

    Raises:
        ArtifactError: one is not there, or is no plain file.
    """
    digest = hashlib.sha256()
    for file in files:
        if not file.is_file():  # a pipe would wait for ever
            raise ArtifactError(f"there is no plain file {file}")
        try:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise ArtifactError(f"{file} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
