_base_ = [
    '../_base_/models/deeplabv3plus_r50-d8.py', '../_base_/datasets/camvid.py',
    '../_base_/schedules/sgd_poly_40k.py', '../_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(360, 360)),
    decode_head=dict(num_classes=11))
