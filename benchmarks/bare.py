"""A bare mmengine Runner, as mmseg's own tools/train.py comes to: python -m benchmarks.bare CONFIG WORK_DIR."""

import sys

from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.runner import Runner


def main() -> None:
    """Trains as a bare script would."""
    config_utils.MODULE2PACKAGE["mmseg"] = "onedl-mmsegmentation"  # or the original, where it is installed
    cfg = Config.fromfile(sys.argv[1])
    cfg.work_dir = sys.argv[2]
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=1000)
    Runner.from_cfg(cfg).train()


if __name__ == "__main__":
    main()
