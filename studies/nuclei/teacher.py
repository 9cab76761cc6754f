_base_ = ['../../configs/teacher/fpn_efficientnet-lite0_nuclei-128.py']
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=800, val_interval=100)
