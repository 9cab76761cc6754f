# ADE20K at 512 x 512, PSPNet: ResNet-18 under ResNet-101 (160,000 iterations of 16 images). mmseg has no ResNet-18 for
# ADE20K: it is made from that for Cityscapes.
_base_ = ['mmseg::pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512.py']
model = dict(
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18),
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64))
train_dataloader = dict(batch_size=16)
distill = dict(
    teachers=[
        dict(
            config='mmseg::pspnet/pspnet_r101-d8_4xb4-160k_ade20k-512x512.py',
            checkpoint='checkpoints/pspnet_r101-d8_512x512_160k_ade20k.pth')
    ],
    features=dict(student=['backbone[2]', 'backbone[3]'], teacher=['backbone[2]', 'backbone[3]']),
    losses=dict(kd=dict(type='CWD', on='logits', tau=4.0, weight=dict(share=1.0))))
