# The student of the study: 0.13 M parameters, from scratch; a disc is 2 % of an image, so its class weighs four times.
_base_ = ['../../configs/student/fpn_r18-w6_optic-disc-128.py']
model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 4.0])))
optim_wrapper = dict(optimizer=dict(lr=0.004))
train_cfg = dict(max_iters=1000, val_interval=100)
train_dataloader = dict(batch_size=8)
