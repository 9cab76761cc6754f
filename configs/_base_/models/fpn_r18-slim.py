# A feature pyramid on a narrow ResNet18, from scratch: base_channels 6 has 0.1 M parameters, 12 has 0.4 M.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size=(128, 128)),
    backbone=dict(
        type='ResNetV1c', depth=18, base_channels=12, stem_channels=12, num_stages=4, out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 1, 1), strides=(1, 2, 2, 2), norm_cfg=dict(type='BN'), norm_eval=False, style='pytorch',
        contract_dilation=True),
    neck=dict(type='FPN', in_channels=[12, 24, 48, 96], out_channels=32, num_outs=4),
    decode_head=dict(
        type='FPNHead', in_channels=[32, 32, 32, 32], in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32],
        channels=32, dropout_ratio=0.0, num_classes=2, norm_cfg=dict(type='BN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
