_base_ = ['../../configs/teacher/fpn_efficientnet-lite0_optic-disc-128.py']
model = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0, 8.0])))  # a disc is 2 % of an image
