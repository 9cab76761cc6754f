_base_ = [
    '../_base_/models/fpn_r18-slim.py', '../_base_/datasets/camvid-128.py',
    '../_base_/schedules/adamw_poly_1k.py', '../_base_/default_runtime.py'
]
model = dict(decode_head=dict(num_classes=11))
