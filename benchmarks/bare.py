"""A bare mmengine Runner, like in mmseg's tools/train.py: python -m benchmarks.bare CONFIG WORK_DIR."""

import sys

from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.runner import Runner


def main() -> None:
    """Trains the config with a Runner and nothing else."""
    config_utils.MODULE2PACKAGE["mmseg"] = "onedl-mmsegmentation"  # the package that mmseg is installed from
    cfg = Config.fromfile(sys.argv[1])
    cfg.work_dir = sys.argv[2]
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=1000)
    Runner.from_cfg(cfg).train()


if __name__ == "__main__":
    main()
