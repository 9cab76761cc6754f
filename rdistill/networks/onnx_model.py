"""Networks in ONNX files, run by onnxruntime: logits, or maps by the file's outputs."""

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
    """In a backbone's place; gives all outputs of the file in their order, or its only one.

    Args:
        file: of ONNX; not fetched, and run without code of its own.
        digest: of its content, see :func:`rdistill.teachers.onnx_files.file_digest`; a changed file is
            refused.

    Attributes:
        content: the digest as numbers. It stands in the place of weights: what is kept of a teacher's outputs is found
            by them.
        size: height and width in pixels of the only images it takes; None: any. Others are resized to it.

    Raises:
        UserError: onnxruntime is not installed, or the file is none that it can run.
    """

    def __init__(self, file: str, digest: str | None = None) -> None:
        super().__init__()
        now = file_digest(Path(file))
        if digest is not None and digest != now:
            raise UserError(f"{file}: has changed since the config was loaded; load the config again")
        self.content = nn.Parameter(torch.tensor(list(bytes.fromhex(now)), dtype=torch.uint8), requires_grad=False)
        self.file = file
        self._sessions: dict[bool, Any] = {}  # the key: whether on a GPU
        described = describe_file(Path(file))
        self.name, self.input_channels = described.input, described.channels
        self.dtype: torch.dtype = getattr(torch, described.dtype)
        self.class_names: tuple[str, ...] = tuple(map(str, described.facts.get("classes") or ()))
        self.size, self.one_by_one = described.size, described.batch == 1

    def __getstate__(self) -> PlainConfig:
        """Without sessions, which cannot be copied: a copy opens its own."""
        return {**self.__dict__, "_sessions": {}}

    def forward(self, images_nchw: Tensor) -> Tensor | list[Tensor]:
        """N x C x h x w each, in float32, on the images' device."""
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
        except Exception as error:  # onnxruntime's own kinds
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
