# Cityscapes at 512 x 1024, PSPNet: ResNet-18 under ResNet-101, mmseg's own recipes of both (80,000 iterations of 8 images).
_base_ = ['mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py']
train_dataloader = dict(batch_size=8)
distill = dict(
    teachers=[
        dict(
            config='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
            checkpoint='checkpoints/pspnet_r101-d8_512x1024_80k_cityscapes.pth')
    ],
    features=dict(student=['backbone[2]', 'backbone[3]'], teacher=['backbone[2]', 'backbone[3]']),
    losses=dict(kd=dict(type='CWD', on='logits', tau=4.0, weight=dict(share=1.0))))
