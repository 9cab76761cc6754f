"""Networks in ONNX files, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rdistill.core.errors import UserError, error_line
from rdistill.models.quiet_mmseg import MODELS
from rdistill.networks.patches import in_proportion, resized
from rdistill.schemas.mappings import PlainConfig
from rdistill.teachers.onnx_files import describe_file, file_digest, open_file


@MODELS.register_module()
class OnnxNetwork(nn.Module):
    """Wraps the network as a backbone; it returns the list of all outputs of the file, or its only output.

    Args:
        file: the ONNX file.
        digest: the digest of its content, see :func:`rdistill.teachers.onnx_files.file_digest`; a changed file is
            refused.

    Attributes:
        content: the digest as numbers, in place of weights: caches and stores of a teacher's outputs are keyed by the
            weights.
        size: height and width of its input images in pixels, to which other images are resized; None: any size.

    Raises:
        UserError: onnxruntime is not installed, or cannot run the file.
    """

    def __init__(self, file: str, digest: str | None = None) -> None:
        super().__init__()
        current = file_digest(Path(file))
        if digest is not None and digest != current:
            raise UserError(f"{file}: has changed since the config was loaded; load the config again")
        self.content = nn.Parameter(torch.tensor(list(bytes.fromhex(current)), dtype=torch.uint8), requires_grad=False)
        self.file = file
        self._sessions: dict[bool, Any] = {}  # whether it is on a GPU -> session
        described = describe_file(Path(file))
        self.name, self.input_channels = described.input, described.channels
        self.dtype: torch.dtype = getattr(torch, described.dtype)
        self.class_names: tuple[str, ...] = tuple(map(str, described.facts.get("classes") or ()))
        self.size, self.one_by_one = described.size, described.batch == 1

    def __getstate__(self) -> PlainConfig:
        """The state without sessions, which cannot be copied; a copy opens its own sessions."""
        return {**self.__dict__, "_sessions": {}}

    def forward(self, images_nchw: Tensor) -> Tensor | list[Tensor]:
        """The outputs, N x C x h x w each, in float32, on the device of the images."""
        inputs = images_nchw if self.size is None else resized(images_nchw, self.size)
        parts = inputs.split(1) if self.one_by_one else [inputs]
        by_part = [self._run(part) for part in parts]
        outputs = [torch.cat(column) for column in zip(*by_part, strict=True)]
        if self.size is not None:
            shape = images_nchw.shape[-2:]
            outputs = [in_proportion(each, shape) if each.ndim == 4 else each for each in outputs]
        return outputs if len(outputs) > 1 else outputs[0]

    def _run(self, images_nchw: Tensor) -> list[Tensor]:
        array = images_nchw.detach().to("cpu", self.dtype).contiguous().numpy()
        try:
            arrays = self._session(images_nchw.is_cuda).run(None, {self.name: array})
        except Exception as error:  # onnxruntime has its own classes of errors
            shape = " x ".join(map(str, array.shape))
            raise UserError(f"{self.file}: does not run on images of {shape}: {error_line(error)}") from error
        tensors = [torch.from_numpy(array).to(images_nchw.device) for array in arrays]
        return [each.float() if each.is_floating_point() else each for each in tensors]

    def _session(self, on_gpu: bool) -> Any:
        if on_gpu not in self._sessions:
            self._sessions[on_gpu] = open_file(Path(self.file), threads=torch.get_num_threads(), on_gpu=on_gpu)
        return self._sessions[on_gpu]

    def extra_repr(self) -> str:
        return self.file
