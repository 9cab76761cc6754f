# DeepLabV3+ as in PaddleSeg's distillation recipe: ResNet50_vd (mmseg's ResNetV1d), output stride 8,
# multi-grid (1, 2, 4), ASPP rates (1, 12, 24, 36) with 256 channels, no auxiliary head.
_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py']
model = dict(
    # From scratch, so that no network is needed. With one, PaddleSeg's ImageNet start is
    # --set model.pretrained=open-mmlab://resnet50_v1d
    pretrained=None,
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], size=(512, 512)),
    backbone=dict(
        type='ResNetV1d',
        # PaddleSeg multiplies its grid by the stage's dilation (4 at output stride 8); mmseg takes the products.
        multi_grid=(4 * 1, 4 * 2, 4 * 4),
        contract_dilation=False),  # as in PaddleSeg, a dilated stage is dilated from its first block on
    decode_head=dict(channels=256, num_classes=2),
    auxiliary_head=None)
