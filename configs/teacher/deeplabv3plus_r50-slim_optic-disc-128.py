# A quarter of the channels at 128 pixels, for a CPU.
_base_ = [
    '../_base_/models/deeplabv3plus_r50-d8.py', '../_base_/datasets/optic-disc-128.py',
    '../_base_/schedules/sgd_poly_1k.py', '../_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(base_channels=16, stem_channels=16),
    decode_head=dict(in_channels=512, channels=64, c1_in_channels=64, c1_channels=12))
