"""``matchlib convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["run"]


def run(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint written by torch.save.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.safetensors to write.")],
    entry: Annotated[str, typer.Option("--entry", help="Keys to the weights, with dots: ema_models.0.9999 [default: the top].")] = "",
    trust: Annotated[bool, typer.Option("--trust", help="Unpickle: RUNS ANY CODE IN THE FILE. Only if you trust its author.")] = False,
) -> int:
    """Turn the weights in a checkpoint into a safetensors file; without --trust, no code of the checkpoint is run."""
    from matchlib.errors import ArtifactError, SettingError
    from matchlib.io import read_checkpoint, select, write_tensors

    if out.suffix != ".safetensors":
        raise SettingError(f"--out must end in .safetensors, got {str(out)!r}")
    if trust:
        import torch

        print(f"unpickling {checkpoint}: any code in it runs now, with your rights")
        try:
            tensors = select(torch.load(checkpoint, map_location="cpu", weights_only=False), entry, checkpoint)
        except (OSError, RuntimeError, EOFError, ValueError, AttributeError, ImportError) as error:
            raise ArtifactError(f"{checkpoint} cannot be unpickled here: {error}") from error
    else:
        tensors = read_checkpoint(checkpoint, entry)
    write_tensors(out, {name: x.detach().clone().contiguous() for name, x in tensors.items()})
    print(f"wrote {out}: {len(tensors)} tensors, {sum(x.numel() for x in tensors.values()):,} numbers")
    return 0
