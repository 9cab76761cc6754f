# The same question for a student a quarter of the size, 0.03 M parameters, with features of three depths.
_base_ = ['./few_labels.py']
model = dict(
    backbone=dict(base_channels=3, stem_channels=3),
    neck=dict(in_channels=[3, 6, 12, 24], out_channels=8),
    decode_head=dict(in_channels=[8, 8, 8, 8], channels=8))
distill = dict(
    # strides 4, 8 and 16 of the pyramids
    features=dict(_delete_=True, student=['neck[0]', 'neck[1]', 'neck[2]'], teacher=['neck[0]', 'neck[1]', 'neck[2]']))
