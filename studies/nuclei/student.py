# The student of the study: 0.13 M parameters, from scratch.
_base_ = ['../../configs/student/fpn_r18-w6_nuclei-128.py']
optim_wrapper = dict(optimizer=dict(lr=0.004))
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=800, val_interval=100)
