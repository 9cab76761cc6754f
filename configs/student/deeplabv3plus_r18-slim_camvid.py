# A quarter of the channels, for a CPU.
_base_ = ['./deeplabv3plus_r18-d8_camvid.py']
model = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    decode_head=dict(in_channels=128, channels=64, c1_in_channels=16, c1_channels=12))
