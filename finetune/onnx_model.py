"""The door to ONNX: a network written by torch.onnx, quantised and run by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from finetune.errors import ExportError, said
from finetune.samples import together

if TYPE_CHECKING:
    from finetune.protocols import Network, Target
    from finetune.samples import Samples

MODULES = ("onnx", "onnxruntime", "onnxscript")
"""What the extra `finetune[onnx]` installs."""

OUTPUT = "logits"
LARGEST = 1_800_000_000
"""Bytes of weights in one file with the graph; protocol buffers end at 2 GiB."""
ROUNDS = 7
"""Timed passes of each session, interleaved."""


class _Logits(nn.Module):
    """What a target reads of a network, computed from inputs by position."""

    def __init__(self, network: Network, names: list[str]) -> None:
        super().__init__()
        self.module, self.outputs, self.names = network.module, network.outputs, names

    def forward(self, *given: Tensor) -> Any:
        return self.outputs(self.module(**dict(zip(self.names, given, strict=True))))


def write(network: Network, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Write the network as ONNX, with the inputs' names, for any number of rows and of tokens.

    `inputs` are those of two rows or more. Raises ExportError where torch.onnx cannot follow what
    the module does.
    """
    module, names = _Logits(network, list(inputs)), list(inputs)
    axes = tuple(_axes(tensor) for tensor in inputs.values())
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    try:
        with _silent(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                input_names=names,
                output_names=[OUTPUT],
                dynamic_shapes=(axes,),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            _forget_origins(program.model)
            program.save(path, external_data=size > LARGEST)
    except Exception as error:  # the exporter and its libraries share no base for what they raise
        raise ExportError(
            f"torch.onnx cannot export this model ({type(error).__name__}: {said(error)}). The "
            "run is untouched: model/ loads in its own library, as the run's README.md shows."
        ) from error


def _forget_origins(model: Any) -> None:
    """Take out what torch notes of each node: lines of code, under the paths of this machine."""
    for node in model.graph.all_nodes():
        for noted in (node, *node.outputs):
            noted.metadata_props.clear()


def _axes(tensor: Tensor) -> dict[int, str]:
    """Return the axes whose length is free: of tokens, (batch, sequence); of images, (batch)."""
    return {0: "batch"} if tensor.is_floating_point() else {0: "batch", 1: "sequence"}


def quantise(path: Path, output: Path) -> None:
    """Write the model of `path` with weights of 8 bits; activations are quantised as it runs.

    Matrices get 7 bits and a sign, the quickest whose sums cannot overflow on processors without
    VNNI; convolutions 8 bits without a sign, for which onnxruntime's are quicker. Raises
    ExportError where onnxruntime cannot.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    signed = {"weight_type": QuantType.QInt8, "reduce_range": True}
    kinds = {("MatMul", "Gemm", "Gather"): signed, ("Conv",): {"weight_type": QuantType.QUInt8}}
    external = path.with_name(f"{path.name}.data").exists()
    source = path
    try:
        with _silent():
            for operators, how in kinds.items():
                model = onnx.load(source)
                # The quantiser turns weights round and leaves the noted shapes as they were.
                del model.graph.value_info[:]
                quantize_dynamic(
                    model,
                    output,
                    op_types_to_quantize=list(operators),
                    per_channel=True,
                    use_external_data_format=external,
                    **how,
                )
                source = output
    except Exception as error:  # likewise
        raise ExportError(
            f"onnxruntime cannot quantise this model ({type(error).__name__}: {said(error)}). "
            "Leave that out: int8=false"
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep back what exporter and quantiser print and warn of: the check says what counts."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


class Session(nn.Module):
    """An ONNX file in onnxruntime, which stands for a network and for its module."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its errors share no base either
            raise ExportError(f"onnxruntime does not load {path.name}: {said(error)}") from error
        self.names = [given.name for given in self.session.get_inputs()]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits of a batch on the CPU."""
        given = {name: inputs[name].numpy() for name in self.names}
        return torch.from_numpy(self.session.run([OUTPUT], given)[0])

    def outputs(self, given: Any) -> Any:
        """Return the logits as they are."""
        return given


@torch.inference_mode()
def predictions(session: Any, samples: Samples, target: Target, batch_size: int) -> Any:
    """Return the predictions of a `Session` for all rows, in order."""
    order, parts = samples.longest_first(), []
    for start in range(0, len(order), batch_size):
        raw = samples.read(order[start : start + batch_size], 0)
        batch = samples.finish(raw, torch.device("cpu"))
        # Of a network, `infer` asks for `outputs` alone where these are logits.
        parts.append(target.infer(session, session, batch.inputs, batch.targets))
    return target.decode(together(parts).numpy()[np.argsort(order)], samples.source)


def rates(modules: Mapping[str, nn.Module], inputs: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the rows per second of each module: the median of interleaved passes."""
    times: dict[str, list[float]] = {name: [] for name in modules}
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            for name, module in modules.items():
                began = time.perf_counter()
                module(**inputs)
                times[name].append(time.perf_counter() - began)
    rows = len(next(iter(inputs.values())))
    return {name: rows / float(np.median(each[1:])) for name, each in times.items()}
