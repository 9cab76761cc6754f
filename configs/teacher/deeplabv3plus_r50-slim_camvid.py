# A quarter of the channels, for a CPU.
_base_ = ['./deeplabv3plus_r50-d8_camvid.py']
model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    decode_head=dict(in_channels=512, channels=64, c1_in_channels=64, c1_channels=12))
