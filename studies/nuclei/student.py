# The student of the study: 0.13 M parameters, from scratch.
_base_ = ['../../configs/student/fpn_r18-w6_nuclei-128.py']
model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 1.5, 4.0])))
optim_wrapper = dict(optimizer=dict(lr=0.008))
train_dataloader = dict(batch_size=8)
