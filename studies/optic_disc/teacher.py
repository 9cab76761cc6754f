_base_ = ['../../configs/teacher/fpn_efficientnet-lite0_optic-disc-128.py']
model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 4.0])))
train_cfg = dict(max_iters=800, val_interval=100)
