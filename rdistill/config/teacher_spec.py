"""What a config says of how teachers are run: their forward pass, and the cache of their outputs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, model_validator


class ForwardSpec(BaseModel):
    """How a frozen teacher's forward pass is computed. ``'plain'`` in a config is all of this off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fuse: bool = False  # a convolution and the BatchNorm after it as one convolution
    channels_last: bool = False  # memory format of images and weights
    autocast: Literal["float16", "bfloat16"] | None = None  # changes logits beyond 1e-4 as a rule: never by itself
    compile: bool = False  # the backbone by torch.compile: needs a C++ compiler, and a minute at the start

    def __str__(self) -> str:
        parts = {
            "fused": self.fuse,
            "channels-last": self.channels_last,
            f"in {self.autocast}": self.autocast,
            "compiled": self.compile,
        }
        return ", ".join(part for part, used in parts.items() if used) or "plain"


PLAIN = ForwardSpec()
FUSED = ForwardSpec(fuse=True)  # what is taken unmeasured: it only leaves work out


class CacheSpec(BaseModel):
    """The cache of teachers' outputs. A config may give the mode alone: ``cache='off'``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["auto", "on", "off"] = "auto"  # auto: on where training repeats its inputs often enough
    memory: ByteSize | None = None  # what this process may use, such as '2GiB'; default: a tenth of what is free, 2 GiB
    disk: ByteSize | None = None  # what all runs that use `dir` may use; default: a tenth of what is free, 10 GiB
    dir: str | None = None  # default: `.teacher_cache` beside the work dir

    @model_validator(mode="before")
    @classmethod
    def _from_mode(cls, value: Any) -> Any:
        # YAML reads a bare on and off as true and false.
        options = value if isinstance(value, dict) else {"mode": value}
        if isinstance(options.get("mode"), bool):
            return {**options, "mode": "on" if options["mode"] else "off"}
        return options if isinstance(value, (dict, str, bool)) else value


def forward_from_config(value: Any) -> Any:
    """What a config may say in short: 'auto' (None) and 'plain'. For pydantic to check the rest."""
    if value is None or value == "auto":
        return None
    if value == "plain":
        return {}
    if isinstance(value, (dict, ForwardSpec)):
        return value
    raise ValueError("must be 'auto', 'plain', or dict(fuse=..., channels_last=..., autocast=..., compile=...)")
