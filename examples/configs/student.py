_base_ = ['../../configs/student/fpn_r18-w6_optic-disc-128.py']
model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 8.0])))  # a disc is 2 % of an image
optim_wrapper = dict(optimizer=dict(lr=0.01))
