_base_ = ['./fpn_r18-w12_nuclei-128.py']
model = dict(
    backbone=dict(base_channels=6, stem_channels=6),
    neck=dict(in_channels=[6, 12, 24, 48], out_channels=16),
    decode_head=dict(in_channels=[16, 16, 16, 16], channels=16))
