"""Changes a dataset's files by hand, as other writers lay them out."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def grey(number: int) -> np.ndarray:
    """An image by whose level a frame is known after compression; 80 differ."""
    return np.full((32, 48, 3), 10 + 3 * number, np.uint8)


def greys(images) -> list[int]:
    """The numbers of `grey` images."""
    return [round((float(np.median(image)) - 10) / 3) for image in images]


def film(path: Path, times, *, gop: int = 2, b_frames: int = 0, first: int = 0) -> Path:
    """A video whose frames are shown at `times` seconds, whatever its frame rate."""
    tick = Fraction(1, 90_000)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        options = {"crf": "5", "g": str(gop), "bf": str(b_frames), "b_strategy": "0", "sc_threshold": "0"}
        stream = out.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = tick
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(first + number), format="rgb24")
            frame.pts, frame.time_base = round(Fraction(float(time)) / tick), tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def shown_at(path: Path) -> list[float]:
    """The seconds at which a video's frames are shown."""
    with av.open(str(path)) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


def png(image: np.ndarray, mode: str | None = None) -> bytes:
    out = io.BytesIO()
    (Image.fromarray(image) if mode is None else Image.fromarray(image).convert(mode)).save(out, "PNG")
    return out.getvalue()


def images(encoded: list[bytes]) -> pa.StructArray:
    """A column of images."""
    paths = pa.array([f"{number}.png" for number in range(len(encoded))])
    return pa.StructArray.from_arrays([pa.array(encoded, pa.binary()), paths], names=["bytes", "path"])


def info(path: Path, **fields) -> None:
    """Changes fields of `meta/info.json`; `...` removes one."""
    file = path / "meta/info.json"
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def feature(path: Path, key: str, **declared) -> None:
    """Declares a feature, or changes what is declared of it."""
    features = json.loads((path / "meta/info.json").read_text())["features"]
    info(path, features=features | {key: features.get(key, {}) | declared})


def line(path: Path, name: str, place: int, **fields) -> None:
    """Changes fields of a line of `meta/<name>.jsonl`."""
    file = path / f"meta/{name}.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    lines[place] |= fields
    file.write_text("".join(json.dumps({k: v for k, v in each.items() if v is not ...}) + "\n" for each in lines))


def cells(file: Path, key: str, change, kind: pa.DataType | None = None) -> None:
    """Replaces a column of a Parquet file by what `change` makes of its list of values."""
    table = pq.ParquetFile(file).read()
    kind = kind or table.schema.field(key).type
    column = pa.array(change(table[key].to_pylist()), kind)
    pq.write_table(table.set_column(table.column_names.index(key), pa.field(key, kind), column), file)


def column(file: Path, key: str, values: pa.Array) -> None:
    """Adds a column to a Parquet file."""
    pq.write_table(pq.ParquetFile(file).read().append_column(key, values), file)


def data_files(path: Path) -> list[Path]:
    return sorted((path / "data").rglob("*.parquet"))


def episode_file(path: Path) -> Path:
    """The one file of v3.0's `meta/episodes`."""
    (file,) = (path / "meta/episodes").rglob("*.parquet")
    return file
