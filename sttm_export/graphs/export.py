"""One PyTorch module to one static ONNX graph whose interface is its `GraphSpec`."""

from __future__ import annotations

import contextlib
import errno
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm_export.contracts.graph import ROWS, ROWS_SYMBOL, Accumulate, GraphSpec
from sttm_export.graphs import int4, quantize
from sttm_export.graphs.check import check_graph
from sttm_export.graphs.cleanup import clean_up
from sttm_export.graphs.lowering import lower

if TYPE_CHECKING:
    import torch

# The highest opset that every target reads: TensorRT 10.3 of JetPack 6.2 stops at 20. Graphs with weights of four bits
# need one more (`int4.py`).
OPSET = 20
# Constants up to this size stay in the graph file: shapes, axes and scalars must be there for shape inference, which
# does not open the weights. Everything larger goes to `<name>.onnx.data`, for small graphs too: one layout to copy.
INLINE_BYTES = 1024
# Called with what is done next: a trace can take minutes, and tells nothing on its way.
OnStep = Callable[[str], None]


def export_graph(
    module: torch.nn.Module,
    spec: GraphSpec,
    directory: Path,
    *,
    accumulate: Accumulate = "fp32",
    on_step: OnStep = lambda _what: None,
) -> Path:
    """Export a module as `<directory>/<spec.name>.onnx`, clean it up and check it against its declaration.

    Names, shapes and dtypes come from `spec` alone: example inputs are made from it, the result is compared with it.
    Two exports of the same module give the same bytes.

    Args:
        module: called with one tensor per input, in order; returns one tensor or a tuple in the order of the outputs.
        spec: the declaration.
        directory: where the graph and its weights go; made if missing.
        accumulate: what float16 products are summed in.
        on_step: told what is done next.

    Returns:
        Path of the ONNX file.

    Raises:
        GraphError: the produced graph departs from the declaration, is not static or is not sound.
    """
    on_step("tracing and translating the module")
    model = trace(module, spec).model
    on_step("cleaning the graph up")
    clean_up(model, accumulate)
    _name_rows(model, spec)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / spec.onnx_file
    on_step("saving graph and weights")
    _save(model, path)
    on_step("checking the saved graph")
    check_graph(path, spec)
    return path


def example_inputs(spec: GraphSpec) -> tuple[torch.Tensor, ...]:
    """Return zeros of the declared shapes and dtypes, as many rows as fit; scalars have rank 0."""
    import torch

    rows = max(spec.row_counts, default=0)
    return tuple(torch.zeros(tensor.sized(rows), dtype=getattr(torch, tensor.dtype)) for tensor in spec.inputs)


def _free_dimensions(module: torch.nn.Module, spec: GraphSpec) -> tuple[Any, ...] | None:
    """Which dimension of each input is free, as `torch.export` wants it; None for a static graph."""
    import torch

    if not spec.row_counts:
        return None
    rows = torch.export.Dim(ROWS_SYMBOL, min=1, max=max(spec.row_counts))
    free = tuple({place: rows for place, side in enumerate(row.shape) if side == ROWS} for row in spec.inputs)
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return free
    # What `*buffers` takes is one argument to it.
    return *free[: len(kinds) - 1], free[len(kinds) - 1 :]


def _name_rows(model: Any, spec: GraphSpec) -> None:
    """Give the free dimension the name it has in the declaration; the exporter counts symbols (`s13`)."""
    import onnx_ir as ir

    if not spec.row_counts:
        return
    pairs = zip(spec.inputs, model.graph.inputs, strict=True)
    place, shape = next((row.shape.index(ROWS), given.shape) for row, given in pairs if ROWS in row.shape)
    symbol = shape[place].value
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    for value in (value for value in values if value.shape is not None):
        named = [ROWS_SYMBOL if getattr(side, "value", side) == symbol else side for side in value.shape]
        value.shape = ir.Shape(named)


def data_file(path: Path) -> Path:
    """Where the weights of a graph lie; absent if it has none over a kilobyte."""
    return path.with_name(path.name + ".data")


def trace(module: torch.nn.Module, spec: GraphSpec, *, stack_traces: bool = False) -> Any:
    """Return the exporter's `ONNXProgram`: the `onnx_ir.Model` and the traced program it was made from.

    Their tensors still share memory with the module. The model is as the exporter translates the program, without its
    optimizer, which rounds (`simplify.py`).

    Args:
        module: see `export_graph`.
        spec: see `export_graph`.
        stack_traces: whether nodes of the program know the line that made them; a tenth of the time.
    """
    import torch

    with _silence(), torch.no_grad(), _stack_traces(stack_traces):
        free = _free_dimensions(module, spec)
        traced = torch.export.export(module.eval(), example_inputs(spec), dynamic_shapes=free, strict=False)
        program = torch.onnx.export(
            lower(traced),
            dynamo=True,
            opset_version=int4.OPSET if int4.has_int4(traced) else OPSET,
            custom_translation_table=quantize.translations() | int4.translations(traced),
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            verbose=False,
            optimize=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing although dynamo=True.")
    return program


@contextlib.contextmanager
def _stack_traces(kept: bool) -> Iterator[None]:
    from torch.fx import config

    before = config.do_not_emit_stack_traces
    config.do_not_emit_stack_traces = not kept
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


def _save(model: Any, path: Path) -> None:
    import onnx_ir as ir

    # A file left by an earlier export could be longer, or no longer needed.
    data_file(path).unlink(missing_ok=True)
    try:
        ir.save(model, path, external_data=data_file(path).name, size_threshold_bytes=INLINE_BYTES)
    except OSError as error:
        # NumPy reports a short write without its cause; on a local file that is a disk with no room left.
        if error.errno is None:
            raise OSError(errno.ENOSPC, str(error)) from error
        raise
    # A graph with small constants only leaves an empty file.
    if data_file(path).exists() and data_file(path).stat().st_size == 0:
        data_file(path).unlink()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress lines, log records and warnings off the terminal; exceptions carry what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
