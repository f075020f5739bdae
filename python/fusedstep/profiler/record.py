"""`profile`: the calls of a block of code, recorded by the compiled core."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Self

import numpy as np

from fusedstep import _core, _device, _record
from fusedstep.profiler.ceilings import Machine
from fusedstep.profiler.groups import RANGE, Calls, Group, grouped


class Profile:
    """What `profile` gives: open in its ``with`` block, and read then or later.

    Attributes
    ----------
    seconds : float
        Of the block so far.
    dropped : int
        Calls past the first million, which are counted and nothing else.
    """

    def __init__(self) -> None:
        self._first = self._dropped_before = -1
        self._start = self._end = 0
        self._kept: Calls | None = None

    def __enter__(self) -> Self:
        """Start recording."""
        if self._first >= 0:
            raise RuntimeError("profile: expected a new one for each block, got one that was used")
        self._first, self._dropped_before = _core.open_record()
        self._start = _core.now()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop recording, also where the block raised: what was recorded stays."""
        self._end = _core.now()
        try:
            self._kept = self._read()
            # What the block sent to a GPU belongs to it.
            self._end = max(self._end, int(self._kept.rows["end"].max(initial=0)))
        finally:
            _core.close_record()
            _record.forget()

    def _read(self) -> Calls:
        if self._first < 0:
            return Calls(_core.records(1 << 62)[0], [], 0)
        rows, names, dropped = _core.records(self._first)
        return Calls(_record.timed(rows), names, dropped - self._dropped_before)

    @property
    def calls(self) -> Calls:
        """The records: those of the block, or so far. Calls on a GPU are waited for."""
        return self._read() if self._kept is None else self._kept

    @property
    def dropped(self) -> int:
        """Calls past the first million."""
        return self.calls.dropped

    @property
    def seconds(self) -> float:
        """Seconds of the block so far; at its end, until the GPUs had done its calls."""
        if self._first < 0:
            return 0.0
        return ((self._end or _core.now()) - self._start) * 1e-9

    @property
    def start(self) -> int:
        """When it began, in nanoseconds of the records' clock."""
        return self._start

    @contextmanager
    def range(self, name: str) -> Iterator[None]:
        """Record a region of your own by its name.

        Parameters
        ----------
        name : str
            What tables and traces call it.

        Raises
        ------
        TypeError
            `name` is no string.

        Examples
        --------
        >>> import fusedstep
        >>> with fusedstep.profile() as prof:
        ...     with prof.range("data"):
        ...         rows = [i * i for i in range(10)]
        >>> prof.to_dict()["ranges"][0]["name"]
        'data'
        """
        if not isinstance(name, str):
            raise TypeError(f"name: expected a string, got {type(name).__name__}")
        start = _core.now()
        try:
            yield
        finally:
            _core.record("range", name, start, _core.now(), [], False)

    def matmul(self, a: Any, b: Any, /, **options: Any) -> Any:
        """Multiply by `numpy.matmul`, or CuPy's on a GPU, and record it.

        Parameters
        ----------
        a, b : array_like
            As NumPy takes them, and so its other arguments; or CuPy arrays.

        Returns
        -------
        ndarray
            ``numpy.matmul(a, b, **options)``.

        Notes
        -----
        Two operations for each pair of elements that meet; both arrays are read and the result is written, once.
        """
        device = _device.common([a, b], "matmul's argument {}".format)
        if device is not None:
            recording = device.recording()
            result = device.cupy.matmul(a, b, **options)
            if recording and result.dtype.name in _record.DTYPES:
                recording.add("matmul", f"cupy.matmul: {_text(a)} @ {_text(b)}", result.dtype, 0, _moved(a, b, result))
            return result
        a, b = np.asarray(a), np.asarray(b)
        start = _core.now()
        result = np.matmul(a, b, **options)
        end = _core.now()
        title = f"numpy.matmul: {_text(a)} @ {_text(b)}"
        _core.record("matmul", title, start, end, _moved(a, b, np.asarray(result)), result.dtype == np.float64)
        return result

    def groups(self) -> list[Group]:
        """Return the calls, those alike together, the longest in total first; ranges are left out."""
        calls = self.calls
        return grouped(calls.rows[calls.rows["kind"] != RANGE], calls.names)

    def table(self, *, file: IO[str] | None = None, width: int | None = None, machine: Machine | None = None) -> None:
        """Print where the time went, how far from the machine's ceilings, why, and what would help.

        Parameters
        ----------
        file : file object, optional
            Where to; the standard output by default.
        width : int, optional
            Columns.
        machine : Machine, optional
            The ceilings; those of `fusedstep.machine` by default.
        """
        from fusedstep.profiler.table import show  # noqa: PLC0415 - rich, where it is used

        show(self, file, width, machine)

    def roofline(self, path: Any, *, machine: Machine | None = None) -> None:
        """Draw the calls below the machine's roofs: GFLOP/s against FLOPs a byte.

        Parameters
        ----------
        path : str or path
            The picture, in a format that matplotlib knows by its ending.
        machine : Machine, optional
            The ceilings; those of `fusedstep.machine` by default.

        References
        ----------
        .. [1] Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009.
        """
        from fusedstep.profiler.roofline import draw  # noqa: PLC0415 - matplotlib takes a second

        draw(self, path, machine)

    def trace(self, path: Any) -> None:
        """Write every call as a trace event, for ui.perfetto.dev or chrome://tracing.

        Parameters
        ----------
        path : str or path
            A JSON file.
        """
        from fusedstep.profiler.trace import write  # noqa: PLC0415 - json, where it is used

        write(self, path)

    def to_dict(self, *, machine: Machine | None = None) -> dict[str, Any]:
        """Return what `table` prints as plain numbers.

        Parameters
        ----------
        machine : Machine, optional
            The ceilings; those of `fusedstep.machine` by default.

        Returns
        -------
        dict
            ``"seconds"``, ``"outside"`` (seconds in no recorded call of the thread, or of the stream of a GPU, that has
            most of them), ``"dropped"``, ``"machine"``, ``"calls"`` (a dict for each group), ``"ranges"`` and
            ``"advice"``.
        """
        from fusedstep.profiler.report import report  # noqa: PLC0415

        return report(self, machine).to_dict()

    def __str__(self) -> str:
        """Show `table` as text."""
        import io  # noqa: PLC0415

        text = io.StringIO()
        self.table(file=text, width=150)
        return text.getvalue()


def _moved(a: Any, b: Any, result: Any) -> tuple[int, int]:
    """Give a product's FLOPs and bytes."""
    return 2 * int(result.size) * int(a.shape[-1]), int(a.nbytes) + int(b.nbytes) + int(result.nbytes)


def _text(a: Any) -> str:
    return "×".join(map(str, a.shape)) or "1"


def profile() -> Profile:
    """Record every fused call of a block: shapes, dtype, seconds, bytes, FLOPs and threads.

    Optimizer steps, cells, sequences, streams and losses, forward and backward, of every Python thread, are recorded by
    the compiled core; on a GPU by CUDA events. A record takes 96 bytes, and there are a million at most.

    Returns
    -------
    Profile
        To be used in a ``with`` statement, once. It may be read in the block, and profiles may be nested: each has the
        calls of its own block.

    Notes
    -----
    Seconds are those of the compiled call, without what Python does around it: `Profile.table` says how much time is
    outside all calls. Those of a call on a GPU are what it took there, from its first work on the stream to its last;
    nothing waits for them before the profile is read, or its block ends. Bytes and FLOPs are those of the mathematics:
    each method states them beside its rule.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep
    >>> opt = fusedstep.optim.Adam(np.ones(1000, np.float32))
    >>> with fusedstep.profile() as prof:
    ...     for _ in range(3):
    ...         info = opt.step(np.ones(1000, np.float32))
    >>> group = prof.groups()[0]
    >>> group.work.title, group.calls, group.work.cost.bytes
    ('adam step', 3, 28000)
    """
    return Profile()
