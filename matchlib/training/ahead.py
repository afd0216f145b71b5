"""The next batch of data on disk is read while a step is computed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from matchlib.algebra.records import Batch
from matchlib.data.dataset import Dataset
from matchlib.training.random import Streams, slice_position

__all__ = ["Ahead"]

READERS = 2  # threads


class Ahead:
    """Draws batches as ``dataset.draw`` does; of data on disk, the batch of the next step is read in the background.

    Which samples are drawn is a function of seed, stream and step, so reading ahead changes nothing. For data on disk they are drawn on
    the host, so that no step waits for a device to say which.

    Args:
        dataset: on the streams' device.
        streams: of the run.
    """

    def __init__(self, dataset: Dataset, streams: Streams) -> None:
        self.dataset, self.streams = dataset, streams
        self._host = Streams(streams.seed, torch.device("cpu"))
        self._readers = ThreadPoolExecutor(READERS, "matchlib-read") if dataset.stored is not None else None
        self._next: dict[tuple[str, int, int], tuple[int, Future[Batch]]] = {}  # by stream and slice: the step, and its batch

    def draw(self, rows: int, stream: str, step: int) -> Batch:
        """Returns the batch of a stream at a step.

        Raises:
            DataError: a file cannot be read any more.
        """
        if self._readers is None:
            return self.dataset.draw(rows, self.streams(stream, step))
        key = stream, rows, slice_position(rows)[0]
        when, batch = self._next.pop(key, (-1, None))
        now = batch.result() if batch is not None and when == step else self.dataset.draw(rows, self._host(stream, step))
        chosen = self.dataset.choose(rows, self._host(stream, step + 1))
        self._next[key] = step + 1, self._readers.submit(self.dataset.read, chosen)
        return now
