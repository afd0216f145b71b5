"""``matchlib sample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matchlib_cli.options import Device

__all__ = ["run"]


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 64,
    out: Annotated[Path, typer.Option("--out", help="FILE.png for a picture, FILE.npz for the array 'data', in data units.")] = Path(
        "samples.png"
    ),
    labels: Annotated[
        str | None, typer.Option("--labels", help="One class, n classes or balanced: 3 or 0,1,2,... [default: as the data].")
    ] = None,
    of: Annotated[str | None, typer.Option("--of", help="student or teacher [default: the student if there is one].")] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same samples.")] = 0,
    device: Device = None,
) -> int:
    """Generate samples with a run's student or teacher."""
    from matchlib.errors import SettingError
    from matchlib.runs.build import device_of
    from matchlib.runs.pipeline import load
    from matchlib_cli.files import parse_labels, write_samples

    if out.suffix not in (".png", ".npz"):
        raise SettingError(f"--out must end in .png or .npz, got {str(out)!r}")
    generator = load(folder, of, device=str(device_of(device or "cpu")))
    chosen = None if labels is None else parse_labels(labels)
    made = generator.draw(n, seed=seed, labels=chosen)
    samples = generator.denormalize(made.data).cpu().numpy()
    write_samples(out, samples, tuple(generator.card.data["limits"]), None if made.label is None else made.label.cpu().numpy())
    print(f"wrote {out}: {n} samples of shape {samples.shape[1:]}, {generator.nfe} evaluation{'s' if generator.nfe > 1 else ''} each")
    return 0
